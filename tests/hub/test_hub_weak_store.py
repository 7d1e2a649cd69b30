"""An object store that fails every tenth request."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from sampan.hub.config import HubConfig
from sampan.image.reference import Reference
from sampan.progress import ignore
from sampan.registry.client import RegistryClient
from sampan.store.content import ContentStore
from tests.hub.conftest import Hubs
from tests.registry.images import make_image

MB = 1 << 20


@contextlib.asynccontextmanager
async def weak(target: str) -> AsyncIterator[tuple[str, list[int]]]:
    """A reverse proxy that answers 503 to every tenth request; and the count of requests."""
    count = [0]
    session = aiohttp.ClientSession(auto_decompress=False)

    async def pass_on(request: web.Request) -> web.Response:
        body = await request.read()
        count[0] += 1
        if count[0] % 10 == 0:
            return web.Response(status=503, text="<Error><Code>SlowDown</Code></Error>")
        async with session.request(
            request.method, target + request.raw_path, headers=request.headers, data=body
        ) as answer:
            headers = answer.headers.copy()
            for name in ("Transfer-Encoding", "Content-Encoding"):
                headers.pop(name, None)
            return web.Response(status=answer.status, body=await answer.read(), headers=headers)

    app = web.Application(client_max_size=64 * MB)
    app.router.add_route("*", "/{path:.*}", pass_on)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}", count
    finally:
        await runner.cleanup()
        await session.close()


async def test_pushes_and_pulls_go_on_when_the_store_fails_now_and_then(
    hubs: Hubs,
    tmp_path: Path,
    bucket: dict[str, Any],
    client: RegistryClient,
    source: ContentStore,
    target: ContentStore,
) -> None:
    options = dict(bucket["storage_options"])
    async with weak(options["endpoint"]) as (endpoint, count):
        options["endpoint"] = endpoint
        hub = await hubs.start(
            HubConfig(
                root=tmp_path / "hub",
                anonymous="push",
                storage_url=bucket["storage_url"],
                storage_options=options,
            )
        )
        for number in range(4):
            made = make_image(source, [2 * MB, 30_000, 100], seed=300 + number)
            ref = Reference.parse(f"{hub.host}/weak:{number}")
            await client.push(
                ref, auth=None, manifest_bytes=made.manifest, content=source, report=ignore
            )
            await client.pull(ref, auth=None, platform=None, content=target, report=ignore)
            assert all(target.read_bytes(layer) for layer in made.layers)
        assert await hub.hub.checker.check() == []
    assert count[0] > 40
