"""Streams from the threads that do blocking work to the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator


async def pump(source: Iterator[bytes]) -> AsyncGenerator[bytes, None]:
    """The items of a blocking generator, each made in a thread when it is wanted.

    The generator is closed when the consumer stops early.
    """
    try:
        while (item := await asyncio.to_thread(next, source, None)) is not None:
            yield item
    finally:
        close = getattr(source, "close", None)
        if close is not None:
            await asyncio.shield(asyncio.to_thread(close))
