"""``/.dockerenv``: programs find it in a container, and it is no change that the container made."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from typing import Any

import pytest
from harness import Daemon, busybox_tar, running

MARK = "/.dockerenv"
SEEN = f"stat -c '%a %u %s' {MARK}"


@pytest.fixture(scope="module", params=["", "overlay", "plain"])
def world(request: pytest.FixtureRequest) -> Iterator[Daemon]:
    yield from running(*(["--storage-driver", request.param] if request.param else []))


def names(container: Any) -> list[str]:
    with tarfile.open(fileobj=io.BytesIO(b"".join(container.export()))) as tar:
        return tar.getnames()


def test_mark(world: Daemon) -> None:
    client = world.client
    for options in ({}, {"read_only": True}, {"user": "1000"}):
        said = client.containers.run("busybox", ["sh", "-c", SEEN], remove=True, **options)
        assert said == b"755 0 0\n"
    container = client.containers.create("busybox", "rm /.dockerenv")
    assert ".dockerenv" in names(container) and container.diff() is None
    container.commit("marked")
    before = client.api.inspect_image("busybox")["RootFS"]["Layers"]
    assert client.api.inspect_image("marked")["RootFS"]["Layers"] == before
    container.start()
    assert container.wait()["StatusCode"] == 0
    assert ".dockerenv" not in names(container)
    world.remove_containers()
    client.images.remove("marked")


def test_image_with_a_mark(world: Daemon) -> None:
    """As one has that was exported from a container."""
    buffer = io.BytesIO(busybox_tar())
    with tarfile.open(fileobj=buffer, mode="a") as tar:
        entry = tarfile.TarInfo(MARK[1:])
        entry.mode = 0o755
        tar.addfile(entry)
    world.client.api.import_image_from_data(buffer.getvalue(), repository="exported")
    container = world.client.containers.create("exported", ["sh", "-c", SEEN])
    assert container.diff() is None
    container.start()
    assert container.wait()["StatusCode"] == 0
    assert container.logs() == b"755 0 0\n"
    assert container.diff() is None
    world.remove_containers()
    world.client.images.remove("exported")
