"""The shipper: a process that feeds a log driver which may be slow, fail, or be far away.

The keeper of a container must not wait, so it hands the output over on a socket, as the frames of
the ``local`` format (:mod:`sampan.runtime.logs.frames`), and the shipper waits in its place.  A
full socket is the back-pressure.  The shipper is forked before the container's process, so that a
driver that cannot be reached fails the start; it ends when the socket does, after the rest of the
output is delivered.
"""

from __future__ import annotations

import os
import socket
import sys

from sampan.linux import process
from sampan.runtime.errors import StartError
from sampan.runtime.logs import frames
from sampan.runtime.logs.lines import Splitter
from sampan.runtime.types import LogConfig

_READ = 1 << 18
_READY = b"\0"
_SOCKET = 3
_STARTED = "failed to create task for container: failed to initialize logging driver: "


def start(config: LogConfig) -> tuple[int, int]:
    """Fork the shipper: (the socket for its frames, its process number).

    Raises StartError if the driver cannot be reached.
    """
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if not pid:
        try:
            os.dup2(theirs.fileno(), _SOCKET)
            process.close_range(_SOCKET + 1)
            process.set_name("sampan-logger")
            _run(config, socket.socket(fileno=_SOCKET))
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(0)
    theirs.close()
    answer = ours.recv(4096)
    if answer != _READY:
        ours.close()
        os.waitpid(pid, 0)
        reason = answer.decode(errors="replace") or "it ended at once"
        raise StartError(_STARTED + reason, 125)
    return ours.detach(), pid


def _run(config: LogConfig, source: socket.socket) -> None:
    try:
        consumer = _consumer(config)
    except (OSError, ValueError) as failure:
        source.send(str(failure).encode()[:4096])
        return
    source.send(_READY)
    pending = b""
    while data := source.recv(_READ):
        pending += data
        at = 0
        for frame in frames.forward(pending, 0, len(pending)):
            consumer.write(frame.stream, pending[frame.start : frame.end], frame.time)
            at = frame.next
        pending = pending[at:]
        consumer.flush()
    consumer.close()


class _Lines:
    """Feeds a driver that wants lines, in batches."""

    def __init__(self, config: LogConfig) -> None:
        # Here and not above: a container without such a driver must not pay for it.
        from sampan.runtime.logs import drivers

        self._driver = drivers.connect(config)
        self._splitter = Splitter()
        self._batch = self._splitter.finish()

    def write(self, stream: int, data: bytes, time: int) -> None:
        self._batch += self._splitter.feed(stream, data, time)

    def flush(self) -> None:
        if self._batch:
            batch, self._batch = self._batch, []
            self._driver.send(batch)

    def close(self) -> None:
        self._batch += self._splitter.finish()
        self.flush()
        self._driver.close()


class _Files:
    """Feeds a driver that writes files."""

    def __init__(self, config: LogConfig) -> None:
        from sampan.runtime.logs.writer import open_writer

        writer = open_writer(config)
        self.write, self.close = writer.write, writer.close

    def flush(self) -> None:
        """Every write is one."""


def _consumer(config: LogConfig) -> _Lines | _Files:
    return _Files(config) if config.on_file else _Lines(config)
