"""Connections that take part in a process's streams: its output to them, their input to it."""

from __future__ import annotations

import os
import socket
import struct
from collections import deque
from collections.abc import Callable
from typing import Protocol

from sampan.runtime.flood import CHUNK
from sampan.runtime.loop import HANGUP, IN, OUT, Loop, Timer
from sampan.runtime.types import AttachRequest

LOW = 64 * 1024
"""A client that has no more than this to come has caught up."""
_LINGER = 10.0
_FRAME = struct.Struct(">BxxxI")


class Streams(Protocol):
    """The streams that a client is attached to."""

    loop: Loop
    on_detach: Callable[[], None]

    @property
    def takes_input(self) -> bool:
        """Whether there is room for input."""
        ...

    def feed(self, data: bytes) -> None:
        """Input from a client."""
        ...

    def end_of_input(self) -> None:
        """A client has closed its side."""
        ...

    def drained(self) -> None:
        """A client has caught up."""
        ...

    def client_closed(self, client: Client) -> None: ...


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

    def __init__(self, stdio: Streams, request: AttachRequest, fd: int) -> None:
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
        if self.pending <= LOW:
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
