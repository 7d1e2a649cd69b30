"""A build on a terminal, as a terminal of a given size shows it."""

from __future__ import annotations

import base64
import io
import os
import re
from collections.abc import Iterator
from typing import Any

import pytest

from sampan.cli import buildview, progress
from sampan.cli.buildview import BuildView
from sampan.cli.cells import clean, clip, width
from sampan.cli.failure import Failure


class Terminal(io.StringIO):
    """Rows of characters; knows what the view writes: text, colours, moves up, erasing a row."""

    def __init__(self, columns: int = 60, height: int = 10) -> None:
        super().__init__()
        self.columns, self.height = columns, height
        self.rows: list[str] = [""]
        self.row = self.column = 0
        self.folds = True
        self.colours = 0

    def write(self, text: str) -> int:
        for part in re.findall(r"\x1b\[[?0-9;]*[A-Za-z]|[^\x1b]", text):
            if part.startswith("\x1b"):
                self._control(part)
            elif part == "\n":
                self.row, self.column = self.row + 1, 0
                self.rows += [""] * (self.row + 1 - len(self.rows))
            elif part == "\r":
                self.column = 0
            else:
                self._put(part)
        return len(text)

    def _control(self, sequence: str) -> None:
        if sequence.endswith("A"):
            self.row -= int(sequence[2:-1] or 1)
            assert self.row >= max(0, len(self.rows) - self.height), "above the screen"
        elif sequence in ("\x1b[K", "\x1b[2K"):
            keep = 0 if sequence == "\x1b[2K" else self.column
            self.rows[self.row] = self.rows[self.row][:keep]
        elif sequence in ("\x1b[?7l", "\x1b[?7h"):
            self.folds = sequence.endswith("h")
        else:
            assert sequence.endswith("m"), sequence
            self.colours += 1

    def _put(self, char: str) -> None:
        if self.column >= self.columns:
            assert self.folds, "a row is too long"
            self.write("\n")
        row = self.rows[self.row].ljust(self.column)
        self.rows[self.row] = row[: self.column] + char + row[self.column + 1 :]
        self.column += 1

    def shown(self) -> list[str]:
        return [re.sub(r"\d+\.\ds", "T", row.rstrip()) for row in self.rows if row.strip()]


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    made = Terminal()
    monkeypatch.setattr(buildview, "_TICK", 3600)
    monkeypatch.setattr(progress, "window", lambda out: (made.columns, made.height))
    monkeypatch.delenv("NO_COLOR", raising=False)
    return made


def vertex(digest: str, **more: Any) -> dict[str, Any]:
    names = {"a": "[one 2/2] RUN make", "b": "[two 2/3] RUN sleep", "c": "ENV x=y"}
    number = "abc".index(digest) + 1
    return {"digest": digest, "name": names[digest], "number": number, "total": 9, **more}


def trace(**document: Any) -> dict[str, Any]:
    return {"id": "sampan.trace", "aux": document}


def log(digest: str, text: str, stream: int = 1) -> dict[str, Any]:
    data = base64.b64encode(text.encode()).decode()
    return trace(logs=[{"vertex": digest, "stream": stream, "data": data}])


START = trace(vertexes=[vertex("a", started="t"), vertex("b", started="t")])


def view(terminal: Terminal, *messages: dict[str, Any]) -> list[list[str]]:
    """What is on the terminal after each message, and in the end."""
    screens: list[list[str]] = []
    shown = BuildView(terminal)

    def given() -> Iterator[dict[str, Any]]:
        for message in messages:
            yield message
            shown._draw()
            screens.append(terminal.shown())

    try:
        shown.show(given())
    finally:
        screens.append(terminal.shown())
    return screens


def test_steps_that_run_at_a_time(terminal: Terminal) -> None:
    screens = view(
        terminal,
        START,
        log("a", "one\r\ntwo\n"),
        log("b", "\rload 10%\rload 20%"),
        log("a", "\x1b[2J\x1b[31mred\x1b[0m\ttab\n" + "é" * 3),
        trace(vertexes=[vertex("c", started="t"), vertex("c", completed="t", cached=True)]),
        trace(vertexes=[vertex("a", completed="t")]),
        trace(vertexes=[vertex("b", completed="t", cached=True)]),
        {"aux": {"ID": "sha256:1"}},
        {"stream": "Successfully built 1\n"},
    )
    running = ["Building T (0/9)", "⠙ [one 2/2] RUN make  T", "⠙ [two 2/3] RUN sleep  T"]
    assert [re.sub("[⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏]", "⠙", row) for row in screens[0]] == running
    assert [row for row in screens[3] if row.startswith("│")] == [
        "│ two",
        "│ red     tab",
        "│ ééé",
        "│ load 20%",
    ]
    assert "│ load 20%" in screens[2]
    assert screens[4][0] == "Building T (1/9)"
    assert screens[5][:2] == ["✔ [one 2/2] RUN make  T", "Building T (2/9)"]
    assert screens[-1] == [
        "✔ [one 2/2] RUN make  T",
        "✔ [two 2/3] RUN sleep  cached",
        "Successfully built 1",
    ]


def test_failure_shows_what_the_step_said(terminal: Terminal) -> None:
    error = vertex("a", completed="t", error="it returned 3")
    lines = "".join(f"line {number}\n" for number in range(30))
    with pytest.raises(Failure, match="it returned 3") as caught:
        view(
            terminal,
            START,
            log("a", lines),
            trace(vertexes=[error]),
            {"errorDetail": {"message": "it returned 3", "code": 3}},
        )
    assert caught.value.code == 3
    assert terminal.shown() == [
        "✘ [one 2/2] RUN make  T",
        *(f"  line {number}" for number in range(30)),
        "✘ [two 2/3] RUN sleep  cancelled",
    ]


def test_interrupted(terminal: Terminal) -> None:
    def given() -> Iterator[dict[str, Any]]:
        yield START
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        BuildView(terminal).show(given())
    assert [row[0] for row in terminal.shown()] == ["✘", "✘"]
    assert terminal.column == 0 and terminal.folds


@pytest.mark.parametrize(("columns", "height"), [(8, 3), (12, 4), (20, 2), (200, 50), (1, 1)])
def test_any_size(terminal: Terminal, columns: int, height: int) -> None:
    terminal.columns, terminal.height = columns, height
    many = [
        trace(
            vertexes=[vertex("a", started="t") | {"digest": str(n), "number": n, "name": f"[{n}]"}]
        )
        for n in range(30)
    ]
    screens = view(terminal, START, log("a", "x" * 500 + "\n日本語" * 90), *many)
    for screen in screens[:-1]:
        assert len(screen) <= max(1, height - 1)
        assert all(width(row) <= columns for row in screen)


def test_without_colours(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    view(terminal, START, log("a", "\x1b[31mred"))
    assert terminal.colours > 0
    terminal.colours = 0
    monkeypatch.setenv("NO_COLOR", "1")
    view(terminal, START, log("a", "\x1b[31mred"))
    assert terminal.colours == 0


def test_pulls(terminal: Terminal) -> None:
    def status(current: int) -> dict[str, Any]:
        return {"id": "abc Downloading", "vertex": "a", "current": current, "total": 2_000_000}

    screens = view(
        terminal, START, trace(statuses=[status(1_000_000)]), trace(statuses=[status(2_000_000)])
    )
    assert "│ abc Downloading  1MB/2MB" in screens[1]
    assert not any("abc" in row for row in screens[2])


@pytest.mark.parametrize(
    ("line", "seen"),
    [
        ("plain", "plain"),
        ("a\rb", "b"),
        ("a\r", "a"),
        ("\r\r", ""),
        ("\x1b]0;title\x07x\x1b[1;31my\x1b(Bz", "xyz"),
        ("a\tb", "a       b"),
        ("bell\x07\x00\x9bz", "bellz"),
    ],
)
def test_output_as_it_looks(line: str, seen: str) -> None:
    assert clean(line) == seen


def test_columns() -> None:
    assert [width(text) for text in ("abc", "日本", "e\u0301", "é", "…")] == [3, 4, 1, 1, 1]
    assert (
        clip("日本語", 6) == "日本語"
        and clip("日本語", 5) == "日本…"
        and clip("日本語", 4) == "日…"
    )
    assert clip("abc", 0) == "" and clip("abc", 1) == "…"
    assert os.linesep == "\n"
