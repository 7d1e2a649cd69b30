"""``/.dockerenv`` and ``/etc/mtab``: programs find them in a container, and they are no changes
that the container made."""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
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
    assert {".dockerenv", "etc/mtab"} < {*names(container)} and container.diff() is None
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
        tar.addfile(entry(MARK[1:], mode=0o755))
    world.client.api.import_image_from_data(buffer.getvalue(), repository="exported")
    container = world.client.containers.create("exported", ["sh", "-c", SEEN])
    assert container.diff() is None
    container.start()
    assert container.wait()["StatusCode"] == 0
    assert container.logs() == b"755 0 0\n"
    assert container.diff() is None
    world.remove_containers()
    world.client.images.remove("exported")


def entry(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", mode: int = 0o644) -> Any:
    made = tarfile.TarInfo(name)
    made.type, made.linkname, made.mode = kind, link, mode
    return made


def imported(world: Daemon, *entries: tarfile.TarInfo) -> None:
    """The image ``changed``: busybox, with these entries last."""
    buffer = io.BytesIO(busybox_tar())
    with tarfile.open(fileobj=buffer, mode="a") as tar:
        for each in entries:
            tar.addfile(each, io.BytesIO())
    world.client.api.import_image_from_data(buffer.getvalue(), repository="changed")


ETC = "stat -c '%a %u %g' /etc; readlink -f /etc/mtab; grep -c ' / ' /etc/mtab; ls /etc"
FILES = ["group", "hostname", "hosts", "mtab", "passwd", "resolv.conf"]


def test_mounts_by_their_old_place(world: Daemon) -> None:
    run = world.client.containers.run
    said = run("busybox", ["sh", "-c", ETC], remove=True).decode()
    assert re.sub("/proc/[0-9]+/", "/proc/N/", said).split() == [
        *("755", "0", "0", "/proc/N/mounts", "1", *FILES)
    ]
    for folder in (entry("etc", tarfile.DIRTYPE, mode=0o751), entry("etc", tarfile.DIRTYPE)):
        folder.uid, folder.gid = 5, 6
        imported(world, folder)
        container = world.client.containers.create("changed", ["sh", "-c", ETC])
        assert container.diff() is None
        container.start()
        container.wait()
        assert container.logs().decode().startswith(f"{folder.mode:o} 5 6\n")
        assert container.diff() is None
        container.remove()


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ([entry("etc/mtab")], "regular empty file"),
        ([entry("etc/mtab", tarfile.SYMTYPE, "/none")], "symbolic link"),
        ([entry("etc/mtab", tarfile.DIRTYPE)], "directory"),
    ],
)
def test_image_with_a_table_of_mounts(
    world: Daemon, entries: list[tarfile.TarInfo], said: str
) -> None:
    imported(world, *entries)
    container = world.client.containers.create("changed", ["stat", "-c", "%F", "/etc/mtab"])
    container.start()
    container.wait()
    assert container.logs().decode() == f"{said}\n"
    assert container.diff() is None


def test_image_whose_folder_leads_elsewhere(world: Daemon, tmp_path: Path) -> None:
    """Nothing is made on the host, where a link of the image's would lead."""
    with tarfile.open(fileobj=io.BytesIO(busybox_tar())) as old:
        kept = [each for each in old if not each.name.startswith("etc")]
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            for each in kept:
                tar.addfile(each, old.extractfile(each) if each.isreg() else None)
            tar.addfile(entry("etc", tarfile.SYMTYPE, str(tmp_path)))
    world.client.api.import_image_from_data(buffer.getvalue(), repository="changed")
    container = world.client.containers.create("changed", "true")
    assert container.diff() is None and list(tmp_path.iterdir()) == []
