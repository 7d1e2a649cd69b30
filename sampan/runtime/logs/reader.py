"""Read back what a keeper logged, with following."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import NamedTuple

from sampan.runtime.types import LogConfig


class Entry(NamedTuple):
    """One line (its newline included) or part of a line; ``stream`` 1 is stdout, 2 stderr."""

    time: int
    stream: int
    data: bytes
    partial: bool = False


async def read(
    config: LogConfig,
    *,
    follow: bool = False,
    since: int = 0,
    until: int = 0,
    tail: int | None = None,
    stdout: bool = True,
    stderr: bool = True,
    running: Callable[[], bool] = lambda: False,
) -> AsyncIterator[Entry]:
    """Yield the entries in order; with ``follow`` go on as long as ``running()``.

    ``since`` and ``until`` are nanoseconds since the epoch (0: no bound), ``tail`` the number of
    last entries to begin with (None: all).  Raises Conflict for a driver that cannot be read.
    """
    raise NotImplementedError
    yield Entry(0, 1, b"")
