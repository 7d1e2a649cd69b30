"""``system stop``: end the local daemon; its containers go on."""

from __future__ import annotations

from sampan.cli.command import Command
from sampan.cli.failure import Failure
from sampan.cli.flags import Flag

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.cli.flags import Options
    from sampan.cli.session import Session


def stop(session: Session, options: Options, arguments: list[str]) -> int:
    """Send the daemon SIGTERM and wait until it has ended."""
    import os
    import select
    import signal

    run = session.host.run_dir
    pid = _holder(f"{run}/daemon.lock") if run else 0
    if not pid:
        raise Failure(f"no sampan daemon runs in {run or session.host.address}", 1)
    try:
        process = os.pidfd_open(pid)
    except OSError:
        return 0  # it has just ended
    try:
        try:
            signal.pidfd_send_signal(process, signal.SIGTERM)
        except PermissionError:
            raise Failure(f"no permission to stop the daemon (process {pid})", 1) from None
        poller = select.poll()
        poller.register(process, select.POLLIN)
        seconds = int(options["timeout"])
        if not poller.poll(seconds * 1000):
            raise Failure(f"the daemon (process {pid}) has not ended in {seconds} seconds", 1)
    finally:
        os.close(process)
    return 0


def _holder(path: str) -> int:
    """The process that holds a daemon's lock file and wrote its number there; 0 when none does."""
    import fcntl
    import os

    try:
        lock = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return 0
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return int((os.read(lock, 64).split() or [b"0"])[0])
    finally:
        os.close(lock)
    return 0


STOP = Command(
    "[OPTIONS]",
    "Stop the local daemon; its containers go on",
    stop,
    (Flag("timeout", "int", "Seconds to wait until it has ended", "t", 30),),
    most=0,
)
