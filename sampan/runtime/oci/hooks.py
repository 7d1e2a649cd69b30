"""Run a bundle's hooks: programs that get the container's state on their standard input.

Works in a process that has entered a container's namespaces as well: nothing is imported or
opened here but the hook itself, by execve.
"""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Callable, Sequence
from typing import Any

from sampan.linux import process

KINDS = (
    "prestart",
    "createRuntime",
    "createContainer",
    "startContainer",
    "poststart",
    "poststop",
)


def run(
    hooks: Sequence[dict[str, Any]], kind: str, state: bytes, failed: Callable[[str], None]
) -> None:
    """Run the hooks one after another; ``failed`` is told of one that fails, and may raise."""
    for number, hook in enumerate(hooks):
        problem = _run(hook, state)
        if problem:
            failed(f"error running {kind} hook #{number}: {problem}")


def _run(hook: dict[str, Any], state: bytes) -> str:
    path = str(hook.get("path") or "")
    arguments = [os.fsencode(word) for word in hook.get("args") or [path]]
    environ = dict(
        os.fsencode(entry).split(b"=", 1) for entry in hook.get("env") or () if "=" in entry
    )
    timeout = hook.get("timeout")
    reader, writer = os.pipe2(os.O_CLOEXEC)
    child = os.fork()
    if not child:
        try:
            os.dup2(reader, 0)
            process.reset_signals()
            os.execve(path, arguments, environ)
        except OSError as failure:
            os.write(2, f"{path}: {os.strerror(failure.errno or 0).lower()}\n".encode())
        finally:
            os._exit(127)
    os.close(reader)
    handle = os.pidfd_open(child)
    try:
        # Larger than a pipe holds it never is in practice; a hook that does not read must not
        # block us either.
        os.set_blocking(writer, False)
        try:
            os.write(writer, state)
        except (BrokenPipeError, BlockingIOError):
            pass
        os.close(writer)
        poll = select.poll()
        poll.register(handle, select.POLLIN)
        if not poll.poll(None if timeout is None else int(timeout) * 1000):
            signal.pidfd_send_signal(handle, signal.SIGKILL)
            os.waitpid(child, 0)
            return f"{path} did not end within {timeout} seconds"
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    finally:
        os.close(handle)
    return f"{path}: exit status {code}" if code else ""


def check(hooks: dict[str, Any]) -> None:
    """Raises ValueError for hooks that cannot be run."""
    if hooks:
        # Its first use may load it, which is too late inside the container.
        select.poll()
    for kind, entries in hooks.items():
        if kind not in KINDS:
            raise ValueError(f"unknown kind of hook {kind!r}")
        for hook in entries or ():
            path = hook.get("path")
            if not isinstance(path, str) or not path.startswith("/"):
                raise ValueError(f"the path of a {kind} hook must be absolute, not {path!r}")
            timeout = hook.get("timeout")
            if timeout is not None and (not isinstance(timeout, int) or timeout <= 0):
                raise ValueError(f"the timeout of a {kind} hook must be above 0, not {timeout!r}")
