"""Errors on the wire: ``{"message": "..."}`` with the status that the exception carries."""

from __future__ import annotations

import errno
import logging

import msgspec
from aiohttp import web

from sampan.errors import DiskFull, InvalidParameter, NotModified, SampanError

log = logging.getLogger("sampan.api")

CLIENT_GONE = 499
"""Nobody reads this status; it is for the request log."""


def body(message: str) -> bytes:
    return msgspec.json.encode({"message": message}) + b"\n"


def explain(error: BaseException) -> tuple[int, str]:
    """The status and the sentence for a failure; what nobody foresaw is logged."""
    if isinstance(error, SampanError):
        return error.status, str(error)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFull.status, f"the state directory's disk is full: {error}"
    if isinstance(error, msgspec.ValidationError | msgspec.DecodeError):
        return InvalidParameter.status, f"invalid request body: {error}"
    if isinstance(error, RecursionError):
        return InvalidParameter.status, "directories or values are nested too deep"
    if isinstance(error, web.HTTPException):
        # Docker's router knows of a path only together with its method.
        unknown = error.status in (404, 405)
        return (404, "page not found") if unknown else (error.status, error.reason)
    if isinstance(error, ConnectionResetError):
        log.debug("the client has gone away: %s", error)
        return CLIENT_GONE, "the client closed the connection"
    log.error("request failed", exc_info=error)
    return 500, f"{type(error).__name__}: {error}"


def response(error: BaseException) -> web.Response:
    """The answer to a request that failed with ``error``."""
    if isinstance(error, NotModified):
        return web.Response(status=304)
    status, message = explain(error)
    return web.Response(status=status, body=body(message), content_type="application/json")
