"""Waiting for a container to stop or to be gone."""

from __future__ import annotations

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


async def wait(container: Container, until: Condition) -> Outcome:
    """Return when the condition holds, with the outcome of the last run."""
    if until == "removed":
        await container.removed.wait()
    elif until == "next-exit":
        await container.next_exit()
    else:
        while container.running:
            await container.next_exit()
    state = container.record.state
    return Outcome(state.exit_code, state.error)
