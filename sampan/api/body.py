"""Request bodies that are streams."""

from __future__ import annotations

from collections.abc import AsyncIterator

from aiohttp import web

CHUNK = 1 << 20


async def chunks(request: web.Request) -> AsyncIterator[bytes]:
    """The body in pieces of at most a mebibyte, as it arrives.

    Raises ConnectionError when the client goes away before its end.
    """
    while True:
        chunk = await request.content.readany()
        if chunk:
            yield chunk
        elif request.content.at_eof():
            return
