"""The exception tree: one class for each kind of failure that a user can meet.

Each class carries the HTTP status that the Engine API answers with.  The message is one clear
sentence: what is wrong, with what, and (where it is not plain) what to do.  Packages other than
``linux`` and ``image`` raise these; ``linux`` raises :class:`OSError` and ``image`` raises
:class:`ValueError` subclasses of its own, because they import nothing of ours.
"""


class SampanError(Exception):
    """Base of all failures that are reported to a user as one sentence."""

    status = 500


class InvalidParameter(SampanError):
    """A value in the request is malformed or impossible."""

    status = 400


class Unauthorized(SampanError):
    """A registry or the API wants credentials, or other ones."""

    status = 401


class Forbidden(SampanError):
    """The operation is refused by policy."""

    status = 403


class NotFound(SampanError):
    """A named object does not exist."""

    status = 404


class Conflict(SampanError):
    """The object's state, or another object, stands in the way."""

    status = 409


class NotModified(SampanError):
    """Nothing to do: the container is already in the wanted state."""

    status = 304


class Unsupported(SampanError):
    """A documented option or endpoint that this engine does not have."""

    status = 501


class Unavailable(SampanError):
    """Something outside (a registry, a subsystem) cannot be reached now."""

    status = 503


class DiskFull(SampanError):
    """No space is left on the file system that holds the state directory."""

    status = 507
