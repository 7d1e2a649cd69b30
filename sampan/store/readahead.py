"""Reading ahead in a thread, so that decompression runs beside what consumes it."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import BinaryIO

from sampan.image.streams import Wrapped

_CHUNK = 1 << 20
_DEPTH = 6


class ReadAhead(Wrapped):
    """The same stream, read by a thread of its own, at most six megabytes ahead.  Errors of the
    stream are raised where its data would have come.  Closing it closes the stream; ``interrupt``
    is called before, for a stream whose reads may wait for long, to have them end."""

    def __init__(self, stream: BinaryIO, interrupt: Callable[[], None] | None = None) -> None:
        super().__init__(stream)
        self._interrupt = interrupt
        self._queue: queue.Queue[bytes | BaseException] = queue.Queue(_DEPTH)
        self._stopped = False
        self._ended = False
        self._rest = memoryview(b"")
        self._thread = threading.Thread(target=self._run, name="read-ahead", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            while not self._stopped:
                data = self._stream.read(_CHUNK)
                self._queue.put(data)
                if not data:
                    return
        except BaseException as error:
            self._queue.put(error)

    def read(self, size: int = -1) -> bytes:
        if not self._rest and not self._ended:
            item = self._queue.get()
            if isinstance(item, BaseException):
                self._ended = True
                raise item
            if not item:
                self._ended = True
            if size < 0 or len(item) <= size:
                return item
            self._rest = memoryview(item)
        data = self._rest if size < 0 else self._rest[:size]
        self._rest = self._rest[len(data) :]
        return bytes(data)

    def close(self) -> None:
        if not self.closed:
            self._stopped = True
            if self._interrupt is not None:
                self._interrupt()
            while self._thread.is_alive():
                try:
                    self._queue.get(timeout=0.05)
                except queue.Empty:
                    continue
            self._thread.join()
        super().close()
