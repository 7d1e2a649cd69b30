"""What happens in a hub, told to those who want to know: pull counts, audit log, webhooks."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from sampan.hub.database import Database
from sampan.hub.records import Records

FLUSH_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Event:
    """Something that changed: ``push`` or ``delete`` of a manifest or tag."""

    action: str
    repository: str
    reference: str
    digest: str
    media_type: str
    actor: str


Listener = Callable[[Event], None]


class Activity:
    """Counts pulls (written together every two seconds) and tells events to listeners."""

    def __init__(self, records: Records, database: Database) -> None:
        self._records = records
        self._database = database
        self._pulls: Counter[str] = Counter()
        self._listeners: list[Listener] = []
        self._flusher: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._flusher = asyncio.create_task(self._flush_forever())

    async def close(self) -> None:
        if self._flusher:
            self._flusher.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._flusher
        await self.flush()

    def listen(self, listener: Listener) -> None:
        """Call ``listener`` for each event from now on; it must not block."""
        self._listeners.append(listener)

    def pulled(self, repository: str) -> None:
        self._pulls[repository] += 1

    def changed(self, event: Event) -> None:
        for listener in self._listeners:
            listener(event)

    async def audit(self, actor: str, action: str, subject: str, address: str) -> None:
        """Write down who did what to what, and from where."""
        now = int(time.time())
        await self._database.write(
            lambda sql: sql.run(
                "INSERT INTO audit (at, actor, action, subject, address) VALUES (?, ?, ?, ?, ?)",
                now,
                actor,
                action,
                subject,
                address,
            )
        )

    async def audit_log(self, limit: int) -> list[tuple[int, str, str, str, str]]:
        """The newest entries: time, actor, action, subject, address."""
        rows = await self._database.read(
            lambda sql: sql.all(
                "SELECT at, actor, action, subject, address FROM audit ORDER BY at DESC LIMIT ?",
                limit,
            )
        )
        return [(row[0], row[1], row[2], row[3], row[4]) for row in rows]

    async def flush(self) -> None:
        if self._pulls:
            counts, self._pulls = self._pulls, Counter()
            await self._records.count_pulls(dict(counts))

    async def _flush_forever(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_SECONDS)
            await self.flush()
