"""Hashing in a thread of its own what another one writes to a file."""

from __future__ import annotations

import os
import queue
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hashlib import _Hash

_BLOCK = 1 << 20


class Hasher:
    """Feeds a file's bytes from ``offset`` on to ``state``, as far as they have been written.

    They are read back, so that the writer may do with its memory what it likes.  Nobody else may
    use ``state`` before :meth:`finish`.
    """

    def __init__(self, state: _Hash, fd: int, offset: int) -> None:
        self._state = state
        self._fd = fd
        self._offset = offset
        self._failure: OSError | None = None
        self._ends: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="hasher", daemon=True)
        self._thread.start()

    def written(self, end: int) -> None:
        """All up to this offset has been written."""
        self._ends.put(end)

    def finish(self) -> None:
        """Return when all that has been written is hashed.  Raises OSError."""
        self._ends.put(None)
        self._thread.join()
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        block = memoryview(bytearray(_BLOCK))
        try:
            while (end := self._ends.get()) is not None:
                while self._offset < end:
                    wanted = block[: min(_BLOCK, end - self._offset)]
                    count = os.preadv(self._fd, [wanted], self._offset)
                    if not count:
                        raise OSError("a file that is being written has been cut short")
                    self._state.update(wanted[:count])
                    self._offset += count
        except OSError as failure:
            self._failure = failure
