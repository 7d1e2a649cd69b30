"""``/session`` and ``/grpc``: BuildKit's own protocol, which this engine does not speak."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import NoReturn

from aiohttp import web

from sampan.api import grpc, hijack
from sampan.engine import Engine
from sampan.errors import Unsupported

REFUSAL = (
    "this engine builds without BuildKit's protocol: use `sampan build`, which has its features, "
    "or set DOCKER_BUILDKIT=0 for `docker build` and `docker compose build`"
)


def routes(_engine: Engine) -> list[web.RouteDef]:
    async def session(_request: web.Request) -> NoReturn:
        raise Unsupported(REFUSAL)

    async def calls(request: web.Request) -> web.StreamResponse:
        if not hijack.wants_upgrade(request):
            raise Unsupported(REFUSAL)
        await request.read()
        connection = hijack.take(request)
        sock = socket.socket(fileno=connection.fd)
        sock.setblocking(False)
        reader = asyncio.StreamReader()
        reader.feed_data(connection.initial)
        protocol = asyncio.StreamReaderProtocol(reader)
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_connection(lambda: protocol, sock=sock)
        writer = asyncio.StreamWriter(transport, protocol, reader, loop)
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, grpc.NotHttp2):
                await grpc.refuse_all(reader, writer, REFUSAL)
        finally:
            writer.close()
        return hijack.Done()

    return [web.post("/session", session), web.post("/grpc", calls)]
