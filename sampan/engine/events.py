"""The event bus: what happened to which object, for ``GET /events``.

A bounded history answers ``since``.  A listener is called with each event; a subscriber reads from
a bounded queue of its own, and loses its oldest events if it does not read rather than holding the
daemon's memory.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
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


@dataclass(frozen=True, eq=False, slots=True)
class _Listener:
    wanted: Filter
    take: Callable[[Event], None]


class Events:
    """Publishes events and hands them to subscribers.  Lives on the event loop's thread."""

    def __init__(self) -> None:
        self._history: deque[Event] = deque(maxlen=HISTORY)
        self._listeners: set[_Listener] = set()
        self.published: Counter[tuple[str, str]] = Counter()
        """How many events of each type and action (without what follows a colon)."""

    @property
    def listeners(self) -> int:
        return len(self._listeners)

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
        for listener in self._listeners:
            if listener.wanted(event):
                listener.take(event)
        return event

    @contextmanager
    def listen(
        self,
        take: Callable[[Event], None],
        wanted: Filter = lambda _: True,
        *,
        since_ns: int | None = None,
    ) -> Iterator[None]:
        """Hand ``take`` every wanted event, those of the history from ``since_ns`` on first.

        It is called while the event is published: it must neither fail nor publish.
        """
        if since_ns is not None:
            for event in self._history:
                if event.time_nano >= since_ns and wanted(event):
                    take(event)
        listener = _Listener(wanted, take)
        self._listeners.add(listener)
        try:
            yield
        finally:
            self._listeners.discard(listener)

    async def subscribe(
        self,
        wanted: Filter = lambda _: True,
        *,
        since_ns: int | None = None,
        until_ns: int | None = None,
    ) -> AsyncIterator[Event]:
        """Events from ``since_ns`` (default: now) until ``until_ns`` (default: for ever)."""
        queue: deque[Event] = deque(maxlen=QUEUE)
        ready = asyncio.Event()

        def take(event: Event) -> None:
            queue.append(event)
            ready.set()

        with self.listen(take, wanted, since_ns=since_ns):
            while True:
                while queue:
                    event = queue.popleft()
                    if until_ns is not None and event.time_nano > until_ns:
                        return
                    yield event
                ready.clear()
                left = None if until_ns is None else (until_ns - time.time_ns()) / 1e9
                if left is not None and left <= 0:
                    return
                try:
                    async with asyncio.timeout(left):
                        await ready.wait()
                except TimeoutError:
                    return
