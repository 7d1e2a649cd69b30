"""Patterns of ``.dockerignore`` and of ``--exclude``: Go's filepath.Match plus ``**`` and ``!``.

A pattern matches a path or any of its parents; the last pattern that matches decides.
"""

from __future__ import annotations

import posixpath
import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


class PatternError(ValueError):
    """A pattern is malformed."""


def read_ignore_file(text: str) -> list[str]:
    """The patterns of a ``.dockerignore``: comments and blank lines dropped, paths cleaned."""
    patterns = []
    for line in text.removeprefix("\ufeff").splitlines():
        if line.startswith("#"):
            continue
        pattern = line.strip()
        if not pattern:
            continue
        negated = pattern.startswith("!")
        if negated:
            pattern = pattern[1:].strip()
        if pattern:
            pattern = posixpath.normpath(pattern)
            rest = pattern.lstrip("/")
            # A lone slash matches nothing, and cannot be an exception.
            pattern = rest or ("" if negated else "/")
        patterns.append("!" + pattern if negated else pattern)
    return patterns


def to_regex(pattern: str) -> str:
    """One pattern as a regular expression for a whole path.  Raises PatternError.

    ``**`` in front of plain text matches whatever ends with it, elsewhere any directories.
    """
    if pattern.startswith("**") and pattern[2:3] != "/" and not has_wildcard(pattern[2:]):
        return ".*" + re.escape(pattern[2:])
    out = []
    pos = 0
    while pos < len(pattern):
        char = pattern[pos]
        if pattern.startswith("**", pos):
            pos += 2
            if pattern.startswith("/", pos):
                pos += 1
            out.append(".*" if pos >= len(pattern) else "(?:.*/)?")
            continue
        if char == "*":
            out.append("[^/]*")
        elif char == "?":
            out.append("[^/]")
        elif char == "[":
            end = _class_end(pattern, pos)
            body = pattern[pos + 1 : end]
            negated = body.startswith("^")
            body = body[1:] if negated else body
            safe = re.sub(r"([\[&~|])", r"\\\1", body)
            out.append(f"[{'^/' if negated else ''}{safe}]")
            pos = end
        elif char == "\\":
            pos += 1
            if pos >= len(pattern):
                raise PatternError(f"syntax error in pattern {pattern!r}: it ends with an escape")
            out.append(re.escape(pattern[pos]))
        else:
            out.append(re.escape(char))
        pos += 1
    return "".join(out)


def _class_end(pattern: str, start: int) -> int:
    """Where the class ends that begins at ``start``: its members are characters and ranges of two;
    ``-`` and ``]`` are members only with an escape."""
    pos = start + 1
    if pattern.startswith("^", pos):
        pos += 1
    first = pos
    while pos < len(pattern):
        if pattern[pos] == "]" and pos > first:
            return pos
        pos = _member(pattern, pos)
        if pattern.startswith("-", pos):
            pos = _member(pattern, pos + 1)
    raise PatternError(f"syntax error in pattern {pattern!r}: [ without ]")


def _member(pattern: str, pos: int) -> int:
    """The end of the character of a class that is at ``pos``."""
    if pattern[pos : pos + 1] in ("", "-", "]"):
        raise PatternError(
            f"syntax error in pattern {pattern!r}: a character is missing between [ and ]"
        )
    return pos + 2 if pattern[pos] == "\\" else pos + 1


def has_wildcard(path: str) -> bool:
    """Whether a COPY source is a pattern."""
    return any(char in path for char in "*?[\\")


class IgnoreMatcher:
    """An ordered list of patterns.  Raises :class:`PatternError` when made of a malformed one."""

    def __init__(self, patterns: Iterable[str]) -> None:
        self._rules: list[tuple[re.Pattern[str], bool]] = []
        self._negated_prefixes: list[str] = []
        self.patterns = tuple(patterns)
        for pattern in self.patterns:
            negated = pattern.startswith("!")
            body = pattern[1:] if negated else pattern
            if not body:
                raise PatternError("illegal exclusion pattern: '!' alone")
            try:
                regex = re.compile(f"(?:{to_regex(body)})(?:/.*)?\\Z", re.DOTALL)
            except re.error as error:
                raise PatternError(f"syntax error in pattern {pattern!r}: {error}") from None
            self._rules.append((regex, negated))
            if negated:
                self._negated_prefixes.append(_literal_prefix(body))

    def __bool__(self) -> bool:
        return bool(self._rules)

    def excludes(self, path: str) -> bool:
        """Whether the patterns leave ``path`` (relative, with slashes) out."""
        excluded = False
        for regex, negated in self._rules:
            if negated == excluded and regex.match(path):
                excluded = not negated
        return excluded

    def prunes(self, directory: str) -> bool:
        """Whether an excluded directory need not be entered, since no ``!`` reaches below it."""
        below = directory + "/"
        return not any(
            prefix.startswith(below) or below.startswith(prefix)
            for prefix in self._negated_prefixes
        )


def _literal_prefix(pattern: str) -> str:
    """The part before the first wildcard, which every match begins with."""
    match = re.search(r"[*?\[\\]", pattern)
    return pattern if match is None else pattern[: match.start()]
