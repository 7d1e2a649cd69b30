"""What every request passes: version check, common headers, error bodies, the request log."""

from __future__ import annotations

import ipaddress
import logging
import socket
import time
from collections.abc import Awaitable, Callable

from aiohttp import web

from sampan import __version__
from sampan.api import errors, versions
from sampan.errors import Forbidden

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


def _refuse_web_pages(request: web.Request) -> None:
    """Raise Forbidden for what a browser sends for a page of another site.

    TCP without TLS asks nobody who they are, and a page that somebody on this machine looks at can
    send requests to it: from its own origin, or from this machine under a name of its own that it
    has lead here.
    """
    if request.secure or request.transport is None:
        return
    sock = request.transport.get_extra_info("socket")
    if sock is None or sock.family == socket.AF_UNIX:
        return
    if "Origin" in request.headers:
        raise Forbidden("pages of web sites may not use this engine")
    peer = request.transport.get_extra_info("peername")
    name = request.host.removeprefix("[").partition("]")[0]
    name = name if name.count(":") > 1 else name.partition(":")[0]
    if peer and _is_loopback(peer[0]) and "." in name.rstrip("."):
        try:
            ipaddress.ip_address(name)
        except ValueError:
            raise Forbidden(
                f"this engine is not called {name} on this machine: use its address or localhost"
            ) from None


def _is_loopback(address: str) -> bool:
    found = ipaddress.ip_address(address.partition("%")[0])
    mapped = getattr(found, "ipv4_mapped", None)
    return (mapped or found).is_loopback


@web.middleware
async def outermost(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer failures as Docker does, and log the request at debug level."""
    started = time.monotonic()
    try:
        _refuse_web_pages(request)
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
