"""Times on the wire: RFC 3339 with nanoseconds, Unix seconds, and Go durations ago."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime

from sampan.errors import InvalidParameter

ZERO = "0001-01-01T00:00:00Z"
_UNIX = re.compile(r"-?(\d+)(?:\.(\d{1,9})\d*)?\Z")
_DURATION = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)")
_UNITS = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,
    "ms": 1_000_000,
    "s": 10**9,
    "m": 60 * 10**9,
    "h": 3600 * 10**9,
}
_RFC3339 = re.compile(
    r"(\d{4}-\d\d-\d\d)(?:T(\d\d:\d\d(?::\d\d)?)(?:\.(\d{1,9})\d*)?)?(Z|[+-]\d\d:\d\d)?\Z"
)


def format_time(nanoseconds: int) -> str:
    """RFC 3339 in UTC with nanoseconds, trailing zeros cut as Go does; 0 is Go's zero time."""
    if not nanoseconds:
        return ZERO
    seconds, rest = divmod(nanoseconds, 10**9)
    text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    fraction = f".{rest:09}".rstrip("0") if rest else ""
    return f"{text}{fraction}Z"


def duration(text: str) -> int | None:
    """Nanoseconds of a Go duration (``1h30m``), or None if it is not one."""
    position, total = 0, 0.0
    for match in _DURATION.finditer(text):
        if match.start() != position:
            return None
        total += float(match[1]) * _UNITS[match[2]]
        position = match.end()
    return int(total) if position and position == len(text) else None


def parse_time(text: str | None) -> int | None:
    """Nanoseconds since the epoch; None for an absent or empty value or ``0``.

    :raises InvalidParameter: the text is neither a time nor a duration.
    """
    if not text or text == "0":
        return None
    unix = _UNIX.match(text)
    if unix:
        value = int(unix[1]) * 10**9 + int((unix[2] or "").ljust(9, "0"))
        return -value if text.startswith("-") else value
    ago = duration(text)
    if ago is not None:
        return time.time_ns() - ago
    stamp = _RFC3339.match(text)
    if stamp:
        date, clock, fraction, zone = stamp.groups()
        clock = clock or "00:00:00"
        clock = clock if clock.count(":") == 2 else f"{clock}:00"
        zone = "+00:00" if zone in (None, "Z") else zone
        try:
            moment = datetime.fromisoformat(f"{date}T{clock}{zone}").astimezone(UTC)
        except ValueError:
            pass
        else:
            return int(moment.timestamp()) * 10**9 + int((fraction or "").ljust(9, "0"))
    raise InvalidParameter(f"invalid value {text!r}: it is neither a timestamp nor a duration")
