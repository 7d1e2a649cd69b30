"""Garbage collection beside running pushes, and retention.

A blob is rubbish when no manifest in any repository names it and nobody wanted it for the grace
period.  It goes in three steps, so that a push of the same blob at any instant is safe: its record
is *doomed* (a push that finds it so waits), its bytes are removed, its record is removed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from dataclasses import dataclass

from sampan.hub.config import HubConfig
from sampan.hub.database import Cursor, Database
from sampan.hub.metrics import Metrics
from sampan.hub.records import DOOMED_SECONDS
from sampan.hub.storage import BlobStorage
from sampan.hub.uploads import Uploads

BATCH = 500

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Collected:
    """What a collection removed."""

    blobs: int
    size: int
    uploads: int
    tags: int


class Collector:
    def __init__(
        self,
        config: HubConfig,
        database: Database,
        storage: BlobStorage,
        uploads: Uploads,
        metrics: Metrics,
    ) -> None:
        self._config = config
        self._database = database
        self._storage = storage
        self._uploads = uploads
        self._metrics = metrics
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        if self._config.collect_seconds > 0:
            self._task = asyncio.create_task(self._run_forever())

    async def close(self) -> None:
        if self._task:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def collect(self) -> Collected:
        """Remove what is too old: tags by the retention rule, abandoned uploads, rubbish blobs."""
        tags = await self._expire_tags()
        uploads = await self._uploads.collect(self._config.upload_seconds)
        blobs = size = 0
        while doomed := await self._doom():
            for digest, length in doomed:
                await self._storage.remove(digest)
                blobs += 1
                size += length
            await self._forget([digest for digest, _ in doomed])
        self._metrics.collected.inc(size)
        return Collected(blobs, size, uploads, tags)

    async def _expire_tags(self) -> int:
        if not self._config.retention_days:
            return 0
        limit = int(time.time()) - self._config.retention_days * 86400

        def change(sql: Cursor) -> int:
            expired = sql.run("DELETE FROM tags WHERE updated < ?", limit)
            sql.run(
                "DELETE FROM manifests WHERE created < ? AND subject IS NULL AND NOT EXISTS "
                "(SELECT 1 FROM tags t WHERE t.repository = manifests.repository "
                "AND t.digest = manifests.digest) AND NOT EXISTS "
                "(SELECT 1 FROM manifest_blobs m WHERE m.repository = manifests.repository "
                "AND m.digest = manifests.digest)",
                limit,
            )
            return expired

        return await self._database.write(change)

    async def _doom(self) -> list[tuple[str, int]]:
        """Hide a batch of rubbish blobs and mark their records; nobody can link them now."""
        now = int(time.time())
        limit = now - int(self._config.grace_seconds)

        def change(sql: Cursor) -> list[tuple[str, int]]:
            rows = sql.all(
                "SELECT digest, size FROM blobs b WHERE touched <= ? "
                "AND (doomed IS NULL OR doomed < ?) "
                "AND NOT EXISTS (SELECT 1 FROM links l WHERE l.digest = b.digest AND "
                "(l.touched > ? OR EXISTS (SELECT 1 FROM manifest_blobs m "
                "WHERE m.repository = l.repository AND m.digest = l.digest))) LIMIT ?",
                limit,
                now - DOOMED_SECONDS,
                limit,
                BATCH,
            )
            for digest, _ in rows:
                sql.run("DELETE FROM links WHERE digest = ?", digest)
                sql.run("UPDATE blobs SET doomed = ? WHERE digest = ?", now, digest)
            return [(row[0], row[1]) for row in rows]

        return await self._database.write(change)

    async def _forget(self, digests: list[str]) -> None:
        def change(sql: Cursor) -> None:
            for digest in digests:
                sql.run("DELETE FROM links WHERE digest = ?", digest)
                sql.run("DELETE FROM blobs WHERE digest = ?", digest)

        await self._database.write(change)

    async def _run_forever(self) -> None:
        while True:
            await asyncio.sleep(self._config.collect_seconds)
            try:
                await self.collect()
            except Exception:
                # A full disk or a restarting database must not end collection for good.
                _log.exception("garbage collection failed; it is tried again later")
