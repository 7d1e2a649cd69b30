"""A build on a terminal: steps that have ended above, those that run below, with what they say.

The rows below are drawn over ten times a second::

    ✔ [tools 2/3] RUN make tools  4.1s
    Building 5.2s (7/12)
    ⠹ [app 3/5] RUN pip wheel .  1.3s
    │ Collecting flask
    ⠹ [docs 2/2] RUN mkdocs build  0.7s

The builder's events come as BuildKit's status documents (the query's ``sampan=1``).
"""

from __future__ import annotations

import base64
import codecs
import os
import sys
import time
from collections import deque

from sampan.cli import progress
from sampan.cli.cells import clean, clip, width
from sampan.cli.units import human_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any, TextIO

_FRAMES = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
_TICK = 0.1
_SAID = 6
"""Rows of a running step's output, at most."""
_KEPT = 200
"""Lines of a step's output that are shown if it fails."""
_NARROW = 30
"""Columns without which times are left out."""


class _Step:
    """A step: its output's last lines (the last one may be incomplete), and its transfers."""

    def __init__(self, name: str, number: int) -> None:
        self.name = name
        self.number = number
        self.began = time.monotonic()
        self.lines: deque[str] = deque(maxlen=_KEPT)
        self.partial = ""
        self.transfers: dict[str, tuple[str, int, int]] = {}
        self._decoders: dict[int, codecs.IncrementalDecoder] = {}

    def hear(self, stream: int, data: bytes) -> None:
        decoder = self._decoders.get(stream)
        if decoder is None:
            decoder = self._decoders[stream] = codecs.getincrementaldecoder("utf-8")("replace")
        *lines, self.partial = (self.partial + decoder.decode(data)).split("\n")
        self.lines.extend(map(clean, lines))
        if len(self.partial) > 1 << 16:
            self.partial = self.partial[-(1 << 12) :]

    def said(self) -> list[str]:
        """The lines so far."""
        rest = clean(self.partial)
        return [*self.lines, rest] if rest else list(self.lines)

    def rows(self) -> Iterator[str]:
        """What is to be seen of it while it runs."""
        for status, current, total in list(self.transfers.values())[-_SAID:]:
            yield f"{status}  {human_size(current)}/{human_size(total)}"
        yield from [line for line in self.said()[-_SAID:] if line.strip()]

    def seconds(self) -> str:
        return f"{time.monotonic() - self.began:.1f}s"


class BuildView:
    """Shows a build as it goes, on the terminal ``out`` (standard output)."""

    def __init__(self, out: TextIO | None = None) -> None:
        self._out = out or sys.stdout
        colours = not os.environ.get("NO_COLOR")
        self._bold, self._dim, self._plain, self._green, self._red = (
            ("\x1b[1m", "\x1b[2m", "\x1b[0m", "\x1b[32m", "\x1b[31m") if colours else [""] * 5
        )
        self._running: dict[str, _Step] = {}
        self._ended: set[int] = set()
        self._total = 0
        self._began = time.monotonic()
        self._above: list[str] = []
        self._below: list[str] = []
        self._frame = 0
        self._heard = False
        self._identifier = ""

    def show(self, messages: Iterable[dict[str, Any]]) -> str:
        """Show a build to its end; returns the image's identifier.

        :raises Failure: the build failed.
        """
        import threading

        done = threading.Event()
        lock = threading.Lock()
        clock = threading.Thread(target=self._turn, args=(done, lock), daemon=True)
        clock.start()
        try:
            for message in messages:
                with lock:
                    self._heard = True
                    self._take(message)
        finally:
            done.set()
            clock.join()
            for step in list(self._running.values()):
                self._end(step, f"{self._red}✘", "cancelled")
            self._running.clear()
            self._draw(last=True)
        return self._identifier

    def _turn(self, done: Any, lock: Any) -> None:
        while not done.wait(_TICK):
            with lock:
                if self._heard:  # until then the context is sent, which has a bar of its own
                    self._draw()

    # what happens

    def _take(self, message: dict[str, Any]) -> None:
        if "error" in message or "errorDetail" in message:
            from sampan.cli.build import fail

            fail(message)
        aux = message.get("aux") or {}
        if message.get("id") == "sampan.trace":
            for vertex in aux.get("vertexes", ()):
                self._vertex(vertex)
            for log in aux.get("logs", ()):
                if (step := self._running.get(log["vertex"])) is not None:
                    step.hear(log["stream"], base64.b64decode(log["data"]))
            for status in aux.get("statuses", ()):
                if (step := self._running.get(status["vertex"])) is not None:
                    self._transfer(step, status)
        elif aux:
            self._identifier = str(aux.get("ID") or self._identifier)
        elif text := clean(str(message.get("stream") or message.get("status") or "").rstrip()):
            bold = self._bold if text.startswith("Successfully") else ""
            self._above.append(f"{bold}{text}{self._plain if bold else ''}")

    def _vertex(self, vertex: dict[str, Any]) -> None:
        self._total = max(self._total, int(vertex.get("total") or 0))
        digest = vertex["digest"]
        if "completed" not in vertex:
            if "started" in vertex:
                self._running[digest] = _Step(clean(vertex["name"]), int(vertex["number"]))
            return
        step = self._running.pop(digest, None)
        if step is None:
            return
        self._ended.add(step.number)
        if "error" in vertex:
            self._end(step, f"{self._red}✘", step.seconds() if vertex["error"] else "cancelled")
            if vertex["error"]:
                self._above += [f"  {self._dim}{line}{self._plain}" for line in step.said()]
        elif step.name.startswith("["):  # others only change the configuration
            took = "cached" if vertex.get("cached") else step.seconds()
            self._end(step, f"{self._green}✔", took)

    def _end(self, step: _Step, sign: str, took: str) -> None:
        name = clip(step.name, progress.window(self._out)[0] - len(took) - 5)
        self._above.append(f"{sign}{self._plain} {name}  {self._dim}{took}{self._plain}")

    def _transfer(self, step: _Step, status: dict[str, Any]) -> None:
        key, current, total = status["id"], int(status["current"]), int(status["total"])
        step.transfers.pop(key, None)
        if current < total:
            step.transfers[key] = (clean(key), current, total)

    # how it is drawn

    def _draw(self, *, last: bool = False) -> None:
        columns, height = progress.window(self._out)
        # A terminal that has become narrower has folded the rows that were there.
        rows = sum(max(1, -(-width(row) // columns)) for row in self._below)
        out = [_up(rows - 1)] if rows else []
        # Row by row: some terminals keep for scrolling back what is erased at once.
        out += [f"{line}\x1b[K\n" for line in self._above]
        self._below = [] if last else self._rows(columns, height)
        # Without folding, so that a row is a row whatever its characters are.
        shown = [f"{self._decorated(row)}\x1b[K" for row in self._below]
        out += ["\x1b[?7l", "\n".join(shown), "\x1b[?7h"] if shown else []
        left = rows - len(self._above) - len(shown)
        if left > 0:
            out += ["\n" if shown else "", "\n".join(["\x1b[2K"] * left)]
            out.append(_up(left if shown else left - 1))
        self._above.clear()
        self._out.write("".join(out))
        self._out.flush()

    def _rows(self, columns: int, height: int) -> list[str]:
        """What runs now, in so many columns and rows that nothing scrolls away."""
        self._frame += 1
        sign = _FRAMES[self._frame % len(_FRAMES)]
        steps = sorted(self._running.values(), key=lambda step: step.number)
        steps = [step for step in steps if step.name.startswith("[")][: max(1, height - 2)]
        elapsed = f"{time.monotonic() - self._began:.1f}s"
        counted = f" ({len(self._ended)}/{self._total})" if self._total else ""
        rows = [clip(f"Building {elapsed}{counted}", columns - 1)]
        room = max(0, height - 2 - len(steps)) // max(1, len(steps))
        for step in steps:
            tail = f"  {step.seconds()}" if columns >= _NARROW else ""
            rows.append(clip(f"{sign} {step.name}", columns - 1 - len(tail)) + tail)
            said = list(step.rows())
            rows += [
                clip(f"│ {line}", columns - 1) for line in said[len(said) - min(room, _SAID) :]
            ]
        return rows[: max(1, height - 1)]

    def _decorated(self, row: str) -> str:
        return f"{self._dim}{row}{self._plain}" if row.startswith("│") else row


def _up(rows: int) -> str:
    """Move the cursor to the begin of a row above."""
    return f"\r\x1b[{rows}A" if rows > 0 else "\r"
