"""What keepers cost: the memory that is a keeper's own, and that giving it back loses nothing."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from sampan.runtime.spawner import Spawner
from sampan.runtime.types import ExecRequest, KeeperRequest

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="containers need root")
LIMIT = 1600
"""Kilobytes; alone, without nine others to share with, a keeper has less than this."""


def own_memory(pid: int) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Private_Dirty:"):
            return int(line.split()[1])
    raise AssertionError("no Private_Dirty")


async def settled(pid: int) -> int:
    """No event tells that the memory has been trimmed."""
    for _ in range(200):
        size = own_memory(pid)
        if size <= LIMIT:
            break
        await asyncio.sleep(0.05)
    return size


async def test_keeper_gives_memory_back(
    spawner: Spawner, request_for: Callable[..., KeeperRequest]
) -> None:
    request = request_for("sleep", "1000")
    keeper = await spawner.spawn(request)
    assert await settled(keeper.keeper_pid) <= LIMIT
    for number in range(3):
        process = {**request.spec["process"], "args": ["true"]}
        await keeper.exec(ExecRequest(f"e{number}", process))
    assert await settled(keeper.keeper_pid) <= LIMIT
    assert (await keeper.refresh()).status == "running"
    await keeper.signal(9)
    await keeper.wait_closed()
