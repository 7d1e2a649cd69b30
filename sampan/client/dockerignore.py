"""``.dockerignore``: which files of a build context are left out.

Patterns are Go's filepath.Match with ``**``; the last one that matches a path, or a directory
above it, decides; one that begins with ``!`` lets in.
"""

from __future__ import annotations

import re


class BadPattern(ValueError):
    """A pattern that is not one."""


def read(text: str) -> list[str]:
    """The patterns of a ``.dockerignore`` file, cleaned as Docker cleans them."""
    found = []
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
            pattern = _clean(pattern)
            if len(pattern) > 1 and pattern.startswith("/"):
                pattern = pattern[1:]
        found.append(f"!{pattern}" if negated else pattern)
    return found


def _clean(path: str) -> str:
    """The shortest path of the same meaning, as Go's filepath.Clean has it."""
    rooted = path.startswith("/")
    parts: list[str] = []
    for part in path.split("/"):
        if part in ("", "."):
            continue
        if part == ".." and parts and parts[-1] != "..":
            parts.pop()
        elif part != ".." or not rooted:
            parts.append(part)
    return ("/" if rooted else "") + "/".join(parts) or "."


class Matcher:
    """Decides for paths relative to the context, with ``/`` between their parts.

    :raises BadPattern: one of the patterns is malformed.
    """

    def __init__(self, patterns: list[str]) -> None:
        self._rules: list[tuple[bool, re.Pattern[str], str]] = []
        for pattern in patterns:
            negated = pattern.startswith("!")
            body = pattern[1:] if negated else pattern
            if not body:
                raise BadPattern(f'illegal exclusion pattern: "{pattern}"')
            self._rules.append((negated, _compiled(body), body))
        self._has_exceptions = any(negated for negated, _, _ in self._rules)

    def excluded(self, path: str) -> bool:
        """Whether ``path`` is left out."""
        parents = [path]
        while "/" in parents[-1]:
            parents.append(parents[-1].rpartition("/")[0])
        result = False
        for negated, regex, _ in self._rules:
            if result != negated:
                continue
            if any(regex.fullmatch(candidate) for candidate in parents):
                result = not negated
        return result

    def may_hold_exceptions(self, directory: str) -> bool:
        """Whether something below an excluded directory may be let in again."""
        if not self._has_exceptions:
            return False
        prefix = f"{directory}/"
        for negated, _, body in self._rules:
            if negated:
                fixed = re.split(r"[*?\[\\]", body, maxsplit=1)[0]
                if fixed.startswith(prefix) or prefix.startswith(fixed):
                    return True
        return False


def _compiled(pattern: str) -> re.Pattern[str]:
    regex = ""
    position = 0
    while position < len(pattern):
        letter = pattern[position]
        position += 1
        if letter == "*":
            if pattern.startswith("*", position):
                position += 1
                if pattern.startswith("/", position):
                    position += 1
                    regex += "(?:.*/)?"
                elif position == len(pattern):
                    regex += ".*"
                else:
                    regex += "(?:.*/)?"
                    regex += "[^/]*" if not pattern.startswith("*", position) else ""
            else:
                regex += "[^/]*"
        elif letter == "?":
            regex += "[^/]"
        elif letter == "[":
            end = pattern.find("]", position + 1)
            if end < 0:
                raise BadPattern(f"syntax error in pattern: {pattern!r}")
            inside = pattern[position:end].replace("\\", "\\\\")
            regex += f"[{inside}]"
            position = end + 1
        elif letter == "\\":
            if position >= len(pattern):
                raise BadPattern(f"syntax error in pattern: {pattern!r}")
            regex += re.escape(pattern[position])
            position += 1
        else:
            regex += re.escape(letter)
    try:
        return re.compile(regex, re.DOTALL)
    except re.error:
        raise BadPattern(f"syntax error in pattern: {pattern!r}") from None
