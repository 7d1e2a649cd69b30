"""Failures that only a build has."""

from __future__ import annotations

from sampan.errors import SampanError


class StepError(SampanError):
    """A step's command failed.

    ``exit_code`` is the command's; ``step`` the instruction as written; ``output`` the last lines
    that the command wrote.  The message has Docker's wording: ``The command '/bin/sh -c false'
    returned a non-zero code: 1``.  ``state_before`` is the ID of an image of what the command
    found, if the request wanted one.
    """

    def __init__(self, message: str, *, exit_code: int, step: str, output: str = "") -> None:
        super().__init__(message)
        self.exit_code = exit_code
        self.step = step
        self.output = output
        self.state_before: str = ""
