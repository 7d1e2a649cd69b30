"""Chunks of output to messages of one line, for the drivers that send lines away."""

from __future__ import annotations

import os
from typing import NamedTuple

LONGEST_LINE = 16 * 1024


class Part(NamedTuple):
    """Which part of a line longer than 16 KiB a message is."""

    id: str
    ordinal: int
    last: bool


class Message(NamedTuple):
    """One line without its newline, or a part of one; ``stream`` 1 is stdout, 2 stderr."""

    time: int
    stream: int
    line: bytes
    part: Part | None = None

    @property
    def source(self) -> str:
        return "stderr" if self.stream == 2 else "stdout"


class Splitter:
    """Cuts both streams into lines; what has no end yet is kept."""

    def __init__(self) -> None:
        self._pending = {1: b"", 2: b""}
        self._parts: dict[int, Part] = {}
        self._time = 0

    def feed(self, stream: int, data: bytes, time: int) -> list[Message]:
        """The messages that ``data`` completes."""
        self._time = time
        *lines, rest = (self._pending[stream] + data).split(b"\n")
        messages: list[Message] = []
        for line in lines:
            line = self._cut(stream, line, time, messages)
            messages.append(Message(time, stream, line, self._end(stream)))
        self._pending[stream] = self._cut(stream, rest, time, messages)
        return messages

    def finish(self) -> list[Message]:
        """Lines that never ended."""
        found = [
            Message(self._time, stream, line, self._end(stream))
            for stream, line in self._pending.items()
            if line or stream in self._parts
        ]
        self._pending = {1: b"", 2: b""}
        return found

    def _cut(self, stream: int, line: bytes, time: int, messages: list[Message]) -> bytes:
        while len(line) > LONGEST_LINE:
            known = self._parts.get(stream)
            part = Part(known.id if known else os.urandom(32).hex(), _next(known), False)
            self._parts[stream] = part
            messages.append(Message(time, stream, line[:LONGEST_LINE], part))
            line = line[LONGEST_LINE:]
        return line

    def _end(self, stream: int) -> Part | None:
        known = self._parts.pop(stream, None)
        return Part(known.id, _next(known), True) if known else None


def _next(known: Part | None) -> int:
    return known.ordinal + 1 if known else 1
