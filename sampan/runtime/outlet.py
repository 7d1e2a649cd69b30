"""Where the output of a container's first process is kept: in a log here, or with a shipper."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from sampan.runtime.logs.writer import Writer, open_writer
from sampan.runtime.loop import Loop
from sampan.runtime.stdio import Stdio
from sampan.runtime.types import LogConfig

if TYPE_CHECKING:
    from sampan.runtime.logs.sink import Sink


class Outlet:
    """The log of one container, over all of its starts."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._log: Writer | None = None
        self.sink: Sink | None = None
        """In the log's place, if its driver is fed by a shipper."""

    def open(self, config: LogConfig, shipper: list[int], fds: list[int]) -> None:
        """``shipper`` is the number of the process that feeds the driver, if there is one; the
        last of ``fds``, taken from them, leads to it."""
        if not shipper:
            self._log = open_writer(config)
            return
        # Few containers need it, and only from now on.
        from sampan.runtime.logs.sink import Sink

        copy = LogConfig("none") if config.on_file else config.kept
        self.sink = Sink(self._loop, fds.pop(), shipper[0], open_writer(copy), config.buffer)

    def write(self, stream: int, data: bytes, at: int) -> None:
        if self.sink is not None:
            self.sink.write(stream, data, at)
            return
        assert self._log is not None
        self._log.write(stream, data, at)

    def feeds(self, stdio: Stdio) -> None:
        """This process's output waits when the shipper is behind."""
        if self.sink:
            self.sink.on_low = stdio.drained

    def close(self, on_closed: Callable[[], None]) -> None:
        """Call back when the output is delivered."""
        if self.sink:
            self.sink.close(on_closed)
            return
        if self._log:
            self._log.close()
        on_closed()
