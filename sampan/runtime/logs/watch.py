"""Wait for files to change, on the event loop.

All watches of a loop share one inotify instance: the kernel allows a user only 128 of them by
default, and any number of clients may follow logs.
"""

from __future__ import annotations

import asyncio
import os
from weakref import WeakKeyDictionary

from sampan.linux import inotify

_WATCHED = inotify.IN_MODIFY | inotify.IN_CLOSE_WRITE | inotify.IN_MOVE_SELF | inotify.IN_ATTRIB
_IDLE = 1.0
_ENDING = 0.05


class Watch:
    """One follower's watch on the file that it reads, one at a time."""

    def __init__(self) -> None:
        self._hub = _hub()
        self._number = -1
        self._changed = asyncio.Event()
        self._closing = False

    def move_to(self, path: str) -> None:
        """Watch this file instead of the one before; the same again costs a system call."""
        number = self._hub.add(path, self)
        if number != self._number:
            self._hub.remove(self._number, self)
            self._number = number

    def notify(self, mask: int) -> None:
        self._closing = bool(mask & inotify.IN_CLOSE_WRITE)
        self._changed.set()

    async def wait(self) -> None:
        """Return after a change, or soon: a file that was closed may be the last one."""
        try:
            async with asyncio.timeout(_ENDING if self._closing else _IDLE):
                await self._changed.wait()
        except TimeoutError:
            pass
        self._changed.clear()

    def close(self) -> None:
        self._hub.remove(self._number, self)


class _Hub:
    """The inotify instance of an event loop, open while anything is watched."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._fd = -1
        self._watches: dict[int, set[Watch]] = {}

    def add(self, path: str, watch: Watch) -> int:
        if self._fd < 0:
            self._fd = inotify.create()
            self._loop.add_reader(self._fd, self._readable)
        try:
            number = inotify.add_watch(self._fd, path, _WATCHED)
        except OSError:
            self._close_if_idle()
            raise
        self._watches.setdefault(number, set()).add(watch)
        return number

    def remove(self, number: int, watch: Watch) -> None:
        watches = self._watches.get(number)
        if watches is None:
            return
        watches.discard(watch)
        if not watches:
            del self._watches[number]
            inotify.remove_watch(self._fd, number)
            self._close_if_idle()

    def _close_if_idle(self) -> None:
        if not self._watches and self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1

    def _readable(self) -> None:
        masks: dict[int, int] = {}
        for event in inotify.read_events(self._fd):
            masks[event.watch] = event.mask | (masks.get(event.watch, 0) & inotify.IN_IGNORED)
        if -1 in masks:
            # Events were lost: anything may have changed.
            masks = dict.fromkeys(self._watches, inotify.IN_MODIFY)
        for number, mask in masks.items():
            watches = self._watches.get(number, set())
            if mask & inotify.IN_IGNORED and watches:
                # What was watched has been deleted.
                del self._watches[number]
            for watch in watches:
                watch.notify(mask)
        self._close_if_idle()


_hubs: WeakKeyDictionary[asyncio.AbstractEventLoop, _Hub] = WeakKeyDictionary()


def _hub() -> _Hub:
    loop = asyncio.get_running_loop()
    hub = _hubs.get(loop)
    if hub is None:
        hub = _hubs[loop] = _Hub(loop)
    return hub
