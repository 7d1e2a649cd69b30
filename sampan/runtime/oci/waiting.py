"""Wait for a process of a container whose streams are the caller's."""

from __future__ import annotations

import os
import signal

from sampan.runtime.oci import terminal


def wait(pid: int, handle: int, master: int | None) -> int:
    """Wait for our child, relaying its terminal and our signals; its exit code."""

    def forward(number: int, _: object) -> None:
        try:
            signal.pidfd_send_signal(handle, number)
        except ProcessLookupError:
            pass

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1):
        signal.signal(number, forward)
    if master is not None:
        terminal.relay(master, handle)
    while True:
        found, status = os.waitpid(-1, 0)
        if found == pid:
            code = os.waitstatus_to_exitcode(status)
            return 128 - code if code < 0 else code
