"""What a particular client needs to see, where its own checks would refuse what works."""

from __future__ import annotations

import asyncio
import fcntl
import os
import socket
import struct
import termios
from pathlib import Path
from typing import Any

from aiohttp import web

_DOCKER_PY = "docker-sdk-python/"
HEAD_SECONDS = 10.0
"""A client on a busy machine may not have got round to it; one that is gone ends the waiting."""
POLL_SECONDS = 0.0003
POLL_SECONDS_AT_MOST = 0.01


def container_for(request: web.Request, document: dict[str, Any]) -> dict[str, Any]:
    """A container's document as the client of ``request`` can use it.

    docker-py reads the logs of ``containers.run`` only if inspect names the log driver json-file
    or journald, though any readable driver answers ``GET /containers/{id}/logs``; to it alone
    ``local`` is called json-file.
    """
    log_config = document["HostConfig"]["LogConfig"]
    if log_config["Type"] != "local" or not _is_docker_py(request):
        return document
    host = {**document["HostConfig"], "LogConfig": {**log_config, "Type": "json-file"}}
    return {**document, "HostConfig": host}


def by_line(request: web.Request) -> bool:
    """Whether followed logs are to come line by line: docker-py's users iterate over the frames,
    which are lines under Docker."""
    return _is_docker_py(request)


async def head_read(request: web.Request, fd: int) -> None:
    """Return when the client has read the head of the answer that its taken socket ``fd`` got.

    docker-py reads a head with a buffer and what follows without it, so that bytes which arrive
    together with the head are lost.  No event tells that the peer of a socket has read.  Over TLS
    the socket is that of the terminator, and the head that it has read becomes a record of its own,
    which is all that a read gives the client.
    """
    if not _is_docker_py(request):
        return
    deadline = asyncio.get_running_loop().time() + HEAD_SECONDS
    pause = POLL_SECONDS
    while _unread(fd) and asyncio.get_running_loop().time() < deadline:
        await asyncio.sleep(pause)
        pause = min(pause * 1.2, POLL_SECONDS_AT_MOST)


def _unread(fd: int) -> int:
    """Bytes sent and not yet taken by the other side."""
    with socket.socket(fileno=os.dup(fd)) as sock:
        if sock.family != socket.AF_UNIX:
            return _unread_by_neighbour(sock)
    try:
        (count,) = struct.unpack("i", fcntl.ioctl(fd, termios.TIOCOUTQ, b"\0" * 4))
    except OSError:
        return 0
    return int(count)


def _unread_by_neighbour(sock: socket.socket) -> int:
    """Bytes in the queue of a TCP client's socket, which is on this machine: TCP without TLS is
    served on loopback only.  The kernel counts as sent what it has put into that queue."""
    table = "/proc/net/tcp6" if sock.family == socket.AF_INET6 else "/proc/net/tcp"
    try:
        ours, theirs = sock.getsockname()[1], sock.getpeername()[1]
        lines = Path(table).read_text().splitlines()[1:]
    except OSError:
        return 0
    for line in lines:
        _, local, remote, _, queues, *_ = line.split()
        if int(local[-4:], 16) == theirs and int(remote[-4:], 16) == ours:
            return int(queues.partition(":")[2], 16)
    return 0


def _is_docker_py(request: web.Request) -> bool:
    return request.headers.get("User-Agent", "").startswith(_DOCKER_PY)
