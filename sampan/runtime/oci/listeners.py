"""Hand the listener of a seccomp filter to who answers it, at ``seccomp.listenerPath``.

The specification's *container process state* goes over the socket with the descriptor.
"""

from __future__ import annotations

import errno
import json
import os
import select
import socket
from collections.abc import Callable
from typing import Any

from sampan.linux import process
from sampan.runtime.errors import StartError
from sampan.runtime.oci import records

_PATIENCE = 5000  # attempts of a millisecond to find the listener


def check(profile: dict[str, Any]) -> None:
    """Raises ValueError for a listener that is missing or cannot be."""
    if not profile:
        return
    from sampan.runtime import seccomp

    path = profile.get("listenerPath")
    if seccomp.notifies(profile) and not path:
        raise ValueError("linux.seccomp.listenerPath is needed by SCMP_ACT_NOTIFY")
    if profile.get("listenerMetadata") and not path:
        raise ValueError("linux.seccomp.listenerMetadata is set without listenerPath")


def on_listener(
    record: records.Record, config: dict[str, Any], pid: int, handle: int, status: str
) -> Callable[[int], None]:
    """What is to be done with a listener of the process ``pid``, which ``handle`` is a pidfd of."""
    profile = (config.get("linux") or {}).get("seccomp") or {}
    state = {
        "ociVersion": records.VERSION,
        "fds": ["seccompFd"],
        "pid": pid,
        "metadata": str(profile.get("listenerMetadata") or ""),
        "state": record.document(status),
    }

    def hand_over(number: int) -> None:
        fd = _take(handle, number)
        try:
            with socket.socket(socket.AF_UNIX) as sock:
                sock.connect(str(profile.get("listenerPath")))
                socket.send_fds(sock, [json.dumps(state).encode()], [fd])
        except OSError as failure:
            text = (failure.strerror or "").lower()
            path = profile.get("listenerPath")
            raise StartError(f"cannot hand the listener to {path}: {text}", 125) from None
        finally:
            os.close(fd)

    return hand_over


def _take(handle: int, number: int) -> int:
    """The process makes the listener just now: no event tells when it is there."""
    poll = select.poll()
    poll.register(handle, select.POLLIN)
    for _ in range(_PATIENCE):
        try:
            return process.take_descriptor(handle, number)
        except OSError as failure:
            if failure.errno != errno.EBADF:
                raise
        if poll.poll(1):
            break
    raise StartError("the filter's listener did not come into being", 125)
