"""Failures of starting processes in containers."""

from __future__ import annotations

from sampan.errors import Conflict, SampanError


class StartError(SampanError):
    """A process could not be started.

    ``exit_code`` is Docker's: 127 the command does not exist, 126 it cannot be executed, 125 or
    128 anything before that.  Code 126 and 127 are the caller's mistakes (HTTP 400).
    """

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code
        self.status = 400 if exit_code in (126, 127) else 500


class KeeperGone(Conflict):
    """The keeper has ended, or never was: the container does not run."""
