"""Images for several platforms: kept, chosen, shown, removed and pushed whole; manifest lists."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest
from harness import Daemon

from sampan.image.reference import Reference
from sampan.progress import ignore
from sampan.registry.client import RegistryClient
from sampan.registry.config import RegistryConfig
from sampan.store.content import ContentStore
from tests.registry.images import make_image, make_index
from tests.registry.servers import Registry, docker_registry

PROGRAM = str(Path(__file__).parents[2] / "scripts" / "sampan")


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    if shutil.which("docker-registry") is None:
        pytest.skip("docker-registry is not installed")
    with docker_registry(tmp_path_factory.mktemp("registry")) as server:
        yield server


class Source:
    """An index for two platforms in a registry, of images that no other test's have a part of."""

    def __init__(self, registry: Registry, path: Path, name: str) -> None:
        self.name = f"{registry.host}/{name}:1"
        content = ContentStore(path)
        seed = zlib.crc32(name.encode())
        self.images = {
            "amd64": make_image(content, [1000, 2000], seed=seed),
            "arm64": make_image(content, [1000], seed=seed + 100, architecture="arm64"),
        }
        self.index = make_index(content, self.images)
        self.digest = self.push(content, self.name, self.index)
        for architecture, image in self.images.items():
            self.push(content, f"{registry.host}/{name}-{architecture}:1", image.manifest)

    def push(self, content: ContentStore, name: str, data: bytes) -> str:
        async def work() -> str:
            async with RegistryClient(RegistryConfig()) as client:
                pushed = await client.push(
                    Reference.parse(name),
                    auth=None,
                    manifest_bytes=data,
                    content=content,
                    report=ignore,
                )
                return pushed.digest

        return asyncio.run(work())


@pytest.fixture
def source(registry: Registry, tmp_path: Path, request: pytest.FixtureRequest) -> Source:
    return Source(registry, tmp_path / "content", request.node.name.replace("_", "-"))


@pytest.fixture
def cli(daemon: Daemon, tmp_path: Path) -> Any:
    def run(*words: str, check: bool = True) -> str:
        done = subprocess.run(
            [sys.executable, PROGRAM, "--config", str(tmp_path / "c"), *words],
            env={**os.environ, "SAMPAN_HOST": daemon.url},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert not check or done.returncode == 0, done.stderr
        return done.stdout if done.returncode == 0 else done.stderr

    return run


def manifests(daemon: Daemon, name: str) -> dict[str, bool]:
    """Which platforms of an image are here."""
    answer = daemon.client.api._get(
        daemon.client.api.base_url + f"/v1.48/images/{name}/json", params={"manifests": "1"}
    )
    assert answer.ok, answer.text
    return {
        row["ImageData"]["Platform"]["architecture"]: row["Available"]
        for row in answer.json()["Manifests"]
    }


def architecture(daemon: Daemon, name: str, platform: str = "") -> str:
    wanted = {"platform": json.dumps({"os": "linux", "architecture": platform})} if platform else {}
    api = daemon.client.api
    answer = api._get(f"{api.base_url}/v1.49/images/{name}/json", params=wanted)
    return str(answer.json().get("Architecture"))


def test_variants_are_added_chosen_and_pushed_whole(
    daemon: Daemon, registry: Registry, source: Source, cli: Any
) -> None:
    cli("pull", "-q", source.name)
    assert manifests(daemon, source.name) == {"amd64": True, "arm64": False}
    copy = f"{registry.host}/variants-copy:2"
    cli("tag", source.name, copy)
    refused = cli("push", "-q", f"{registry.host}/variants-copy:2")
    assert "variants-copy" in refused
    shown = json.loads(cli("manifest", "inspect", copy))
    assert "config" in shown, "only one platform was here"

    cli("pull", "-q", "--platform", "linux/arm64", source.name)
    assert manifests(daemon, source.name) == {"amd64": True, "arm64": True}
    assert architecture(daemon, source.name) == "amd64"
    assert architecture(daemon, source.name, "arm64") == "arm64"
    names = [tag for image in daemon.client.images.list() for tag in image.tags]
    assert source.name in names
    ours = [image for image in daemon.client.images.list() if "seed" in image.labels]
    assert ours and all(image.tags for image in ours)
    tree = cli("image", "ls", "--tree")
    assert "├─ linux/amd64" in tree and "└─ linux/arm64" in tree

    cli("tag", source.name, copy)
    cli("push", "-q", copy)
    assert json.loads(cli("manifest", "inspect", copy)) == json.loads(source.index)
    cli("push", "-q", "--platform", "linux/arm64", copy)
    assert json.loads(cli("manifest", "inspect", copy)) == json.loads(
        source.images["arm64"].manifest
    )

    daemon.client.images.prune()
    assert manifests(daemon, source.name) == {"amd64": True, "arm64": True}
    cli("rmi", "--platform", "linux/amd64", copy)
    assert architecture(daemon, copy) == "arm64"
    before = {row["Id"] for row in daemon.client.api.images(all=True)}
    cli("rmi", copy)
    assert manifests(daemon, source.name) == {"amd64": True, "arm64": True}
    cli("rmi", source.name)
    assert len(before - {row["Id"] for row in daemon.client.api.images(all=True)}) == 2


def test_all_platforms_at_once_survive_a_collection(
    daemon: Daemon, registry: Registry, source: Source, cli: Any
) -> None:
    cli("pull", "-q", "--platform", "all", source.name)
    daemon.client.images.prune()
    assert manifests(daemon, source.name) == {"amd64": True, "arm64": True}
    created = daemon.client.api.create_container(source.name, ["x"], platform="linux/arm64")
    image = daemon.client.api.inspect_container(created["Id"])["Image"]
    assert daemon.client.images.get(image).attrs["Architecture"] == "arm64"
    with pytest.raises(docker.errors.APIError, match="platform"):
        daemon.client.api.create_container(source.name, ["x"], platform="linux/s390x")
    daemon.remove_containers()
    copy = f"{registry.host}/all-copy:1"
    cli("tag", source.name, copy)
    cli("push", "-q", copy)
    assert json.loads(cli("manifest", "inspect", copy)) == json.loads(source.index)
    cli("rmi", copy, source.name)


def test_a_tag_pointed_elsewhere_loses_its_index(daemon: Daemon, source: Source, cli: Any) -> None:
    cli("pull", "-q", "--platform", "all", source.name)
    daemon.load_busybox()
    cli("tag", "busybox", source.name)
    assert list(manifests(daemon, source.name).values()) in ([], [True])
    cli("rmi", source.name)
    daemon.client.images.prune(filters={"dangling": False})
    daemon.load_busybox()
    assert all("seed" not in image.labels for image in daemon.client.images.list(all=True))


def test_manifest_lists(
    daemon: Daemon, registry: Registry, source: Source, cli: Any, tmp_path: Path
) -> None:
    base = source.name.removesuffix(":1")
    made = f"{registry.host}/made:1"
    members = [f"{base}-amd64:1", f"{base}-arm64:1"]
    assert cli("manifest", "create", made, *members) == f"Created manifest list {made}\n"
    assert "--amend" in cli("manifest", "create", made, *members, check=False)
    assert "manifest list" in cli("manifest", "create", "x/y", source.name, check=False)
    shown = json.loads(cli("manifest", "inspect", made))
    assert [entry["platform"]["architecture"] for entry in shown["manifests"]] == ["amd64", "arm64"]
    cli("manifest", "annotate", "--variant", "v8", made, members[1])
    assert cli("manifest", "inspect", made, members[1])
    digest = cli("manifest", "push", "--purge", made).strip()
    assert not (tmp_path / "c" / "manifests" / made.replace(":", "-").replace("/", "_")).exists()
    remote = json.loads(cli("manifest", "inspect", f"{registry.host}/made@{digest}"))
    assert remote["manifests"][1]["platform"]["variant"] == "v8"
    assert len(json.loads(cli("manifest", "inspect", "-v", made))) == 2
    cli("pull", "-q", "--platform", "all", made)
    assert manifests(daemon, made) == {"amd64": True, "arm64": True}
    cli("rmi", made)
    assert "No such manifest" in cli("manifest", "rm", made, check=False)


def test_referrers_where_the_registry_has_no_list(
    registry: Registry, source: Source, cli: Any, tmp_path: Path
) -> None:
    content = ContentStore(tmp_path / "signature")
    empty = content.write_bytes(b"{}")
    kind = "application/vnd.example.signature"
    document = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "artifactType": kind,
        "config": {
            "mediaType": "application/vnd.oci.empty.v1+json",
            "digest": empty,
            "size": 2,
        },
        "layers": [],
        "subject": {
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "digest": source.digest,
            "size": len(source.index),
        },
    }
    name = source.name.removesuffix(":1")
    digest = source.push(content, f"{name}:signature", json.dumps(document).encode())
    found = json.loads(cli("manifest", "referrers", source.name))
    assert [entry["digest"] for entry in found["manifests"]] == [digest]
    assert json.loads(cli("manifest", "referrers", "--artifact-type", kind, source.name)) == found
    other = json.loads(cli("manifest", "referrers", "--artifact-type", "x/y", source.name))
    assert not other.get("manifests")
