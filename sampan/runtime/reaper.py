"""``--init``: a first process that forwards signals and reaps orphans.

It has the same confinement as the program, which is its child; when the program ends, it ends with
the same code.
"""

from __future__ import annotations

import os
import signal

from sampan.linux import process, title
from sampan.runtime import confine
from sampan.runtime.sync import ChildSide
from sampan.runtime.users import Identity

_KEPT = (signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD)
_NOT_FORWARDED = (
    signal.SIGSEGV,
    signal.SIGBUS,
    signal.SIGFPE,
    signal.SIGILL,
    signal.SIGTRAP,
    signal.SIGABRT,
    signal.SIGSYS,
    signal.SIGTTIN,
    signal.SIGTTOU,
)


def run(
    plan: confine.Preparation, who: Identity, environ: dict[bytes, bytes], sync: ChildSide
) -> None:
    """Fork the program and wait for it; never returns on success."""
    forwarded = [
        number
        for number in range(1, signal.NSIG)
        if number not in _KEPT and number not in _NOT_FORWARDED and not 32 <= number <= 33
    ]
    waited = {*forwarded, signal.SIGCHLD}
    signal.pthread_sigmask(signal.SIG_BLOCK, waited)
    terminal = os.isatty(0)
    process.set_name("sampan-init")
    # Without this a container would show the host's paths that the spawner was started with.
    title.show(["sampan-init", "--", *plan.process["args"]])
    child = os.fork()
    if not child:
        # A group of its own in the foreground, so that the terminal's signals reach it once.
        os.setpgid(0, 0)
        if terminal:
            signal.signal(signal.SIGTTOU, signal.SIG_IGN)
            os.tcsetpgrp(0, os.getpgrp())
        confine.start_program(plan, who, environ, sync)
        os._exit(1)
    confine.become(plan, who, None)
    process.close_range(3)
    os.chdir("/")
    null_output()
    while True:
        number = signal.sigwait(waited)
        if number != signal.SIGCHLD:
            try:
                os.kill(child, number)
            except ProcessLookupError:
                pass
            continue
        code = _reap(child)
        if code is not None:
            os._exit(code)


def null_output() -> None:
    """Let go of the program's streams, so that they end when the program closes them."""
    for fd in (0, 1, 2):
        os.close(fd)


def _reap(child: int) -> int | None:
    """Collect what has ended; the exit code of ``child`` if it is among it."""
    code = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return code
        if not pid:
            return code
        if pid == child:
            code = os.waitstatus_to_exitcode(status)
            code = 128 - code if code < 0 else code
