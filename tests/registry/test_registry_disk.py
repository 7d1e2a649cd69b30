"""A disk that is full, on either side."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from sampan.errors import DiskFull
from sampan.hub.config import HubConfig
from sampan.image.reference import Reference
from sampan.progress import ignore
from sampan.registry.client import RegistryClient
from sampan.store.content import ContentStore
from tests.hub.conftest import Hubs, hubs  # noqa: F401
from tests.registry.images import make_image
from tests.registry.servers import Registry

MB = 1 << 20
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small file system")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 6 MB."""
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


async def test_a_pull_onto_a_full_disk_says_so_and_works_once_there_is_room(
    registry: Registry, client: RegistryClient, source: ContentStore, small_disk: Path
) -> None:
    made = make_image(source, [3 * MB], seed=200)
    ref = Reference.parse(f"{registry.host}/full:1")
    await client.push(ref, auth=None, manifest_bytes=made.manifest, content=source, report=ignore)
    target = ContentStore(small_disk / "state")
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(4 * MB))
    with pytest.raises(DiskFull, match="no space left on"):
        await client.pull(ref, auth=None, platform=None, content=target, report=ignore)
    assert not target.has(made.layers[0])
    ballast.unlink()
    await client.pull(ref, auth=None, platform=None, content=target, report=ignore)
    assert target.read_bytes(made.layers[0]) == source.read_bytes(made.layers[0])


async def test_a_hub_with_a_full_disk_refuses_pushes_and_serves_on(
    client: RegistryClient,
    source: ContentStore,
    target: ContentStore,
    small_disk: Path,
    hubs: Hubs,  # noqa: F811
) -> None:
    hub = await hubs.start(HubConfig(root=small_disk / "hub", anonymous="push"))
    small = make_image(source, [50_000], seed=201)
    ref = Reference.parse(f"{hub.host}/small:1")
    await client.push(ref, auth=None, manifest_bytes=small.manifest, content=source, report=ignore)
    large = make_image(source, [9 * MB], seed=202)
    with pytest.raises(DiskFull, match="no space left on the registry's disk"):
        await client.push(
            Reference.parse(f"{hub.host}/large:1"),
            auth=None,
            manifest_bytes=large.manifest,
            content=source,
            report=ignore,
        )
    pulled = await client.pull(ref, auth=None, platform=None, content=target, report=ignore)
    assert pulled.manifest_bytes == small.manifest
    again = make_image(source, [60_000], seed=203)
    await client.push(
        Reference.parse(f"{hub.host}/again:1"),
        auth=None,
        manifest_bytes=again.manifest,
        content=source,
        report=ignore,
    )
