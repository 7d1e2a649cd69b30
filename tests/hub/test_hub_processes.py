"""Hubs as processes: several on one store, and one that is killed at any instant."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from sampan.errors import Unavailable
from sampan.hub.config import HubConfig, Replica, Upstream
from sampan.image.manifest import OCI_INDEX
from sampan.image.reference import Reference
from sampan.progress import ignore
from sampan.registry.client import RegistryClient
from sampan.registry.config import RegistryConfig
from sampan.store.content import ContentStore
from tests.hub.conftest import Hubs
from tests.hub.test_hub_registry import manifest, put_manifest, sha
from tests.registry.images import make_image, make_index
from tests.registry.servers import free_port, wait_for_port

ROOT = Path(__file__).parents[2]


def start(root: Path, port: int) -> subprocess.Popen[bytes]:
    """A hub process that answers."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.hub.serve", root, str(port)],
        cwd=ROOT,
        stderr=subprocess.DEVNULL,
    )
    wait_for_port(port, lambda: process.poll() is None)
    return process


async def test_two_hubs_share_a_bucket_and_a_database(
    hubs: Hubs, tmp_path: Path, bucket: dict[str, Any], database: str
) -> None:
    config = {"anonymous": "push", "database_url": database, **bucket}
    first = await hubs.start(HubConfig(root=tmp_path / "one", **config))
    second = await hubs.start(HubConfig(root=tmp_path / "two", **config))
    assert first.password and not second.password
    data = bytes(range(256)) * 9000
    half = len(data) // 2
    begun = await first.http.post("/v2/a/blobs/uploads/")
    location = begun.headers["Location"]
    assert (await first.http.patch(location, data=data[:half])).status == 202
    assert (await second.http.patch(location, data=data[half:])).status == 202
    assert (await first.http.put(f"{location}?digest={sha(data)}")).status == 201
    assert await (await second.http.get(f"/v2/a/blobs/{sha(data)}")).read() == data
    assert (await put_manifest(second, "a", "1", manifest(data))).status == 201
    assert (await first.http.get("/v2/a/manifests/1")).status == 200
    # What one signs, the other accepts.
    answer = await first.http.get("/token?scope=repository:a:pull,push", headers=first.basic)
    token = (await answer.json())["token"]
    headers = {"Authorization": f"Bearer {token}"}
    assert (await second.http.post("/v2/a/blobs/uploads/", headers=headers)).status == 202


async def test_a_hub_caches_another_registry(
    hubs: Hubs, tmp_path: Path, client: RegistryClient, source: ContentStore, target: ContentStore
) -> None:
    above = await hubs.start(HubConfig(root=tmp_path / "above", anonymous="push"))
    made = make_image(source, [500_000, 200], seed=6)
    there = Reference.parse(f"{above.host}/team/app:1")
    await client.push(there, auth=None, manifest_bytes=made.manifest, content=source, report=ignore)
    upstream = Upstream("cache", f"http://{above.host}")
    below = await hubs.start(
        HubConfig(root=tmp_path / "below", anonymous="push", upstreams=(upstream,))
    )
    here = Reference.parse(f"{below.host}/cache/team/app:1")
    pulled = await asyncio.gather(
        *(
            client.pull(
                here,
                auth=None,
                platform=None,
                content=ContentStore(tmp_path / f"target{i}"),
                report=ignore,
            )
            for i in range(3)
        )
    )
    assert {p.manifest_bytes for p in pulled} == {made.manifest}
    text = await (await above.http.get("/metrics")).text()
    assert 'sampan_hub_requests_total{method="GET",route="blobs",status="200"} 3.0' in text
    missing = await below.http.get("/v2/cache/team/none/manifests/1")
    assert missing.status == 404
    assert (await below.http.post("/v2/cache/team/app/blobs/uploads/")).status == 405
    # Upstream goes away: what is cached is served on.
    below.hub.upstream._fresh.clear()
    await hubs.stop_one(above)
    await client.pull(here, auth=None, platform=None, content=target, report=ignore)
    assert (await below.http.get("/v2/cache/team/none/manifests/1")).status == 502


async def test_a_hub_is_copied_to_another(
    hubs: Hubs, tmp_path: Path, client: RegistryClient, source: ContentStore, target: ContentStore
) -> None:
    mirror = await hubs.start(HubConfig(root=tmp_path / "mirror"))
    replica = Replica("team/*", f"http://{mirror.host}", "admin", mirror.password)
    config = HubConfig(root=tmp_path / "hub", anonymous="push", replicas=(replica,))
    hub = await hubs.start(config)
    images = {a: make_image(source, [50_000], seed=i) for i, a in enumerate(("amd64", "arm64"))}
    index = make_index(source, images)
    for path in ("team/app", "other/app"):
        ref = Reference.parse(f"{hub.host}/{path}:1")
        await client.push(ref, auth=None, manifest_bytes=index, content=source, report=ignore)
    signed = {"mediaType": OCI_INDEX, "digest": sha(index), "size": len(index)}
    signature = manifest(b"{}", subject=signed, artifactType="application/x-signature")
    await hub.http.post(f"/v2/team/app/blobs/uploads/?digest={sha(b'{}')}", data=b"{}")
    assert (await put_manifest(hub, "team/app", sha(signature), signature)).status == 201

    async def arrives(path: str) -> None:
        for _ in range(400):
            if (await mirror.http.head(path)).status == 200:
                return
            await asyncio.sleep(0.05)
        raise AssertionError(f"{path} does not arrive")

    await arrives(f"/v2/team/app/manifests/{sha(signature)}")
    copy = Reference.parse(f"{mirror.host}/team/app:1")
    pulled = await client.pull(copy, auth=None, platform=None, content=target, report=ignore)
    assert pulled.index_bytes == index
    assert (await mirror.http.head("/v2/other/app/manifests/1")).status == 404
    # What was pushed while the hub copied nothing is made up for at its next start.
    await hubs.stop_one(hub)
    alone = await hubs.start(HubConfig(root=tmp_path / "hub", anonymous="push"))
    ref = Reference.parse(f"{alone.host}/team/late:1")
    await client.push(ref, auth=None, manifest_bytes=index, content=source, report=ignore)
    await hubs.stop_one(alone)
    await hubs.start(config)
    await arrives("/v2/team/late/manifests/1")


async def test_a_hub_that_is_killed_loses_nothing_it_acknowledged(
    tmp_path: Path, source: ContentStore
) -> None:
    """Kill -9 at random instants of pushes; after each start what was acknowledged is there and
    whole, and the same push succeeds."""
    port = free_port()
    acknowledged: list[tuple[Reference, bytes]] = []
    rng = random.Random(4)
    for round_number in range(8):
        process = await asyncio.to_thread(start, tmp_path / "hub", port)
        try:
            config = RegistryConfig(attempts=1, certs_dir=tmp_path)
            async with RegistryClient(config) as client:
                # A fresh store, so that every blob is fetched and verified again.
                target = ContentStore(tmp_path / f"target{round_number}")
                for ref, wanted in acknowledged:
                    found = await client.pull(
                        ref, auth=None, platform=None, content=target, report=ignore
                    )
                    assert found.manifest_bytes == wanted
                made = make_image(source, [700_000, 50_000], seed=100 + round_number)
                killer: asyncio.TimerHandle | None = None
                for number in range(6):
                    ref = Reference.parse(f"127.0.0.1:{port}/r{round_number}/n{number}:1")
                    with contextlib.suppress(Exception):
                        await client.push(
                            ref,
                            auth=None,
                            manifest_bytes=made.manifest,
                            content=source,
                            report=ignore,
                        )
                        acknowledged.append((ref, made.manifest))
                    # The first push is left alone, so that there is something to lose.
                    if killer is None:
                        killer = asyncio.get_running_loop().call_later(
                            rng.uniform(0.0, 0.3), process.kill
                        )
                assert killer
                killer.cancel()
        finally:
            process.kill()
            process.wait()
    assert acknowledged


async def test_pulls_of_many_at_once_get_whole_blobs(tmp_path: Path) -> None:
    port = free_port()
    process = await asyncio.to_thread(start, tmp_path / "hub", port)
    try:
        data = random.Random(5).randbytes(12_000_000)
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as http:
            url = f"/v2/a/blobs/uploads/?digest={sha(data)}"
            assert (await http.post(url, data=data)).status == 201

            async def pull(number: int) -> None:
                answer = await http.get(f"/v2/a/blobs/{sha(data)}")
                if number % 4 == 0:
                    # Somebody who goes away in the middle.
                    await answer.content.readexactly(100_000)
                    answer.close()
                elif number % 4 == 1:
                    # Somebody slow: the socket fills up.
                    await answer.content.readexactly(50_000)
                    await asyncio.sleep(0.3)
                    assert await answer.content.read() is not None
                else:
                    assert sha(await answer.read()) == sha(data)

            await asyncio.gather(*(pull(number) for number in range(40)))
            assert (await http.get("/healthz")).status == 200
    finally:
        process.terminate()
        assert process.wait(15) == 0


async def test_pulls_are_sent_to_the_object_store(
    hubs: Hubs,
    tmp_path: Path,
    bucket: dict[str, Any],
    client: RegistryClient,
    source: ContentStore,
    target: ContentStore,
) -> None:
    config = HubConfig(root=tmp_path / "hub", anonymous="push", redirects=True, **bucket)
    hub = await hubs.start(config)
    made = make_image(source, [3_000_000], seed=8)
    ref = Reference.parse(f"{hub.host}/team/app:1")
    await client.push(ref, auth=None, manifest_bytes=made.manifest, content=source, report=ignore)
    url = f"/v2/team/app/blobs/{made.layers[0]}"
    answer = await hub.http.get(url, allow_redirects=False)
    assert answer.status == 307
    assert answer.headers["Location"].startswith(bucket["storage_options"]["endpoint"])
    assert "X-Amz-Signature" in answer.headers["Location"]
    assert (await hub.http.head(url)).status == 200
    part = await hub.http.get(url, headers={"Range": "bytes=5-9"})
    assert part.status == 206 and await part.read() == source.read_bytes(made.layers[0])[5:10]
    await client.pull(ref, auth=None, platform=None, content=target, report=ignore)
    assert target.read_bytes(made.layers[0]) == source.read_bytes(made.layers[0])
    # Who may not read the repository is sent nowhere.
    await hub.hub.records.describe("team/app", description="", readme="", private=True)
    refused = await hub.http.get(url, allow_redirects=False)
    assert refused.status == 401 and "Location" not in refused.headers


async def test_a_hub_follows_another(
    hubs: Hubs, tmp_path: Path, client: RegistryClient, source: ContentStore, target: ContentStore
) -> None:
    above = await hubs.start(HubConfig(root=tmp_path / "above", anonymous="none"))
    images = {a: make_image(source, [50_000], seed=i) for i, a in enumerate(("amd64", "arm64"))}
    index = make_index(source, images)

    async def push(path: str, data: bytes) -> None:
        ref = Reference.parse(f"{above.host}/{path}")
        await client.push(ref, auth=above.admin, manifest_bytes=data, content=source, report=ignore)

    for path in ("team/app:1", "team/app:latest", "other/app:1"):
        await push(path, index)
    signed = {"mediaType": OCI_INDEX, "digest": sha(index), "size": len(index)}
    signature = manifest(b"{}", subject=signed, artifactType="application/x-signature")
    for method, path, data in (
        ("POST", f"blobs/uploads/?digest={sha(b'{}')}", b"{}"),
        ("PUT", f"manifests/{sha(signature)}", signature),
    ):
        headers = {**above.basic, "Content-Type": json.loads(signature)["mediaType"]}
        url = f"/v2/team/app/{path}"
        answer = await above.http.request(method, url, data=data, headers=headers)
        assert answer.status == 201

    rule = Replica("team/*", f"http://{above.host}", "admin", above.password)
    below = await hubs.start(
        HubConfig(root=tmp_path / "below", mirrors=(rule,), mirror_seconds=3600,
                  immutable_tags=("1",))
    )  # fmt: skip
    await below.hub.mirrors.round(rule)
    here = Reference.parse(f"{below.host}/team/app:1")
    pulled = await client.pull(here, auth=None, platform=None, content=target, report=ignore)
    assert pulled.index_bytes == index
    assert (await below.http.head(f"/v2/team/app/manifests/{sha(signature)}")).status == 200
    assert (await below.http.head("/v2/other/app/manifests/1")).status == 404
    assert await below.hub.checker.check() == []
    # What moves there moves here, but for what this hub does not let move.
    for tag in ("1", "latest"):
        await push(f"team/app:{tag}", images["amd64"].manifest)
    await below.hub.mirrors.round(rule)
    moved = await below.hub.records.manifest("team/app", "latest")
    kept = await below.hub.records.manifest("team/app", "1")
    assert moved and moved.content == images["amd64"].manifest
    assert kept and kept.content == index
    await hubs.stop_one(above)
    with pytest.raises(Unavailable):
        await below.hub.mirrors.round(rule)
