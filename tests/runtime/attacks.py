"""What the tests of attacks share."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Any

from sampan.runtime.spawner import Spawner
from sampan.runtime.types import AttachRequest, KeeperRequest


def upper(request: KeeperRequest) -> Path:
    """The writable directory of the request's overlay: what a hostile image or volume holds."""
    for option in request.rootfs[0].options:
        if option.startswith("upperdir="):
            return Path(option.partition("=")[2])
    raise AssertionError("no upper directory")


async def output_of(spawner: Spawner, request: KeeperRequest) -> str:
    near, far = socket.socketpair()
    near.setblocking(False)
    request.attaches = [AttachRequest(raw=True)]
    try:
        await spawner.spawn(request, attach_fds=[far.fileno()])
    finally:
        far.close()
    data = b""
    async with asyncio.timeout(20):
        while part := await asyncio.get_running_loop().sock_recv(near, 65536):
            data += part
    near.close()
    return data.decode()


def bind(source: Path, destination: str) -> dict[str, Any]:
    return {
        "destination": destination,
        "type": "bind",
        "source": str(source),
        "options": ["rbind"],
    }
