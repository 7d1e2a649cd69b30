"""Restart policies and health checks: the rules, and a keeper that follows them."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest

from sampan.runtime.health import Judge
from sampan.runtime.restarts import FIRST_DELAY, LONGEST_DELAY, Restarts
from sampan.runtime.spawner import Spawner
from sampan.runtime.types import (
    Exited,
    Health,
    HealthCheck,
    KeeperEvent,
    KeeperRequest,
    ProbeResult,
    Restarting,
    RestartPolicy,
    Started,
)

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="containers need root")
MakeRequest = Callable[..., KeeperRequest]
SECOND = 10**9


@pytest.mark.parametrize(
    ("name", "most", "code", "times"),
    [
        ("no", 0, 1, 0),
        ("on-failure", 0, 0, 0),
        ("on-failure", 2, 1, 2),
        ("on-failure", 0, 1, 50),
        ("always", 0, 0, 50),
        ("unless-stopped", 0, 0, 50),
    ],
)
def test_policies(
    name: Literal["no", "always", "on-failure", "unless-stopped"], most: int, code: int, times: int
) -> None:
    restarts = Restarts(RestartPolicy(name, most))
    done = 0
    while done < 50 and restarts.next_delay(code, 0) is not None:
        done += 1
    assert done == times


def test_delays_double_and_begin_anew() -> None:
    restarts = Restarts(RestartPolicy("always"))
    delays = [restarts.next_delay(0, 0) for _ in range(12)]
    assert delays[:3] == [FIRST_DELAY, 2 * FIRST_DELAY, 4 * FIRST_DELAY]
    assert delays[-1] == LONGEST_DELAY
    assert restarts.next_delay(0, 11 * SECOND) == FIRST_DELAY


def probe(code: int, at: int) -> ProbeResult:
    return ProbeResult(at, at, code, "")


def test_health_rules() -> None:
    judge = Judge(HealthCheck({}, retries=2, start_period=10, start_interval=1, interval=5), 0)
    assert judge.interval(3) == 1
    assert judge.result(probe(1, 3), 3).failing_streak == 0
    assert judge.result(probe(1, 20), 20) == Health("starting", 1, judge.health.log)
    assert judge.result(probe(1, 25), 25).status == "unhealthy"
    assert judge.result(probe(0, 30), 30) == Health("healthy", 0, judge.health.log)
    assert judge.interval(30) == 5
    assert judge.result(probe(1, 31), 31).status == "healthy"
    for at in range(40, 50):
        judge.result(probe(0, at), at)
    assert [entry.start for entry in judge.health.log] == [45, 46, 47, 48, 49]


@pytest.mark.parametrize("clock", [-(10**18), 10**18])
def test_health_does_not_go_by_a_clock_that_is_set(clock: int) -> None:
    judge = Judge(HealthCheck({}, retries=1, start_period=10, interval=5), 0)
    assert judge.result(probe(1, clock + 9), 9).status == "starting"
    assert judge.result(probe(1, clock + 11), 11).status == "unhealthy"


class Events:
    def __init__(self) -> None:
        self.seen: list[KeeperEvent] = []
        self._changed = asyncio.Event()

    def __call__(self, event: KeeperEvent) -> None:
        self.seen.append(event)
        self._changed.set()

    async def until(self, done: Callable[[], Any]) -> None:
        async with asyncio.timeout(20):
            while not done():
                self._changed.clear()
                await self._changed.wait()

    def of(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.seen if isinstance(event, kind)]


@needs_root
async def test_on_failure(spawner: Spawner, request_for: MakeRequest, tmp_path: Path) -> None:
    events = Events()
    request = request_for(
        "sh", "-c", "echo x >> /count; exit 3", restart=RestartPolicy("on-failure", 2)
    )
    keeper = await spawner.spawn(request, on_event=events)
    await keeper.wait_closed()
    kinds = [type(event) for event in events.seen]
    assert kinds == [Started, Restarting, Started, Restarting, Started, Exited]
    assert [event.count for event in events.of(Restarting)] == [1, 2]
    assert events.seen[-1].code == 3
    (count,) = tmp_path.glob("*/upper/count")
    assert count.read_text() == "x\n" * 3


@needs_root
async def test_stopping_while_it_waits(spawner: Spawner, request_for: MakeRequest) -> None:
    events = Events()
    request = request_for("false", restart=RestartPolicy("always"))
    keeper = await spawner.spawn(request, on_event=events)
    await events.until(lambda: len(events.of(Restarting)) == 2)
    assert keeper.state.status == "restarting"
    await keeper.set_restart("no")
    await events.until(lambda: events.of(Exited))
    await keeper.wait_closed()


@needs_root
async def test_probes(spawner: Spawner, request_for: MakeRequest) -> None:
    events = Events()
    process = {"args": ["sh", "-c", "echo checked; test -e /ok"], "cwd": "/", "env": []}
    check = HealthCheck(process, interval=SECOND // 20, timeout=5 * SECOND, retries=2)
    request = request_for("sh", "-c", "read x; touch /ok; read x", open_stdin=True)
    request.healthcheck = check
    keeper = await spawner.spawn(request, on_event=events)
    await events.until(lambda: any(event.status == "unhealthy" for event in events.of(Health)))
    first = events.of(Health)[0]
    assert (first.status, first.failing_streak, first.log[0].output) == ("starting", 1, "checked\n")
    assert keeper.state.health is not None
    Path(f"/proc/{keeper.pid}/root/ok").touch()
    await events.until(lambda: any(event.status == "healthy" for event in events.of(Health)))
    await keeper.signal(9)
    await keeper.wait_closed()


@needs_root
async def test_a_probe_that_hangs(spawner: Spawner, request_for: MakeRequest) -> None:
    events = Events()
    process = {"args": ["sleep", "1000"], "cwd": "/", "env": []}
    request = request_for("sleep", "1000")
    request.healthcheck = HealthCheck(
        process, interval=SECOND // 20, timeout=SECOND // 10, retries=1
    )
    keeper = await spawner.spawn(request, on_event=events)
    await events.until(lambda: events.of(Health))
    (result, *_) = events.of(Health)[0].log
    assert result.exit_code == -1
    assert result.output == "Health check exceeded timeout (100ms)"
    await keeper.signal(9)
    await keeper.wait_closed()
