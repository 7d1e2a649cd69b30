"""Turn the bytes of log files into entries, one decoder for each driver.

A decoder is fed a region that begins at a record and returns the entries in it and how far it got;
what is incomplete at the end is fed again later.  Lines that go on in the next region (or the next
file) are kept in the decoder.
"""

from __future__ import annotations

import calendar
from itertools import groupby
from operator import attrgetter
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
            first, *lines = bytes(data[frame.start : frame.end]).split(b"\n")
            self._times[stream] = time
            if not lines:
                self._keep(self._pending[stream] + first, stream, time, entries)
                continue
            rest = lines.pop()
            entries.append(Entry(time, stream, self._pending[stream] + first + b"\n"))
            entries += [Entry(time, stream, line + b"\n") for line in lines]
            self._keep(rest, stream, time, entries)
        return at

    def _keep(self, rest: bytes, stream: int, time: int, entries: list[Entry]) -> None:
        """The beginning of a line; a long one is passed on in parts."""
        if len(rest) > LONGEST_LINE:
            entries.append(Entry(time, stream, rest, True))
            rest = b""
        self._pending[stream] = rest

    def finish(self, entries: list[Entry]) -> None:
        rest = [
            Entry(self._times[stream], stream, data, True)
            for stream, data in self._pending.items()
            if data
        ]
        entries += sorted(rest)
        self._pending = {1: b"", 2: b""}


class WholeFrames:
    """Frames as they are, for who does not care where lines end."""

    def decode(self, data: bytes | memoryview, entries: list[Entry]) -> int:
        at = 0
        for frame in frames.forward(data, 0, len(data)):
            at = frame.next
            entries.append(Entry(frame.time, frame.stream, bytes(data[frame.start : frame.end])))
        return at

    def finish(self, entries: list[Entry]) -> None:
        """Nothing is kept back."""


class _Record(msgspec.Struct):
    log: str = ""
    stream: str = "stdout"
    time: str = ""


class JsonDecoder:
    """Docker's JSON lines."""

    def __init__(self) -> None:
        self._decoder = msgspec.json.Decoder(_Record)
        self._second = ""
        self._second_time = 0

    def decode(self, data: bytes | memoryview, entries: list[Entry]) -> int:
        whole = bytes(data)
        end = whole.rfind(b"\n") + 1
        for line in whole[:end].split(b"\n"):
            if not line.strip(b"\0 "):
                continue
            try:
                record = self._decoder.decode(line)
                time = self._time(record.time)
            except (msgspec.MsgspecError, ValueError):
                continue  # a torn line of a crash; the rest is good
            text = record.log.encode()
            stream = 2 if record.stream == "stderr" else 1
            entries.append(Entry(time, stream, text, not text.endswith(b"\n")))
        return end

    def _time(self, text: str) -> int:
        """As :func:`parse_rfc3339`; neighbours in the form that the writer uses share most of it."""
        if len(text) != 30 or text[-1] != "Z":
            return parse_rfc3339(text)
        second = text[:19]
        if second != self._second:
            self._second_time = parse_rfc3339(second + "Z")
            self._second = second
        return self._second_time + int(text[20:29])

    def finish(self, entries: list[Entry]) -> None:
        """Every record is whole."""


class WholeRecords(JsonDecoder):
    """Docker's JSON lines, those that were written at once joined, for who does not care where
    lines end."""

    def decode(self, data: bytes | memoryview, entries: list[Entry]) -> int:
        whole = bytes(data)
        end = whole.rfind(b"\n") + 1
        joined: list[Entry] = []
        try:
            records = self._decoder.decode_lines(whole[:end])
            for (name, time), group in groupby(records, attrgetter("stream", "time")):
                text = "".join([record.log for record in group]).encode()
                joined.append(Entry(self._time(time), 2 if name == "stderr" else 1, text))
        except (msgspec.MsgspecError, ValueError):
            # A torn line of a crash.
            return super().decode(whole, entries)
        entries += joined
        return end


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


class LocalTail:
    """Finds where to begin so that the last ``wanted`` lines are whole, across files.

    A line of one stream may have begun long before, with lines of the other between; so the search
    goes back until, for each stream met, a line has ended before the last ``wanted`` ones.
    """

    def __init__(self, wanted: int) -> None:
        self._wanted = wanted
        self._newlines = 0
        self._earliest: dict[int, int] = {}

    def search(self, data: memoryview, size: int) -> int | None:
        """The offset in this file (its last complete frame first); None: begin in an older one."""
        for frame in frames.backward(data, complete_frames(data, size)):
            count = bytes(data[frame.start : frame.end]).count(b"\n")
            self._newlines += count
            self._earliest.setdefault(frame.stream, 0)
            if count:
                self._earliest[frame.stream] = self._newlines
            if min(self._earliest.values()) > self._wanted:
                return frame.start - frames.HEADER.size
        return None


class JsonTail:
    """The same for records of one line, which are always whole."""

    def __init__(self, wanted: int) -> None:
        self._wanted = wanted
        self._newlines = 0

    def search(self, data: memoryview, size: int) -> int | None:
        at, step = size, 1 << 16
        while at > 0:
            start = max(0, at - step)
            block = bytes(data[start:at])
            position = len(block)
            while (position := block.rfind(b"\n", 0, position)) >= 0:
                self._newlines += 1
                if self._newlines > self._wanted:
                    return start + position + 1
            at = start
        return None


def complete_frames(data: memoryview, end: int) -> int:
    """The end of the last complete frame, for walking back from it."""
    if next(frames.backward(data, end), None) is not None:
        return end
    good = 0
    for frame in frames.forward(data, 0, end):
        good = frame.next
    return good
