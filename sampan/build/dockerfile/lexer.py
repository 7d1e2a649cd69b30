"""Lines of a Dockerfile: parser directives, comments, continuations and here-documents.

The rules are those of the Dockerfile reference ("Format", "Parser directives", "Here-documents"):
a comment line inside a continued statement is dropped, an empty one as well (with a warning), the
continuation mark is the escape character at the end of a line with only blanks after it, and two
escape characters are no continuation.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from sampan.build.dockerfile.errors import DockerfileError, SyntaxProblem
from sampan.build.dockerfile.source import Source, Span
from sampan.build.dockerfile.words import Heredoc, heredocs_in, parse_json_list, split_flags

DIRECTIVE = re.compile(r"^\s*#\s*([A-Za-z][A-Za-z0-9]*)\s*=\s*(.+?)\s*$")
DIRECTIVES = frozenset({"syntax", "escape", "check"})
_KEYWORD = re.compile(r"\s*(\S+)\s+")
WITH_HEREDOC = frozenset({"run", "copy", "add"})
_CONTINUATION = {
    "\\": re.compile(r"(?:(?<=[^\\])|^)\\[ \t]*$"),
    "`": re.compile(r"(?:(?<=[^`])|^)`[ \t]*$"),
}


@dataclass(slots=True)
class LogicalLine:
    """A statement: ``text`` joined, ``pieces`` maps offsets of it to (offset, line, column)."""

    text: str
    escape: str
    span: Span
    pieces: list[tuple[int, int, int]]
    comments: tuple[str, ...] = ()
    heredocs: tuple[Heredoc, ...] = ()
    empty_continuation: bool = False

    def at(self, offset: int | None) -> Span:
        """The position of the character ``offset``; all lines, from the keyword, without one."""
        if offset is None:
            _, line, column = self.pieces[0]
            return Span(line, self.span.end, column)
        start, line, column = next(piece for piece in reversed(self.pieces) if piece[0] <= offset)
        return Span(line, line, column + offset - start)


@dataclass(slots=True)
class Lexed:
    source: Source
    directives: dict[str, str]
    escape: str
    lines: list[LogicalLine] = field(default_factory=list)


def lex(text: str, name: str = "Dockerfile") -> Lexed:
    """Split ``text`` into statements; raises :class:`DockerfileError`."""
    raw = text.removeprefix("\ufeff").split("\n")
    if raw and raw[-1] == "":
        raw.pop()
    lines = [line.rstrip("\r") for line in raw]
    source = Source(name, tuple(lines))
    directives, first = _directives(source)
    escape = directives.get("escape", "\\")
    result = Lexed(source, directives, escape)
    result.lines.extend(_statements(source, raw, first, escape))
    return result


def _directives(source: Source) -> tuple[dict[str, str], int]:
    """The parser directives on top, and the index of the first line after them."""
    found: dict[str, str] = {}
    shebang = bool(source.lines) and source.lines[0].startswith("#!")
    index = int(shebang)
    while index < len(source.lines):
        match = DIRECTIVE.match(source.lines[index])
        if match is None or match[1].lower() not in DIRECTIVES:
            break
        key, value = match[1].lower(), match[2]
        if shebang and key == "escape":  # BuildKit's parser does not look so far for it
            index += 1
            continue
        if key in found:
            span = Span(index + 1, index + 1, match.start(1) + 1)
            raise DockerfileError(f"only one {key} parser directive can be used", source, span)
        if key == "escape" and value not in ("\\", "`"):
            span = Span(index + 1, index + 1, match.start(2) + 1)
            raise DockerfileError(
                f"invalid escape token '{value}' does not match ` or \\", source, span
            )
        found[key] = value
        index += 1
    return found, index


def _statements(source: Source, raw: list[str], index: int, escape: str) -> Iterator[LogicalLine]:
    """``raw`` are the lines with the carriage returns that end them."""
    continuation = _CONTINUATION[escape]
    lines = source.lines
    comments: list[str] = []
    while index < len(lines):
        stripped = lines[index].lstrip()
        if stripped.startswith("#"):
            comments.append(stripped[1:].strip())
            index += 1
            continue
        if not stripped:
            comments.clear()
            index += 1
            continue
        start = index
        column = len(lines[index]) - len(stripped) + 1
        text, more = _cut(stripped, continuation)
        pieces = [(0, start + 1, column)]
        parts, length = [text], len(text)
        index += 1
        empty = False
        while more and index < len(lines):
            line = lines[index]
            index += 1
            bare = line.lstrip()
            if bare.startswith("#"):
                continue
            if not bare:
                empty = True
                continue
            text, more = _cut(line, continuation)
            pieces.append((length, index, 1))
            parts.append(text)
            length += len(text)
        joined = "".join(parts)
        statement = LogicalLine(
            joined, escape, Span(start + 1, index), pieces, tuple(comments), (), empty
        )
        comments.clear()
        if "<<" in joined:
            index = _read_heredocs(source, raw, statement, index, escape)
        yield statement


def _cut(line: str, continuation: re.Pattern[str]) -> tuple[str, bool]:
    match = continuation.search(line)
    if match is None:
        return line, False
    return line[: match.start()], True


def _read_heredocs(
    source: Source, raw: list[str], statement: LogicalLine, index: int, escape: str
) -> int:
    """Take the here-documents that ``statement`` announces; returns the index after them.

    Carriage returns that end lines are part of them, and of nothing else.
    """
    try:
        announced = _announced(statement.text, escape)
    except SyntaxProblem as problem:
        raise DockerfileError(problem.reason, source, statement.at(problem.offset)) from None
    complete = []
    for heredoc, at in announced:
        body: list[str] = []
        while True:
            if index >= len(source.lines):
                raise DockerfileError(
                    f"unterminated heredoc: no line with {heredoc.name!r} alone follows",
                    source,
                    replace(statement.at(at), end=len(source.lines)),
                )
            line = source.lines[index]
            index += 1
            end = line.lstrip("\t") if heredoc.chomp else line
            if end == heredoc.name:
                break
            body.append(raw[index - 1] + "\n")
        complete.append(heredoc.with_content("".join(body)))
    statement.heredocs = tuple(complete)
    statement.span = Span(statement.span.line, index)
    return index


def _announced(text: str, escape: str) -> list[tuple[Heredoc, int]]:
    """The here-documents of a statement, with their offsets.  Raises SyntaxProblem."""
    match = _KEYWORD.match(text)
    if match is not None and match[1].lower() == "onbuild":
        match = _KEYWORD.match(text, match.end())
    if match is None or match[1].lower() not in WITH_HEREDOC:
        return []
    _, arguments, start = split_flags(text[match.end() :])
    start += match.end()
    if parse_json_list(arguments, start) is not None:
        return []
    return [(heredoc, start + at) for heredoc, at in heredocs_in(arguments, escape)]
