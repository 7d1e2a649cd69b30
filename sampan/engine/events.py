"""The event bus: what happened to which object, for ``GET /events``.

A bounded history answers ``since``; each subscriber has its own bounded queue.  A subscriber that
does not read loses its oldest events rather than holding the daemon's memory.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec

HISTORY = 1024
QUEUE = 4096


class Actor(msgspec.Struct, frozen=True):
    id: str = msgspec.field(name="ID")
    attributes: dict[str, str] = msgspec.field(name="Attributes")


class Event(msgspec.Struct, frozen=True, omit_defaults=True):
    """One event with Docker's field names; times in seconds and nanoseconds since the epoch."""

    type: str = msgspec.field(name="Type")
    action: str = msgspec.field(name="Action")
    actor: Actor = msgspec.field(name="Actor")
    scope: str
    time: int
    time_nano: int = msgspec.field(name="timeNano")
    status: str = ""
    id: str = ""
    from_: str = msgspec.field(name="from", default="")


Filter = Callable[[Event], bool]


class _Subscriber:
    def __init__(self, wanted: Filter) -> None:
        self.wanted = wanted
        self.queue: deque[Event] = deque(maxlen=QUEUE)
        self.ready = asyncio.Event()


class Events:
    """Publishes events and hands them to subscribers.  Lives on the event loop's thread."""

    def __init__(self) -> None:
        self._history: deque[Event] = deque(maxlen=HISTORY)
        self._subscribers: set[_Subscriber] = set()
        self.published: Counter[tuple[str, str]] = Counter()
        """How many events of each type and action (without what follows a colon)."""

    @property
    def listeners(self) -> int:
        return len(self._subscribers)

    def publish(
        self,
        kind: str,
        action: str,
        actor_id: str,
        attributes: dict[str, str] | None = None,
        scope: str = "local",
    ) -> Event:
        """Publish one event.

        :param kind: Docker's ``Type``: container, image, network, volume, builder, daemon.
        :param attributes: the actor's attributes (labels, ``name``, ``image``, ``exitCode`` …).
        """
        now = time.time_ns()
        attributes = attributes or {}
        legacy: dict[str, Any] = {}
        if kind == "container":
            legacy = {"status": action, "id": actor_id, "from_": attributes.get("image", "")}
        elif kind == "image":
            legacy = {"status": action, "id": actor_id}
        actor = Actor(actor_id, attributes)
        event = Event(kind, action, actor, scope, now // 1_000_000_000, now, **legacy)
        self._history.append(event)
        self.published[kind, action.partition(":")[0]] += 1
        for subscriber in self._subscribers:
            if subscriber.wanted(event):
                subscriber.queue.append(event)
                subscriber.ready.set()
        return event

    async def subscribe(
        self,
        wanted: Filter = lambda _: True,
        *,
        since_ns: int | None = None,
        until_ns: int | None = None,
    ) -> AsyncIterator[Event]:
        """Events from ``since_ns`` (default: now) until ``until_ns`` (default: for ever)."""
        subscriber = _Subscriber(wanted)
        self._subscribers.add(subscriber)
        try:
            if since_ns is not None:
                for event in list(self._history):
                    if event.time_nano >= since_ns and wanted(event):
                        if until_ns is not None and event.time_nano > until_ns:
                            return
                        yield event
            while True:
                while subscriber.queue:
                    event = subscriber.queue.popleft()
                    if until_ns is not None and event.time_nano > until_ns:
                        return
                    yield event
                subscriber.ready.clear()
                left = None if until_ns is None else (until_ns - time.time_ns()) / 1e9
                if left is not None and left <= 0:
                    return
                try:
                    async with asyncio.timeout(left):
                        await subscriber.ready.wait()
                except TimeoutError:
                    return
        finally:
            self._subscribers.discard(subscriber)
