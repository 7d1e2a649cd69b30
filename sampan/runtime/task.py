"""A process of a container at the keeper's end."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

from sampan.runtime import launch
from sampan.runtime.loop import Loop
from sampan.runtime.stdio import Backlog, OnOutput, Stdio


class Task:
    """One process with its streams: the container's first, or an exec."""

    def __init__(self, started: launch.Process, stdio: Stdio) -> None:
        self.pid = started.pid
        self.pidfd = started.pidfd
        self.stdio = stdio

    @classmethod
    def of(
        cls,
        started: launch.Process,
        loop: Loop,
        on_output: OnOutput,
        *,
        once: bool,
        on_detach: Callable[[], None],
        behind: Backlog | None = None,
    ) -> Task:
        """Take over a started process: its streams are served by the loop from now on."""
        if started.streams is None:
            assert started.terminal is not None
            outputs: dict[int, int] = {started.terminal: 1}
            stdin: int | None = started.terminal
        else:
            outputs = {started.streams.stdout: 1, started.streams.stderr: 2}
            stdin = started.streams.stdin
        stdio = Stdio(
            loop,
            outputs=outputs,
            stdin=stdin,
            terminal=started.terminal,
            once=once,
            on_output=on_output,
            on_detach=on_detach,
            behind=behind,
        )
        return cls(started, stdio)

    def signal(self, number: int) -> None:
        """Raises ProcessLookupError when it has ended."""
        signal.pidfd_send_signal(self.pidfd, number)

    def kill(self) -> None:
        try:
            self.signal(signal.SIGKILL)
        except ProcessLookupError:
            pass

    def reap(self) -> int:
        """Collect the ended process; its exit code as a shell counts it."""
        _, status = os.waitpid(self.pid, 0)
        os.close(self.pidfd)
        code = os.waitstatus_to_exitcode(status)
        return 128 - code if code < 0 else code
