"""The keeper's event loop: descriptors and timers, one thread, no allocation to speak of."""

from __future__ import annotations

import heapq
import select
import time
from collections.abc import Callable

IN = select.EPOLLIN
OUT = select.EPOLLOUT
PRI = select.EPOLLPRI
HANGUP = select.EPOLLHUP | select.EPOLLERR

Callback = Callable[[int], None]


class Timer:
    """A pending call; ``cancel`` forgets it."""

    __slots__ = ("at", "call")

    def __init__(self, at: float, call: Callable[[], None]) -> None:
        self.at = at
        self.call: Callable[[], None] | None = call

    def __lt__(self, other: Timer) -> bool:
        return self.at < other.at

    def cancel(self) -> None:
        self.call = None


class Loop:
    """Calls back with the events of registered descriptors until :meth:`stop`."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._callbacks: dict[int, Callback] = {}
        self._timers: list[Timer] = []
        self._running = False

    def add(self, fd: int, events: int, callback: Callback) -> None:
        """Raises PermissionError for descriptors that are always ready (regular files)."""
        self._epoll.register(fd, events)
        self._callbacks[fd] = callback

    def modify(self, fd: int, events: int) -> None:
        self._epoll.modify(fd, events)

    def remove(self, fd: int) -> None:
        if self._callbacks.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def call_later(self, seconds: float, call: Callable[[], None]) -> Timer:
        timer = Timer(time.monotonic() + seconds, call)
        heapq.heappush(self._timers, timer)
        return timer

    def fileno(self) -> int:
        """The descriptor that has an event when one of those registered has."""
        return self._epoll.fileno()

    def time_left(self) -> float:
        """Seconds until the next timer; -1 if there is none."""
        while self._timers and self._timers[0].call is None:
            heapq.heappop(self._timers)
        if self._timers:
            return max(0.0, self._timers[0].at - time.monotonic())
        return -1.0

    @property
    def running(self) -> bool:
        """Whether :meth:`run` goes on after what is being called."""
        return self._running

    def stop(self) -> None:
        self._running = False

    def run(self) -> None:
        self._running = True
        while self._running:
            self.step()

    def step(self) -> None:
        """Wait for one round of events and serve it."""
        for fd, events in self._epoll.poll(self.time_left()):
            callback = self._callbacks.get(fd)
            if callback is not None:
                callback(events)
        now = time.monotonic()
        while self._timers and self._timers[0].at <= now:
            call = heapq.heappop(self._timers).call
            if call is not None:
                call()
