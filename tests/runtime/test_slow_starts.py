"""Containers that delay the start of further processes in them: nothing else waits for that."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from test_keeper import Run, read_all, read_until

from sampan.errors import SampanError
from sampan.runtime import cgroups
from sampan.runtime.spawner import Spawner
from sampan.runtime.types import (
    AttachRequest,
    ExecRequest,
    Exited,
    Health,
    HealthCheck,
    KeeperRequest,
    Restarting,
    RestartPolicy,
)

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="containers need root")
MakeRequest = Callable[..., KeeperRequest]
BUSY = "i=0; while [ $i -lt 20 ]; do while :; do :; done & i=$((i + 1)); done; wait"
STOPPER = "while :; do for p in /proc/[0-9]*; do kill -STOP ${p#/proc/}; done; done 2>/dev/null"
"""Stops whatever comes; a first process cannot be stopped by itself."""
BOMB = "bomb() { bomb & bomb & while :; do :; done; }; bomb"
TRACER = """
import os, sys
from sampan.linux.ptrace import Tracee
pid = int(sys.argv[1])
Tracee(pid)
print("held", flush=True)
while os.WIFSTOPPED(os.waitpid(pid, 0x40000000)[1]):
    pass
"""
"""It is held from its next system call on."""
ANSWERED = 5.0
"""Seconds, on any machine; it takes milliseconds."""
GONE = 20.0
MOMENTS = int(os.environ.get("SAMPAN_MOMENTS", "8"))
"""How many moments of a start are tried."""


def exec_of(name: str, *args: str, **options: Any) -> ExecRequest:
    return ExecRequest(name, {"args": list(args), "cwd": "/", "env": []}, **options)


def share_process_numbers(request: KeeperRequest) -> None:
    """With the host's processes."""
    spaces = request.spec["linux"]["namespaces"]
    spaces[:] = [space for space in spaces if space["type"] != "pid"]


async def until(done: Callable[[], Any]) -> Any:
    """No event tells what a process of another's is about to do."""
    async with asyncio.timeout(GONE):
        while not (found := done()):  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        return found


def children(pid: int) -> set[int]:
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except FileNotFoundError:
        return set()
    return set(map(int, text.split()))


class Hostile:
    """A container under attack from inside, and what is asked of it meanwhile."""

    def __init__(self, spawner: Spawner) -> None:
        self.run = Run(spawner)
        self.keeper_pid = 0
        self._group: cgroups.Group | None = None

    async def start(self, request: KeeperRequest, **resources: Any) -> None:
        request.spec["linux"].setdefault("resources", {}).update(resources)
        await self.run.start(request)
        assert self.run.keeper is not None
        self.keeper_pid = self.run.keeper.keeper_pid
        self._group = cgroups.group(request.spec["linux"]["cgroupsPath"])

    async def starve(self, request: KeeperRequest, microseconds: int = 1000) -> None:
        """So much of a processor in each tenth of a second, of which processes that are busy leave
        nothing."""
        request.spec["process"]["args"] = ["sh", "-c", BUSY]
        await self.start(request)
        await until(lambda: len(self.members()) > 20)
        assert self.run.keeper is not None
        limit = {"quota": microseconds, "period": 100_000}
        await self.run.keeper.update({"cpu": limit})

    def members(self) -> set[int]:
        assert self._group is not None
        return set(self._group.pids())

    def exec(self, request: ExecRequest, *fds: int) -> asyncio.Task[int]:
        assert self.run.keeper is not None
        return asyncio.ensure_future(self.run.keeper.exec(request, fds))

    async def half_started(self) -> tuple[asyncio.Task[int], int]:
        """An exec that is starved, and the process that is to become it."""
        assert self.run.keeper is not None
        own = self.run.keeper.pid
        starting = self.exec(exec_of("slow", "true"))

        def newcomer() -> int | None:
            starters = children(self.keeper_pid) - {own}
            found = {one for starter in starters for one in children(starter)} & self.members()
            return found.pop() if found else None

        return starting, await until(newcomer)

    async def answers(self) -> None:
        assert self.run.keeper is not None
        async with asyncio.timeout(ANSWERED):
            assert (await self.run.keeper.refresh()).status == "running"

    async def kill(self, *starting: asyncio.Task[int]) -> list[int | BaseException]:
        """End it; nothing of it is left, and each exec has got an answer."""
        keeper = self.run.keeper
        assert keeper is not None
        gone = os.pidfd_open(self.keeper_pid)
        async with asyncio.timeout(ANSWERED):
            await keeper.signal(signal.SIGKILL)
        began = time.monotonic()
        assert (await self.run.event(Exited)).code == 137
        print(f"gone after {time.monotonic() - began:.2f} s")
        outcomes = await asyncio.gather(*starting, return_exceptions=True)
        assert all(isinstance(outcome, int | SampanError) for outcome in outcomes), outcomes
        async with asyncio.timeout(GONE):
            await keeper.wait_closed()
        poll = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().add_reader(gone, poll.set_result, None)
        async with asyncio.timeout(GONE):
            await poll
        asyncio.get_running_loop().remove_reader(gone)
        os.close(gone)
        assert not self.members()
        return outcomes


@pytest.fixture
async def hostile(spawner: Spawner) -> AsyncIterator[Hostile]:
    container = Hostile(spawner)
    yield container
    if container.members():
        os.kill(container.keeper_pid, signal.SIGKILL)
        assert container.run.keeper is not None
        await container.run.keeper.wait_closed()


async def test_an_exec_that_gets_no_processor_time(
    hostile: Hostile, request_for: MakeRequest
) -> None:
    await hostile.starve(request_for())
    starting, _ = await hostile.half_started()
    await hostile.answers()
    assert not starting.done()
    await hostile.kill(starting)


async def test_a_half_started_process_has_nothing_of_the_host(
    hostile: Hostile, request_for: MakeRequest
) -> None:
    """CVE-2016-9962: whoever traces it finds no descriptor that leads out of the container."""
    await hostile.starve(request_for())
    starting, pid = await hostile.half_started()
    found = {os.readlink(entry).split(":")[0] for entry in Path(f"/proc/{pid}/fd").iterdir()}
    await hostile.kill(starting)
    assert found <= {"/dev/null", "pipe", "socket", "anon_inode", "pid"}, found


async def test_an_exec_that_is_traced(hostile: Hostile, request_for: MakeRequest) -> None:
    await hostile.starve(request_for(), 4000)
    starting, pid = await hostile.half_started()
    tracer = await asyncio.create_subprocess_exec(
        sys.executable, "-c", TRACER, str(pid), stdout=asyncio.subprocess.PIPE
    )
    assert tracer.stdout is not None
    async with asyncio.timeout(GONE):
        assert await tracer.stdout.readline() == b"held\n"
    await hostile.answers()
    assert not starting.done()
    await hostile.kill(starting)
    assert await tracer.wait() == 0


async def test_execs_that_are_stopped(hostile: Hostile, request_for: MakeRequest) -> None:
    await hostile.start(request_for("sh", "-c", STOPPER))
    starting = [hostile.exec(exec_of(f"e{number}", "true")) for number in range(12)]
    async with asyncio.timeout(GONE):
        outcomes = await asyncio.gather(*starting, return_exceptions=True)
    for outcome in outcomes:
        assert isinstance(outcome, int) or "stopped" in str(outcome), outcome
    await hostile.answers()
    await hostile.kill()


async def test_execs_beside_a_fork_bomb(hostile: Hostile, request_for: MakeRequest) -> None:
    await hostile.start(request_for("sleep", "1000"), pids={"limit": 40})
    await hostile.exec(exec_of("bomb", "sh", "-c", BOMB))
    await until(lambda: len(hostile.members()) >= 15)
    starting = [hostile.exec(exec_of(f"e{number}", "true")) for number in range(12)]
    await hostile.answers()
    async with asyncio.timeout(GONE):
        assert all(pid > 0 for pid in await asyncio.gather(*starting))
    await hostile.kill()


@pytest.mark.parametrize("answered", [0, 1, 10])
async def test_many_execs_and_the_end(
    hostile: Hostile, request_for: MakeRequest, answered: int
) -> None:
    await hostile.start(request_for("sleep", "1000"))
    starting = [hostile.exec(exec_of(f"e{number}", "sleep", "1000")) for number in range(50)]
    await until(lambda: sum(task.done() for task in starting) >= answered)
    outcomes = await hostile.kill(*starting)
    assert any(isinstance(outcome, SampanError) for outcome in outcomes)


@pytest.mark.parametrize("shared", [False, True])
async def test_the_end_at_any_moment_of_an_exec(
    spawner: Spawner, request_for: MakeRequest, shared: bool
) -> None:
    for moment in range(MOMENTS):
        container = Hostile(spawner)
        request = request_for("sleep", "1000")
        if shared:
            share_process_numbers(request)
        await container.start(request)
        starting = [container.exec(exec_of(f"e{number}", "sleep", "1000")) for number in range(2)]
        await asyncio.sleep(moment * 0.012 / MOMENTS)
        await container.kill(*starting)


async def test_a_keeper_that_is_killed(hostile: Hostile, request_for: MakeRequest) -> None:
    """Its starters end what they have begun."""
    await hostile.starve(request_for())
    starting, pid = await hostile.half_started()
    starters = children(hostile.keeper_pid)
    handle = os.pidfd_open(pid)
    os.kill(hostile.keeper_pid, signal.SIGKILL)
    assert (await hostile.run.event(Exited)).code == 255
    with pytest.raises(SampanError):
        await starting
    await until(lambda: select.select([handle], [], [], 0)[0])
    await until(lambda: not any(Path(f"/proc/{one}").exists() for one in starters))
    os.close(handle)


async def test_many_execs_at_once(hostile: Hostile, request_for: MakeRequest) -> None:
    await hostile.start(request_for("sleep", "1000"))
    starting = [hostile.exec(exec_of(f"e{number}", "true")) for number in range(50)]
    async with asyncio.timeout(GONE):
        assert len(set(await asyncio.gather(*starting))) == 50
    await hostile.kill()


async def test_the_end_where_process_numbers_are_shared(
    hostile: Hostile, request_for: MakeRequest
) -> None:
    """The kernel does not end the other processes with the first one."""
    request = request_for()
    share_process_numbers(request)
    await hostile.starve(request)
    starting, _ = await hostile.half_started()
    await hostile.kill(starting)


async def test_what_another_exec_writes_is_served(
    hostile: Hostile, request_for: MakeRequest
) -> None:
    """And the end of its input arrives, though a starter was forked while it was open."""
    await hostile.start(request_for("sleep", "1000"))
    assert hostile.run.keeper is not None
    near, far = socket.socketpair()
    near.setblocking(False)
    attach = AttachRequest(stdin=True, raw=True)
    with far:
        await hostile.exec(exec_of("cat", "cat", open_stdin=True, attaches=[attach]), far.fileno())
    near.send(b"one\n")
    await read_until(near, b"one\n")
    before = children(hostile.keeper_pid)
    starting = hostile.exec(exec_of("held", "sleep", "1000"))
    starter = await until(
        lambda: next(
            (
                pid
                for pid in children(hostile.keeper_pid) - before
                if "keeper" in Path(f"/proc/{pid}/comm").read_text()
            ),
            None,
        )
    )
    os.kill(starter, signal.SIGSTOP)
    try:
        near.send(b"two\n")
        await read_until(near, b"two\n")
        near.shutdown(socket.SHUT_WR)
        assert await read_all(near) == b""
    finally:
        os.kill(starter, signal.SIGCONT)
    await starting
    await hostile.kill()


async def test_a_window_is_set_while_its_exec_starts(
    hostile: Hostile, request_for: MakeRequest
) -> None:
    await hostile.start(request_for("sleep", "1000"))
    assert hostile.run.keeper is not None
    request = exec_of("tty", "sleep", "1000")
    request.process["terminal"] = True
    starting = hostile.exec(request)
    await asyncio.sleep(0)
    await hostile.run.keeper.resize(50, 100, "tty")
    assert starting.done()
    await hostile.kill()


async def test_a_probe_that_gets_no_processor_time(
    hostile: Hostile, request_for: MakeRequest
) -> None:
    request = request_for()
    process = {"args": ["true"], "cwd": "/", "env": []}
    second = 1_000_000_000
    request.healthcheck = HealthCheck(process, interval=second, timeout=second // 20, retries=1)
    await hostile.starve(request)
    health = await hostile.run.event(Health)
    assert health.log[0].output == "Health check exceeded timeout (50ms)"
    assert health.status == "unhealthy"
    await hostile.answers()
    await hostile.kill()


async def test_stopping_at_any_moment_of_a_restart(
    spawner: Spawner, request_for: MakeRequest
) -> None:
    for moment in range(8):
        run = Run(spawner)
        await run.start(request_for("false", restart=RestartPolicy("always")))
        assert run.keeper is not None
        await run.event(Restarting)
        # The next start is after a tenth of a second.
        await asyncio.sleep(0.097 + moment / 1000)
        await run.keeper.set_restart("no")
        await run.event(Exited)
        async with asyncio.timeout(GONE):
            await run.keeper.wait_closed()
