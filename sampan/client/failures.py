"""From an HTTP status to the exception of :mod:`sampan.errors` that mirrors it."""

from __future__ import annotations

from sampan import errors

_BY_STATUS: dict[int, type[errors.SampanError]] = {
    kind.status: kind
    for kind in (
        errors.InvalidParameter,
        errors.Unauthorized,
        errors.Forbidden,
        errors.NotFound,
        errors.Conflict,
        errors.NotModified,
        errors.Unsupported,
        errors.Unavailable,
        errors.DiskFull,
    )
}


class ConnectionFailed(errors.Unavailable):
    """Nothing answers at the host, or the connection broke."""


class DaemonNotStarted(ConnectionFailed):
    """The daemon that was to be started on demand gave up; the message says why and where its
    log is."""


class OperationFailed(errors.SampanError):
    """An operation failed after its progress had begun to stream (``errorDetail``)."""

    def __init__(self, message: str, code: int = 0) -> None:
        super().__init__(message)
        self.code = code


def by_status(status: int, message: str) -> errors.SampanError:
    """The exception for an answer of ``status`` whose body says ``message``."""
    kind = _BY_STATUS.get(status)
    if kind is None:
        kind = errors.InvalidParameter if 400 <= status < 500 else errors.SampanError
    failure = kind(message)
    failure.status = status
    failure.__dict__["answered"] = True
    return failure


def answered(error: errors.SampanError) -> bool:
    """Whether the daemon itself gave this error, and not something on the way to it."""
    return bool(error.__dict__.get("answered"))
