"""Waiting for a container to stop or to be gone."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Literal, cast, get_args

from sampan.engine.state import Container
from sampan.errors import InvalidParameter

Condition = Literal["not-running", "next-exit", "removed"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """The exit code, and the error that kept the container from running, if any."""

    code: int
    error: str


def condition(text: str | None) -> Condition:
    """The condition of that name; not-running by default.  Raises InvalidParameter."""
    for known in get_args(Condition):
        if text == known:
            return cast(Condition, known)
    if not text:
        return "not-running"
    raise InvalidParameter(f'invalid condition: "{text}"')


def wait(container: Container, until: Condition) -> Awaitable[Outcome]:
    """An awaitable for the condition, with the outcome of the last run.

    The wait begins with this call, not with the first ``await``: what happens between is seen.
    """
    return _wait(container, until, container.next_exit())


async def _wait(container: Container, until: Condition, ended: asyncio.Future[None]) -> Outcome:
    try:
        if until == "removed":
            await container.removed.wait()
        elif until == "next-exit":
            await ended
        else:
            while container.running:
                await container.next_exit()
    finally:
        ended.cancel()
    state = container.record.state
    # A removal that went well has no error, whatever the container died of.
    return Outcome(state.exit_code, "" if until == "removed" else state.error)
