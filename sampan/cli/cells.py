"""Text as a terminal shows it: how many columns it takes, and what of a program's output is text."""

from __future__ import annotations

import re
import unicodedata

_SEQUENCE = re.compile(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[\]PX^_].*?(?:\x07|\x1b\\|$)|[ -/]*[0-~])|[\x00-\x08\x0b-\x1f\x7f-\x9f]"
)
TAB = 8


def width(text: str) -> int:
    """The columns that ``text`` takes; it has no control characters."""
    if text.isascii():
        return len(text)
    return sum(map(_width, text))


def _width(char: str) -> int:
    if char < "\u0300":
        return 1
    if unicodedata.combining(char) or unicodedata.category(char) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def clip(text: str, columns: int) -> str:
    """``text`` cut to ``columns``; an ellipsis stands for what is missing."""
    if width(text) <= columns:
        return text
    if columns <= 0:
        return ""
    room, kept = columns - 1, []
    for char in text:
        room -= _width(char)
        if room < 0:
            break
        kept.append(char)
    return "".join(kept) + "…"


def clean(line: str) -> str:
    """A line of a program's output as it looks in the end: what a carriage return begins anew is
    overwritten, tabs are blanks, and sequences that move the cursor or change colours are gone."""
    line = line.rstrip("\r")
    if "\r" in line:
        parts = [part for part in line.split("\r") if part]
        line = parts[-1] if parts else ""
    line = _SEQUENCE.sub("", line)
    return line.expandtabs(TAB) if "\t" in line else line
