"""A registry's error answers and broken connections, as our exceptions.

The wording follows Docker's where it has one.  :class:`Transient` marks what is worth another
attempt; it never leaves this package.
"""

from __future__ import annotations

import asyncio
import errno
import ssl
from http import HTTPStatus

import aiohttp
import msgspec

from sampan.errors import (
    Conflict,
    DiskFull,
    InvalidParameter,
    NotFound,
    SampanError,
    Unauthorized,
    Unavailable,
    Unsupported,
)

RETRIED_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})
DISK_FULL_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT})


class Transient(Exception):
    """A failure that another attempt may cure; ``cause`` is what to raise when none does."""

    def __init__(self, cause: SampanError, retry_after: float | None = None) -> None:
        super().__init__(str(cause))
        self.cause = cause
        self.retry_after = retry_after


class CannotConnect(Unavailable):
    """The endpoint was not reached at all: the next one may be."""


class WrongProtocol(CannotConnect):
    """TLS was spoken to a plain registry, or the reverse."""


class ErrorEntry(msgspec.Struct):
    code: str = ""
    message: str = ""


class _ErrorBody(msgspec.Struct):
    errors: list[ErrorEntry] = []


class _TokenErrorBody(msgspec.Struct):
    details: str = ""
    error: str = ""
    error_description: str = ""


def entries(body: bytes) -> list[ErrorEntry]:
    """The ``errors`` of an answer (distribution-spec, Error Codes); [] when it has none."""
    try:
        return msgspec.json.decode(body, type=_ErrorBody).errors
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return []


def explain(status: int, body: bytes) -> str:
    """One line on what the registry said: its own message where it has one."""
    found = entries(body)
    if found:
        return "; ".join(
            ": ".join(part for part in (e.code.lower().replace("_", " "), e.message) if part)
            for e in found[:3]
        )
    try:
        token = msgspec.json.decode(body, type=_TokenErrorBody)
        said = token.details or token.error_description or token.error
    except (msgspec.MsgspecError, UnicodeDecodeError):
        said = ""
    phrase = HTTPStatus(status).phrase if status in HTTPStatus._value2member_map_ else ""
    return said or f"{status} {phrase}".strip()


def of_status(status: int, body: bytes, what: str) -> SampanError:
    """The exception for an answer; ``what`` names the operation: "push of app:1"."""
    said = explain(status, body)
    if status in (401, 403):
        return Unauthorized(f"{what} was refused by the registry: {said}")
    if status == 404:
        return NotFound(f"{what} failed: {said}")
    if status in (400, 413, 416):
        return InvalidParameter(f"{what} failed: the registry says: {said}")
    if status == 409:
        return Conflict(f"{what} failed: the registry says: {said}")
    if status == 405:
        return Unsupported(f"{what} is not supported by the registry: {said}")
    if status == 507:
        return DiskFull(f"{what} failed: the registry's disk is full: {said}")
    return Unavailable(f"{what} failed: the registry says: {said}")


def of_exception(exc: BaseException, host: str) -> SampanError:
    """The exception for a broken or impossible connection to ``host``."""
    if isinstance(exc, aiohttp.ClientConnectorCertificateError | ssl.SSLCertVerificationError):
        reason = getattr(exc, "certificate_error", exc)
        return CannotConnect(
            f"tls: failed to verify certificate of registry {host}: {_ssl_reason(reason)}; "
            "add its authority to certs.d or list it as insecure"
        )
    if isinstance(exc, aiohttp.ClientConnectorSSLError | ssl.SSLError):
        return WrongProtocol(f"registry {host} does not speak TLS as expected: {_ssl_reason(exc)}")
    if isinstance(exc, aiohttp.ClientConnectorDNSError):
        return CannotConnect(f"cannot find registry {host}: no such host")
    if isinstance(exc, aiohttp.ClientConnectorError):
        return CannotConnect(f"cannot reach registry {host}: {_os_reason(exc.os_error)}")
    if isinstance(exc, aiohttp.ClientHttpProxyError):
        return CannotConnect(f"cannot reach registry {host}: the proxy says {exc.status}")
    if isinstance(exc, asyncio.TimeoutError):
        return Unavailable(f"registry {host} does not answer: i/o timeout")
    if isinstance(exc, OSError):
        return Unavailable(f"connection to registry {host} broke: {_os_reason(exc)}")
    if isinstance(exc, aiohttp.ClientResponseError):
        return WrongProtocol(f"registry {host} does not speak HTTP as expected: {exc.message}")
    return Unavailable(f"connection to registry {host} broke: unexpected EOF")


def out_of_space(exc: OSError, what: str) -> SampanError | None:
    """DiskFull when ``exc`` says that the local disk is full."""
    if exc.errno in DISK_FULL_ERRNOS:
        return DiskFull(f"{what} failed: no space left on device")
    return None


def _os_reason(exc: OSError) -> str:
    if exc.errno is not None and exc.errno in errno.errorcode:
        return errno.errorcode[exc.errno] and _STRERROR.get(exc.errno, exc.strerror or str(exc))
    return exc.strerror or str(exc) or "connection closed"


_STRERROR = {
    errno.ECONNREFUSED: "connection refused",
    errno.ECONNRESET: "connection reset by peer",
    errno.EHOSTUNREACH: "no route to host",
    errno.ENETUNREACH: "network is unreachable",
    errno.ETIMEDOUT: "i/o timeout",
}


def _ssl_reason(exc: BaseException) -> str:
    reason = getattr(exc, "verify_message", None) or getattr(exc, "reason", None)
    return str(reason or exc).strip("() ")
