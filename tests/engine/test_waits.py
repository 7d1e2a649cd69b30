"""Waiting for containers."""

from __future__ import annotations

import asyncio

import pytest

from sampan.engine.state import Container, ContainerRecord, State
from sampan.engine.types import ContainerConfig, HostConfig
from sampan.engine.waits import Outcome, condition, wait
from sampan.errors import InvalidParameter


def container(status: str = "created") -> Container:
    record = ContainerRecord(
        id="c",
        name="n",
        created=1,
        image_id="i",
        parent=None,
        config=ContainerConfig(cmd=["true"]),
        host=HostConfig(),
        state=State(status=status),  # type: ignore[arg-type]
    )
    return Container(record)


async def test_not_running_returns_at_once() -> None:
    stopped = container("exited")
    stopped.record.state.exit_code = 3
    assert await wait(stopped, "not-running") == Outcome(3, "")


async def test_a_wait_begins_with_the_call() -> None:
    fresh = container()
    pending = wait(fresh, "next-exit")
    fresh.record.state.exit_code = 5
    fresh.announce_exit()
    assert await pending == Outcome(5, "")


async def test_removed() -> None:
    gone = container("running")
    pending = asyncio.ensure_future(wait(gone, "removed"))
    gone.announce_exit()
    await asyncio.sleep(0)
    assert not pending.done()
    gone.record.state.error = "why"
    gone.removed.set()
    assert await pending == Outcome(0, "")


def test_conditions() -> None:
    assert condition(None) == condition("") == "not-running"
    with pytest.raises(InvalidParameter, match="invalid condition"):
        condition("tomorrow")
