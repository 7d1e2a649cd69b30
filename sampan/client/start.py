"""Start the local daemon when nothing listens: one, however many clients ask at once.

Clients take a lock in the run directory in turn.  The first spawns the daemon and waits on a pipe
until it says that it answers; the others find it listening when their turn comes.
"""

from __future__ import annotations

import os
import sys

from sampan.client.dial import dial
from sampan.client.failures import ConnectionFailed, DaemonNotStarted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.client.hosts import Host

READY_SECONDS = 60
LOG_NAME = "daemon.log"
_TAIL = 4096


def ensure_daemon(host: Host, failure: ConnectionFailed) -> None:
    """Return once a daemon listens at ``host``, starting one if need be.

    :raises DaemonNotStarted: it could not be started; the message holds its last words.
    :raises ConnectionFailed: ``failure``, when starting one is not this user's to do.
    """
    import fcntl

    if os.geteuid() != 0 and not host.state_dir:
        raise failure
    try:
        os.makedirs(host.run_dir, 0o711, exist_ok=True)
        lock = os.open(f"{host.run_dir}/start.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if os.geteuid() != 0:
            raise failure from None
        raise DaemonNotStarted(
            f"cannot start the sampan daemon: {error.strerror}: {host.run_dir}"
        ) from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not _listens(host):
            try:
                _spawn(host)
            except DaemonNotStarted:
                # One that somebody else (systemd, a shell) was starting has the directories.
                if not _listens(host):
                    raise
    finally:
        os.close(lock)


def _listens(host: Host) -> bool:
    try:
        dial(host).close()
    except ConnectionFailed:
        return False
    return True


def _spawn(host: Host) -> None:
    log = f"{host.run_dir}/{LOG_NAME}"
    if os.path.exists(log):
        os.replace(log, f"{log}.1")
    reader, writer = os.pipe()
    os.set_inheritable(writer, True)
    # -P: a directory that the user happens to be in must not provide modules to root.
    command = [sys.executable, "-P", "-m", "sampan.daemon", "--ready-fd", str(writer)]
    command += ["--run-dir", host.run_dir]
    command += ["--state-dir", host.state_dir] if host.state_dir else []
    environment = {key: value for key, value in os.environ.items() if key not in _CLIENT_ONLY}
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    try:
        os.posix_spawn(
            sys.executable,
            command,
            environment,
            setsid=True,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, log, flags, 0o600),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
        )
    except OSError as error:
        raise DaemonNotStarted(f"cannot start the sampan daemon: {error}") from None
    finally:
        os.close(writer)
    try:
        said = _await(reader)
    finally:
        os.close(reader)
    if not said.startswith(b"READY"):
        why = _last_words(log) if said == b"" else f"it was not ready in {READY_SECONDS} seconds"
        raise DaemonNotStarted(f"the sampan daemon did not start: {why} (log: {log})")


_CLIENT_ONLY = frozenset({"SAMPAN_HOST", "LISTEN_FDS", "LISTEN_PID", "NOTIFY_SOCKET"})


def _await(reader: int) -> bytes:
    """What the daemon says: a line, nothing when it has ended, ``b"?"`` when time is up."""
    import select

    poller = select.poll()
    poller.register(reader, select.POLLIN)
    if not poller.poll(READY_SECONDS * 1000):
        return b"?"
    return os.read(reader, 64)


def _last_words(log: str) -> str:
    try:
        fd = os.open(log, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return "it ended at once"
    try:
        size = os.fstat(fd).st_size
        text = os.pread(fd, _TAIL, max(0, size - _TAIL)).decode("utf-8", "replace")
    finally:
        os.close(fd)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1].removeprefix("sampan daemon: ") if lines else "it ended at once"
