"""Blobs that go bad on the disk, and blobs that are not kept: pulled again, made again, or missed
with a sentence that says what to do."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest
from harness import Daemon, running
from test_platforms import PROGRAM, Source

from tests.registry.servers import Registry, docker_registry


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    if shutil.which("docker-registry") is None:
        pytest.skip("docker-registry is not installed")
    with docker_registry(tmp_path_factory.mktemp("registry")) as server:
        yield server


@pytest.fixture
def source(registry: Registry, tmp_path: Path, request: pytest.FixtureRequest) -> Source:
    name = "".join(c if c.isalnum() else "-" for c in request.node.name).strip("-")
    return Source(registry, tmp_path / "content", name)


def sampan(daemon: Daemon, *words: str) -> tuple[int, str]:
    """The command's exit code and all that it prints."""
    done = subprocess.run(
        [sys.executable, PROGRAM, *words],
        env={**os.environ, "SAMPAN_HOST": daemon.url},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
    )
    return done.returncode, done.stdout


def check(daemon: Daemon) -> list[str]:
    code, said = sampan(daemon, "system", "check")
    return [] if code == 0 else said.splitlines()


def damage(daemon: Daemon, digest: str, how: str) -> None:
    """Flip a bit in the middle of a blob, or cut its end off."""
    path = daemon.state / "blobs/sha256" / digest.removeprefix("sha256:")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.chmod(0o600)
    path.write_bytes(data if how == "flipped" else data[: len(data) * 2 // 3])


@pytest.mark.parametrize("how", ["flipped", "truncated"])
def test_a_damaged_layer_is_pulled_again(daemon: Daemon, source: Source, how: str) -> None:
    # The layers of other platforms are unpacked when they are first used.
    assert sampan(daemon, "pull", "-q", "--platform", "all", source.name)[0] == 0
    layer = source.images["arm64"].layers[0]
    damage(daemon, layer, how)
    assert any(layer in line and "damaged" in line for line in check(daemon))

    code, said = sampan(daemon, "pull", "--platform", "linux/arm64", source.name)
    assert code == 0, said
    sentence = f"the blob {layer} was damaged on disk and is removed; pulling it again"
    assert any(sentence in line for line in said.splitlines())
    assert check(daemon) == []
    create = {"platform": "linux/arm64"}
    created = daemon.client.api.create_container(source.name, ["x"], **create)
    daemon.client.api.remove_container(created["Id"])

    assert sampan(daemon, "rmi", source.name)[0] == 0
    assert sampan(daemon, "pull", "-q", "--platform", "all", source.name)[0] == 0
    damage(daemon, layer, how)
    with pytest.raises(docker.errors.APIError, match=r"was damaged on disk.*load its image again"):
        daemon.client.api.create_container(source.name, ["x"], **create)
    assert sampan(daemon, "pull", "-q", "--platform", "linux/arm64", source.name)[0] == 0
    assert check(daemon) == []
    assert sampan(daemon, "rmi", source.name)[0] == 0


@pytest.fixture
def discarding() -> Iterator[Daemon]:
    yield from running("--storage-driver", "erofs", "--discard-blobs")


def test_discarded_blobs_and_indexes(
    discarding: Daemon, registry: Registry, source: Source, tmp_path: Path
) -> None:
    daemon = discarding
    blobs = daemon.state / "blobs/sha256"

    def kept(architecture: str) -> list[bool]:
        layers = source.images[architecture].layers
        return [(blobs / layer.removeprefix("sha256:")).exists() for layer in layers]

    assert sampan(daemon, "pull", "-q", "--platform", "all", source.name)[0] == 0
    assert (kept("amd64"), kept("arm64")) == ([False, False], [True])
    assert check(daemon) == []
    daemon.client.images.prune()
    assert check(daemon) == []

    # In the registry that it came from, the index is pushed whole: what is there is not sent.
    copy = f"{registry.host}/discarded-copy:1"
    assert sampan(daemon, "tag", source.name, copy)[0] == 0
    code, said = sampan(daemon, "push", "-q", copy)
    assert code == 0, said
    code, said = sampan(daemon, "manifest", "inspect", copy)
    assert json.loads(said) == json.loads(source.index)

    # Elsewhere its layers would have other digests than it says.
    with docker_registry(tmp_path / "elsewhere") as elsewhere:
        far = f"{elsewhere.host}/far:1"
        assert sampan(daemon, "tag", source.name, far)[0] == 0
        code, said = sampan(daemon, "push", "-q", far)
        assert code == 1
        assert "discard" in said and "--platform" in said
        code, said = sampan(daemon, "push", "-q", "--platform", "linux/amd64", far)
        assert code == 0, said
        assert check(daemon) == []
        code, said = sampan(daemon, "manifest", "inspect", far)
        sent: Any = json.loads(said)
        assert len(sent["layers"]) == 2 and sent["config"]["digest"].startswith("sha256:")
    for name in (source.name, copy, far):
        assert sampan(daemon, "rmi", name)[0] == 0
    daemon.client.images.prune(filters={"dangling": False})
    assert check(daemon) == []
