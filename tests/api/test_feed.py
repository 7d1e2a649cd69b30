"""Events for clients that read, that do not, and that go."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from aiohttp import web

from sampan.api import progress, streams
from sampan.api.feed import FULL, Encoder, Feed
from sampan.api.server import Server
from sampan.engine.events import QUEUE, Events


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[tuple[Events, Path]]:
    events, encoder = Events(), Encoder()

    async def follow(request: web.Request) -> web.StreamResponse:
        answer = await streams.start(request)
        feed = Feed(request, answer, encoder)
        with events.listen(feed.take):
            await progress.while_connected(request, feed.run(None))
        return answer

    app = web.Application()
    app.router.add_get("/events", follow)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "s"))
    listener.listen()
    server = Server(app)
    await server.start([(listener, None)])
    yield events, tmp_path / "s"
    await server.close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.001)


async def follow(events: Events, path: Path, version: bytes = b"1.1") -> asyncio.StreamReader:
    before = events.listeners
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(b"GET /events HTTP/%s\r\nHost: x\r\n\r\n" % version)
    await reader.readuntil(b"\r\n\r\n")
    await until(lambda: events.listeners > before)
    reader.writer = writer  # type: ignore[attr-defined]
    return reader


async def chunk(reader: asyncio.StreamReader) -> dict[str, object]:
    size = int(await reader.readline(), 16)
    data = await reader.readexactly(size + 2)
    document: dict[str, object] = json.loads(data)
    return document


async def test_every_client_gets_every_event(served: tuple[Events, Path]) -> None:
    events, path = served
    readers = [await follow(events, path) for _ in range(20)]
    old = await follow(events, path, b"1.0")
    for number in range(50):
        events.publish("volume", "create", str(number))
    for reader in readers:
        assert [(await chunk(reader))["Actor"]["ID"] for _ in range(50)] == [  # type: ignore[index]
            str(number) for number in range(50)
        ]
        reader.writer.close()  # type: ignore[attr-defined]
    # HTTP/1.0 has no chunks.
    assert json.loads(await old.readline())["Actor"]["ID"] == "0"
    old.writer.close()  # type: ignore[attr-defined]
    await until(lambda: events.listeners == 0)


async def test_a_client_that_sleeps_loses_the_oldest(served: tuple[Events, Path]) -> None:
    events, path = served
    reader = await follow(events, path)
    reader.writer.transport.pause_reading()  # type: ignore[attr-defined]
    big = {"text": "x" * 1000}
    published = QUEUE * 2 + FULL // 1000
    for number in range(published):
        events.publish("volume", "create", str(number), big)
        if number % 100 == 0:
            await asyncio.sleep(0)
    reader.writer.transport.resume_reading()  # type: ignore[attr-defined]
    seen = []
    while not seen or seen[-1] != published - 1:
        document = await asyncio.wait_for(chunk(reader), 5)
        seen.append(int(document["Actor"]["ID"]))  # type: ignore[index]
    # In order, without the ones that there was no room for, and with all of the newest.
    assert seen == sorted(set(seen))
    assert QUEUE <= len(seen) < published
    assert seen[-QUEUE:] == list(range(published - QUEUE, published))
    reader.writer.close()  # type: ignore[attr-defined]
