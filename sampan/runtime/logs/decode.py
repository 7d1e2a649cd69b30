"""Turn the bytes of log files into entries, one decoder for each driver.

A decoder is fed a region that begins at a record and returns the entries in it and how far it got;
what is incomplete at the end is fed again later.  Lines that go on in the next region (or the next
file) are kept in the decoder.
"""

from __future__ import annotations

import calendar
from typing import NamedTuple, Protocol

import msgspec

from sampan.runtime.logs import frames

LONGEST_LINE = 16 * 1024
_SECOND = 1_000_000_000


class Entry(NamedTuple):
    """One line (its newline included) or part of a line; ``stream`` 1 is stdout, 2 stderr."""

    time: int
    stream: int
    data: bytes
    partial: bool = False


class Decoder(Protocol):
    """See the module's description."""

    def decode(self, data: bytes | memoryview, entries: list[Entry]) -> int:
        """Append the entries of ``data``; return the offset of the first incomplete record."""
        ...

    def finish(self, entries: list[Entry]) -> None:
        """Append what is left of lines that never ended."""
        ...


class LocalDecoder:
    """Frames to lines."""

    def __init__(self) -> None:
        self._pending = {1: b"", 2: b""}
        self._times = {1: 0, 2: 0}

    def decode(self, data: bytes | memoryview, entries: list[Entry]) -> int:
        at = 0
        for frame in frames.forward(data, 0, len(data)):
            at = frame.next
            stream, time = frame.stream, frame.time
            lines = bytes(data[frame.start : frame.end]).splitlines(keepends=True)
            # bytes.splitlines also splits at carriage returns: put those back together.
            pending = self._pending[stream]
            for line in lines:
                pending = pending + line if pending else line
                if line.endswith(b"\n"):
                    entries.append(Entry(time, stream, pending))
                    pending = b""
                elif len(pending) > LONGEST_LINE:
                    entries.append(Entry(time, stream, pending, True))
                    pending = b""
            self._pending[stream] = pending
            self._times[stream] = time
        return at

    def finish(self, entries: list[Entry]) -> None:
        rest = [
            Entry(self._times[stream], stream, data, True)
            for stream, data in self._pending.items()
            if data
        ]
        entries += sorted(rest)
        self._pending = {1: b"", 2: b""}


class _Record(msgspec.Struct):
    log: str = ""
    stream: str = "stdout"
    time: str = ""


class JsonDecoder:
    """Docker's JSON lines."""

    def __init__(self) -> None:
        self._decoder = msgspec.json.Decoder(_Record)

    def decode(self, data: bytes | memoryview, entries: list[Entry]) -> int:
        whole = bytes(data)
        end = whole.rfind(b"\n") + 1
        for line in whole[:end].split(b"\n"):
            if not line.strip(b"\0 "):
                continue
            try:
                record = self._decoder.decode(line)
                time = parse_rfc3339(record.time)
            except (msgspec.MsgspecError, ValueError):
                continue  # a torn line of a crash; the rest is good
            text = record.log.encode()
            stream = 2 if record.stream == "stderr" else 1
            entries.append(Entry(time, stream, text, not text.endswith(b"\n")))
        return end

    def finish(self, entries: list[Entry]) -> None:
        """Every record is whole."""


def parse_rfc3339(text: str) -> int:
    """Nanoseconds since the epoch of ``2006-01-02T15:04:05.999999999Z`` (or with an offset)."""
    date, _, rest = text.partition("T")
    year, month, day = (int(part) for part in date.split("-"))
    offset = 0
    if rest.endswith("Z"):
        rest = rest[:-1]
    else:
        sign = "+" if "+" in rest else "-"
        rest, _, zone = rest.rpartition(sign)
        hours, _, minutes = zone.partition(":")
        offset = (int(hours) * 3600 + int(minutes or 0) * 60) * (1 if sign == "+" else -1)
    clock, _, fraction = rest.partition(".")
    hour, minute, second = (int(part) for part in clock.split(":"))
    seconds = calendar.timegm((year, month, day, hour, minute, second)) - offset
    return seconds * _SECOND + int((fraction or "0").ljust(9, "0")[:9])


def tail_offset_local(data: memoryview, end: int, wanted: int) -> tuple[int, int]:
    """Where to begin so that ``wanted`` newlines follow: (offset, newlines found)."""
    found, at = 0, end
    for frame in frames.backward(data, end):
        at = frame.start - frames.HEADER.size
        found += bytes(data[frame.start : frame.end]).count(b"\n")
        if found >= wanted:
            break
    return at, found


def tail_offset_json(data: memoryview, end: int, wanted: int) -> tuple[int, int]:
    """As :func:`tail_offset_local` for lines."""
    found, at, step = 0, end, 1 << 16
    while at > 0:
        start = max(0, at - step)
        block = bytes(data[start:at])
        position = len(block)
        while (position := block.rfind(b"\n", 0, position)) >= 0:
            if start + position + 1 < end:
                found += 1
                if found >= wanted:
                    return start + position + 1, found
        at = start
    return 0, found + (1 if end else 0)


def complete_frames(data: memoryview, end: int) -> int:
    """The end of the last complete frame, for walking back from it."""
    if next(frames.backward(data, end), None) is not None:
        return end
    good = 0
    for frame in frames.forward(data, 0, end):
        good = frame.next
    return good
