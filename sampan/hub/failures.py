"""Failures in the distribution-spec's terms: a code, a status, a message (spec, Error Codes)."""

from __future__ import annotations

import errno
import logging
import sqlite3
from typing import Any

import msgspec
from aiohttp import web

_log = logging.getLogger(__name__)


class RegistryError(Exception):
    """A refusal that the client is told of."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        detail: Any = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.detail = detail
        self.headers = headers or {}

    def response(self) -> web.Response:
        entry: dict[str, Any] = {"code": self.code, "message": self.message}
        if self.detail is not None:
            entry["detail"] = self.detail
        return web.Response(
            status=self.status,
            body=msgspec.json.encode({"errors": [entry]}),
            content_type="application/json",
            headers=self.headers,
        )


def name_invalid(name: str) -> RegistryError:
    return RegistryError(400, "NAME_INVALID", "invalid repository name", {"name": name[:256]})


def name_unknown(name: str) -> RegistryError:
    return RegistryError(
        404, "NAME_UNKNOWN", "repository name not known to registry", {"name": name}
    )


def manifest_unknown(reference: str) -> RegistryError:
    return RegistryError(404, "MANIFEST_UNKNOWN", "manifest unknown", {"reference": reference})


def manifest_invalid(message: str) -> RegistryError:
    return RegistryError(400, "MANIFEST_INVALID", message)


def blob_unknown(digest: str) -> RegistryError:
    return RegistryError(404, "BLOB_UNKNOWN", "blob unknown to registry", {"digest": digest[:256]})


def digest_invalid(message: str) -> RegistryError:
    return RegistryError(400, "DIGEST_INVALID", message)


def upload_unknown(upload_id: str) -> RegistryError:
    return RegistryError(
        404, "BLOB_UPLOAD_UNKNOWN", "blob upload unknown to registry", {"upload": upload_id[:64]}
    )


def upload_invalid(message: str, status: int = 400) -> RegistryError:
    return RegistryError(status, "BLOB_UPLOAD_INVALID", message)


def denied(message: str = "requested access to the resource is denied") -> RegistryError:
    return RegistryError(403, "DENIED", message)


def unsupported(message: str = "the operation is unsupported") -> RegistryError:
    return RegistryError(405, "UNSUPPORTED", message)


def of(exc: Exception) -> RegistryError:
    """What a client is told of a failure below: 507 for a full disk, 503 for what may pass."""
    if isinstance(exc, RegistryError):
        return exc
    full = isinstance(exc, OSError) and exc.errno in (errno.ENOSPC, errno.EDQUOT)
    if full or (isinstance(exc, sqlite3.OperationalError) and "full" in str(exc)):
        return disk_full()
    _log.error("a request failed", exc_info=exc)
    return RegistryError(503, "UNAVAILABLE", "the registry's storage fails: try again later")


def disk_full() -> RegistryError:
    return RegistryError(507, "DISK_FULL", "no space left on the registry's disk")
