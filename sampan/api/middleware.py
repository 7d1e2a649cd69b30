"""What every request passes: version check, common headers, error bodies, the request log."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable

from aiohttp import web

from sampan import __version__
from sampan.api import errors, versions

log = logging.getLogger("sampan.api")

HEADERS = {
    "Api-Version": versions.NEWEST,
    "Docker-Experimental": "false",
    "Ostype": "linux",
    "Server": f"sampan/{__version__} (linux)",
}

BEGUN = "answer begun"

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


async def add_headers(request: web.Request, answer: web.StreamResponse) -> None:
    """Give every answer the common headers, and remember that it has begun."""
    answer.headers.update(HEADERS)
    request[BEGUN] = answer


@web.middleware
async def outermost(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer failures as Docker does, and log the request at debug level."""
    started = time.monotonic()
    try:
        versions.requested(request)
        answer = await handler(request)
    except Exception as error:
        begun = request.get(BEGUN)
        answer = errors.response(error) if begun is None else _broken_off(request, begun, error)
    if log.isEnabledFor(logging.DEBUG):
        took = (time.monotonic() - started) * 1000
        log.debug("%s %s %d %.1f ms", request.method, request.path_qs, answer.status, took)
    return answer


def _broken_off(
    request: web.Request, begun: web.StreamResponse, error: Exception
) -> web.StreamResponse:
    """End the connection of an answer that failed in its middle, so that the client sees it."""
    if isinstance(error, ConnectionError):
        log.debug("the client of %s has gone away", request.path_qs)
    else:
        log.error("%s broke off", request.path_qs, exc_info=error)
    request.protocol.force_close()
    return begun
