"""A process of a container at the keeper's end."""

from __future__ import annotations

import os
import signal

from sampan.runtime import launch
from sampan.runtime.stdio import Stdio


class Task:
    """One process with its streams: the container's first, or an exec."""

    def __init__(self, started: launch.Process, stdio: Stdio) -> None:
        self.pid = started.pid
        self.pidfd = started.pidfd
        self.stdio = stdio

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
