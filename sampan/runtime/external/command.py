"""One run of a runtime's command line, with its error read from its log."""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from sampan.linux import files, namespaces, process
from sampan.linux import mount as mounts
from sampan.runtime import cgroups
from sampan.runtime.errors import StartError

_TIMEOUT = 120_000  # milliseconds that one command may take
_ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}


class Runtime(NamedTuple):
    """A runtime's command (path and arguments) for the container whose run directory it is."""

    words: Sequence[str]
    run_dir: str

    @property
    def bundle(self) -> str:
        return f"{self.run_dir}/bundle"

    @property
    def root(self) -> str:
        """Where the runtime keeps what it knows of the container."""
        return f"{self.run_dir}/runtime"


def call(
    runtime: Runtime, *words: str, stdio: tuple[int, ...] | None = None, unwanted: int = -1
) -> None:
    """Run one command to its end; it is killed when the descriptor ``unwanted`` has an event.

    Raises StartError with the runtime's own message; its code is 127 for a program that is not
    there, 126 for one that cannot be executed, else 125.
    """
    # Several commands may run at once.
    log = f"{runtime.bundle}/log-{os.getpid()}"
    try:
        _call(runtime, words, log, stdio, unwanted)
    finally:
        try:
            os.unlink(log)
        except FileNotFoundError:
            pass


def _call(
    runtime: Runtime, words: Sequence[str], log: str, stdio: tuple[int, ...] | None, unwanted: int
) -> None:
    options = ["--root", runtime.root, "--log", log, "--log-format", "json"]
    command = [*runtime.words, *options, *words]
    reader, writer = os.pipe2(os.O_CLOEXEC)
    child = os.fork()
    if not child:
        _execute(command, stdio, writer)
    os.close(writer)
    handle = os.pidfd_open(child)
    try:
        poll = select.poll()
        poll.register(handle, select.POLLIN)
        if unwanted >= 0:
            poll.register(unwanted, select.POLLIN)
        events = dict(poll.poll(_TIMEOUT))
        late = not events
        if handle not in events:
            signal.pidfd_send_signal(handle, signal.SIGKILL)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        not_run = os.read(reader, 4096).decode(errors="replace")
    finally:
        os.close(handle)
        os.close(reader)
    if unwanted in events:
        raise StartError("the container ended while the process was being set up", 126)
    if late:
        raise StartError(f"{command[0]} {words[0]} did not end in {_TIMEOUT // 1000} seconds", 125)
    if not_run:
        raise StartError(not_run, 125)
    if status:
        message = _last_error(log) or f"{command[0]} {words[0]} ended with exit status {status}"
        raise StartError(message, _code(message))


def _execute(command: Sequence[str], stdio: tuple[int, ...] | None, writer: int) -> None:
    """In the child; never returns."""
    try:
        _see_one_hierarchy()
        # Not the null device either: see below.
        nothing = os.memfd_create("nothing", os.MFD_CLOEXEC)
        streams = _own(stdio) if stdio else (nothing, nothing, nothing)
        for number, fd in enumerate(streams):
            os.dup2(fd, number)
        os.umask(0o022)
        process.reset_signals()
        process.close_range(3, flags=process.CLOSE_RANGE_CLOEXEC)
        os.execve(command[0], list(command), _ENVIRONMENT)
    except OSError as failure:
        os.write(writer, f"exec: {command[0]}: {failure.strerror}".encode())
    finally:
        os._exit(125)


def _own(stdio: tuple[int, ...]) -> tuple[int, ...]:
    """Streams that a runtime may give to the container's user, as some do even with the host's
    null device: in its place an input that has ended."""
    if os.fstat(stdio[0]).st_rdev != os.makedev(1, 3):
        return stdio
    ended, writer = os.pipe2(os.O_CLOEXEC)
    os.close(writer)
    return (ended, *stdio[1:])


def _see_one_hierarchy() -> None:
    """On a host with both versions of control groups hide the one that holds no controllers:
    crun refuses such a host, and the others would look into it for nothing."""
    layout = cgroups.layout()
    if layout.version != 1 or not layout.unified:
        return
    namespaces.unshare(namespaces.CLONE_NEWNS)
    mounts.mount("none", "/", "", mounts.MS_REC | mounts.MS_SLAVE)
    mounts.umount(layout.unified)


def _last_error(log: str) -> str:
    try:
        lines = files.read(log).splitlines()
    except OSError:
        return ""
    for line in reversed(lines):
        try:
            entry = msgspec.json.decode(line)
        except msgspec.DecodeError:
            continue
        if isinstance(entry, dict) and entry.get("level") in ("error", "fatal"):
            return _in_go(str(entry.get("msg") or "").strip())
    return ""


def _in_go(message: str) -> str:
    """The message with the system's errors as Go writes them: clients look for those words."""
    for text in ("No such file or directory", "Permission denied"):
        message = message.replace(text, text.lower())
    return message


def _code(message: str) -> int:
    """Docker's exit code for what a runtime says."""
    text = message.lower()
    if "executable file" in text and "not found" in text:
        return 127
    if "permission denied" in text or "is a directory" in text:
        return 126
    if "no such file or directory" in text and "exec" in text:
        return 127
    return 125
