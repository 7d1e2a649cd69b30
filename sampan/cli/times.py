"""``--since`` and ``--until``: durations, dates and timestamps as the API has them."""

from __future__ import annotations

import time

from sampan.cli.failure import Failure
from sampan.cli.flags import duration


def timestamp(text: str) -> str:
    """``10m``, ``2026-01-02T15:04:05``, or seconds, as seconds since the epoch.

    :raises Failure: none of these.
    """
    if not text or text.replace(".", "", 1).removeprefix("-").isdecimal():
        return text
    try:
        ago = duration(text)
    except ValueError:
        return _moment(text)
    nanoseconds = time.time_ns() - ago
    return f"{nanoseconds // 1_000_000_000}.{nanoseconds % 1_000_000_000:09d}"


def _moment(text: str) -> str:
    date, _, clock = text.replace(" ", "T").partition("T")
    zone: int | None = None
    if clock.endswith(("Z", "z")):
        clock, zone = clock[:-1], 0
    else:
        for sign, factor in (("+", 1), ("-", -1)):
            if sign in clock:
                clock, _, offset = clock.partition(sign)
                hours, _, minutes = offset.partition(":")
                if not (hours.isdecimal() and (minutes or "0").isdecimal()):
                    raise _bad(text)
                zone = factor * (int(hours) * 3600 + int(minutes or 0) * 60)
    clock, _, fraction = clock.partition(".")
    padded = f"{date}T{clock or '00'}"
    padded += ":00" * (2 - padded.count(":"))
    try:
        parsed = time.strptime(padded, "%Y-%m-%dT%H:%M:%S")
    except ValueError:
        raise _bad(text) from None
    if fraction and not fraction.isdecimal():
        raise _bad(text)
    if zone is None:
        seconds = int(time.mktime(parsed))
    else:
        import calendar

        seconds = calendar.timegm(parsed) - zone
    return f"{seconds}.{(fraction or '0')[:9].ljust(9, '0')}"


def _bad(text: str) -> Failure:
    return Failure(
        f'invalid value for time: value must be a duration, a date or a timestamp: "{text}"', 1
    )
