"""Where a word of an instruction stands in its source: only a mistake needs to know.

A word is looked for where the parser takes words from: values of flags, items of a JSON list,
words and the two sides of their ``=``, the argument as a whole, and contents of here-documents.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator

from sampan.build.dockerfile import ast
from sampan.build.dockerfile.errors import DockerfileError, SyntaxProblem
from sampan.build.dockerfile.lexer import LogicalLine
from sampan.build.dockerfile.source import Source, Span
from sampan.build.dockerfile.words import Heredoc, parse_json_list, split_flags, split_words

_KEYWORDS = re.compile(r"\s*(?:onbuild\s+)*\S+\s*", re.IGNORECASE)
_JSON_STRING = re.compile(r'"((?:[^"\\]|\\.)*)"')


def mistake(
    reason: str, source: Source, at: ast.Instruction, word: str | None = None, offset: int = 0
) -> DockerfileError:
    """An error in ``at``: at a word of it, ``offset`` characters on, or at its keyword."""
    return DockerfileError(reason, source, place(at, word, offset))


def misplaced(problem: SyntaxProblem, source: Source, at: ast.Instruction) -> DockerfileError:
    """The error that a problem found in the words of ``at`` is."""
    return mistake(problem.reason, source, at, problem.word, problem.offset or 0)


def place(at: ast.Instruction, word: str | None = None, offset: int = 0) -> Span:
    """The position of a word of an instruction, of its keyword without one."""
    line = at.line
    if line is None:
        return at.span
    if word is not None:
        for start, text, verbatim in _words(line, at):
            if text == word:
                return line.at(start + offset if verbatim else start)
        for first, document in _documents(line):
            if document.data == word:
                return _within(first, document, offset)
    return line.at(None)


def _words(line: LogicalLine, at: ast.Instruction) -> Iterator[tuple[int, str, bool]]:
    """Offset and text of all that may be a word; whether it is written just so there."""
    text, escape = line.text, line.escape
    match = _KEYWORDS.match(text)
    begin = match.end() if match else 0
    flags, rest, start = split_flags(text[begin:])
    for flag, offset in flags:
        name, _, value = flag.partition("=")
        offset += begin
        verbatim = text.startswith(flag, offset)
        value_at = offset + len(name) + 1 if verbatim else offset
        if name == "--mount":
            yield from _options(value, value_at, verbatim)
        yield value_at, value, verbatim
    start += begin
    if (items := parse_json_list(rest, 0)) is not None:
        for item, found in zip(items, _JSON_STRING.finditer(rest), strict=False):
            yield start + found.start(1), item, found[1] == item
        return
    words = split_words(rest, escape)
    for word, offset in words:
        yield start + offset, word, True
        key, equals, value = word.partition("=")
        if equals:
            yield start + offset, key, True
            yield start + offset + len(key) + 1, value, True
    for found in re.finditer(r"\S+", rest):
        yield start + found.start(), found[0], True
        # The old form of ENV and LABEL: all that follows the name.
        yield start + found.start(), rest[found.start() :], True


def _options(text: str, start: int, verbatim: bool) -> Iterator[tuple[int, str, bool]]:
    """A mount's options, and their values alone."""
    plain = verbatim and '"' not in text
    for field in next(csv.reader([text]), []):
        key, equals, value = field.partition("=")
        yield start, f"{key.strip().lower()}{equals}{value}", plain
        yield start + len(key) + 1 if plain else start, value, plain
        start += len(field) + 1 if plain else 0


def _documents(line: LogicalLine) -> Iterator[tuple[int, Heredoc]]:
    """The here-documents from the last to the first, with the line of each one's content."""
    end = line.span.end
    for document in reversed(line.heredocs):
        first = end - document.content.count("\n")
        yield first, document
        end = first - 1


def _within(first: int, document: Heredoc, offset: int) -> Span:
    before = document.data[:offset]
    number = before.count("\n")
    column = offset - (before.rfind("\n") + 1)
    if document.chomp:
        written = document.content.split("\n")[number]
        column += len(written) - len(written.lstrip("\t"))
    return Span(first + number, first + number, column + 1)
