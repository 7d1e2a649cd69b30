"""Wait for a process of a container whose streams are the caller's."""

from __future__ import annotations

import os
import signal

from sampan.runtime.oci import terminal

# Those that somebody sends, without what a terminal does to its foreground (SIGTSTP stops the
# command alone; SIGWINCH is the relay's).
_FORWARDED = (
    signal.SIGHUP,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGALRM,
    signal.SIGTERM,
    signal.SIGCONT,
    signal.SIGIO,
    signal.SIGPWR,
    *range(signal.SIGRTMIN, signal.SIGRTMAX + 1),
)


def hold_signals() -> None:
    """Keep signals for the process until it is waited for: it is only being made."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _FORWARDED)


def wait(pid: int, handle: int, master: int | None) -> int:
    """Wait for our child, relaying its terminal and our signals; its exit code."""

    def forward(number: int, _: object) -> None:
        try:
            signal.pidfd_send_signal(handle, number)
        except ProcessLookupError:
            pass

    for number in _FORWARDED:
        signal.signal(number, forward)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _FORWARDED)
    if master is not None:
        terminal.relay(master, handle)
    while True:
        found, status = os.waitpid(-1, 0)
        if found == pid:
            code = os.waitstatus_to_exitcode(status)
            return 128 - code if code < 0 else code
