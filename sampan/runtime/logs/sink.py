"""The keeper's side of a shipper: never waits, holds the output back or drops lines instead."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections import deque
from collections.abc import Callable

from sampan.runtime.logs.frames import HEADER, TRAILER
from sampan.runtime.logs.writer import Writer
from sampan.runtime.loop import IN, OUT, Loop, Timer

_LOW = 64 * 1024
_PATIENCE = 10.0
_PIECES = 64


class Sink:
    """Passes output to a shipper, and to the ``copy`` that is kept here.

    With ``limit`` 0 what the shipper has not taken is told by :attr:`backlog`, and ``on_low`` is
    called when it has caught up.  Otherwise at most ``limit`` bytes wait, and further lines are
    dropped, whole, as long as they do not fit.
    """

    def __init__(self, loop: Loop, fd: int, pid: int, copy: Writer, limit: int) -> None:
        self.on_low: Callable[[], None] = lambda: None
        self._loop = loop
        self._socket = socket.socket(fileno=fd)
        self._socket.setblocking(False)
        self._pid = pid
        self._copy = copy
        self._limit = limit
        self._pieces: deque[memoryview] = deque()
        self._pending = 0
        self._gates = {1: _Gate(), 2: _Gate()}
        self._broken = False
        self._closing = False
        self._deadline: Timer | None = None
        self._on_closed: Callable[[], None] = lambda: None
        loop.add(fd, 0, self._ready)

    @property
    def backlog(self) -> int:
        """The bytes for which the container's output has to wait."""
        return 0 if self._limit else self._pending

    def write(self, stream: int, data: bytes, time: int) -> None:
        """Pass a chunk on."""
        self._copy.write(stream, data, time)
        if self._broken:
            return
        if self._limit:
            room = self._limit - self._pending
            data = self._gates[stream].admit(data, room, nothing_waits=not self._pending)
            if not data:
                return
        length = len(data)
        frame = HEADER.pack(length, stream, 0, 0, time) + data + TRAILER.pack(length)
        waited = bool(self._pieces)
        self._pieces.append(memoryview(frame))
        self._pending += len(frame)
        if not waited:
            self._flush()

    def close(self, on_closed: Callable[[], None]) -> None:
        """End: ``on_closed`` is called when everything is delivered, or after ten seconds."""
        self._copy.close()
        self._closing = True
        self._on_closed = on_closed
        self._deadline = self._loop.call_later(_PATIENCE, self._give_up)
        if self._broken:
            self._over()
        elif not self._pieces:
            self._end_of_output()

    def _ready(self, events: int) -> None:
        if events & OUT:
            self._flush()
        elif events & ~OUT:
            # It sends nothing after its start: this is its end.
            self._over()

    def _flush(self) -> None:
        while self._pieces:
            try:
                sent = os.writev(self._socket.fileno(), list(self._pieces)[:_PIECES])
            except BlockingIOError:
                break
            except OSError:
                self._over()
                return
            self._pending -= sent
            while sent:
                if sent < len(self._pieces[0]):
                    self._pieces[0] = self._pieces[0][sent:]
                    break
                sent -= len(self._pieces.popleft())
        self._loop.modify(self._socket.fileno(), OUT if self._pieces else 0)
        if self._pending <= _LOW:
            self.on_low()
        if self._closing and not self._pieces:
            self._end_of_output()

    def _end_of_output(self) -> None:
        self._socket.shutdown(socket.SHUT_WR)
        self._loop.modify(self._socket.fileno(), IN)

    def _give_up(self) -> None:
        os.kill(self._pid, signal.SIGKILL)
        self._over()

    def _over(self) -> None:
        """The shipper has ended, or is to: nothing can be passed on any more."""
        if not self._broken:
            self._broken = True
            self._pieces.clear()
            self._pending = 0
            self._loop.remove(self._socket.fileno())
            self._socket.close()
            # A starter that has not ended yet is its parent still, and init after it.
            with contextlib.suppress(ChildProcessError):
                os.waitpid(self._pid, 0)
            self.on_low()
        if self._closing:
            self._closing = False
            if self._deadline:
                self._deadline.cancel()
            self._on_closed()


class _Gate:
    """Decides what of one stream's output passes when there is little room.  Lines are never cut:
    one whose beginning has passed is ended by a newline before the next."""

    def __init__(self) -> None:
        self._begun = False
        """A line's beginning has passed, not its end."""
        self._owed = False
        """That line lost its end: a newline is due."""
        self._inside = False
        """What was dropped last ended inside a line."""

    def admit(self, data: bytes, room: int, *, nothing_waits: bool) -> bytes:
        """The part of ``data`` that passes."""
        if self._inside:
            end = data.find(b"\n")
            if end < 0:
                return b""
            data = data[end + 1 :]
            self._inside = False
        passed, dropped = data, b""
        if len(data) > room and not nothing_waits:
            cut = data.rfind(b"\n", 0, max(room, 0)) + 1
            passed, dropped = data[:cut], data[cut:]
        if passed:
            if self._owed:
                self._owed = False
                passed = b"\n" + passed
            self._begun = not passed.endswith(b"\n")
        if dropped:
            self._owed = self._owed or self._begun
            self._begun = False
            self._inside = not dropped.endswith(b"\n")
        return passed
