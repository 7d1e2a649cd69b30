"""Words of a statement: flags, quoted words, JSON lists and here-document marks."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace

from sampan.build.dockerfile.errors import SyntaxProblem

_LONE = re.compile("[\ud800-\udfff]")


def _no_json(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


_JSON = json.JSONDecoder(parse_constant=_no_json)
HEREDOC = re.compile(r"^(\d*)<<(-?)([^<]*)$")


@dataclass(frozen=True, slots=True)
class Heredoc:
    """``<<-EOT``: ``chomp`` for the dash, ``expand`` unless the name was quoted."""

    name: str
    fd: int
    expand: bool
    chomp: bool
    word: str
    content: str = ""

    def with_content(self, content: str) -> Heredoc:
        return replace(self, content=content)

    @property
    def data(self) -> str:
        """The content as a command or file gets it: leading tabs gone when chomped."""
        if not self.chomp:
            return self.content
        return re.sub(r"(?m)^\t+", "", self.content)


def split_flags(text: str) -> tuple[list[tuple[str, int]], str, int]:
    """Take the leading ``--flag`` words off ``text``.

    Returns the flags (quotes and escapes removed) with their offsets, the rest, and its offset.
    A bare ``--`` ends the flags.
    """
    flags: list[tuple[str, int]] = []
    pos, length = 0, len(text)
    while True:
        while pos < length and text[pos].isspace():
            pos += 1
        if not text.startswith("--", pos):
            return flags, text[pos:].rstrip(), pos
        start = pos
        word: list[str] = []
        quote = ""
        while pos < length:
            char = text[pos]
            if quote:
                if char == quote:
                    quote = ""
                elif char == "\\" and pos + 1 < length:
                    pos += 1
                    word.append(text[pos])
                else:
                    word.append(char)
            elif char.isspace():
                break
            elif char in "'\"":
                quote = char
            elif char == "\\" and pos + 1 < length:
                pos += 1
                word.append(text[pos])
            else:
                word.append(char)
            pos += 1
        flag = "".join(word)
        if flag == "--":
            while pos < length and text[pos].isspace():
                pos += 1
            return flags, text[pos:].rstrip(), pos
        flags.append((flag, start))


def split_words(text: str, escape: str) -> list[tuple[str, int]]:
    """Split at blanks outside quotes; quotes and escapes stay in the words.

    Returns words with their offsets.
    """
    words: list[tuple[str, int]] = []
    pos, length = 0, len(text)
    while True:
        while pos < length and text[pos].isspace():
            pos += 1
        if pos >= length:
            return words
        start = pos
        quote = ""
        while pos < length:
            char = text[pos]
            if quote:
                if char == quote:
                    quote = ""
                elif char == escape and quote == '"':
                    pos += 1
            elif char.isspace():
                break
            elif char in "'\"":
                quote = char
            elif char == escape:
                pos += 1
            pos += 1
        pos = min(pos, length)
        words.append((text[start:pos], start))


def parse_json_list(text: str, offset: int) -> list[str] | None:
    """The strings of the JSON list that ``text``, which is at ``offset``, begins with, or None.

    What follows the list is ignored, as BuildKit does.  Raises :class:`SyntaxProblem` for a list
    of anything but strings.
    """
    if not text.startswith("["):
        return None
    try:
        value, _ = _JSON.raw_decode(text)
    except (ValueError, RecursionError):
        return None
    if not all(isinstance(item, str) for item in value):
        raise SyntaxProblem(
            "when using JSON array syntax, arrays must be comprised of strings only", offset
        )
    return [_LONE.sub("\ufffd", item) for item in value]


def parse_heredoc(word: str, escape: str) -> Heredoc | None:
    """The here-document that ``word`` announces, or None."""
    match = HEREDOC.match(word)
    if match is None:
        return None
    raw = match[3]
    if not raw or any(c.isspace() for c in raw.strip("'\"")):
        return None
    name, quoted = _unquote(raw, escape)
    if not name:
        return None
    return Heredoc(name, int(match[1] or "0"), not quoted, match[2] == "-", word)


def heredocs_in(text: str, escape: str) -> list[tuple[Heredoc, int]]:
    """The here-documents that the words of ``text`` announce, in order, with their offsets.

    As in BuildKit a quote that is not closed leaves none.
    """
    if _open_quote(text, escape):
        return []
    found = ((parse_heredoc(word, escape), at) for word, at in split_words(text, escape))
    return [(heredoc, at) for heredoc, at in found if heredoc is not None]


def _open_quote(text: str, escape: str) -> bool:
    quote, pos = "", 0
    while pos < len(text):
        char = text[pos]
        if char == escape and quote != "'":
            pos += 1
        elif char == quote:
            quote = ""
        elif char in "'\"" and not quote:
            quote = char
        pos += 1
    return bool(quote)


def _unquote(word: str, escape: str) -> tuple[str, bool]:
    """The word without quotes and escapes, and whether it had any."""
    out: list[str] = []
    quote, touched, pos = "", False, 0
    while pos < len(word):
        char = word[pos]
        if quote:
            if char == quote:
                quote = ""
            else:
                out.append(char)
        elif char in "'\"":
            quote, touched = char, True
        elif char == escape and pos + 1 < len(word):
            pos, touched = pos + 1, True
            out.append(word[pos])
        else:
            out.append(char)
        pos += 1
    return "".join(out), touched
