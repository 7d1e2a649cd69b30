"""How a command ends when it does not succeed."""

from __future__ import annotations


class Failure(Exception):
    """End the command: print ``message`` (if any) to standard error, exit with ``code``."""

    def __init__(self, message: str = "", code: int = 1) -> None:
        super().__init__(message)
        self.message, self.code = message, code


class UsageFailure(Exception):
    """The command line is wrong: ``message`` is printed with the command's usage.

    ``code`` is 125 for a bad flag and 1 for a wrong number of arguments.
    """

    def __init__(self, message: str, code: int = 125) -> None:
        super().__init__(message)
        self.message, self.code = message, code
