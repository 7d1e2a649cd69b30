"""Containers that try to take the machine: neighbours are served meanwhile, nothing is left.

The latencies that are measured are printed (``pytest -s``); the bounds are loose, for machines
with other work.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from docker.errors import APIError
from docker.types import LogConfig
from harness import Daemon, running, until
from test_following import keeper_memory

ROUNDS = int(os.environ.get("SAMPAN_BOMB_ROUNDS", "5"))
"""How many times the neighbour is asked during each attack."""
BOUND = 5.0
"""Seconds in which a neighbour's exec and the daemon's ping are answered, on any machine."""


@pytest.fixture(scope="module")
def bombed() -> Iterator[Daemon]:
    yield from running()


@pytest.fixture
def neighbour(bombed: Daemon) -> Iterator[Any]:
    yield bombed.client.containers.run("busybox", ["sleep", "100000"], detach=True)
    bombed.remove_containers()


def start(daemon: Daemon, *command: str, **options: Any) -> Any:
    return daemon.client.containers.run("busybox", list(command), detach=True, **options)


def timed(call: Any) -> float:
    began = time.monotonic()
    call()
    return time.monotonic() - began


def serve(daemon: Daemon, neighbour: Any, what: str) -> None:
    """Ask the daemon and the neighbour for a while; fail if answers take too long."""

    def execute() -> None:
        assert neighbour.exec_run(["true"]).exit_code == 0

    pings = [timed(daemon.client.ping) for _ in range(ROUNDS)]
    execs = [timed(execute) for _ in range(ROUNDS)]
    print(
        f"\n{what}: ping {statistics.median(pings) * 1000:.0f} ms (at most "
        f"{max(pings) * 1000:.0f}), exec {statistics.median(execs) * 1000:.0f} ms (at most "
        f"{max(execs) * 1000:.0f})"
    )
    assert max(pings) < BOUND
    assert max(execs) < BOUND


def ended(container: Any) -> dict[str, Any]:
    container.wait(timeout=60)
    container.reload()
    return dict(container.attrs["State"])


def test_fork_bomb(bombed: Daemon, neighbour: Any) -> None:
    bomb = start(
        bombed,
        "sh",
        "-c",
        "bomb() { bomb | bomb & }; bomb; sleep 1000",
        pids_limit=50,
        cpu_shares=2,
    )
    assert until(lambda: bomb.stats(stream=False)["pids_stats"].get("current", 0) >= 25)
    serve(bombed, neighbour, "fork bomb")
    assert bomb.stats(stream=False)["pids_stats"]["current"] <= 50
    assert timed(bomb.kill) < 30
    assert ended(bomb)["ExitCode"] == 137


def test_memory_bomb(bombed: Daemon, neighbour: Any) -> None:
    bomb = start(
        bombed,
        *("sh", "-c", "while :; do tail /dev/zero; done"),
        mem_limit="32m",
        memswap_limit="32m",
        oom_score_adj=500,
    )
    serve(bombed, neighbour, "memory bomb")
    assert until(lambda: bombed.client.api.inspect_container(bomb.id)["State"]["OOMKilled"])
    bomb.kill()
    ended(bomb)
    once = start(bombed, "tail", "/dev/zero", mem_limit="32m", memswap_limit="32m")
    state = ended(once)
    assert (state["ExitCode"], state["OOMKilled"]) == (137, True)


def test_a_process_that_ignores_signals(bombed: Daemon, neighbour: Any) -> None:
    script = "trap '' TERM INT HUP QUIT; echo ready; while :; do sleep 1; done"
    deaf = start(bombed, "sh", "-c", script)
    assert until(lambda: deaf.logs() == b"ready\n")
    with ThreadPoolExecutor() as pool:
        stopping = pool.submit(timed, lambda: deaf.stop(timeout=2))
        serve(bombed, neighbour, "a stop that waits")
        assert 2 <= stopping.result(60) < 30
    assert ended(deaf)["ExitCode"] == 137


@pytest.mark.parametrize("driver", ["local", "json-file"])
def test_log_flood(bombed: Daemon, neighbour: Any, driver: str) -> None:
    options = {"max-size": "1m", "max-file": "2"}
    flood = start(
        bombed,
        *("yes", "a line of a flood that never ends"),
        log_config=LogConfig(type=driver, config=options),
        cpu_shares=2,
    )
    directory = bombed.state / "containers" / flood.id
    assert until(lambda: len(list(directory.glob("*log.1"))) == 1)
    before = keeper_memory(bombed, flood.id)
    serve(bombed, neighbour, f"flood of {driver}")
    assert sum(path.stat().st_size for path in directory.glob("*log*")) < 3 << 20
    assert keeper_memory(bombed, flood.id) - before < 4 << 20
    line = b"a line of a flood that never ends\n"
    assert flood.logs(tail=3).startswith(line * 2)
    flood.kill()
    ended(flood)


def test_a_terminal_that_nobody_reads(bombed: Daemon, neighbour: Any) -> None:
    flood = bombed.client.containers.create(
        "busybox",
        ["yes"],
        tty=True,
        stdin_open=True,
        log_config=LogConfig(type="none"),
    )
    silent = flood.attach_socket(params={"stdin": 1, "stdout": 1, "stream": 1})
    flood.start()
    before = keeper_memory(bombed, flood.id)
    serve(bombed, neighbour, "a terminal that nobody reads")
    assert flood.exec_run(["true"]).exit_code == 0
    assert keeper_memory(bombed, flood.id) - before < 4 << 20
    # The client that left it unread does not keep the container from ending.
    flood.kill()
    ended(flood)
    silent.close()


def test_an_exec_that_gets_no_processor_time(bombed: Daemon, neighbour: Any) -> None:
    """What the container does with its little time delays its execs, and nothing else."""
    script = "i=0; while [ $i -lt 20 ]; do while :; do :; done & i=$((i + 1)); done; echo; wait"
    busy = start(bombed, "sh", "-c", script)
    assert until(lambda: busy.logs())
    busy.update(cpu_period=100_000, cpu_quota=1000)
    with ThreadPoolExecutor() as pool:
        execs = [pool.submit(busy.exec_run, ["true"]) for _ in range(3)]
        assert until(lambda: bombed.client.api.inspect_container(busy.id)["ExecIDs"])
        assert timed(busy.top) < BOUND
        assert timed(busy.pause) < BOUND
        assert timed(busy.unpause) < BOUND
        serve(bombed, neighbour, "execs without processor time")
        assert timed(busy.kill) < BOUND
        assert ended(busy)["ExitCode"] == 137
        for execution in execs:
            try:
                execution.result(30)
            except APIError as error:
                assert error.status_code in (400, 409, 500)
