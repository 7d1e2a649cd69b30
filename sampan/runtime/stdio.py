"""A process's standard streams: output to the log and to attached clients, input from them.

Output goes from the process's pipes (or terminal) to the log and to every client.  A client that
does not read fills a bounded buffer; then the process's output is not read until the client has
caught up, so memory stays flat.  Input goes from the clients to the process, again bounded.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

from sampan.linux import pty
from sampan.runtime.loop import HANGUP, IN, OUT, Loop, Timer
from sampan.runtime.types import AttachRequest

CHUNK = 65536
_FLOOD_CHUNK = 124 * 1024
"""Just below what the allocator would fetch from the kernel, and give back, each time."""
_FLOOD_PIPE = 256 * 1024
_FLOOD_NAP = 0.0005
_FLOOD_GAP = 2_000_000
_HIGH = 256 * 1024
_LOW = 64 * 1024
_INPUT_HIGH = 64 * 1024
_LINGER = 10.0
_FRAME = struct.Struct(">BxxxI")

OnOutput = Callable[[int, bytes, int], None]


class Backlog(Protocol):
    """Something beside the clients that output may have to wait for, and for how many bytes."""

    @property
    def backlog(self) -> int: ...


class DetachScanner:
    """Finds the detach sequence in a client's input, across the borders of its reads."""

    def __init__(self, keys: bytes) -> None:
        self._keys = keys
        self._matched = 0

    def feed(self, data: bytes) -> tuple[bytes, bool]:
        """What is to be passed on, and whether the sequence was completed."""
        keys = self._keys
        if not keys or (not self._matched and keys[0] not in data):
            return data, False
        out = bytearray()
        for byte in data:
            if byte == keys[self._matched]:
                self._matched += 1
                if self._matched == len(keys):
                    self._matched = 0
                    return bytes(out), True
                continue
            # What was held back is input after all; this byte may begin the sequence anew.
            out += keys[: self._matched]
            self._matched = 0
            if byte == keys[0]:
                self._matched = 1
            else:
                out.append(byte)
        return bytes(out), False


class Client:
    """One attached connection."""

    def __init__(self, stdio: Stdio, request: AttachRequest, fd: int) -> None:
        self.request = request
        self.fd = fd
        self.pending = 0
        self._stdio = stdio
        self._buffer: deque[memoryview] = deque()
        self._scanner = DetachScanner(request.detach_keys)
        self._reads = request.stdin
        self._events = 0
        self._pollable = True
        self._finishing = False
        self._linger: Timer | None = None
        self.closed = False
        os.set_blocking(fd, False)
        try:
            stdio.loop.add(fd, 0, self._ready)
        except PermissionError:
            self._pollable = False
            self._reads = False
        self.poll()

    def wants(self, stream: int) -> bool:
        return self.request.stdout if stream == 1 else self.request.stderr

    def take_initial(self) -> None:
        """Input that was read from the client before it came here."""
        if self.request.stdin and self.request.initial:
            self._input(self.request.initial)

    def write(self, stream: int, data: bytes) -> None:
        """Send a chunk, or keep what the connection does not take."""
        if self._finishing or self.closed:
            return
        parts = [data] if self.request.raw else [_FRAME.pack(stream, len(data)), data]
        sent = 0
        if not self._buffer:
            try:
                sent = os.writev(self.fd, parts)
            except BlockingIOError:
                sent = 0
            except OSError:
                self.close()
                return
        for part in parts:
            if sent >= len(part):
                sent -= len(part)
                continue
            rest = memoryview(part)[sent:]
            sent = 0
            self._buffer.append(rest)
            self.pending += len(rest)
        if self._buffer:
            self.poll()

    def finish(self) -> None:
        """No more output comes: close when all has been sent, or after a time without progress."""
        if self.closed or self._finishing:
            return
        self._finishing = True
        self._reads = False
        if self._buffer:
            self._linger = self._stdio.loop.call_later(_LINGER, self.close)
            self.poll()
        else:
            self._end()

    def poll(self) -> None:
        """Ask the loop for what this client can do now."""
        if self.closed or not self._pollable:
            return
        events = (OUT if self._buffer else 0) | (
            IN if self._reads and self._stdio.takes_input else 0
        )
        if events != self._events:
            self._events = events
            self._stdio.loop.modify(self.fd, events)

    def _ready(self, events: int) -> None:
        if events & IN and self._reads:
            self._read()
        if events & OUT and not self.closed:
            self._flush()
        elif events & HANGUP and not events & IN and not self.closed:
            self.close()

    def _read(self) -> None:
        try:
            data = os.read(self.fd, CHUNK)
        except BlockingIOError:
            return
        except OSError:
            self.close()
            return
        if data:
            self._input(data)
            return
        self._reads = False
        self._stdio.end_of_input()
        self.poll()

    def _input(self, data: bytes) -> None:
        passed, detached = self._scanner.feed(data)
        if passed:
            self._stdio.feed(passed)
        if detached:
            self._stdio.on_detach()
            self._reads = False
            self.request.stdin = False
            self.finish()

    def _flush(self) -> None:
        while self._buffer:
            try:
                sent = os.writev(self.fd, list(self._buffer)[:64])
            except BlockingIOError:
                break
            except OSError:
                self.close()
                return
            self.pending -= sent
            while sent:
                if sent < len(self._buffer[0]):
                    self._buffer[0] = self._buffer[0][sent:]
                    break
                sent -= len(self._buffer.popleft())
        if self._linger:
            self._linger.cancel()
            self._linger = None
        if not self._buffer and self._finishing:
            self._end()
            return
        if self._finishing:
            self._linger = self._stdio.loop.call_later(_LINGER, self.close)
        self.poll()
        if self.pending <= _LOW:
            self._stdio.drained()

    def _end(self) -> None:
        """Close so that the other side sees an end, not a reset for input that nobody read."""
        try:
            with socket.socket(fileno=os.dup(self.fd)) as connection:
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(CHUNK, socket.MSG_DONTWAIT):
                    pass
        except OSError:
            pass
        self.close()

    def close(self) -> None:
        if self.closed:
            return
        self.closed = True
        if self._linger:
            self._linger.cancel()
        self._buffer.clear()
        self.pending = 0
        if self._pollable:
            self._stdio.loop.remove(self.fd)
        os.close(self.fd)
        self._stdio.client_closed(self)


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
        return _FLOOD_CHUNK if fd in self._widened else CHUNK

    def saw(self, fd: int, stream: int, size: int, now: int) -> None:
        """``size`` bytes were read from a pipe, at ``now`` (nanoseconds)."""
        if stream != self._stream or now - self._last > _FLOOD_GAP:
            # Both streams at once are read without delay, for the sake of their order.
            self._stream, self._bytes = stream, 0
        self._bytes += size
        self._last = now
        if self._bytes < _FLOOD_PIPE:
            self.rises = False
            return
        self.rises = size < CHUNK
        if fd not in self._widened:
            # The writer shall not wait while we do.  Where it is not allowed, it does.
            self._widened.add(fd)
            try:
                fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, _FLOOD_PIPE)
            except OSError:
                pass


def _slave_of(terminal: int) -> int | None:
    """The terminal's other side; None where it cannot be reached: another runtime may have made
    the terminal in a mount namespace that is gone (its sandbox holds the other side then)."""
    try:
        return pty.open_pair(terminal)[1]
    except OSError:
        return None


class Stdio:
    """The streams of one process, from its start until the last client is served."""

    def __init__(
        self,
        loop: Loop,
        *,
        outputs: dict[int, int],
        stdin: int | None,
        terminal: int | None,
        once: bool,
        on_output: OnOutput,
        on_detach: Callable[[], None],
        behind: Backlog | None = None,
    ) -> None:
        """``outputs`` maps descriptors to streams (1, 2); a ``terminal`` serves in both ways.

        Whoever calls back with output may be ``behind`` it, and then calls :meth:`drained`.
        """
        self.loop = loop
        self.terminal = terminal
        self.on_detach = on_detach
        self.clients: list[Client] = []
        self._outputs = dict(outputs)
        self._stdin = stdin
        self._once = once
        self._on_output = on_output
        self._behind = behind
        self._input: deque[memoryview] = deque()
        self._input_size = 0
        self._input_ends = False
        self._writing = False
        self._throttled = False
        self._flood = Flood()
        self._process_ended = False
        self._on_drained: Callable[[], None] | None = None
        self._on_finished: Callable[[], None] | None = None
        for fd in self._outputs:
            os.set_blocking(fd, False)
            loop.add(fd, IN, lambda events, fd=fd: self._ready(fd, events))  # type: ignore[misc]
        if stdin is not None and stdin not in self._outputs:
            os.set_blocking(stdin, False)
        # Held open so that the terminal does not hang up while no process has it open.
        self._slave = None if terminal is None else _slave_of(terminal)

    @property
    def takes_input(self) -> bool:
        return self._stdin is None or self._input_size < _INPUT_HIGH

    def attach(self, request: AttachRequest, fd: int) -> None:
        """Take over a client's connection."""
        client = Client(self, request, fd)
        self.clients.append(client)
        client.take_initial()

    def _ready(self, fd: int, events: int) -> None:
        if events & OUT:
            self._write_input()
        if events & ~OUT and fd in self._outputs:
            if self._flood.rises and not events & HANGUP:
                time.sleep(_FLOOD_NAP)
            self._read(fd)

    def _read(self, fd: int) -> bool:
        """Read one chunk; False when there is none now."""
        stream = self._outputs[fd]
        try:
            data = os.read(fd, self._flood.chunk(fd))
        except BlockingIOError:
            if self._process_ended:
                self._close_output(fd)
            return False
        except OSError:
            data = b""
        if not data:
            self._close_output(fd)
            return False
        now = time.time_ns()
        if fd != self.terminal:
            self._flood.saw(fd, stream, len(data), now)
        self._on_output(stream, data, now)
        if self._behind and self._behind.backlog > _HIGH and not self._process_ended:
            self._throttle()
        for client in list(self.clients):
            if client.wants(stream):
                client.write(stream, data)
                if client.pending > _HIGH and not self._process_ended:
                    self._throttle()
        return True

    def _throttle(self) -> None:
        """Stop reading.  Pipes leave the loop: a hang-up would be reported without end."""
        if self._throttled:
            return
        self._throttled = True
        for fd in self._outputs:
            if fd == self.terminal:
                self._poll_terminal()
            else:
                self.loop.remove(fd)

    def drained(self) -> None:
        """A client has caught up, or who was behind: read again if all have."""
        if not self._throttled or any(client.pending > _LOW for client in self.clients):
            return
        if self._behind and self._behind.backlog > _LOW:
            return
        self._throttled = False
        for fd in self._outputs:
            if fd == self.terminal:
                self._poll_terminal()
            else:
                self.loop.add(fd, IN, lambda events, fd=fd: self._ready(fd, events))  # type: ignore[misc]

    def _poll_terminal(self) -> None:
        assert self.terminal is not None
        events = (0 if self._throttled else IN) | (OUT if self._writing else 0)
        self.loop.modify(self.terminal, events)

    def _close_output(self, fd: int) -> None:
        if self._outputs.pop(fd, None) is None:
            return
        self.loop.remove(fd)
        if fd != self.terminal:
            os.close(fd)
        if not self._outputs and self._on_drained:
            drained, self._on_drained = self._on_drained, None
            drained()

    def process_ended(
        self, on_drained: Callable[[], None], on_finished: Callable[[], None]
    ) -> None:
        """The process is gone: read what it left, then tell; finish when every client is served.

        What is left is at most what the pipes hold, so it is read without regard to slow clients.
        """
        self._process_ended = True
        self._on_finished = on_finished
        self._close_input()
        if not self._outputs:
            on_drained()
        else:
            self._on_drained = on_drained
            for fd in list(self._outputs):
                while fd in self._outputs and self._read(fd):
                    pass
        for client in list(self.clients):
            client.finish()
        self._check_finished()

    def _check_finished(self) -> None:
        if self._on_finished and not self.clients:
            finished, self._on_finished = self._on_finished, None
            if self.terminal is not None:
                os.close(self.terminal)
                self.terminal = None
            if self._slave is not None:
                os.close(self._slave)
                self._slave = None
            finished()

    def client_closed(self, client: Client) -> None:
        if client in self.clients:
            self.clients.remove(client)
        if client.request.stdin and self._once and self.terminal is None:
            self._end_input_when_written()
        self.drained()
        self._check_finished()

    def feed(self, data: bytes) -> None:
        """Input from a client."""
        if self._stdin is None or self._input_ends:
            return
        self._input.append(memoryview(data))
        self._input_size += len(data)
        if not self._writing:
            self._write_input()

    def end_of_input(self) -> None:
        """A client has closed its side."""
        if self._once and self.terminal is None:
            self._end_input_when_written()

    def _end_input_when_written(self) -> None:
        self._input_ends = True
        if not self._input:
            self._close_input()

    def _write_input(self, _: int = 0) -> None:
        assert self._stdin is not None
        was_full = not self.takes_input
        while self._input:
            try:
                sent = os.write(self._stdin, self._input[0])
            except BlockingIOError:
                break
            except OSError:
                self._close_input()
                return
            self._input_size -= sent
            if sent < len(self._input[0]):
                self._input[0] = self._input[0][sent:]
            else:
                self._input.popleft()
        if bool(self._input) != self._writing:
            self._writing = bool(self._input)
            self._poll_input()
        if was_full != (not self.takes_input) or not self.takes_input:
            for client in self.clients:
                client.poll()
        if self._input_ends and not self._input:
            self._close_input()

    def _poll_input(self) -> None:
        fd = self._stdin
        assert fd is not None
        if fd == self.terminal:
            self._poll_terminal()
        elif self._writing:
            self.loop.add(fd, OUT, self._write_input)
        else:
            self.loop.remove(fd)

    def _close_input(self) -> None:
        fd, self._stdin = self._stdin, None
        self._input.clear()
        self._input_size = 0
        self._writing = False
        if fd is not None and fd != self.terminal:
            self.loop.remove(fd)
            os.close(fd)
        for client in self.clients:
            client.poll()
