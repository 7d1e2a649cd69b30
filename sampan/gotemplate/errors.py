"""What can be wrong with a template, or with the value that it is applied to."""

from __future__ import annotations


class TemplateError(ValueError):
    """The message follows Go's: where in the template, and what is wrong there."""


class NoField(Exception):
    """A record has no such field; the argument is the record's type as messages name it."""


class Trouble(Exception):
    """A failure of a function, to be reported with the place of the call."""
