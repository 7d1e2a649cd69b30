"""Pull and push against Debian's docker-registry, also through a proxy with faults."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from sampan.errors import NotFound, Unavailable
from sampan.image import digest as digests
from sampan.image.manifest import Platform
from sampan.image.reference import Reference
from sampan.progress import Progress, ignore
from sampan.registry.client import LayerComing, RegistryClient
from sampan.registry.config import RegistryConfig
from sampan.store.content import ContentStore, Ingest
from tests.registry.images import make_image, make_index
from tests.registry.servers import Faults, Registry, bad_proxy, free_port

MB = 1 << 20


async def push(
    client: RegistryClient, ref: Reference, manifest: bytes, content: ContentStore
) -> None:
    await client.push(ref, auth=None, manifest_bytes=manifest, content=content, report=ignore)


def statuses(seen: list[Progress], digest: str) -> list[str]:
    """The statuses of one row, repeats left out."""
    found: list[str] = []
    for progress in seen:
        if progress.id == digests.short(digest) and (not found or found[-1] != progress.status):
            found.append(progress.status)
    return found


@pytest.mark.parametrize("docker", [True, False])
async def test_round_trip_keeps_digests_and_says_what_docker_says(
    registry: Registry,
    client: RegistryClient,
    source: ContentStore,
    target: ContentStore,
    docker: bool,
) -> None:
    made = make_image(source, [3 * MB, 1000, 500_000], seed=1 + docker, docker=docker)
    ref = Reference.parse(f"{registry.host}/round/trip{int(docker)}:v1")
    seen: list[Progress] = []
    descriptor = await client.push(
        ref, auth=None, manifest_bytes=made.manifest, content=source, report=seen.append
    )
    assert descriptor.digest == digests.sha256(made.manifest)
    # How far it is, is told only of what takes a while.
    said = [s for s in statuses(seen, made.layers[1]) if s != "Pushing"]
    assert said == ["Preparing", "Pushed"]
    assert seen[0].status == f"The push refers to repository [{ref.name}]"
    assert seen[-2].status == f"v1: digest: {descriptor.digest} size: {len(made.manifest)}"
    assert seen[-1].aux == {"Tag": "v1", "Digest": descriptor.digest, "Size": len(made.manifest)}

    seen.clear()
    pulled = await client.pull(ref, auth=None, platform=None, content=target, report=seen.append)
    assert pulled.manifest_bytes == made.manifest
    assert pulled.config_bytes == made.config
    assert pulled.descriptor.digest == descriptor.digest
    assert [layer.digest for layer in pulled.layers] == made.layers
    assert all(target.read_bytes(layer) for layer in made.layers)
    assert seen[0] == Progress(f"Pulling from {ref.path}", "v1")
    said = [s for s in statuses(seen, made.layers[0]) if s != "Downloading"]
    assert said == ["Pulling fs layer", "Verifying Checksum", "Download complete"]

    seen.clear()
    await client.pull(ref, auth=None, platform=None, content=target, report=seen.append)
    assert statuses(seen, made.layers[0]) == ["Pulling fs layer", "Already exists"]
    seen.clear()
    await client.push(
        ref, auth=None, manifest_bytes=made.manifest, content=source, report=seen.append
    )
    assert statuses(seen, made.layers[0])[-1] == "Layer already exists"


async def test_blobs_are_mounted_from_a_repository_of_the_same_registry(
    registry: Registry, client: RegistryClient, source: ContentStore
) -> None:
    made = make_image(source, [200_000], seed=11)
    first = Reference.parse(f"{registry.host}/mount/one:1")
    await push(client, first, made.manifest, source)
    seen: list[Progress] = []
    await client.push(
        Reference.parse(f"{registry.host}/mount/two:1"),
        auth=None,
        manifest_bytes=made.manifest,
        content=source,
        report=seen.append,
        sources={made.layers[0]: (first,)},
    )
    assert statuses(seen, made.layers[0])[-1] == "Mounted from mount/one"


async def test_an_index_gives_each_platform_its_image(
    registry: Registry, client: RegistryClient, source: ContentStore, target: ContentStore
) -> None:
    images = {
        arch: make_image(source, [1000 + i], seed=20 + i, architecture=arch)
        for i, arch in enumerate(("amd64", "arm64", "s390x"))
    }
    index = make_index(source, images)
    ref = Reference.parse(f"{registry.host}/multi:1")
    await push(client, ref, index, source)
    pulled = await client.pull(
        ref, auth=None, platform=Platform("arm64", "linux"), content=target, report=ignore
    )
    assert pulled.manifest_bytes == images["arm64"].manifest
    assert pulled.index_bytes == index
    assert pulled.descriptor.digest == digests.sha256(index)
    assert {p.architecture for p in await client.platforms(ref, auth=None)} == set(images)
    with pytest.raises(NotFound, match="no matching manifest for linux/riscv64"):
        await client.pull(
            ref, auth=None, platform=Platform("riscv64", "linux"), content=target, report=ignore
        )


async def test_layers_are_handed_over_in_order_while_others_download(
    registry: Registry, client: RegistryClient, source: ContentStore, target: ContentStore
) -> None:
    made = make_image(source, [2 * MB, 10, 1 * MB, 10], seed=30)
    ref = Reference.parse(f"{registry.host}/ordered:1")
    await push(client, ref, made.manifest, source)
    order: list[int] = []

    async def on_layer(coming: LayerComing) -> None:
        await coming.arrival.begun()
        await coming.arrival.here()
        assert target.has(coming.blob.digest) and coming.config_bytes == made.config
        order.append(coming.index)

    await client.pull(
        ref, auth=None, platform=None, content=target, report=ignore, on_layer=on_layer
    )
    assert order == [0, 1, 2, 3]


async def test_skopeo_reads_what_we_push_and_we_read_what_it_pushes(
    registry: Registry,
    client: RegistryClient,
    source: ContentStore,
    target: ContentStore,
    tmp_path: Path,
) -> None:
    made = make_image(source, [100_000, 20], seed=40)
    ref = Reference.parse(f"{registry.host}/skopeo/ours:1")
    await push(client, ref, made.manifest, source)
    copy = [
        "skopeo", "copy", "--quiet", "--preserve-digests",
        "--src-tls-verify=false", "--dest-tls-verify=false",
    ]  # fmt: skip
    theirs = f"{registry.host}/skopeo/theirs:1"
    command = [*copy, f"docker://{ref}", f"docker://{theirs}"]
    await asyncio.to_thread(subprocess.run, command, check=True)
    pulled = await client.pull(
        Reference.parse(theirs), auth=None, platform=None, content=target, report=ignore
    )
    assert pulled.manifest_bytes == made.manifest


async def test_tags_catalog_and_resolve(
    registry: Registry, client: RegistryClient, source: ContentStore
) -> None:
    made = make_image(source, [10], seed=50)
    for tag in ("a", "b"):
        await push(client, Reference.parse(f"{registry.host}/listed:{tag}"), made.manifest, source)
    ref = Reference.parse(f"{registry.host}/listed:a")
    assert sorted(await client.tags(ref, auth=None)) == ["a", "b"]
    assert "listed" in await client.catalog(registry.host, auth=None)
    descriptor, data = await client.resolve(ref, auth=None)
    assert data == made.manifest and descriptor.digest == digests.sha256(data)


async def test_unknown_images_and_dead_registries_are_named(
    registry: Registry, client: RegistryClient, target: ContentStore
) -> None:
    ref = Reference.parse(f"{registry.host}/nothing:here")
    with pytest.raises(NotFound, match=rf"manifest for {ref.familiar()} not found: manifest unk"):
        await client.pull(ref, auth=None, platform=None, content=target, report=ignore)
    port = free_port()
    with pytest.raises(Unavailable, match=f"127.0.0.1:{port}: connection refused"):
        await client.pull(
            Reference.parse(f"127.0.0.1:{port}/x"),
            auth=None,
            platform=None,
            content=target,
            report=ignore,
        )
    with pytest.raises(Unavailable, match="no default registry is configured"):
        await client.pull(
            Reference.parse("x"), auth=None, platform=None, content=target, report=ignore
        )


Setter = Callable[[Faults], None]


@pytest.mark.parametrize(
    "faults",
    [
        Faults(drops=3),
        Faults(truncations=2),
        Faults(corruptions=1),
        Faults(refusals=[503, 429, 500]),
        Faults(delay=0.005),
        Faults(drops=2, truncations=2, corruptions=1, after=300_000),
    ],
    ids=["drops", "truncates", "corrupts", "busy", "slow", "all"],
)
async def test_a_pull_survives_a_bad_line(
    registry: Registry,
    client: RegistryClient,
    source: ContentStore,
    target: ContentStore,
    faults: Faults,
) -> None:
    made = make_image(source, [2 * MB, 300_000], seed=60)
    await push(client, Reference.parse(f"{registry.host}/bad:1"), made.manifest, source)
    async with bad_proxy(registry.port, faults) as port:
        pulled = await client.pull(
            Reference.parse(f"127.0.0.1:{port}/bad:1"),
            auth=None,
            platform=None,
            content=target,
            report=ignore,
        )
    assert pulled.manifest_bytes == made.manifest
    assert all(target.read_bytes(layer) for layer in made.layers)
    assert not (faults.drops or faults.truncations or faults.corruptions or faults.refusals)


async def test_a_layer_that_is_always_wrong_is_refused_and_nothing_is_left(
    registry: Registry, client: RegistryClient, source: ContentStore, target: ContentStore
) -> None:
    made = make_image(source, [1 * MB], seed=61)
    await push(client, Reference.parse(f"{registry.host}/wrong:1"), made.manifest, source)
    async with bad_proxy(registry.port, Faults(corruptions=100)) as port:
        with pytest.raises(Unavailable, match="layer verification failed for digest sha256:"):
            await client.pull(
                Reference.parse(f"127.0.0.1:{port}/wrong:1"),
                auth=None,
                platform=None,
                content=target,
                report=ignore,
            )
    assert not target.has(made.layers[0])


async def test_a_failed_pull_is_resumed_by_the_next(
    registry: Registry, source: ContentStore, target: ContentStore, tmp_path: Path
) -> None:
    made = make_image(source, [4 * MB], seed=62)
    faults = Faults(drops=1, after=3 * MB)
    config = RegistryConfig(certs_dir=tmp_path / "none", attempts=1)
    async with RegistryClient(config) as client, bad_proxy(registry.port, faults) as port:
        await push(client, Reference.parse(f"{registry.host}/resumed:1"), made.manifest, source)
        ref = Reference.parse(f"127.0.0.1:{port}/resumed:1")
        with pytest.raises(Unavailable, match="broke"):
            await client.pull(ref, auth=None, platform=None, content=target, report=ignore)
        first = faults.sent
        seen: list[Progress] = []
        await client.pull(ref, auth=None, platform=None, content=target, report=seen.append)
    assert target.has(made.layers[0])
    said = statuses(seen, made.layers[0])
    assert said[:3] == ["Pulling fs layer", "Resuming", "Downloading"]
    assert faults.sent - first < 2.5 * MB


class Held(ContentStore):
    """A store that stops where ``at`` says until it is released: opening a blob, or publishing."""

    def __init__(self, root: Path, at: str) -> None:
        super().__init__(root)
        self._at = at
        self.reached, self.released = threading.Event(), threading.Event()

    def _stop(self, at: str) -> None:
        if at == self._at:
            self.reached.set()
            assert self.released.wait(60)

    def ingest(
        self, expected: str | None = None, size: int | None = None, ref: str | None = None
    ) -> Ingest:
        ingest = super().ingest(expected, size, ref)
        self._stop("open")
        return ingest

    def _publish(self, fd: int, path: Path, digest: str) -> None:
        self._stop("publish")
        super()._publish(fd, path, digest)


@pytest.mark.parametrize("at", ["open", "publish"])
async def test_a_cancelled_pull_gives_its_file_back_only_when_done_with_it(
    registry: Registry, client: RegistryClient, source: ContentStore, tmp_path: Path, at: str
) -> None:
    made = make_image(source, [1 * MB], seed=64)
    ref = Reference.parse(f"{registry.host}/held/{at}:1")
    await push(client, ref, made.manifest, source)
    store = Held(tmp_path / "held", at)
    first = asyncio.create_task(
        client.pull(ref, auth=None, platform=None, content=store, report=ignore)
    )
    await asyncio.to_thread(store.reached.wait, 60)
    for _ in range(3):
        first.cancel()
        await asyncio.wait([first], timeout=0.01)
    assert not first.done() or at == "open"
    second = asyncio.create_task(
        client.pull(ref, auth=None, platform=None, content=store, report=ignore)
    )
    await asyncio.wait([second], timeout=0.05)
    store.released.set()
    with pytest.raises(asyncio.CancelledError):
        await first
    await second
    assert store.read_bytes(made.layers[0])
    assert list((tmp_path / "held" / "ingest").iterdir()) == []


async def test_a_layer_of_two_pulls_is_fetched_once_and_survives_one_of_them(
    registry: Registry, client: RegistryClient, source: ContentStore, target: ContentStore
) -> None:
    made = make_image(source, [2 * MB], seed=63)
    await push(client, Reference.parse(f"{registry.host}/shared:1"), made.manifest, source)
    faults = Faults(delay=0.005)
    async with bad_proxy(registry.port, faults) as port:
        ref = Reference.parse(f"127.0.0.1:{port}/shared:1")
        downloading = asyncio.Event()

        def report(progress: Progress) -> None:
            if progress.status == "Downloading":
                downloading.set()

        pulls = [
            asyncio.create_task(
                client.pull(ref, auth=None, platform=None, content=target, report=report)
            )
            for _ in range(3)
        ]
        await downloading.wait()
        pulls[0].cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await pulls[0]
        assert pulls[0].cancelled()
        await asyncio.gather(*pulls[1:])
    fetched = [line for line in faults.requests if made.layers[0] in line]
    assert len(fetched) == 1
    assert target.has(made.layers[0])


@pytest.mark.parametrize("chunk_size", [0, 300_000])
async def test_an_upload_goes_on_where_it_broke(
    registry: Registry, source: ContentStore, target: ContentStore, tmp_path: Path, chunk_size: int
) -> None:
    made = make_image(source, [3 * MB], seed=70 + bool(chunk_size))
    config = RegistryConfig(certs_dir=tmp_path / "none", backoff=0.01, chunk_size=chunk_size)
    faults = Faults(upload_drops=2, after=250_000)
    async with RegistryClient(config) as client:
        async with bad_proxy(registry.port, faults) as port:
            ref = Reference.parse(f"127.0.0.1:{port}/uploaded{chunk_size}:1")
            await push(client, ref, made.manifest, source)
        direct = Reference.parse(f"{registry.host}/uploaded{chunk_size}:1")
        await client.pull(direct, auth=None, platform=None, content=target, report=ignore)
    assert faults.upload_drops == 0
    assert target.read_bytes(made.layers[0]) == source.read_bytes(made.layers[0])


async def test_a_mirror_serves_the_default_domain(
    registry: Registry, source: ContentStore, target: ContentStore, tmp_path: Path
) -> None:
    made = make_image(source, [500], seed=80)
    config = RegistryConfig(
        mirrors=(f"http://127.0.0.1:{free_port()}", f"http://{registry.host}"),
        certs_dir=tmp_path / "none",
    )
    async with RegistryClient(config) as client:
        await push(
            client, Reference.parse(f"{registry.host}/library/mirrored:1"), made.manifest, source
        )
        pulled = await client.pull(
            Reference.parse("mirrored:1"), auth=None, platform=None, content=target, report=ignore
        )
    assert pulled.manifest_bytes == made.manifest
