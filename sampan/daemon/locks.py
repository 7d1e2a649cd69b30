"""One daemon a state directory and a run directory, by locks that end with the process."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

from sampan.errors import Conflict, SampanError

PATIENCE = 15.0
"""Seconds to wait for a daemon that is just starting or stopping."""
SERVING = "serving"
STOPPING = "stopping"
_STARTING = "starting"
_INTERVAL = 0.02


def take(path: Path, what: str, patience: float = PATIENCE) -> int:
    """Lock ``path`` (made if missing) for this process's life; return the descriptor.

    A holder that is stopping, or has not begun to serve, is given ``patience`` seconds.

    :raises Conflict: another process holds it; its number is in the message.
    :raises SampanError: the directory cannot be written to.
    """
    try:
        path.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise SampanError(
            f"the {what} {path.parent} cannot be used: {(error.strerror or str(error)).lower()}; "
            "make it writable, or choose another directory"
        ) from error
    deadline = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            number, _, phase = os.pread(fd, 64, 0).decode(errors="replace").partition(" ")
        if phase.strip() == SERVING or time.monotonic() > deadline:
            os.close(fd)
            raise Conflict(
                f"the {what} {path.parent} is in use by another sampan daemon (process "
                f"{number.strip() or 'unknown'}): stop it, or choose another directory"
            )
        # A lock tells nobody that it is free except those who wait without a limit.
        time.sleep(_INTERVAL)
    mark(fd, _STARTING)
    return fd


def mark(fd: int, phase: str) -> None:
    """Tell those who want the lock ``fd`` whether waiting for it makes sense."""
    os.ftruncate(fd, 0)
    os.pwrite(fd, f"{os.getpid()} {phase}\n".encode(), 0)
