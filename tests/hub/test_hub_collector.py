"""Garbage collection, retention, quotas, immutable tags, webhooks."""

from __future__ import annotations

import asyncio
import json
import random
from pathlib import Path

import pytest
from aiohttp import web

from sampan.hub.config import HubConfig, Webhook
from sampan.hub.webhooks import signature
from sampan.registry.client import RegistryClient
from sampan.store.content import ContentStore
from tests.hub.conftest import Hubs, Running
from tests.hub.test_hub_registry import code, manifest, put_blob, put_manifest, sha


@pytest.fixture
async def eager(hubs: Hubs, tmp_path: Path) -> Running:
    """A hub that keeps nothing unused for even a second."""
    return await hubs.start(
        HubConfig(root=tmp_path / "hub", anonymous="push", grace_seconds=-1, upload_seconds=-1)
    )


async def test_only_rubbish_is_collected(eager: Running) -> None:
    kept = await put_blob(eager, "a", b"{}")
    await put_manifest(eager, "a", "1", manifest(b"{}"))
    rubbish = await put_blob(eager, "a", b"rubbish")
    await put_blob(eager, "b", b"{}")
    begun = await eager.http.post("/v2/a/blobs/uploads/")
    done = await eager.hub.collector.collect()
    assert (done.blobs, done.size, done.uploads) == (1, 7, 1)
    assert (await eager.http.head(f"/v2/a/blobs/{kept}")).status == 200
    assert (await eager.http.head(f"/v2/a/blobs/{rubbish}")).status == 404
    assert (await eager.http.get(begun.headers["Location"])).status == 404
    await put_blob(eager, "a", b"rubbish")
    assert await (await eager.http.get(f"/v2/a/blobs/{rubbish}")).read() == b"rubbish"


async def test_pushes_beside_collections_lose_nothing(
    eager: Running, client: RegistryClient, source: ContentStore
) -> None:
    """Blobs may vanish before their manifest comes (there is no grace here), but what was
    acknowledged as a whole stays."""
    stop = asyncio.Event()

    async def collect() -> None:
        while not stop.is_set():
            await eager.hub.collector.collect()
            await asyncio.sleep(random.uniform(0, 0.03))

    collecting = asyncio.create_task(collect())
    pushed = []
    for number in range(12):
        data = f"config {number}".encode()
        for _ in range(50):
            await eager.http.post(f"/v2/r/blobs/uploads/?digest={sha(data)}", data=data)
            answer = await put_manifest(eager, "r", f"t{number}", manifest(data))
            if answer.status == 201:
                pushed.append(data)
                break
    stop.set()
    await collecting
    assert pushed
    for data in pushed:
        assert await (await eager.http.get(f"/v2/r/blobs/{sha(data)}")).read() == data


async def test_quota_and_immutable_tags(hubs: Hubs, tmp_path: Path) -> None:
    hub = await hubs.start(
        HubConfig(root=tmp_path / "hub", anonymous="push", quota_bytes=10, immutable_tags=("v*",))
    )
    await put_blob(hub, "a", b"{}")
    await put_blob(hub, "a", b"far too many bytes")
    assert (await put_manifest(hub, "a", "v1", manifest(b"{}"))).status == 201
    big = await put_manifest(hub, "a", "x", manifest(b"far too many bytes"))
    assert big.status == 403 and "quota" in await big.text()
    assert (await hub.http.get("/v2/a/manifests/x")).status == 404
    other = manifest(b"{}", annotations={"a": "b"})
    moved = await put_manifest(hub, "a", "v1", other)
    assert moved.status == 403 and await code(moved) == "DENIED"
    assert (await put_manifest(hub, "a", "v1", manifest(b"{}"))).status == 201
    assert (await put_manifest(hub, "a", "latest", other)).status == 201


async def test_old_tags_are_retired(hubs: Hubs, tmp_path: Path) -> None:
    hub = await hubs.start(HubConfig(root=tmp_path / "hub", anonymous="push", retention_days=30))
    await put_blob(hub, "a", b"{}")
    for tag in ("old", "new"):
        await put_manifest(hub, "a", tag, manifest(b"{}", annotations={"tag": tag}))
    await hub.hub.database.write(
        lambda sql: [
            sql.run("UPDATE tags SET updated = 1 WHERE name = 'old'"),
            sql.run("UPDATE manifests SET created = 1"),
        ]
    )
    assert (await hub.hub.collector.collect()).tags == 1
    left = await hub.hub.database.read(lambda sql: sql.all("SELECT digest FROM manifests"))
    assert left == [(sha(manifest(b"{}", annotations={"tag": "new"})),)]


async def test_webhooks_are_signed_and_retried(hubs: Hubs, tmp_path: Path) -> None:
    received: asyncio.Queue[tuple[str, bytes]] = asyncio.Queue()
    answers = [500, 200, 200]

    async def hook(request: web.Request) -> web.Response:
        await received.put((request.headers["X-Sampan-Signature"], await request.read()))
        return web.Response(status=answers.pop(0))

    app = web.Application()
    app.router.add_post("/hook", hook)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        url = f"http://127.0.0.1:{runner.addresses[0][1]}/hook"
        hub = await hubs.start(
            HubConfig(root=tmp_path / "hub", anonymous="push", webhooks=(Webhook(url, "key"),))
        )
        await put_blob(hub, "a", b"{}")
        await put_manifest(hub, "a", "1", manifest(b"{}"))
        first = await asyncio.wait_for(received.get(), 10)
        second = await asyncio.wait_for(received.get(), 10)
    finally:
        await runner.cleanup()
    assert first == second
    signed, body = first
    assert signed == signature("key", body)
    said = json.loads(body)
    assert (said["action"], said["repository"], said["reference"]) == ("push", "a", "1")


async def test_health_and_metrics(hub: Running) -> None:
    await put_blob(hub, "a", b"{}")
    assert (await hub.http.get("/healthz")).status == 200
    assert (await hub.http.get("/readyz")).status == 200
    text = await (await hub.http.get("/metrics")).text()
    assert "sampan_hub_received_bytes_total 2.0" in text
    assert 'sampan_hub_requests_total{method="POST",route="uploads",status="201"}' in text


async def test_pulls_are_counted(hub: Running) -> None:
    await put_blob(hub, "a", b"{}")
    await put_manifest(hub, "a", "1", manifest(b"{}"))
    for _ in range(3):
        await hub.http.get("/v2/a/manifests/1")
    await hub.hub.activity.flush()
    found = await hub.hub.records.repository("a")
    assert found and found.pulls == 3
    assert (await hub.hub.records.pulls_by_day("a", 30))[-1] == 3
