"""Errors on the wire: ``{"message": "..."}`` with the status that the exception carries."""

from __future__ import annotations

import errno
import logging

import msgspec
from aiohttp import web

from sampan.errors import DiskFull, InvalidParameter, NotModified, SampanError

log = logging.getLogger("sampan.api")


def body(message: str) -> bytes:
    return msgspec.json.encode({"message": message}) + b"\n"


def response(error: BaseException) -> web.Response:
    """The answer to a request that failed with ``error``."""
    if isinstance(error, NotModified):
        return web.Response(status=304)
    if isinstance(error, SampanError):
        status, message = error.status, str(error)
    elif isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        status, message = DiskFull.status, f"the state directory's disk is full: {error}"
    elif isinstance(error, msgspec.ValidationError | msgspec.DecodeError):
        status, message = InvalidParameter.status, f"invalid request body: {error}"
    elif isinstance(error, web.HTTPException):
        status, message = error.status, error.reason
        if status == 404:
            message = "page not found"
    else:
        log.error("request failed", exc_info=error)
        status, message = 500, f"{type(error).__name__}: {error}"
    return web.Response(status=status, body=body(message), content_type="application/json")
