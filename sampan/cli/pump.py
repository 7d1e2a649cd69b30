"""Carry standard input, output and error between this process and an attached container.

One loop over poll: the stream's socket, standard input, and signals.  Nothing is read from
standard input while the daemon has not taken what was read before.
"""

from __future__ import annotations

import os
import select

from sampan.cli.terminal import KeyWatch
from sampan.client.dial import would_block
from sampan.client.streams import STDERR, Demultiplexer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from sampan.cli.signals import Arrivals
    from sampan.client.dial import Socket

CHUNK = 64 << 10
OUTPUT_CHUNK = 120 << 10
END, DETACHED = "end", "detached"
_SHUT_WR = 1


class Pump:
    """One attached stream.

    ``multiplexed`` says that output comes in frames; ``stdin`` whether to send ours; ``keys`` end
    the session when typed; ``on_signal`` is called with each signal's number.
    """

    def __init__(
        self,
        sock: Socket,
        first: bytes,
        *,
        multiplexed: bool,
        stdin: bool,
        keys: bytes = b"",
        arrivals: Arrivals | None = None,
        on_signal: Callable[[int], None] | None = None,
    ) -> None:
        self._sock, self._first = sock, first
        self._demultiplexer = Demultiplexer() if multiplexed else None
        self._stdin = stdin
        self._listening = False
        self._watch = KeyWatch(keys)
        self._arrivals, self._on_signal = arrivals, on_signal
        self._unsent = memoryview(b"")
        self._poller = select.poll()

    def run(self) -> str:
        """Until the stream ends (``END``) or the keys are pressed (``DETACHED``)."""
        if self._first:
            self._put(self._first)
        fd = self._sock.fileno()
        # A send that waited for the other side would not see what that is waiting to say.
        self._sock.settimeout(0.0)
        self._poller.register(fd, select.POLLIN)
        self._listen(self._stdin)
        if pending_of(self._sock) and not self._receive():
            return END
        if self._arrivals is not None:
            self._poller.register(self._arrivals.fd, select.POLLIN)
        while True:
            for ready, events in self._poller.poll():
                if ready == fd:
                    if events & select.POLLOUT and not self._send():
                        continue
                    if events & ~select.POLLOUT and not self._receive():
                        return END
                elif self._arrivals is not None and ready == self._arrivals.fd:
                    for number in self._arrivals.read():
                        if self._on_signal is not None:
                            self._on_signal(number)
                elif ready == 0 and self._listening and not self._type():
                    return DETACHED

    def _receive(self) -> bool:
        while True:
            try:
                data = self._sock.recv(OUTPUT_CHUNK)
            except ConnectionResetError:
                return False
            except OSError as error:
                if would_block(error):
                    return True
                raise
            if not data:
                return False
            self._put(data)
            if not pending_of(self._sock):
                return True

    def _put(self, data: bytes) -> None:
        if self._demultiplexer is None:
            write_all(1, data)
            return
        for stream, piece in self._demultiplexer.feed(memoryview(data)):
            write_all(2 if stream == STDERR else 1, piece)

    def _type(self) -> bool:
        """Take in what was typed; False when it was the detach keys."""
        try:
            data = os.read(0, CHUNK)
        except OSError:
            data = b""
        if not data:
            self._stdin = False
            self._listen(False)
            self._half_close()
            return True
        data, detached = self._watch.feed(data)
        self._unsent = memoryview(data)
        if detached:
            self._send_rest()
            return False
        if data:
            self._send()
        return True

    def _send(self) -> bool:
        """Send what is unsent; poll for more room, and for no more input, until all is."""
        fd = self._sock.fileno()
        try:
            if self._unsent:
                self._unsent = self._unsent[self._sock.send(self._unsent[:CHUNK]) :]
        except (BrokenPipeError, ConnectionResetError):
            # The container no longer reads; what it still writes is to be seen.
            self._unsent = memoryview(b"")
            self._stdin = False
            self._listen(False)
            self._poller.modify(fd, select.POLLIN)
            return False
        except OSError as error:
            if not would_block(error):
                raise
        self._poller.modify(fd, select.POLLIN | (select.POLLOUT if self._unsent else 0))
        self._listen(self._stdin and not self._unsent)
        return True

    def _listen(self, wanted: bool) -> None:
        """Poll standard input or not; asking it for no events would still tell of its hang-up."""
        if wanted and not self._listening:
            self._poller.register(0, select.POLLIN)
        elif self._listening and not wanted:
            self._poller.unregister(0)
        self._listening = wanted

    def _send_rest(self) -> None:
        """Send what was typed before the detach keys, waiting for room."""
        self._sock.settimeout(None)
        while self._unsent:
            self._unsent = self._unsent[self._sock.send(self._unsent) :]

    def _half_close(self) -> None:
        try:
            self._sock.shutdown(_SHUT_WR)
        except OSError:
            pass


def pending_of(sock: Socket) -> int:
    """Bytes that TLS has taken from the socket already: poll does not tell of them."""
    pending = getattr(sock, "pending", None)
    return pending() if pending is not None else 0


def write_all(fd: int, data: bytes | memoryview) -> None:
    """Write all of ``data``, waiting when the reader is slow."""
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view) :]
        except BlockingIOError:
            poller = select.poll()
            poller.register(fd, select.POLLOUT)
            poller.poll()
