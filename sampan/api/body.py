"""Request bodies: JSON documents, and streams."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TypeVar

from aiohttp import web

from sampan.engine.types import decode
from sampan.errors import InvalidParameter

T = TypeVar("T")
CHUNK = 1 << 20
JSON = "application/json"


async def document(request: web.Request, kind: type[T], *, required: bool = False) -> T:
    """The body as a value of ``kind``, which an absent body has the defaults of.

    A body that is said to be of another type than JSON is refused: a form on a web page cannot
    send a request that makes something.  Raises InvalidParameter.
    """
    body = await request.read()
    if not body.strip():
        if required:
            raise InvalidParameter("invalid JSON: got EOF while reading request body")
        return decode(b"", kind)
    given = request.headers.get("Content-Type")
    if given is not None and request.content_type != JSON:
        raise InvalidParameter(f"unsupported Content-Type header ({given}): must be '{JSON}'")
    return decode(body, kind)


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
