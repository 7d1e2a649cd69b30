"""HTTP connections that know whether their client is still there.

A client may end its sending direction once its request is complete (``nc -N``, some libraries) and
still gets its answer.  Such a client and one that has gone look the same at first: on a unix socket
the kernel tells them apart, on TCP an answer that is a stream ends, as in Docker's engine.
"""

from __future__ import annotations

import asyncio
import logging
import select
import socket
from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.web_protocol import RequestHandler

from sampan.api import errors

log = logging.getLogger("sampan.api")

FIRST_LOOK, WATCH = 0.002, 0.25
"""Seconds between two looks at a connection of which the client has ended its direction: at first,
and at most."""


class Connection(RequestHandler):
    """aiohttp's protocol, with half-closed connections."""

    def __init__(self, server: web.Server, **options: Any) -> None:
        super().__init__(server, loop=asyncio.get_running_loop(), **options)
        self.departed = False
        self._watching: set[asyncio.Future[None]] = set()

    def eof_received(self) -> bool:  # type: ignore[override]
        """Keep the connection until the requests that are complete have their answers."""
        if self._idle() or self._parser is None:
            return False
        try:
            self._parser.feed_eof()
        except HttpProcessingError:
            # The body of the last request lacks something.
            return False
        self._look(FIRST_LOOK)
        return True

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what is not HTTP as any bad request, without what was sent."""
        if status >= 500 or request.writer.output_size > 0:
            return super().handle_error(request, status, exc, message)
        log.debug("refused a request that is not valid HTTP: %r", exc)
        body = errors.body("the request is not valid HTTP, or its head is too large")
        answer = web.Response(status=status, body=body, content_type="application/json")
        answer.force_close()
        return answer

    def connection_lost(self, error: BaseException | None) -> None:
        super().connection_lost(error)
        self._depart()

    def watch(self, future: asyncio.Future[None]) -> None:
        """Complete ``future`` when the client has gone."""
        if self.departed:
            future.set_result(None)
            return
        self._watching.add(future)
        future.add_done_callback(self._watching.discard)

    def _idle(self) -> bool:
        return not self._messages and self._waiter is not None and not self._waiter.done()

    def _look(self, pause: float) -> None:
        """Look whether the client has gone, or has all its answers; and again after a pause."""
        transport = self.transport
        if transport is None:
            return
        if self._idle():
            self.force_close()
            return
        sock = transport.get_extra_info("socket")
        if sock is None or sock.family != socket.AF_UNIX:
            self._depart()
        elif _hung_up(sock.fileno()):
            transport.abort()
            return
        self._loop.call_later(pause, self._look, min(pause * 2, WATCH))

    def _depart(self) -> None:
        self.departed = True
        for future in list(self._watching):
            if not future.done():
                future.set_result(None)


def _hung_up(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, 0)
    return any(events & select.POLLHUP for _, events in poll.poll(0))


def departure(request: web.Request) -> asyncio.Future[None]:
    """A future that is done when the client of ``request`` has gone."""
    future = asyncio.get_running_loop().create_future()
    if gone(request):
        future.set_result(None)
    elif isinstance(request.protocol, Connection):
        request.protocol.watch(future)
    return future


def gone(request: web.Request) -> bool:
    """Whether the client has closed the connection."""
    transport = request.transport
    if transport is None or transport.is_closing():
        return True
    return isinstance(request.protocol, Connection) and request.protocol.departed
