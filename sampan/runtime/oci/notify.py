"""systemd's readiness protocol: pass ``READY=1`` of the container on to the caller's manager.

The container gets a socket of its own, in a directory of the record that is mounted on
``/run/notify``.  The directory is made by ``create``; ``start`` binds the socket.
"""

from __future__ import annotations

import os
import select
import socket
from typing import Any

from sampan.runtime.oci import records

_DIRECTORY, _NAME = "notify", "notify.sock"
_PLACE = "/run/notify"
_LARGEST = 4096


def prepare(directory: str, config: dict[str, Any]) -> dict[str, Any]:
    """The configuration with the mount and the variable, if the caller has a manager."""
    if not os.environ.get("NOTIFY_SOCKET"):
        return config
    source = f"{directory}/{_DIRECTORY}"
    os.mkdir(source, 0o755)
    mount = {
        "destination": _PLACE,
        "type": "bind",
        "source": source,
        "options": ["bind", "nosuid", "noexec", "nodev", "rprivate"],
    }
    env = [*(config["process"].get("env") or ()), f"NOTIFY_SOCKET={_PLACE}/{_NAME}"]
    return {
        **config,
        "mounts": [*(config.get("mounts") or ()), mount],
        "process": {**config["process"], "env": env},
    }


def bind(record: records.Record) -> socket.socket | None:
    """The container's socket; None if it has none, or the caller has no manager."""
    directory = f"{record.directory}/{_DIRECTORY}"
    if not os.environ.get("NOTIFY_SOCKET") or not os.path.isdir(directory):
        return None
    place = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        name = f"/proc/self/fd/{place}/{_NAME}"
        sock.bind(name)
        os.chmod(name, 0o777)
        return sock
    finally:
        os.close(place)


def pass_on(sock: socket.socket, pid: int) -> None:
    """Wait for ``READY=1`` or the end of the process, and tell the manager, with the process's
    number as that of the service."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    poll = select.poll()
    for fd in (sock.fileno(), handle):
        poll.register(fd, select.POLLIN)
    while sock.fileno() in [fd for fd, _ in poll.poll()]:
        if b"READY=1" in sock.recv(_LARGEST).split(b"\n"):
            _tell(b"READY=1\nMAINPID=%d\n" % pid)
            break
    os.close(handle)


def pass_on_meanwhile(sock: socket.socket, pid: int) -> None:
    """As :func:`pass_on`, by a process of its own."""
    if not os.fork():
        try:
            pass_on(sock, pid)
        finally:
            os._exit(0)


def _tell(message: bytes) -> None:
    address = os.environ["NOTIFY_SOCKET"]
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.sendto(message, address)
