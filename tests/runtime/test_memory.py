"""What keepers cost: the memory that is a keeper's own, and that giving it back loses nothing."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from sampan.runtime.keeper import Keeper
from sampan.runtime.loop import IN
from sampan.runtime.spawner import Spawner
from sampan.runtime.types import ExecRequest, KeeperRequest

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="containers need root")
RELEASE = tuple(int(part) for part in re.findall(r"\d+", os.uname().release)[:2])
TRIMMED = RELEASE >= (6, 13)
LIMIT = 600 if TRIMMED else 1600
"""Kilobytes; alone, without nine others to share with, a keeper has less than this."""
LIMIT_AFTER_EXEC = 900 if TRIMMED else 1600
"""What an exec leaves is not in the sample of a keeper at rest."""


def own_memory(pid: int) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Private_Dirty:"):
            return int(line.split()[1])
    raise AssertionError("no Private_Dirty")


async def settled(pid: int, limit: int) -> int:
    """No event tells that the memory has been trimmed."""
    for _ in range(200):
        size = own_memory(pid)
        if size <= limit:
            break
        await asyncio.sleep(0.05)
    return size


async def test_keeper_gives_memory_back(
    spawner: Spawner, request_for: Callable[..., KeeperRequest]
) -> None:
    request = request_for("sleep", "1000")
    keeper = await spawner.spawn(request)
    try:
        assert await settled(keeper.keeper_pid, LIMIT) <= LIMIT
        for number in range(3):
            process = {**request.spec["process"], "args": ["true"]}
            await keeper.exec(ExecRequest(f"e{number}", process))
        assert await settled(keeper.keeper_pid, LIMIT_AFTER_EXEC) <= LIMIT_AFTER_EXEC
        assert (await keeper.refresh()).status == "running"
    finally:
        await keeper.signal(9)
        await keeper.wait_closed()


def test_no_keeper_comes_to_rest_that_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both are due in one round: the end of the container and giving memory back."""
    keeper = Keeper()
    loop = keeper._loop
    rested: list[object] = []
    monkeypatch.setattr("sampan.runtime.compact.trim", lambda *words: rested.append(words))
    near, far = os.pipe()
    try:
        loop.add(near, IN, lambda _: loop.stop())
        loop.call_later(0, keeper._rest)
        os.write(far, b"x")
        loop.run()
    finally:
        os.close(near)
        os.close(far)
    assert rested == []
