"""A process that writes without a pause: read it in larger pieces."""

from __future__ import annotations

import fcntl

CHUNK = 65536
_CHUNK = 124 * 1024
"""Just below what the allocator would fetch from the kernel, and give back, each time."""
_PIPE = 256 * 1024
NAP = 0.0005
"""Seconds to wait for more."""
_GAP = 2_000_000


class Flood:
    """Tells when a stream writes so much, and nothing else happens, that waking up for every piece
    costs more than the pieces: then it is read in larger ones, half a millisecond later.
    """

    def __init__(self) -> None:
        self.rises = False
        """Whether to let more come before the next read."""
        self._stream = 0
        self._bytes = 0
        self._last = 0
        self._widened: set[int] = set()

    def chunk(self, fd: int) -> int:
        """How much to read at most."""
        return _CHUNK if fd in self._widened else CHUNK

    def saw(self, fd: int, stream: int, size: int, now: int) -> None:
        """``size`` bytes were read from a pipe, at ``now`` (nanoseconds)."""
        if stream != self._stream or now - self._last > _GAP:
            # Both streams at once are read without delay, for the sake of their order.
            self._stream, self._bytes = stream, 0
        self._bytes += size
        self._last = now
        if self._bytes < _PIPE:
            self.rises = False
            return
        self.rises = size < CHUNK
        if fd not in self._widened:
            # The writer shall not wait while we do.  Where it is not allowed, it does.
            self._widened.add(fd)
            try:
                fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, _PIPE)
            except OSError:
                pass
