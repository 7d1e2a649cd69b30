"""Files that are read while they are still being written.

The writer tells how far it has come, readers wait for more.  A reader gets what was written and
nothing else: when the writer gives up or begins anew, it gets :class:`Interrupted`.
"""

from __future__ import annotations

import os
import threading

from sampan.errors import SampanError
from sampan.image.streams import Readable


class Interrupted(SampanError):
    """The writer of a file that was read meanwhile did not finish it."""


class Flow:
    """How far a file has come.  ``size`` is its length once it is whole."""

    def __init__(self, size: int, written: int) -> None:
        self.size = size
        self._written = written
        self._over = False
        self._changed = threading.Condition()

    def advance(self, written: int) -> None:
        with self._changed:
            self._written = written
            self._changed.notify_all()

    def end(self) -> None:
        """Nothing more comes; whoever waits for more than there is does so in vain."""
        with self._changed:
            self._over = True
            self._changed.notify_all()

    def wait(self, position: int) -> int:
        """How many bytes there are beyond ``position``, at least one; 0 at the file's end.
        Raises Interrupted."""
        with self._changed:
            while self._written <= position < self.size and not self._over:
                self._changed.wait()
            if position >= self.size:
                return 0
            if self._written <= position:
                raise Interrupted("what was being received broke off")
            return self._written - position


class ArrivingStream(Readable):
    """The file ``fd``, which is closed with the stream, as far as ``flow`` says it has come."""

    def __init__(self, fd: int, flow: Flow) -> None:
        self._fd = fd
        self._flow = flow
        self._position = 0

    def read(self, size: int = -1) -> bytes:
        room = self._flow.wait(self._position)
        data = os.pread(self._fd, room if size < 0 else min(room, size), self._position)
        self._position += len(data)
        return data

    def interrupt(self) -> None:
        """Wake a reader in another thread: it gets Interrupted.  The writer goes on; only other
        readers of the same file are interrupted as well."""
        self._flow.end()

    def close(self) -> None:
        if not self.closed:
            os.close(self._fd)
        super().close()
