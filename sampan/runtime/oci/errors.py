"""What goes wrong on the command line."""

from __future__ import annotations


class OciError(Exception):
    """One sentence for the user; ``code`` is the exit code."""

    def __init__(self, message: str, code: int = 1) -> None:
        super().__init__(message)
        self.code = code
