"""Rate limits: how many requests a minute an account or an address may make.

A *bucket* belongs to a key, holds up to a limit, and leaks its whole limit each minute; a request
adds one.  Buckets are counted in memory, so that a request costs no query; once a second each
process adds what came to it to the bucket's row in the database and takes over what the others
added.  Several processes together so allow no more than one does, but for what comes within a
second.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import sqlite3
import time
from dataclasses import dataclass

from sampan.hub.database import Cursor, Database

SHARE_SECONDS = 1.0
MAX_BUCKETS = 100_000
WINDOW = 60
SCALE = 1000
"""A bucket's level is kept in thousandths of a request, its time in milliseconds."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Standing:
    """How a key stands.  ``wait`` is in seconds, and 0 when the request is allowed."""

    limit: int
    remaining: int
    reset: float
    wait: float

    def headers(self) -> dict[str, str]:
        """What clients are told; ``w`` is the window in seconds."""
        told = {
            "RateLimit-Limit": f"{self.limit};w={WINDOW}",
            "RateLimit-Remaining": f"{self.remaining};w={WINDOW}",
            "RateLimit-Reset": str(round(self.reset)),
        }
        if self.wait:
            told["Retry-After"] = str(int(self.wait) + 1)
        return told


@dataclass(slots=True)
class _Bucket:
    limit: int
    level: float
    at: float
    added: float = 0.0

    def drain(self, now: float) -> None:
        passed = max(0.0, now - self.at)
        self.level = max(0.0, self.level - passed * self.limit / WINDOW)
        self.at = now


class Rates:
    """The buckets of a hub, shared by its processes through the database."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._buckets: dict[str, _Bucket] = {}
        self._task: asyncio.Task[None] | None = None

    def take(self, key: str, limit: int) -> Standing:
        """Count a request, unless the bucket is full."""
        bucket = self._bucket(key, limit)
        allowed = bucket.level + 1 <= limit
        if allowed:
            bucket.level += 1
            bucket.added += 1
        return self._standing(bucket, allowed)

    def check(self, key: str, limit: int) -> Standing:
        """Whether a request would be allowed; counts nothing."""
        bucket = self._bucket(key, limit)
        return self._standing(bucket, bucket.level + 1 <= limit)

    @staticmethod
    def _standing(bucket: _Bucket, allowed: bool) -> Standing:
        leak = bucket.limit / WINDOW
        return Standing(
            limit=bucket.limit,
            remaining=max(0, int(bucket.limit - bucket.level)),
            reset=bucket.level / leak,
            wait=0.0 if allowed else (bucket.level + 1 - bucket.limit) / leak,
        )

    def _bucket(self, key: str, limit: int) -> _Bucket:
        now = time.time()
        bucket = self._buckets.get(key)
        if bucket is None:
            if len(self._buckets) >= MAX_BUCKETS:
                self._forget_empty(now)
            bucket = self._buckets[key] = _Bucket(limit, 0.0, now)
        bucket.drain(now)
        return bucket

    def _forget_empty(self, now: float) -> None:
        """Make room: the drained ones, else the half that was used longest ago."""
        for key, bucket in list(self._buckets.items()):
            bucket.drain(now)
            if not bucket.level and not bucket.added:
                del self._buckets[key]
        if len(self._buckets) >= MAX_BUCKETS:
            for key in list(self._buckets)[: MAX_BUCKETS // 2]:
                del self._buckets[key]

    def start(self) -> None:
        self._task = asyncio.create_task(self._share_forever())

    async def close(self) -> None:
        if self._task:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def share(self) -> None:
        """Exchange with the other processes."""
        added = {}
        for key, bucket in self._buckets.items():
            if bucket.added:
                added[key] = (bucket.added, bucket.limit)
                bucket.added = 0.0
        if not added:
            return
        now = time.time()
        levels = await self._database.write(lambda sql: _merge(sql, added, now))
        for key, level in levels.items():
            if merged := self._buckets.get(key):
                merged.drain(now)
                # What came in while the database worked is on top of it.
                merged.level = max(merged.level, level + merged.added)

    async def _share_forever(self) -> None:
        while True:
            await asyncio.sleep(SHARE_SECONDS)
            try:
                await self.share()
            except (OSError, sqlite3.Error) as exc:
                _log.warning("rate limits are not shared for now: %s", exc)
            now = time.time()
            if len(self._buckets) > 1000:
                self._forget_empty(now)


def _merge(sql: Cursor, added: dict[str, tuple[float, int]], now: float) -> dict[str, float]:
    levels = {}
    stamp = int(now * SCALE)
    for key, (count, limit) in added.items():
        row = sql.one("SELECT level, at FROM rates WHERE holder = ?", key)
        level = 0.0
        if row:
            passed = max(0, stamp - row[1]) / SCALE
            level = max(0.0, row[0] / SCALE - passed * limit / WINDOW)
        level += count
        levels[key] = level
        sql.run(
            "INSERT INTO rates (holder, level, at) VALUES (?, ?, ?) ON CONFLICT (holder) "
            "DO UPDATE SET level = excluded.level, at = excluded.at",
            key,
            int(level * SCALE),
            stamp,
        )
    sql.run("DELETE FROM rates WHERE at < ?", stamp - 2 * WINDOW * SCALE)
    return levels


def network_of(address: str) -> str:
    """What counts as one client: an IPv4 address, or the /64 that an IPv6 site has."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if found.version == 6:
        mapped = getattr(found, "ipv4_mapped", None)
        return str(mapped or ipaddress.ip_network(f"{found}/64", strict=False))
    return str(found)
