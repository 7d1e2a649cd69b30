"""The one failure of the Dockerfile front end."""

from __future__ import annotations

from sampan.build.dockerfile.source import Source, Span
from sampan.errors import InvalidParameter


class DockerfileError(InvalidParameter):
    """A mistake in a Dockerfile.

    ``reason`` is the bare sentence, ``line`` counts from 1; ``str()`` adds the source excerpt.
    """

    def __init__(self, reason: str, source: Source, span: Span) -> None:
        self.reason = reason
        self.line = span.line
        self.span = span
        self.source = source
        super().__init__(
            f"dockerfile parse error on line {span.line}: {reason}\n{source.excerpt(span)}"
        )


class SyntaxProblem(ValueError):
    """A mistake found below the parser, which knows the position: ``offset`` in the statement."""

    def __init__(self, reason: str, offset: int | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.offset = offset
