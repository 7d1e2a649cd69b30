"""Processes that end without end: neighbours are served meanwhile, and nothing of them is left.

``SAMPAN_EXITS=10000`` is the full size; the latencies and rates are printed (``pytest -s``).
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from harness import Daemon, running, until
from test_bombs import serve, start

EXITS = int(os.environ.get("SAMPAN_EXITS", "80"))
"""How many containers end; as many commands, and fifty times as many processes below an init."""
CLIENTS = 4
SPARE = {"processes": 4, "descriptors": 20, "cgroups": 20}
"""What may be there more than before, made ahead for the next container; less than one an exit."""
RATE = 10_000
"""Processes that end in a minute: what an init must manage."""

pytestmark = pytest.mark.timeout(120 + EXITS)


@pytest.fixture(scope="module")
def busy() -> Iterator[Daemon]:
    yield from running()


@pytest.fixture
def neighbour(busy: Daemon) -> Iterator[Any]:
    container = start(busy, "sleep", "100000")
    serve(busy, container, "before")
    yield container
    busy.remove_containers()


def below(pid: int) -> list[int]:
    """The process, and all that come from it; ended ones too that nobody has waited for."""
    found = [pid]
    for each in found:
        for children in Path(f"/proc/{each}/task").glob("*/children"):
            try:
                found += [int(word) for word in children.read_text().split()]
            except (FileNotFoundError, ProcessLookupError):
                continue
    return found


def held(daemon: Daemon) -> Counter[str]:
    """What the daemon and all processes below it hold, besides connections: those of clients may
    be kept for a while."""
    assert daemon.process is not None
    counts: Counter[str] = Counter()
    for pid in below(daemon.process.pid):
        counts["processes"] += 1
        try:
            for path in Path(f"/proc/{pid}/fd").iterdir():
                kind = os.readlink(path).partition("[")[0]
                counts["descriptors"] += kind != "socket:"
        except (FileNotFoundError, ProcessLookupError):
            continue
    parents = Path("/sys/fs/cgroup").glob(f"*{daemon.cgroup_parent}")
    counts["cgroups"] = sum(path.is_dir() for each in parents for path in each.rglob("*"))
    mounts = Path("/proc/self/mountinfo").read_text()
    counts["mounts"] = mounts.count(str(daemon.root))
    for place in (daemon.run, daemon.state):
        counts["directories"] += len(list((place / "containers").iterdir()))
    return counts


def check_nothing_left(daemon: Daemon, before: Counter[str]) -> None:
    left: list[Counter[str]] = []

    def gone() -> bool:
        left[:] = [held(daemon) - before]
        return all(count <= SPARE.get(kind, 0) for kind, count in left[0].items())

    try:
        until(gone)
    except AssertionError:
        raise AssertionError(f"left: {dict(left[0])}") from None


def together(number: int, one: Callable[[int], None], meanwhile: Callable[[], None]) -> float:
    """Call ``one`` so often, by several clients, ``meanwhile`` something else; calls a minute."""
    with ThreadPoolExecutor(CLIENTS) as pool:
        began = time.monotonic()
        work = [pool.submit(one, each) for each in range(number)]
        meanwhile()
        for done in work:
            done.result(120 + EXITS)
        return number / (time.monotonic() - began) * 60


def test_processes_below_an_init(busy: Daemon, neighbour: Any) -> None:
    """Each is an orphan, whose end only the init can wait for."""
    number = EXITS * 50
    script = f"i=0; while [ $((i+=1)) -le {number} ]; do (: &); done; echo done; exec sleep 100000"
    before = held(busy)
    began = time.monotonic()
    container = start(busy, "sh", "-c", script, init=True)
    serve(busy, neighbour, "processes that end")
    until(lambda: container.logs() == b"done\n", 120 + EXITS)
    rate = number / (time.monotonic() - began) * 60
    print(f"{rate:.0f} processes a minute")
    assert rate > RATE
    # The init itself and what it was made for.
    until(lambda: len(container.top()["Processes"]) == 2)
    container.remove(force=True)
    check_nothing_left(busy, before)


def test_commands_in_a_container(busy: Daemon, neighbour: Any) -> None:
    container = start(busy, "sleep", "100000")

    def one(number: int) -> None:
        done = container.exec_run(["sh", "-c", f"echo {number}; exit {number % 100}"])
        assert (done.exit_code, done.output) == (number % 100, b"%d\n" % number)

    together(2 * CLIENTS, one, lambda: None)
    before = held(busy)
    rate = together(EXITS, one, lambda: serve(busy, neighbour, "commands that end"))
    print(f"{rate:.0f} commands a minute")
    check_nothing_left(busy, before)


def test_containers_that_are_started_again(busy: Daemon, neighbour: Any) -> None:
    before = held(busy)
    containers = [
        start(busy, "false", network_mode="none", restart_policy={"Name": "always"})
        for _ in range(2 * CLIENTS)
    ]
    serve(busy, neighbour, "containers started again")
    for container in containers:
        until(lambda c=container: c.reload() or c.attrs["RestartCount"] >= 3)
    for container in containers:
        container.remove(force=True)
    check_nothing_left(busy, before)


def test_containers(busy: Daemon, neighbour: Any) -> None:
    def one(number: int) -> None:
        output = busy.client.containers.run("busybox", ["echo", str(number)], remove=True)
        assert output == b"%d\n" % number

    # What is opened once and kept is opened first.
    together(2 * CLIENTS, one, lambda: None)
    before = held(busy)
    rate = together(EXITS, one, lambda: serve(busy, neighbour, "containers that end"))
    print(f"{rate:.0f} containers a minute")
    check_nothing_left(busy, before)
