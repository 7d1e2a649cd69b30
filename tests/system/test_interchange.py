"""Archives and images go to docker and podman and come back with the digests that they had."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import peer
import pytest
from harness import Daemon

Command = Callable[..., str]


@pytest.fixture(scope="module")
def docker_engine() -> Iterator[peer.Peer]:
    yield from peer.running()


@pytest.fixture
def podman(tmp_path: Path) -> Iterator[Command]:
    if shutil.which("podman") is None:
        pytest.skip("podman is not installed")
    short = tempfile.mkdtemp(prefix="smi")  # it takes no long path there
    place = ["--root", str(tmp_path / "root"), "--runroot", short]
    (tmp_path / "policy.json").write_text('{"default":[{"type":"insecureAcceptAnything"}]}')
    policy = f"--signature-policy={tmp_path / 'policy.json'}"

    def run(*words: str) -> str:
        if words[0] in ("load", "pull"):
            words = (words[0], policy, *words[1:])
        done = subprocess.run(
            ["podman", *place, "--storage-driver", "vfs", *words],
            env={**os.environ, "PODMAN_IGNORE_CGROUPSV1_WARNING": "1"},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    yield run
    shutil.rmtree(short, ignore_errors=True)


@pytest.fixture
def image(daemon: Daemon) -> Iterator[str]:
    """The ID of an image of two layers, under the name ``inter/change:1``."""
    container = daemon.client.containers.create("busybox", ["true"])
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        entry = tarfile.TarInfo("new")
        entry.size = 5
        tar.addfile(entry, io.BytesIO(b"hello"))
    container.put_archive("/", stream.getvalue())
    made = container.commit("inter/change", "1", changes=["ENV A=1", "LABEL b=2"])
    container.remove()
    yield str(made.id)
    for name in ("inter/change:1", "localhost/inter/change:1"):
        try:
            daemon.client.images.remove(name, force=True)
        except Exception:
            continue


def save(daemon: Daemon, path: Path) -> None:
    path.write_bytes(b"".join(daemon.client.api.get_image("inter/change:1")))


def diff_ids(daemon: Daemon, image: str) -> list[str]:
    return list(daemon.client.images.get(image).attrs["RootFS"]["Layers"])


def test_docker(daemon: Daemon, docker_engine: peer.Peer, image: str, tmp_path: Path) -> None:
    layers = diff_ids(daemon, image)
    ours, theirs = docker_engine.work / "ours.tar", docker_engine.work / "theirs.tar"
    save(daemon, ours)
    docker_engine.docker("load", "-i", f"{docker_engine.place}/ours.tar")
    shown = json.loads(docker_engine.docker("image", "inspect", "inter/change:1"))[0]
    assert shown["Id"] == image and shown["RootFS"]["Layers"] == layers
    docker_engine.docker("save", "-o", f"{docker_engine.place}/theirs.tar", "inter/change:1")
    daemon.client.images.remove("inter/change:1", force=True)
    (loaded,) = daemon.client.images.load(theirs.read_bytes())
    assert loaded.id == image and "inter/change:1" in loaded.tags
    assert diff_ids(daemon, image) == layers
    # An image that Docker makes: of a tar, and of a container's changes.
    root = b"".join(daemon.client.api.export(daemon.client.containers.create("busybox", "x").id))
    (docker_engine.work / "root.tar").write_bytes(root)
    made = docker_engine.docker("import", f"{docker_engine.place}/root.tar", "made:1").strip()
    docker_engine.docker("save", "-o", f"{docker_engine.place}/theirs.tar", "made:1")
    (loaded,) = daemon.client.images.load(theirs.read_bytes())
    assert loaded.id == made
    daemon.remove_containers()
    daemon.client.images.remove("made:1", force=True)


@pytest.mark.parametrize("form", ["docker-archive", "oci-archive"])
def test_podman(daemon: Daemon, podman: Command, image: str, tmp_path: Path, form: str) -> None:
    layers = diff_ids(daemon, image)
    ours, theirs = tmp_path / "ours.tar", tmp_path / "theirs.tar"
    save(daemon, ours)
    podman("load", "-q", "-i", str(ours))
    name = podman("images", "--format", "{{.Repository}}:{{.Tag}}")
    shown = json.loads(podman("image", "inspect", name))[0]
    assert f"sha256:{shown['Id']}" == image and shown["RootFS"]["Layers"] == layers
    podman("save", "-q", "--format", form, "-o", str(theirs), name)
    daemon.client.images.remove("inter/change:1", force=True)
    (loaded,) = daemon.client.images.load(theirs.read_bytes())
    assert diff_ids(daemon, loaded.id) == layers
    assert loaded.id == image
    assert loaded.attrs["Config"]["Labels"] == {"b": "2"}
