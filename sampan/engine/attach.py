"""Clients that take part in a container's stdio.

The client's own socket goes to the keeper, so that the daemon is not in the path of the data.  A
client that attaches before the start is parked: its socket travels with the start, and not a byte
is lost.
"""

from __future__ import annotations

import os
import re

from sampan.engine.containers import Containers
from sampan.engine.state import Container
from sampan.errors import InvalidParameter, Unavailable
from sampan.runtime.types import AttachRequest

DEFAULT_DETACH_KEYS = "ctrl-p,ctrl-q"
PARKED_LIMIT = 64
_CONTROL = re.compile(r"ctrl-([a-z@\[\\\]^_])\Z")


def detach_keys(text: str, tty: bool) -> bytes:
    """The byte sequence of ``ctrl-p,ctrl-q`` or ``a,b``; the default for an empty text.

    Only a terminal has such keys: other input is binary, and may contain them by chance.

    Raises InvalidParameter for an unknown key.
    """
    keys = b""
    for key in (text or DEFAULT_DETACH_KEYS).split(","):
        control = _CONTROL.match(key.lower())
        if control:
            keys += bytes([ord(control[1].upper()) & 0x1F])
        elif len(key) == 1 and key.isascii():
            keys += key.encode()
        else:
            raise InvalidParameter(f"Invalid detach keys ({text}) provided: unknown key {key!r}")
    return keys if tty else b""


class Attach:
    """Hands clients' connections to containers."""

    def __init__(self, containers: Containers) -> None:
        self._containers = containers

    def check(self, container: Container) -> None:
        """Raises Conflict or Unavailable when nobody can attach now."""
        if container.record.state.status == "removing":
            raise Unavailable(f"container {container.id} is being removed")
        if len(container.parked) >= PARKED_LIMIT:
            raise Unavailable(
                f"{PARKED_LIMIT} clients wait for the start of container {container.id} already"
            )

    async def attach(self, container: Container, request: AttachRequest, fd: int) -> None:
        """Give the connection ``fd`` to the container; it is ours from here on."""
        async with container.lock:
            keeper = container.keeper
            if keeper is None:
                container.parked.append((request, fd))
                return
            # Before the keeper has the connection, which may end at once: "detach" comes after.
            self._containers.publish(container.record, "attach")
            try:
                await keeper.attach(request, fd)
            finally:
                os.close(fd)
