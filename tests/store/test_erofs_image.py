"""The EROFS writer against the kernel, GNU tar and erofs-utils."""

from __future__ import annotations

import io
import os
import re
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stores import archive, file, folder, listing, mounted, open_store

from sampan.errors import SampanError
from sampan.image import tar
from sampan.image.tar import Entry
from sampan.linux.mount import umount
from sampan.store import probe
from sampan.store.erofs import mount_erofs
from sampan.store.erofs_image import BLOCK, Device, build, read_devices
from sampan.store.tree import Node, directory_node


@pytest.fixture(autouse=True)
def _needs_erofs(tmp_path: Path) -> None:
    obstacle = probe.try_erofs(tmp_path)
    if obstacle is not None:
        pytest.skip(f"no file-backed EROFS here: {obstacle}")


def oracle(command: str) -> list[str]:
    """The command line of a tool of erofs-utils 1.8 or newer; skips without one.  In a root of its
    own when SAMPAN_EROFS_ROOT says so, with the host's files at their own paths under it."""
    root = os.environ.get("SAMPAN_EROFS_ROOT")
    if root:
        return ["chroot", root, command]
    path = shutil.which(command)
    if path is None:
        pytest.skip("needs erofs-utils 1.8")
    said = subprocess.run([path, "--version"], capture_output=True, text=True)
    version = re.search(r"(\d+)\.(\d+)", said.stdout + said.stderr)
    if version is None or (int(version[1]), int(version[2])) < (1, 8):
        pytest.skip("needs erofs-utils 1.8")
    return [path]


def check_by_oracle(image: Path, devices: list[Path]) -> None:
    root = os.environ.get("SAMPAN_EROFS_ROOT", "")
    place = Path(f"{root}/tmp/sampan-oracle-{os.getpid()}") if root else image.parent
    if root:
        place.mkdir()
        for path in (image, *devices):
            shutil.copy(path, place / path.name)
    try:
        inside = f"/tmp/{place.name}" if root else str(place)
        options = [f"--device={inside}/{device.name}" for device in devices]
        for command in ("fsck.erofs", "dump.erofs"):
            done = subprocess.run(
                [*oracle(command), *options, f"{inside}/{image.name}"],
                capture_output=True,
                text=True,
            )
            assert done.returncode == 0, done.stdout + done.stderr
    finally:
        if root:
            shutil.rmtree(place)


names = st.binary(min_size=1, max_size=30).filter(
    lambda name: not set(name) & {0, 47} and name not in (b".", b"..") and name[:4] != b".wh."
)
times = st.integers(0, 2**33)
ids = st.integers(0, 2**32 - 2)
modes = st.integers(0, 0o7777)


@st.composite
def layers(draw: st.DrawFn) -> list[Entry | tuple[Entry, bytes]]:
    """Members of a tar in an order that extracts without surprises: folders before their files."""
    folders = [b""]
    members: list[Entry | tuple[Entry, bytes]] = []
    used: set[bytes] = set()
    inheriting: set[bytes] = set()
    files: list[bytes] = []
    for _ in range(draw(st.integers(0, 25))):
        above = draw(st.sampled_from(folders))
        path = (above + b"/" if above else b"") + draw(names)
        if path in used:
            continue
        used.add(path)
        kinds = [tar.REGULAR, tar.DIRECTORY, tar.SYMLINK, tar.FIFO]
        kind = draw(st.sampled_from([*kinds, tar.HARDLINK] if files else kinds))
        mode = draw(modes)
        if kind == tar.DIRECTORY and above in inheriting:
            mode |= stat.S_ISGID  # GNU tar leaves the bit that mkdir(2) has handed on
        entry = Entry(path, kind, mode, draw(ids), draw(ids), 0, draw(times) * 10**9)
        if kind == tar.REGULAR:
            files.append(path)
            members.append((entry, draw(st.binary(max_size=3000))))
            continue
        if kind == tar.DIRECTORY:
            folders.append(path)
            if mode & stat.S_ISGID:
                inheriting.add(path)
        elif kind == tar.SYMLINK:
            entry.linkname = draw(
                st.binary(min_size=1, max_size=700).filter(lambda x: b"\0" not in x)
            )
        elif kind == tar.HARDLINK:
            entry.linkname = draw(st.sampled_from(files))
        members.append(entry)
    return members


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(layers())
def test_any_layer_looks_as_gnu_tar_extracts_it(
    tmp_path: Path, members: list[Entry | tuple[Entry, bytes]]
) -> None:
    place = tmp_path / "example"
    place.mkdir()
    try:
        data = archive(*members).getvalue()
        (place / "reference").mkdir()
        extract = ["tar", "-C", place / "reference", "--same-owner", "--numeric-owner", "-xpf", "-"]
        subprocess.run(extract, input=data, check=True, capture_output=True)
        with open_store(place, "erofs") as store:
            store.snapshotter.apply("sha256:1", None, io.BytesIO(data))
            store.snapshotter.view("v", "sha256:1")
            with mounted(store.snapshotter, "v") as root:
                assert listing(root) == listing(place / "reference")
                same = subprocess.run(
                    ["diff", "-r", "--no-dereference", "reference", str(root) + "/."],
                    cwd=place,
                    pass_fds=[int(root.name)],
                    capture_output=True,
                )
                assert b"differ" not in same.stdout
    finally:
        shutil.rmtree(place)


def _nodes(depth: int = 0) -> Iterator[tuple[bytes, Node]]:
    for index in range(300):
        node = Node(stat.S_IFREG | 0o644, index, index, index)
        node.size, node.offset = 700, BLOCK * index
        yield b"f%03d" % index, node
    link = Node(stat.S_IFLNK | 0o777)
    link.link = b"x" * 600
    link.size = 600
    yield b"long-link", link
    device = Node(stat.S_IFBLK | 0o600)
    device.rdev = os.makedev(4000, 1000000)
    yield b"device", device
    if depth < 3:
        folder_ = directory_node()
        folder_.xattrs = {b"user.a": b"b" * 1000, b"trusted.c": b""}
        folder_.children = dict(_nodes(depth + 1))
        yield b"folder", folder_


def test_the_kernel_and_erofs_utils_accept_an_image(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.write_bytes(os.urandom(BLOCK * 400))
    root = directory_node()
    root.children = dict(_nodes())
    image = tmp_path / "image"
    image.write_bytes(build(root, [Device(b"the data", data.stat().st_size)], {0: 1}))
    assert read_devices(image.read_bytes()) == [b"the data"]
    place = tmp_path / "mnt"
    place.mkdir()
    mount_erofs(image, [data], place)
    try:
        content = data.read_bytes()
        for directory in (place, place / "folder/folder/folder"):
            for index in (0, 1, 17, 299):
                path = directory / f"f{index:03}"
                assert path.read_bytes() == content[index * BLOCK : index * BLOCK + 700]
        assert os.readlink(place / "long-link") == "x" * 600
        assert (place / "device").stat().st_rdev == os.makedev(4000, 1000000)
        assert os.getxattr(place / "folder", "user.a") == b"b" * 1000
        assert (place / "folder").stat().st_nlink == 3
    finally:
        umount(str(place))
    check_by_oracle(image, [data])


def test_a_hundred_thousand_files_in_one_folder(tmp_path: Path) -> None:
    entries = [file(f"d/{index:06}", b"") for index in range(100_000)]
    data = archive(folder("d"), *entries)
    with open_store(tmp_path, "erofs") as store:
        store.snapshotter.apply("sha256:1", None, data)
        with mounted(store.snapshotter, "sha256:1") as root:
            names_ = os.listdir(root / "d")
            assert len(names_) == 100_000
            assert (root / "d/077777").stat().st_size == 0
            assert not (root / "d/1").exists()


def test_whiteouts_stay_when_something_is_below(tmp_path: Path) -> None:
    """A tar layer above a directory that was committed from writing."""
    with open_store(tmp_path, "erofs") as store:
        snapshots = store.snapshotter
        snapshots.apply("sha256:1", None, archive(file("a", b"a"), folder("d"), file("d/x", b"x")))
        snapshots.prepare("k", "sha256:1")
        with mounted(snapshots, "k") as root:
            (root / "b").write_text("b")
            (root / "e").mkdir()
            (root / "e/y").write_text("y")
        snapshots.commit("step", "k")
        change = archive(
            *(file(".wh.a"), file(".wh.b"), folder("d"), file("d/.wh..wh..opq"), file("d/z", b"z")),
            *(file(".wh.e"), folder("e"), file("e/n", b"n")),
        )
        snapshots.apply("sha256:2", "step", change)
        snapshots.apply("sha256:3", "sha256:2", archive(file("d/w", b"w"), file("b", b"again")))
        snapshots.prepare("c", "sha256:3")
        with mounted(snapshots, "c") as root:
            found = sorted(str(p.relative_to(root)) for p in (root / ".").rglob("*"))
            assert found == ["b", "d", "d/w", "d/z", "e", "e/n"]
            assert (root / "b").read_text() == "again"


def test_mounts_are_shared_survive_a_restart_and_go(tmp_path: Path) -> None:
    def mounts() -> set[str]:
        text = Path("/proc/self/mountinfo").read_text()
        return {line.split()[4] for line in text.splitlines() if str(tmp_path) in line.split()[4]}

    with open_store(tmp_path, "erofs") as store:
        store.snapshotter.apply("sha256:1", None, archive(file("a", b"a")))
        store.snapshotter.prepare("c1", "sha256:1")
        store.snapshotter.prepare("c2", "sha256:1")
        assert len(mounts()) == 1
        with open_store(tmp_path, "erofs") as again:  # As after a crash: nothing was closed.
            assert len(mounts()) == 1
            with mounted(again.snapshotter, "c1") as root:
                assert (root / "a").read_text() == "a"
                again.snapshotter.close()
                assert mounts() == set()
                assert (root / "a").read_text() == "a"
            again.snapshotter.mounts("c2")
            assert len(mounts()) == 1
            again.snapshotter.remove("c1")
            again.snapshotter.remove("c2")
            again.snapshotter.remove("sha256:1")
            assert mounts() == set()


def test_an_image_that_does_not_fit_its_layers_is_not_mounted(tmp_path: Path) -> None:
    with open_store(tmp_path, "erofs") as store:
        store.snapshotter.apply("sha256:1", None, archive(file("a", b"a")))
        store.snapshotter.warm("sha256:1")
        image = tmp_path / "snapshots/erofs/1/image.erofs"
        data = bytearray(image.read_bytes())
        data[1152:1160] = b"another!"
        image.write_bytes(data)
        with pytest.raises(SampanError, match="does not fit"):
            store.snapshotter.prepare("c", "sha256:1")
