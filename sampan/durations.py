"""How long something took or how long ago it was, in Docker's words."""

from __future__ import annotations

_UNITS = (("h", 3600 * 10**9), ("m", 60 * 10**9))


def human_duration(seconds: float) -> str:
    """``130`` as ``2 minutes``."""
    whole = int(seconds)
    if whole < 1:
        return "Less than a second"
    if whole == 1:
        return "1 second"
    if whole < 60:
        return f"{whole} seconds"
    minutes = whole // 60
    if minutes == 1:
        return "About a minute"
    if minutes < 60:
        return f"{minutes} minutes"
    hours = int(seconds / 3600 + 0.5)
    if hours == 1:
        return "About an hour"
    if hours < 48:
        return f"{hours} hours"
    if hours < 24 * 7 * 2:
        return f"{hours // 24} days"
    if hours < 24 * 30 * 2:
        return f"{hours // 24 // 7} weeks"
    if hours < 24 * 365 * 2:
        return f"{hours // 24 // 30} months"
    return f"{int(seconds / 3600) // 24 // 365} years"


def go_duration(nanoseconds: int) -> str:
    """Go's text of a duration: ``1m30s``, ``500ms``."""
    if nanoseconds < 10**9:
        for unit, size in (("ms", 10**6), ("\N{MICRO SIGN}s", 10**3), ("ns", 1)):
            if nanoseconds >= size:
                return f"{nanoseconds / size:.9f}".rstrip("0").rstrip(".") + unit
        return "0s"
    text = ""
    rest = nanoseconds
    for unit, size in _UNITS:
        if nanoseconds >= size:
            text += f"{rest // size}{unit}"
            rest %= size
    fraction = f".{rest % 10**9:09d}".rstrip("0").rstrip(".")
    return f"{text}{rest // 10**9}{fraction}s"
