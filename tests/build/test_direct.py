"""A copy written straight into a layer's tar gives the tar that copying the files gives."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from sampan.build.graph.ops import CopyAction, File
from sampan.build.ops.archive import ArchiveTree
from sampan.build.ops.direct import DirectCopy, Unsuitable
from sampan.build.ops.file import FileRunner
from sampan.build.ops.tree import Folder, folder, mounted
from sampan.image import tar
from sampan.image.layer import clamp, write_diff
from sampan.store.overlay import overlay
from sampan.store.snapshots import Usage
from sampan.store.tree import read_layer

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="owners and overlays need root")
EPOCH = 1_000_000_000


class Place:
    """A lower directory, and an upper one for the copy of files."""

    def __init__(self, path: Path) -> None:
        self.context = path / "context.tar"
        self.lower, self.upper, self.work = path / "lower", path / "upper", path / "work"
        for directory in (self.lower, self.upper, self.work):
            directory.mkdir()
        self._tar = tarfile.open(self.context, "w", format=tarfile.PAX_FORMAT)

    def add(self, name: str, data: bytes = b"", **fields: object) -> None:
        member = tarfile.TarInfo(name)
        member.size, member.mtime, member.mode = len(data), EPOCH - 5, 0o640
        for key, value in fields.items():
            setattr(member, key, value)
        self._tar.addfile(member, io.BytesIO(data))

    def folder(self, name: str, **fields: object) -> None:
        self.add(name, type=tarfile.DIRTYPE, **{"mode": 0o750, **fields})

    def tars(self, action: CopyAction) -> tuple[bytes, bytes]:
        """The layer as written directly, and as made of copied files; times clamped."""
        self._tar.close()
        tree = ArchiveTree(self.context)
        op = File((action,))
        out = io.BytesIO()
        with folder(self.lower, local=False) as target:
            written = DirectCopy(op, {1: tree}, target)
            size = written.write(out)
        layer = read_layer(tar.StreamCursor(io.BytesIO(out.getvalue())), 0)
        assert written.usage == Usage(layer.size, layer.inodes)
        assert not (layer.whiteouts or layer.sparse or layer.root.opaque)
        direct = io.BytesIO()
        assert clamp(io.BytesIO(out.getvalue()), direct, EPOCH) == size
        with mounted([overlay([self.lower], self.upper, self.work)]) as made:
            FileRunner(made, {1: tree}).run(op)
        copied = io.BytesIO()
        assert write_diff(self.upper, copied, clamp_mtime=EPOCH) == size
        return direct.getvalue(), copied.getvalue()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    # Overlays need an upper directory on a file system that takes trusted attributes.
    yield Place(tmp_path)


def copy(dest: str, source: str = ".", **fields: object) -> CopyAction:
    return CopyAction(1, source, dest, **fields)  # type: ignore[arg-type]


def fill(place: Place) -> None:
    place.folder("b")
    place.folder("b/empty", mode=0o2775)
    place.add("b/run", b"#!/bin/sh\n", mode=0o4755, uid=1000, gid=1000)
    place.add("b-before-slash", b"sorts before b/ as a path, after b as a name")
    place.folder("a")
    place.folder("a/deep")
    place.add("a/deep/" + "x" * 120, b"long name")
    place.add("a/" + "é" * 30, b"\0" * 3000)
    place.add("z-link", type=tarfile.SYMTYPE, linkname="../out/of/it", mode=0o777)
    place.add("pipe", type=tarfile.FIFOTYPE)
    place.add("a/first", b"twice")
    place.add("a-second", type=tarfile.LNKTYPE, linkname="a/first")
    place.add("attr", b"x", pax_headers={"SCHILY.xattr.user.colour": "blue"})
    place.add("big", os.urandom(1 << 20))


@pytest.mark.parametrize(
    "action",
    [
        copy("/"),
        copy("/new"),
        copy("/new/deeper/"),
        copy("/old"),
        copy("/old", source="a"),
        copy("/new", source="a"),
        copy("/old", owner="1234:5678"),
        copy("/new/deeper", owner="7", mode="u=rwX,go=rX"),
        copy("/new", mode="0644"),
        copy("/new", exclude=("a/deep", "*.nothing", "pipe")),
    ],
)
def test_the_tar_is_the_one_that_copied_files_give(place: Place, action: CopyAction) -> None:
    fill(place)
    (place.lower / "old").mkdir(mode=0o711)
    os.chown(place.lower / "old", 33, 44)
    (place.lower / "old" / "b").mkdir()
    os.setxattr(place.lower / "old" / "b", "user.kept", b"1")
    (place.lower / "old" / "b" / "stays").write_text("here")
    (place.lower / "old" / "attr").write_text("replaced")
    (place.lower / "old" / "z-link").symlink_to("elsewhere")
    os.utime(place.lower / "old", (5, 5))
    direct, copied = place.tars(action)
    names = [entry.name for entry in tar.entries(tar.StreamCursor(io.BytesIO(direct)))]
    assert names == [entry.name for entry in tar.entries(tar.StreamCursor(io.BytesIO(copied)))]
    assert direct == copied
    assert len(names) > 3


@pytest.mark.parametrize(
    "action",
    [
        copy("/link"),
        copy("/in-the-way"),
        copy("/old/../new"),
        copy("/new", source="big"),
        copy("/new", source="*"),
        copy("/conflict"),
        copy("/new", parents=True),
    ],
)
def test_other_cases_are_left_to_copying(place: Place, action: CopyAction) -> None:
    fill(place)
    (place.lower / "link").symlink_to("old")
    (place.lower / "in-the-way").write_text("a file")
    (place.lower / "conflict").mkdir()
    (place.lower / "conflict" / "a").write_text("a file where a folder would go")
    with folder(place.lower, local=False) as target, pytest.raises(Unsuitable):
        _direct(place, action, target)


def _direct(place: Place, action: CopyAction, target: Folder) -> DirectCopy:
    place._tar.close()
    return DirectCopy(File((action,)), {1: ArchiveTree(place.context)}, target)


@pytest.mark.parametrize("name", [".wh.fine", "n" * 256])
def test_names_that_a_layer_cannot_express_are_left_to_copying(place: Place, name: str) -> None:
    place.add("fine", b"")
    place.add(name, b"")
    with folder(place.lower, local=False) as target, pytest.raises(Unsuitable):
        _direct(place, copy("/new"), target)


def test_links_that_no_file_system_holds_are_left_to_copying(place: Place) -> None:
    place.add("link", type=tarfile.SYMTYPE, linkname="x" * 4096)
    with folder(place.lower, local=False) as target, pytest.raises(Unsuitable):
        _direct(place, copy("/new"), target)
