"""Progress of long operations: live bars on a terminal, plain lines elsewhere.

A bar has its size, its rate and the time left::

    5c32499ab806: Downloading [==========>          ]  21.3MB/42.1MB  8.4MB/s  2s
"""

from __future__ import annotations

import os
import sys
import time

from sampan.cli.units import human_size
from sampan.client.api import checked

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any, TextIO

INTERVAL = 0.08
BAR = 50
_LEAST_BAR = 10


class _Line:
    """One row: what it is about, how far it is, and since when."""

    __slots__ = ("began", "changed", "current", "identifier", "start", "status", "total")

    def __init__(self, identifier: str) -> None:
        self.identifier = identifier
        self.status = ""
        self.current = self.total = self.start = 0
        self.began = 0.0
        self.changed = True

    def put(self, status: str, current: int, total: int) -> None:
        if status != self.status:
            self.status, self.began, self.start = status, time.monotonic(), current
        self.current, self.total = current, total
        self.changed = True

    def text(self, width: int) -> str:
        """The row in ``width`` columns."""
        head = f"{self.identifier}: {self.status}" if self.identifier else self.status
        if self.total <= 0:
            tail = f"  {human_size(self.current)}{self._pace()}" if self.current > 0 else ""
            return (head + tail)[:width]
        tail = f"  {human_size(self.current)}/{human_size(self.total)}{self._pace()}"
        room = min(BAR, width - len(head) - len(tail) - 3)
        if room < _LEAST_BAR:
            return (head + tail)[:width]
        done = min(room, room * self.current // self.total)
        tip = ">" if done < room else ""
        bar = ("=" * max(0, done - len(tip) + (not tip)) + tip).ljust(room)[:room]
        return f"{head} [{bar}]{tail}"

    def _pace(self) -> str:
        elapsed = time.monotonic() - self.began
        moved = self.current - self.start
        if elapsed < 0.5 or moved <= 0 or 0 < self.total <= self.current:
            return ""
        rate = moved / elapsed
        if self.total <= 0:
            return f"  {human_size(rate, 3)}/s"
        left = int((self.total - self.current) / rate)
        clock = f"{left}s" if left < 60 else f"{left // 60}m{left % 60:02d}s"
        return f"  {human_size(rate, 3)}/s  {clock}"


class _Share(_Line):
    """A row that shows how much of a step is done, in hundredths of a percent."""

    __slots__ = ()

    def text(self, width: int) -> str:
        if self.current <= 0:
            return self.status[:width]
        tail = f"  {self.current / 100:3.0f}%"
        room = min(BAR, width - len(self.status) - len(tail) - 3)
        if room < _LEAST_BAR:
            return (self.status + tail)[:width]
        done = room * self.current // self.total
        bar = ("=" * max(0, done - 1) + (">" if done < room else "=")).ljust(room)[:room]
        return f"{self.status} [{bar}]{tail}"


class Screen:
    """Where progress is shown: on ``out``, live if that is a terminal.

    Use as a context manager, so that the last state is drawn whatever happens.
    """

    def __init__(self, out: TextIO | None = None, *, live: bool | None = None) -> None:
        self._out = out if out is not None else sys.stdout
        self.live = self._out.isatty() if live is None else live
        self._lines: dict[str, _Line] = {}
        self._drawn = 0
        self._next = 0.0

    def __enter__(self) -> Screen:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def update(self, identifier: str, status: str, current: int = 0, total: int = 0) -> None:
        """A row's new state; elsewhere than on a terminal only changes of status are told."""
        if not self.live:
            if total > 0 or current > 0:
                return
            self.note(f"{identifier}: {status}" if identifier else status)
            return
        line = self._lines.get(identifier)
        if line is None:
            line = self._lines[identifier] = _Line(identifier)
        line.put(status, current, total)
        if time.monotonic() >= self._next:
            self._draw()

    def percent(self, status: str, percent: float) -> None:
        """A step of which only the share that is done is known, from 0 to 100."""
        line = self._lines.get(status)
        if not self.live:
            if line is None:
                self._lines[status] = _Line("")
                self.note(status)
            return
        if line is None:
            line = self._lines[status] = _Share("")
        line.put(status, int(percent * 100), 10000)
        if time.monotonic() >= self._next:
            self._draw()

    def note(self, text: str) -> None:
        """A line that stays."""
        self.settle()
        self._out.write(text + "\n")
        if not self.live:
            self._out.flush()

    def write(self, text: str) -> None:
        """Text as it is, after the rows there are."""
        self.settle()
        self._out.write(text)
        self._out.flush()

    def settle(self) -> None:
        """Leave the rows there are as they are; new ones come below."""
        if self.live and self._lines:
            self._draw()
            self._lines.clear()
            self._drawn = 0

    def close(self) -> None:
        """Draw what has not been drawn yet."""
        if self.live:
            self._draw()
        self._out.flush()

    def _draw(self) -> None:
        self._next = time.monotonic() + INTERVAL
        rows = list(self._lines.values())
        if not any(line.changed for line in rows):
            return
        columns, height = window(self._out)
        # What has scrolled off the top cannot be reached by the cursor any more.
        shown = rows[-max(1, height - 1) :]
        parts = [f"\x1b[{self._drawn}A\r"] if self._drawn else []
        skipped = len(rows) - len(shown)
        if skipped and self._drawn < len(rows):
            for line in rows[self._drawn :][: max(0, skipped - self._drawn)]:
                parts.append(f"{line.text(columns - 1)}\x1b[K\n")
        for line in shown:
            parts.append(f"{line.text(columns - 1)}\x1b[K\n")
            line.changed = False
        self._drawn = len(shown)
        self._out.write("".join(parts))
        self._out.flush()


def window(out: TextIO) -> tuple[int, int]:
    """Columns and rows of the terminal behind ``out``, or what terminals once had."""
    try:
        size = os.get_terminal_size(out.fileno())
    except (OSError, ValueError):
        return 80, 24
    return size.columns or 80, size.lines or 24


def show(
    messages: Iterable[dict[str, Any]], *, quiet: bool = False, out: TextIO | None = None
) -> list[Any]:
    """Show the daemon's progress messages to their end; returns the ``aux`` values among them.

    :raises OperationFailed: one of them reports an error.
    """
    found: list[Any] = []
    if quiet:
        for message in checked(messages):
            if "aux" in message:
                found.append(message["aux"])
        return found
    with Screen(out) as screen:
        for message in checked(messages):
            if "aux" in message:
                found.append(message["aux"])
            else:
                put(screen, message)
    return found


def put(screen: Screen, message: dict[str, Any]) -> None:
    """Show one message of the daemon."""
    if "stream" in message:
        screen.write(str(message["stream"]))
        return
    status = str(message.get("status") or "")
    detail = message.get("progressDetail") or {}
    current, total = int(detail.get("current") or 0), int(detail.get("total") or 0)
    identifier = str(message.get("id") or "")
    if identifier or total:
        screen.update(identifier, status, current, total)
    elif status:
        screen.note(status)


def counted(chunks: Iterable[bytes], screen: Screen, status: str, total: int) -> Iterator[bytes]:
    """``chunks`` as they are, with a bar that follows them."""
    done = 0
    for chunk in chunks:
        yield chunk
        done += len(chunk)
        screen.update("", status, done, total)
