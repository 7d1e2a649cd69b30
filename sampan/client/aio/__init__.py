"""The client for programs on an event loop: the same objects, with ``await`` and ``async for``.

What it gives back are the values of :mod:`sampan.client.models`, and it raises the exceptions of
:mod:`sampan.errors`.  A method that waits is a coroutine; a method that streams is an asynchronous
iterator.  Cancelling a task closes the connection that it waits on, which tells the daemon to stop.

>>> import asyncio, sampan
>>> async def main():
...     async with await sampan.connect_async() as client:
...         return await client.containers.run("busybox", ["echo", "hello"])
>>> asyncio.run(main())                                                  # doctest: +SKIP
b'hello\\n'
"""

from __future__ import annotations

from sampan.client.aio.client import AsyncClient

__all__ = ["AsyncClient"]
