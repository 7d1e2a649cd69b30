"""The HTTP application: every noun's routes, with or without a version prefix."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections import Counter
from collections.abc import Iterable
from importlib import import_module

from aiohttp import web

from sampan.api import middleware, openapi, streams, versions
from sampan.api.connections import Connection
from sampan.api.routes import metrics
from sampan.api.tls import Terminator
from sampan.engine import Engine

log = logging.getLogger("sampan.api")

NOUNS = (
    "system",
    "containers",
    "attach",
    "execs",
    "images",
    "volumes",
    "networks",
    "archive",
    "build",
    "disk",
    "check",
    "distribution",
    "session",
    "metrics",
)
"""Modules of ``sampan.api.routes``; each has ``routes(engine) -> list[web.RouteDef]``."""

ENGINE = web.AppKey("engine", Engine)
SHUTDOWN_SECONDS = 1.0
READ_BUFFER_BYTES = 1 << 20
"""Archives and contexts are read in pieces of this size."""
MAX_LINE_BYTES, MAX_FIELD_BYTES = 512 << 10, 4 << 20
"""Build arguments are in the request's line, secrets of builds in a header."""


def application(engine: Engine) -> web.Application:
    """The Engine API of ``engine``."""
    app = web.Application(middlewares=[middleware.outermost], client_max_size=64 << 20)
    app[ENGINE] = engine
    app.on_response_prepare.append(middleware.add_headers)
    app[metrics.REQUESTS] = Counter()
    app.on_response_prepare.append(metrics.count)
    for noun in NOUNS:
        routes = import_module(f"sampan.api.routes.{noun}").routes(engine)
        app.add_routes(routes)
    app.router.add_get("/openapi.json", _description)
    return app


async def _description(request: web.Request) -> web.Response:
    """The description of this API."""
    return streams.json(await asyncio.to_thread(openapi.describe, request.app))


class Server:
    """An application listening on sockets that are bound already."""

    def __init__(self, app: web.Application) -> None:
        self._runner = web.AppRunner(
            app, access_log=None, handle_signals=False, shutdown_timeout=SHUTDOWN_SECONDS
        )
        self._terminators: list[Terminator] = []
        self._listening: list[asyncio.Server] = []

    async def start(self, sockets: Iterable[tuple[socket.socket, ssl.SSLContext | None]]) -> None:
        """Serve on listening sockets, with TLS where a context is given."""
        await self._runner.setup()
        server = self._runner.server
        assert server is not None
        server.request_factory = versions.without_prefix(server.request_factory)

        def connection() -> Connection:
            return Connection(
                server,
                access_log=None,
                read_bufsize=READ_BUFFER_BYTES,
                max_line_size=MAX_LINE_BYTES,
                max_field_size=MAX_FIELD_BYTES,
            )

        loop = asyncio.get_running_loop()
        for sock, tls in sockets:
            if tls is not None:
                self._terminators.append(Terminator(sock, tls, connection))
            elif sock.family == socket.AF_UNIX:
                listening = await loop.create_unix_server(connection, sock=sock, backlog=1024)
                self._listening.append(listening)
            else:
                listening = await loop.create_server(connection, sock=sock, backlog=1024)
                self._listening.append(listening)

    async def close(self) -> None:
        """Stop listening, and end requests that do not end by themselves."""
        for terminator in self._terminators:
            terminator.close()
        for listening in self._listening:
            listening.close()
        try:
            async with asyncio.timeout(SHUTDOWN_SECONDS * 2):
                await self._runner.cleanup()
        except TimeoutError:
            log.warning("some requests did not end; their connections end with the daemon")
