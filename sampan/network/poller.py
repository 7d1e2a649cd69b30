"""Many descriptors and timers behind one descriptor.

A keeper's loop calls a service back when one descriptor is readable.  An epoll descriptor is
readable when something in it is ready, so a service with many sockets registers one of these.
"""

from __future__ import annotations

import heapq
import os
import select
import time
from collections.abc import Callable

from sampan.linux import timerfd
from sampan.runtime.loop import Timer

READ = select.EPOLLIN
WRITE = select.EPOLLOUT
# Reported without being asked for.
BROKEN = select.EPOLLERR | select.EPOLLHUP

_EVENTS_A_TURN = 64


class Poller:
    """Calls back with the events of descriptors; ``turn`` is to be called when ``fileno`` is
    readable, and never blocks."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._callbacks: dict[int, Callable[[int], None]] = {}
        self._timers: list[Timer] = []
        self._timer_fd = -1
        self._armed = 0.0

    def fileno(self) -> int:
        return self._epoll.fileno()

    def add(self, fd: int, events: int, callback: Callable[[int], None]) -> None:
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
        self._arm()
        return timer

    def turn(self) -> None:
        for fd, events in self._epoll.poll(0, _EVENTS_A_TURN):
            callback = self._callbacks.get(fd)
            if callback is not None:
                callback(events)

    def close(self) -> None:
        self._callbacks.clear()
        self._epoll.close()
        if self._timer_fd >= 0:
            os.close(self._timer_fd)

    def _arm(self) -> None:
        while self._timers and self._timers[0].call is None:
            heapq.heappop(self._timers)
        if not self._timers:
            return
        if self._timer_fd < 0:
            self._timer_fd = timerfd.create()
            self.add(self._timer_fd, READ, self._expired)
        now = time.monotonic()
        first = self._timers[0].at
        if not now < self._armed <= first:
            self._armed = first
            timerfd.set_after(self._timer_fd, first - now)

    def _expired(self, _: int) -> None:
        try:
            os.read(self._timer_fd, 8)
        except BlockingIOError:
            return
        self._armed = 0.0
        now = time.monotonic()
        while self._timers and self._timers[0].at <= now:
            call = heapq.heappop(self._timers).call
            if call is not None:
                call()
        self._arm()
