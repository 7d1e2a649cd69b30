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

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


async def add_headers(_request: web.Request, answer: web.StreamResponse) -> None:
    answer.headers.update(HEADERS)


@web.middleware
async def outermost(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer failures as Docker does, and log the request at debug level."""
    started = time.monotonic()
    try:
        versions.requested(request)
        answer = await handler(request)
    except Exception as error:
        answer = errors.response(error)
    if log.isEnabledFor(logging.DEBUG):
        took = (time.monotonic() - started) * 1000
        log.debug("%s %s %d %.1f ms", request.method, request.path_qs, answer.status, took)
    return answer
