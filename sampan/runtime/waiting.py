"""Wait for a socket on the daemon's event loop."""

from __future__ import annotations

import asyncio
import socket


async def writable(sock: socket.socket) -> None:
    """Return when the socket takes data again."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()

    def notice() -> None:
        if not ready.done():
            ready.set_result(None)

    loop.add_writer(sock, notice)
    try:
        await ready
    finally:
        loop.remove_writer(sock)
