"""One daemon a state directory and a run directory, by locks that end with the process."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from sampan.errors import Conflict


def take(path: Path, what: str) -> int:
    """Lock ``path`` (made if missing) for this process's life; return the descriptor.

    :raises Conflict: another process holds it; its number is in the message.
    """
    path.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(fd, 32).decode(errors="replace").strip() or "unknown"
        os.close(fd)
        raise Conflict(
            f"the {what} {path.parent} is in use by another sampan daemon (process {holder}): "
            "stop it, or choose another directory"
        ) from None
    os.ftruncate(fd, 0)
    os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    return fd
