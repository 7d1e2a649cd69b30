"""Checking what a hub keeps: every blob's bytes, every record, and each against the other.

It may run beside a serving hub: what a push or a collection is changing at the moment is left
alone.  Repairing never makes up content: what is damaged is removed, so that the next push brings
it anew, and what nothing names is removed too.  A manifest that names what is gone stays, and is
reported, until it is pushed again or deleted.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from sampan.hub.database import Cursor, Database, Row
from sampan.hub.records import Records
from sampan.hub.storage import BlobStorage
from sampan.image import digest as digests

PAGE = 500
SETTLED_SECONDS = 3600
"""Uploads and records younger than this may be in the middle of a push."""


@dataclass(frozen=True, slots=True)
class Fault:
    """Something wrong: with what (a digest, or a repository with one), and what is wrong.

    ``repaired``: whether it is gone now.
    """

    subject: str
    reason: str
    repaired: bool


@dataclass(slots=True)
class Checked:
    """How much was looked at."""

    blobs: int = 0
    size: int = 0
    manifests: int = 0


class Checker:
    """Checks one hub.  Raises OSError when the storage itself fails.

    ``is_cached`` says of a repository's name that it is a cache of another registry's, where
    blobs that nobody asked for yet are missing rightly.
    """

    def __init__(
        self,
        database: Database,
        records: Records,
        storage: BlobStorage,
        is_cached: Callable[[str], bool],
    ) -> None:
        self._is_cached = is_cached
        self._database = database
        self._records = records
        self._storage = storage

    async def check(self, *, repair: bool = False) -> list[Fault]:
        """All faults; see :meth:`faults`."""
        return [fault async for fault in self.faults(Checked(), repair=repair)]

    async def faults(self, seen: Checked, *, repair: bool = False) -> AsyncIterator[Fault]:
        """Each fault as it is found; ``seen`` is counted up meanwhile."""
        for part in (self._blobs, self._strays, self._manifests, self._uploads):
            async for fault in part(seen, repair):
                yield fault

    async def _blobs(self, seen: Checked, repair: bool) -> AsyncIterator[Fault]:
        """Every blob that a repository sees has its bytes, and they have its digest."""
        last = ""
        while rows := await self._page(
            "SELECT digest, size, touched FROM blobs WHERE digest > ? AND digest IN "
            "(SELECT digest FROM links) ORDER BY digest LIMIT ?",
            last,
        ):
            for digest, size, touched in rows:
                seen.blobs += 1
                seen.size += size
                reason = await self._damage(digest, size)
                if reason and await self._records.holders(digest):
                    yield Fault(digest, reason, repair and await self._remove(digest, touched))
            last = rows[-1][0]

    async def _damage(self, digest: str, size: int) -> str | None:
        hasher = hashlib.new(digest.partition(":")[0])
        read = 0
        try:
            async for data in self._storage.read(digest, 0, size):
                read += len(data)
                await asyncio.to_thread(hasher.update, data)
        except FileNotFoundError:
            return "its bytes are missing"
        if read != size:
            return f"it has {read} of {size} bytes"
        return None if hasher.hexdigest() == digest.partition(":")[2] else "its bytes are damaged"

    async def _remove(self, digest: str, touched: int) -> bool:
        """Remove a blob as a collection does, unless somebody pushed it since ``touched``."""
        now = int(time.time())

        def doom(sql: Cursor) -> bool:
            if not sql.run(
                "UPDATE blobs SET doomed = ? WHERE digest = ? AND touched = ?",
                now,
                digest,
                touched,
            ):
                return False
            sql.run("DELETE FROM links WHERE digest = ?", digest)
            return True

        if not await self._database.write(doom):
            return False
        await self._storage.remove(digest)
        await self._database.write(
            lambda sql: sql.run("DELETE FROM blobs WHERE digest = ? AND doomed = ?", digest, now)
        )
        return True

    async def _strays(self, seen: Checked, repair: bool) -> AsyncIterator[Fault]:
        """Everything in the storage has a record.  A push makes the record first, and a
        collection removes it last, so this is never a moment's state."""
        async for digest, _ in self._storage.blobs():
            if not digests.is_digest(digest):
                yield Fault(digest, "it is among the blobs, but has no digest's name", False)
                continue
            if not await self._has("SELECT 1 FROM blobs WHERE digest = ?", digest):
                if repair:
                    await self._storage.remove(digest)
                yield Fault(digest, "no record names it", repair)

    async def _manifests(self, seen: Checked, repair: bool) -> AsyncIterator[Fault]:
        """Every manifest is its digest's, and what it names is in its repository."""
        repository = digest = ""
        while rows := await self._page(
            "SELECT repository, digest FROM manifests WHERE repository > ? "
            "OR (repository = ? AND digest > ?) ORDER BY repository, digest LIMIT ?",
            repository,
            repository,
            digest,
        ):
            for repository, digest in rows:
                stored = await self._records.manifest(repository, digest)
                if stored is None:
                    continue
                seen.manifests += 1
                subject = f"{repository}@{digest}"
                algorithm, _, encoded = digest.partition(":")
                if hashlib.new(algorithm, stored.content).hexdigest() != encoded:
                    if repair:
                        await self._records.delete_manifest(repository, digest)
                    yield Fault(subject, "the manifest is damaged", repair)
                    continue
                if self._is_cached(repository):
                    continue
                for missing in await self._missing(repository, digest):
                    yield Fault(subject, f"it names {missing}, which is not there", False)

    async def _missing(self, repository: str, manifest: str) -> list[str]:
        rows = await self._database.read(
            lambda sql: sql.all(
                "SELECT n.digest FROM manifest_blobs n WHERE n.repository = ? AND n.manifest = ? "
                "AND NOT EXISTS (SELECT 1 FROM links l WHERE l.repository = n.repository "
                "AND l.digest = n.digest) "
                "AND NOT EXISTS (SELECT 1 FROM manifests m WHERE m.repository = n.repository "
                "AND m.digest = n.digest)",
                repository,
                manifest,
            )
        )
        return [row[0] for row in rows]

    async def _uploads(self, seen: Checked, repair: bool) -> AsyncIterator[Fault]:
        """Every upload has a record and bytes, but for what a push is changing now."""
        settled = int(time.time()) - SETTLED_SECONDS
        for upload in await self._storage.abandoned(SETTLED_SECONDS):
            if not await self._has("SELECT 1 FROM uploads WHERE id = ?", upload):
                if repair:
                    await self._storage.discard(upload)
                yield Fault(f"upload {upload}", "no record names it", repair)
        rows = await self._database.read(
            lambda sql: sql.all("SELECT id FROM uploads WHERE touched < ?", settled)
        )
        for (upload,) in rows:
            if await self._storage.size(upload) is None:
                if repair:
                    await self._forget_upload(upload)
                yield Fault(f"upload {upload}", "its bytes are missing", repair)

    async def _forget_upload(self, upload: str) -> None:
        await self._database.write(lambda sql: sql.run("DELETE FROM uploads WHERE id = ?", upload))

    async def _has(self, query: str, key: str) -> bool:
        return await self._database.read(lambda sql: sql.one(query, key)) is not None

    async def _page(self, query: str, *after: str) -> list[Row]:
        return await self._database.read(lambda sql: sql.all(query, *after, PAGE))
