"""The conversation between a keeper and the child that becomes a container's process.

Messages of the child: ``N`` its namespaces exist; ``T`` here is the terminal's master (with a
descriptor); ``L`` this will be the number of the filter's listener; ``W`` a warning; ``E`` it
could not start (one byte exit code, then the text); ``X`` the next thing is execve.  The keeper
answers ``N`` by ``G``: control groups and network are made; and ``L``: the listener is taken.
The end of the connection after ``X`` is the successful execve, which closes it.
"""

from __future__ import annotations

import errno
import os
import select
import socket
from collections.abc import Callable

from sampan.runtime.errors import StartError

_LARGEST = 16384
# Milliseconds between two looks at a child that others may have stopped.
_LOOK = 100


class ChildSide:
    """What the child says."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock

    def namespaces_ready(self) -> None:
        self._socket.send(b"N")

    def wait_for_go(self) -> None:
        if self._socket.recv(1) != b"G":
            os._exit(1)

    def terminal(self, master: int) -> None:
        socket.send_fds(self._socket, [b"T"], [master])

    def listener(self, number: int) -> None:
        """The next filter's listener will be this descriptor; wait for it to be taken after."""
        self._socket.send(b"L%d" % number)

    def warn(self, text: str) -> None:
        self._socket.send(b"W" + text.encode()[: _LARGEST - 1])

    def fail(self, text: str, code: int) -> None:
        self._socket.send(b"E" + bytes((code,)) + text.encode()[: _LARGEST - 2])

    def executing(self) -> None:
        self._socket.send(b"X")


class KeeperSide:
    """What the keeper hears; collects the warnings and the terminal."""

    def __init__(self, sock: socket.socket, exposed: int = 0) -> None:
        """``exposed`` is the child's number where it has joined a process-number namespace of
        others: they can stop it, and must not make us wait for it by that."""
        self._socket = sock
        self._exposed = exposed
        self._poll: select.poll | None = None
        self.unwanted = -1
        """A descriptor that has an event when the child is not wanted any more."""
        self.warnings: list[str] = []
        self.terminal: int | None = None
        self.on_listener: Callable[[int], None] | None = None
        """Called with the number that the listener of the child's filter gets."""

    def close(self) -> None:
        """The conversation is over."""
        self._socket.close()

    def wait_for_namespaces(self) -> None:
        """Raises StartError if the child fails before."""
        while (kind := self._next()) != b"N":
            if kind == b"":
                raise StartError("the process died while it was being set up", 125)

    def go(self) -> None:
        try:
            self._socket.send(b"G")
        except BrokenPipeError:
            pass  # the child has failed; its report is read next

    def wait_for_exec(self) -> None:
        """Return when the program runs.  Raises StartError with the child's report."""
        executing = False
        while kind := self._next():
            executing = kind == b"X"
        if not executing:
            raise StartError("the process died while it was being set up", 125)

    def report(self, failure: Exception) -> Exception:
        """Why it failed: the child's own report if there is one, else ``failure``.

        A child that has given up makes the keeper's next step fail for another reason.
        """
        if isinstance(failure, StartError):
            return failure
        self._socket.setblocking(False)
        try:
            while self._next():
                pass
        except StartError as reported:
            return reported
        except OSError:
            pass
        return failure

    def _wait(self) -> None:
        """Wait for a message.  Raises StartError if an exposed child has been stopped, or if the
        child is not wanted any more."""
        if self._poll is None:
            self._poll = select.poll()
            self._poll.register(self._socket, select.POLLIN)
            if self.unwanted >= 0:
                self._poll.register(self.unwanted, select.POLLIN)
        flags = os.WSTOPPED | os.WNOHANG | os.WNOWAIT
        while not (ready := self._poll.poll(_LOOK if self._exposed else None)):
            if os.waitid(os.P_PID, self._exposed, flags):
                raise StartError("the process was stopped while it was being set up", 126)
        if any(fd == self.unwanted for fd, _ in ready):
            raise StartError("the container ended while the process was being set up", 126)

    def _receive(self) -> tuple[bytes, list[int]]:
        if self._exposed or self.unwanted >= 0:
            self._wait()
        flags = socket.MSG_CMSG_CLOEXEC
        data, fds, _, _ = socket.recv_fds(self._socket, _LARGEST, 1, flags)
        return data, fds

    def _next(self) -> bytes:
        try:
            data, fds = self._receive()
        except ConnectionResetError:
            # The child has died without hearing our last word.  That is reported before what the
            # child itself said last, which is still there.
            data, fds = self._receive()
        if fds:
            self.terminal = fds[0]
        kind = data[:1]
        if kind == b"L":
            assert self.on_listener is not None
            self.on_listener(int(data[1:]))
            self.go()
        elif kind == b"W":
            self.warnings.append(data[1:].decode(errors="replace"))
        elif kind == b"E":
            raise StartError(data[2:].decode(errors="replace"), data[1])
        return kind


def describe(failure: BaseException) -> str:
    """One sentence for a failure; system errors with the file that they are about."""
    if isinstance(failure, OSError) and failure.strerror:
        name = failure.filename
        if name is None:
            return failure.strerror
        shown = os.fsdecode(name) if isinstance(name, str | bytes) else str(name)
        return f"{shown}: {failure.strerror.lower()}"
    if isinstance(failure, KeyError):
        return f"the specification has no {failure.args[0]!r}"
    return str(failure)


def command_error(name: str, failure: OSError) -> tuple[str, int]:
    """Docker's wording and exit code for a program that cannot be executed."""
    quoted = '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'
    match failure.errno:
        case errno.ENOENT if "/" not in name:
            return f"exec: {quoted}: executable file not found in $PATH", 127
        case errno.ENOENT:
            return f"exec: {quoted}: stat {name}: no such file or directory", 127
        case errno.ENOTDIR:
            return f"exec: {quoted}: stat {name}: not a directory", 127
        case errno.EACCES | errno.EPERM:
            return f"exec: {quoted}: permission denied", 126
        case errno.EISDIR:
            return f"exec: {quoted}: is a directory", 126
        case errno.ENOEXEC:
            return f"exec {name}: exec format error", 126
        case _:
            text = os.strerror(failure.errno or 0).lower()
            return f"exec: {quoted}: {text}", 126
