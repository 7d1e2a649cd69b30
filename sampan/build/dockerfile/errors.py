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


class MissingSource(DockerfileError):
    """A stage, build context or image that a Dockerfile names and that cannot be had.

    ``status`` is that of the failure to get the image.
    """

    def __init__(self, reason: str, source: Source, span: Span, status: int) -> None:
        super().__init__(reason, source, span)
        self.status = status
        self.args = (f"{reason}\n{source.excerpt(span)}",)


class SyntaxProblem(ValueError):
    """A mistake found below what knows the position.

    ``offset`` counts from the statement's begin or, with ``word``, from the begin of that word of
    the statement, as written.
    """

    def __init__(self, reason: str, offset: int | None = None, word: str | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.offset = offset
        self.word = word
