"""Sizes, durations and times in Docker's words."""

from __future__ import annotations

import time

from sampan.durations import human_duration

_DECIMAL = ("B", "kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB")
_BINARY = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB", "YiB")


def significant(value: float, digits: int) -> str:
    """``value`` with ``digits`` significant digits, as C's ``%.*g`` has it."""
    return f"{value:.{digits}g}"


def human_size(size: float, digits: int = 4) -> str:
    """``1982286`` as ``1.982MB`` (powers of 1000)."""
    unit = 0
    while size >= 1000 and unit < len(_DECIMAL) - 1:
        size /= 1000
        unit += 1
    return significant(size, digits) + _DECIMAL[unit]


def short_size(size: float) -> str:
    """``1982286`` as ``1.98MB``, as image lists have it."""
    return human_size(size, 3)


def binary_size(size: float) -> str:
    """``312 << 10`` as ``312KiB`` (powers of 1024)."""
    unit = 0
    while size >= 1024 and unit < len(_BINARY) - 1:
        size /= 1024
        unit += 1
    return significant(size, 4) + _BINARY[unit]


def ago(unix: float) -> str:
    """``2 minutes ago`` for a time in seconds since the epoch."""
    return f"{human_duration(max(0.0, time.time() - unix))} ago"


def parse_rfc3339(text: str) -> float:
    """Seconds since the epoch of ``2026-11-24T19:37:33.645248253Z``; zero for Go's zero time."""
    if not text or text.startswith("0001-01-01"):
        return 0.0
    import calendar

    date, _, clock = text.partition("T")
    offset = 0
    if clock.endswith("Z"):
        clock = clock[:-1]
    else:
        for sign, factor in (("+", -1), ("-", 1)):
            if sign in clock:
                clock, _, zone = clock.partition(sign)
                hours, _, minutes = zone.partition(":")
                offset = factor * (int(hours) * 3600 + int(minutes or 0) * 60)
                break
    year, month, day = (int(part) for part in date.split("-"))
    hour, minute, second = clock.split(":")
    whole, _, fraction = second.partition(".")
    stamp = calendar.timegm((year, month, day, int(hour), int(minute), int(whole)))
    return stamp + offset + (float(f"0.{fraction}") if fraction else 0.0)


def go_time(unix: float) -> str:
    """A time in Go's default form, in the local zone: ``2026-11-24 19:37:33 +0000 UTC``."""
    return time.strftime("%Y-%m-%d %H:%M:%S %z %Z", time.localtime(unix))


def rfc3339(unix: float) -> str:
    """A time as ``2026-11-24T19:37:33Z``, in the local zone."""
    local = time.localtime(unix)
    zone = time.strftime("%z", local)
    zone = "Z" if zone == "+0000" else f"{zone[:3]}:{zone[3:]}"
    return time.strftime("%Y-%m-%dT%H:%M:%S", local) + zone


def ellipsis(text: str, width: int) -> str:
    """``text`` cut to ``width`` characters, the last of which says that it was cut."""
    if len(text) <= width:
        return text
    return text[: width - 1] + "…" if width > 1 else text[:width]


def short_id(identifier: str) -> str:
    """The first twelve digits, without the algorithm."""
    return identifier.rpartition(":")[2][:12] if ":" in identifier else identifier[:12]
