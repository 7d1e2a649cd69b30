"""The stream of progress messages: merging, failures, clients that go away."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aiohttp import ClientSession, web
from aiohttp.test_utils import TestServer
from hypothesis import given
from hypothesis import strategies as st

from sampan.api import middleware, progress
from sampan.errors import Conflict, NotFound
from sampan.progress import Progress

Work = Callable[[progress.Stream], Awaitable[None]]


async def answer_of(work: Work) -> tuple[int, list[dict[str, Any]]]:
    async def handler(request: web.Request) -> web.StreamResponse:
        return await progress.run(request, work)

    app = web.Application(middlewares=[middleware.outermost])
    app.router.add_post("/", handler)
    async with TestServer(app) as server, ClientSession() as session:
        async with session.post(server.make_url("/")) as answer:
            body = await answer.text()
            return answer.status, [json.loads(line) for line in body.splitlines() if line]


async def test_messages_in_order() -> None:
    async def work(stream: progress.Stream) -> None:
        stream.report(Progress("Pulling from x", "1"))
        stream.report(Progress("Pulling fs layer", "abc"))
        await asyncio.sleep(0)
        stream.send({"stream": "text"})
        stream.report(Progress("", aux={"ID": "sha256:x"}))

    assert await answer_of(work) == (
        200,
        [
            {"status": "Pulling from x", "id": "1"},
            {"status": "Pulling fs layer", "progressDetail": {}, "id": "abc"},
            {"stream": "text"},
            {"aux": {"ID": "sha256:x"}},
        ],
    )


async def test_early_failure_has_its_status() -> None:
    async def work(stream: progress.Stream) -> None:
        raise NotFound("No such image: x")

    assert await answer_of(work) == (404, [{"message": "No such image: x"}])


async def test_late_failure_is_the_last_message() -> None:
    class Failed(Conflict):
        exit_code = 7

    async def work(stream: progress.Stream) -> None:
        stream.send({"stream": "begun"})
        raise Failed("broken")

    status, messages = await answer_of(work)
    assert status == 200
    assert messages[-1] == {"errorDetail": {"message": "broken", "code": 7}, "error": "broken"}


async def test_reports_from_threads_are_merged() -> None:
    async def work(stream: progress.Stream) -> None:
        def many() -> None:
            for current in range(10_000):
                stream.report(Progress("Downloading", "abc", current, 10_000))
            stream.report(Progress("Download complete", "abc"))

        thread = threading.Thread(target=many)
        thread.start()
        await asyncio.to_thread(thread.join)

    _, messages = await answer_of(work)
    assert messages[-1]["status"] == "Download complete"
    assert len(messages) < 100
    counts = [m["progressDetail"]["current"] for m in messages[:-1]]
    assert counts == sorted(counts)


async def test_client_that_goes_away_ends_the_work() -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def work(stream: progress.Stream) -> None:
        stream.send({"stream": "begun"})
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async def handler(request: web.Request) -> web.StreamResponse:
        return await progress.run(request, work)

    app = web.Application()
    app.router.add_post("/", handler)
    async with TestServer(app) as server:
        reader, writer = await asyncio.open_connection(server.host, server.port)
        writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
        await reader.readline()
        await begun.wait()
        writer.close()
        async with asyncio.timeout(5):
            await ended.wait()


async def test_while_connected_gives_the_result() -> None:
    async def handler(request: web.Request) -> web.Response:
        async def work() -> str:
            return "done"

        return web.Response(text=await progress.while_connected(request, work()))

    app = web.Application()
    app.router.add_get("/", handler)
    async with TestServer(app) as server, ClientSession() as session:
        async with session.get(server.make_url("/")) as answer:
            assert await answer.text() == "done"


@given(st.integers(0, 10**15), st.integers(0, 10**15))
def test_bar_has_its_width(current: int, total: int) -> None:
    text = progress.bar(current, total)
    if total:
        assert text.index("]") == 51


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0B"), (999, "999B"), (1234, "1.234kB"), (184_000_000, "184MB")]
)
def test_human_sizes(size: int, text: str) -> None:
    assert progress.human(size) == text
