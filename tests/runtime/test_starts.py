"""Starts in progress, with starters that start nothing."""

from __future__ import annotations

import gc
import os
import socket
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sampan.runtime import launch, starter, starts
from sampan.runtime.errors import StartError
from sampan.runtime.loop import Loop
from sampan.runtime.starts import AT_ONCE, Outcome, Starts
from sampan.runtime.unfinished import Unfinished

SECONDS = 20.0


class Begun:
    """Starts on a loop of their own, and what they have told, by name."""

    def __init__(self) -> None:
        self.loop = Loop()
        self.unfinished = Unfinished(self.loop)
        self.starts = Starts(self.loop, self.unfinished)
        self.told: dict[str, Outcome] = {}
        self.order: list[str] = []

    def begin(self, name: str, work: starts.Work) -> starts.Start:
        def tell(outcome: Outcome) -> None:
            assert name not in self.told
            self.told[name] = outcome
            self.order.append(name)

        return self.starts.begin(work, tell)

    def run(self, done: Callable[[], bool]) -> None:
        late: list[bool] = []
        timer = self.loop.call_later(SECONDS, lambda: late.append(True))
        while not done():
            self.loop.step()
            assert not late
        timer.cancel()

    def finish(self) -> None:
        """Until every starter is collected."""
        self.unfinished.close()
        self.loop.call_later(SECONDS, self.loop.stop)
        if self.unfinished.any:
            self.loop.run()
        assert not self.unfinished.any


def children() -> set[str]:
    """The process numbers of this process's children, ended ones too."""
    lists = Path("/proc/self/task").glob("*/children")
    return {number for one in lists for number in one.read_text().split()}


@pytest.fixture
def begun() -> Iterator[Begun]:
    before = children()
    made = Begun()
    yield made
    made.starts.give_all_up()
    made.finish()
    assert children() <= before


def start(sock: socket.socket) -> None:
    """A process that ends at once: whoever is its parent then has to collect it."""
    pid = os.fork()
    if not pid:
        os._exit(7)
    read, write = os.pipe()
    started = launch.Process(
        pid, os.pidfd_open(pid), launch.Streams((), None, read, write), None, []
    )
    starter.report(sock, started, None)


def wait(sock: socket.socket) -> None:
    """Until it is not wanted any more."""
    assert sock.recv(1) == b""
    starter.fail(sock, StartError("given up", 126))


def die(_: socket.socket) -> None:
    os._exit(1)


def fail(_: socket.socket) -> None:
    raise KeyError("something")


def message(outcome: Outcome) -> str:
    assert isinstance(outcome, StartError)
    return str(outcome)


def test_a_process_becomes_ones_own(begun: Begun) -> None:
    begun.begin("one", start)
    assert not begun.told
    begun.run(lambda: bool(begun.told))
    outcome = begun.told["one"]
    assert isinstance(outcome, starter.Result)
    assert os.waitpid(outcome.process.pid, 0)[1] == 7 << 8
    assert not begun.unfinished.any
    os.close(outcome.process.pidfd)
    assert outcome.process.streams is not None
    outcome.process.streams.close_keeper()


def test_nothing_stays(begun: Begun) -> None:
    """A keeper seldom collects garbage: it must make none."""

    def begin() -> weakref.ref[starts.Start]:
        def tell(_: Outcome) -> None:
            assert made.given_up

        made = begun.starts.begin(wait, tell)
        begun.starts.give_up(made)
        return weakref.ref(made)

    gc.disable()
    try:
        made = begin()
        begun.run(lambda: not begun.unfinished.any)
        assert made() is None
    finally:
        gc.enable()


def test_so_many_at_once(begun: Begun) -> None:
    going = [begun.begin(f"going {number}", wait) for number in range(AT_ONCE)]
    waiting = [begun.begin(f"waiting {number}", die) for number in range(3)]
    assert all(one.starter for one in going)
    assert not any(one.starter for one in waiting)
    begun.starts.give_up(waiting[1])
    assert not begun.told, "nobody is told before the caller has got the start"
    begun.run(lambda: bool(begun.told))
    assert begun.order == ["waiting 1"]
    begun.starts.give_up(going[3])
    begun.starts.give_up(going[3])
    begun.run(lambda: "waiting 2" in begun.told)
    assert begun.order[1:] == ["going 3", "waiting 0", "waiting 2"]
    assert message(begun.told["going 3"]) == "given up"
    assert "has died" in message(begun.told["waiting 0"])


def test_an_end_of_all(begun: Begun) -> None:
    for number in range(AT_ONCE + 3):
        begun.begin(str(number), wait)
    begun.starts.give_all_up()
    begun.finish()
    assert len(begun.told) == AT_ONCE + 3


def test_errors_are_told(begun: Begun) -> None:
    begun.begin("one", fail)
    begun.run(lambda: bool(begun.told))
    assert message(begun.told["one"]) == "internal error: KeyError('something')"


def test_starters_keep_nothing_open(begun: Begun) -> None:
    read, write = os.pipe()
    begun.begin("one", wait)
    os.close(write)
    assert os.read(read, 1) == b""
    os.close(read)


def test_too_many_wait(begun: Begun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(starts, "MOST", 2)
    for number in range(AT_ONCE + 2):
        begun.begin(str(number), wait)
    with pytest.raises(StartError, match="wait for their start already"):
        begun.begin("one more", wait)


def test_no_process_can_be_made(begun: Begun, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> int:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    with monkeypatch.context() as changed:
        changed.setattr("os.fork", refuse)
        begun.begin("one", start)
    assert not begun.told
    begun.run(lambda: bool(begun.told))
    assert "could not be made: Resource temporarily" in message(begun.told["one"])
