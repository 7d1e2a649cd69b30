"""Variable expansion and quote removal, as the Dockerfile reference's "Environment replacement".

All forms: ``$x ${x} ${x:-w} ${x-w} ${x:+w} ${x+w} ${x:?w} ${x?w} ${x#p} ${x##p} ${x%p} ${x%%p}
${x/p/r} ${x//p/r}``.  Patterns know ``*``, ``?`` and escapes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache

from sampan.build.dockerfile.errors import SyntaxProblem

_SPECIAL = frozenset("@*#?-$!0")
_NEEDS_WORK = re.compile(r"['\"$\\`]")


def expand(
    word: str,
    env: Mapping[str, str],
    escape: str = "\\",
    *,
    keep_quotes: bool = False,
    used: set[str] | None = None,
    unset: set[str] | None = None,
) -> str:
    """Expand ``word`` with the values of ``env``; quotes and escapes are removed.

    ``keep_quotes`` leaves quotes as they are (for the content of here-documents).  The names that
    were read go to ``used``, those among them without a value to ``unset``.  Raises
    :class:`SyntaxProblem`, with the position in the word, for malformed substitutions.
    """
    if _NEEDS_WORK.search(word) is None:
        return word
    try:
        return _Expansion(word, env, escape, keep_quotes, used, unset).run()
    except SyntaxProblem as problem:
        problem.word = word
        raise


def expand_words(word: str, env: Mapping[str, str], escape: str = "\\") -> list[str]:
    """Expand ``word``, and split what unquoted variables gave at blanks."""
    try:
        return _Expansion(word, env, escape, False, None, None).run_words()
    except SyntaxProblem as problem:
        problem.word = word
        raise


@lru_cache(maxsize=256)
def _pattern(pattern: str, greedy: bool, escape: str) -> str:
    """A shell pattern as a regular expression."""
    out: list[str] = []
    pos = 0
    while pos < len(pattern):
        char = pattern[pos]
        if char == "*":
            out.append(".*" if greedy else ".*?")
        elif char == "?":
            out.append(".")
        elif char == escape:
            pos += 1
            if pos >= len(pattern):
                raise SyntaxProblem(f"invalid escape at the end of the pattern {pattern!r}")
            out.append(re.escape(pattern[pos]))
        else:
            out.append(re.escape(char))
        pos += 1
    return "".join(out)


class _Expansion:
    """One pass over a word."""

    def __init__(
        self,
        word: str,
        env: Mapping[str, str],
        escape: str,
        keep_quotes: bool,
        used: set[str] | None,
        unset: set[str] | None,
    ) -> None:
        self.word = word
        self.pos = 0
        self.env = env
        self.escape = escape
        self.keep_quotes = keep_quotes
        self.used = used
        self.unset = unset
        self.depth = 0

    def run(self) -> str:
        return self._until("", False)

    def run_words(self) -> list[str]:
        words: list[str] = []
        current: list[str] = []
        started = False
        word, escape = self.word, self.escape
        while self.pos < len(word):
            char = word[self.pos]
            if char == "$":
                value = self._dollar()
                pieces = re.split(r"(\s+)", value)
                for piece in pieces:
                    if piece and piece.isspace():
                        if started:
                            words.append("".join(current))
                        current, started = [], False
                    elif piece:
                        current.append(piece)
                        started = True
                continue
            if char in "'\"":
                current.append(self._single() if char == "'" else self._double())
                started = True
                continue
            self.pos += 1
            if char == escape:
                if self.pos < len(word):
                    current.append(word[self.pos])
                    started = True
                    self.pos += 1
            elif char.isspace():
                if started:
                    words.append("".join(current))
                current, started = [], False
            else:
                current.append(char)
                started = True
        if started:
            words.append("".join(current))
        return words

    def _until(self, stop: str, raw_escapes: bool) -> str:
        out: list[str] = []
        word, escape = self.word, self.escape
        while self.pos < len(word):
            char = word[self.pos]
            if stop and char == stop:
                self.pos += 1
                return "".join(out)
            if char == "$":
                out.append(self._dollar())
            elif char == "'" and not self.keep_quotes:
                out.append(self._single())
            elif char == '"' and not self.keep_quotes:
                out.append(self._double())
            else:
                self.pos += 1
                if char == escape:
                    if raw_escapes:
                        out.append(char)
                    if self.pos >= len(word):
                        break
                    if self.keep_quotes and word[self.pos] not in ("$", escape):
                        out.append(char)
                    char = word[self.pos]
                    self.pos += 1
                out.append(char)
        if stop:
            raise SyntaxProblem(f"syntax error: missing '{stop}' in {word!r}")
        return "".join(out)

    def _single(self) -> str:
        end = self.word.find("'", self.pos + 1)
        if end < 0:
            raise SyntaxProblem(
                "unexpected end of statement while looking for matching single-quote", self.pos
            )
        text = self.word[self.pos + 1 : end]
        self.pos = end + 1
        return text

    def _double(self) -> str:
        out: list[str] = []
        word, escape, start = self.word, self.escape, self.pos
        self.pos += 1
        while self.pos < len(word):
            char = word[self.pos]
            if char == '"':
                self.pos += 1
                return "".join(out)
            if char == "$":
                out.append(self._dollar())
                continue
            self.pos += 1
            if char == escape:
                if self.pos >= len(word):
                    break
                # Only these can be escaped inside double quotes; other marks stay.
                if word[self.pos] in ('"', "$", escape):
                    char = word[self.pos]
                    self.pos += 1
            out.append(char)
        raise SyntaxProblem(
            "unexpected end of statement while looking for matching double-quote", start
        )

    def _name(self) -> str:
        word, start = self.word, self.pos
        if start >= len(word):
            return ""
        char = word[start]
        if char.isdigit():
            while self.pos < len(word) and word[self.pos].isdigit():
                self.pos += 1
        elif char in _SPECIAL:
            self.pos += 1
        else:
            while self.pos < len(word) and (word[self.pos].isalnum() or word[self.pos] == "_"):
                self.pos += 1
        return word[start : self.pos]

    def _get(self, name: str) -> str | None:
        value = self.env.get(name)
        if self.used is not None:
            self.used.add(name)
        return value

    def _plain(self, name: str) -> str:
        value = self._get(name)
        if value is None:
            if self.unset is not None:
                self.unset.add(name)
            return ""
        return value

    def _dollar(self) -> str:
        word, start = self.word, self.pos
        self.pos += 1
        if self.pos >= len(word) or word[self.pos] != "{":
            name = self._name()
            return self._plain(name) if name else "$"
        self.pos += 1
        if self.pos >= len(word):
            raise SyntaxProblem("syntax error: missing '}'", start)
        if word[self.pos] in "{}:":
            raise SyntaxProblem("syntax error: bad substitution", start)
        self.depth += 1
        if self.depth > 50:
            raise SyntaxProblem("syntax error: substitutions are nested too deeply", start)
        try:
            return self._braced(self._name())
        except SyntaxProblem as problem:
            if problem.offset is None:
                problem.offset = start
            raise
        finally:
            self.depth -= 1

    def _braced(self, name: str) -> str:
        """The rest of ``${name``, after the name."""
        word = self.word
        if self.pos >= len(word):
            raise SyntaxProblem("syntax error: missing '}'")
        mark = word[self.pos]
        self.pos += 1
        if mark == "}":
            return self._plain(name)
        if mark == "/":
            return self._replace(name)
        null_is_unset = mark == ":"
        if null_is_unset:
            if self.pos >= len(word):
                raise SyntaxProblem("syntax error: missing '}'")
            mark = word[self.pos]
            self.pos += 1
        if mark in "#%" and not null_is_unset:
            return self._trim(name, mark)
        if mark.isspace():
            raise SyntaxProblem("syntax error: missing '}'")
        if mark not in "-+?":
            shown = ":" + mark if null_is_unset else mark
            raise SyntaxProblem(f"unsupported modifier ({shown}) in substitution")
        argument = self._until("}", False)
        value = self._get(name)
        missing = value is None or (null_is_unset and value == "")
        if mark == "-":
            return argument if missing else value or ""
        if mark == "+":
            return "" if missing else argument
        if missing:
            why = "unset" if value is None else "empty"
            raise SyntaxProblem(f"{name}: {argument or f'is not allowed to be {why}'}")
        return value or ""

    def _trim(self, name: str, mark: str) -> str:
        pattern = self._until("}", True)
        greedy = pattern.startswith(mark)
        if greedy:
            pattern = pattern[1:]
        value = self._plain(name)
        expression = re.compile(_pattern(pattern, greedy, self.escape), re.DOTALL)
        if mark == "#":
            match = expression.match(value)
            return value[match.end() :] if match else value
        # The shortest (or longest) suffix: try each start from the end (or from the front).
        starts = range(len(value) + 1) if greedy else range(len(value), -1, -1)
        for start in starts:
            if expression.fullmatch(value, start):
                return value[:start]
        return value

    def _replace(self, name: str) -> str:
        every = self.word.startswith("/", self.pos)
        if every:
            self.pos += 1
        pattern = self._until("/", True)
        replacement = self._until("}", False)
        value = self._plain(name)
        expression = re.compile(_pattern(pattern, True, self.escape), re.DOTALL)
        return expression.sub(lambda _: replacement, value, count=0 if every else 1)
