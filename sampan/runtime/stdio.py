"""A process's standard streams: output to the log and to attached clients, input from them.

Output goes from the process's pipes (or terminal) to the log and to every client.  A client that
does not read fills a bounded buffer; then the process's output is not read until the client has
caught up, so memory stays flat.  Input goes from the clients to the process, again bounded.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

from sampan.linux import pty
from sampan.runtime.attached import LOW, Client
from sampan.runtime.flood import NAP, Flood
from sampan.runtime.loop import HANGUP, IN, OUT, Loop
from sampan.runtime.types import AttachRequest

_HIGH = 256 * 1024
_INPUT_HIGH = 64 * 1024
_TERMINAL_HOLDS = 1 << 20
"""More than any terminal does."""

OnOutput = Callable[[int, bytes, int], None]


class Backlog(Protocol):
    """Something beside the clients that output may have to wait for, and for how many bytes."""

    @property
    def backlog(self) -> int: ...


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
                time.sleep(NAP)
            self._read(fd)

    def _read(self, fd: int) -> int:
        """Read one chunk; its size, 0 when there is none now."""
        stream = self._outputs[fd]
        try:
            data = os.read(fd, self._flood.chunk(fd))
        except BlockingIOError:
            if self._process_ended:
                self._close_output(fd)
            return 0
        except OSError:
            data = b""
        if not data:
            self._close_output(fd)
            return 0
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
        return len(data)

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
        if not self._throttled or any(client.pending > LOW for client in self.clients):
            return
        if self._behind and self._behind.backlog > LOW:
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
                self._read_what_is_left(fd)
        for client in list(self.clients):
            client.finish()
        self._check_finished()

    def _read_what_is_left(self, fd: int) -> None:
        """Others that the process has started may go on writing: nobody waits for those."""
        left = _TERMINAL_HOLDS if fd == self.terminal else fcntl.fcntl(fd, fcntl.F_GETPIPE_SZ)
        while left > 0 and (size := self._read(fd)):
            left -= size
        self._close_output(fd)

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
