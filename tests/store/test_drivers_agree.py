"""Any two layers, however odd: the three drivers show the same tree or all refuse, and nothing
outside the state directory changes."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from stores import archive, mounted, open_store

from sampan.errors import InvalidParameter
from sampan.image import tar
from sampan.image.tar import Entry
from sampan.store import probe

Member = tuple[bytes, bytes, bytes]  # type, name, link target or content

parts = st.sampled_from([b"a", b"b", b"c", b"..", b".", b".wh.a", b".wh.b", b".wh..wh..opq"])
paths = st.lists(parts, min_size=1, max_size=3).map(b"/".join)
kinds = st.sampled_from([tar.REGULAR, tar.DIRECTORY, tar.SYMLINK, tar.HARDLINK])
members = st.tuples(kinds, paths, st.one_of(paths, paths.map(lambda path: b"/" + path)))


def _one_kind_a_name(layer: list[Member]) -> bool:
    """No name is a directory and something else in one layer: which of them wins, and over what,
    depends on the order of extraction and has no right answer."""
    folders: set[str] = set()
    others: set[str] = set()
    for kind, name, _ in layer:
        path = os.path.normpath(b"/" + name).decode()
        (folders if kind == tar.DIRECTORY else others).add(path)
        while path != "/":
            path = os.path.dirname(path)
            folders.add(path)
    return not folders & others


def _links_to_own_files(layer: list[Member]) -> list[Member]:
    """Without the hard links to what the layer has not: a link to a lower layer's file that this
    layer hides is another question without a right answer."""
    files: set[str] = set()
    kept: list[Member] = []
    for member in layer:
        kind, name, target = member
        if kind == tar.HARDLINK and os.path.normpath(b"/" + target).decode() not in files:
            continue
        if kind == tar.REGULAR:
            files.add(os.path.normpath(b"/" + name).decode())
        kept.append(member)
    return kept


layers = st.lists(members, max_size=8).map(_links_to_own_files).filter(_one_kind_a_name)


def _tar(layer: list[Member]) -> list[Entry | tuple[Entry, bytes]]:
    out: list[Entry | tuple[Entry, bytes]] = []
    for kind, name, extra in layer:
        entry = Entry(name, kind, 0o755 if kind == tar.DIRECTORY else 0o640)
        if kind == tar.REGULAR:
            out.append((entry, extra))
            continue
        if kind != tar.DIRECTORY:
            entry.linkname = extra
        out.append(entry)
    return out


def _tree(root: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    for directory, names, files in os.walk(root / "."):
        for name in [*names, *files]:
            path = Path(directory, name)
            info = path.lstat()
            content = ""
            if stat.S_ISLNK(info.st_mode):
                content = os.readlink(path)
            elif stat.S_ISREG(info.st_mode):
                content = path.read_text()
            found[str(path.relative_to(root))] = f"{info.st_mode:o} {content}"
    return found


def _result(place: Path, driver: str, layer_list: list[list[Member]]) -> dict[str, str] | None:
    with open_store(place, driver) as store:
        parent = None
        try:
            for number, layer in enumerate(layer_list):
                store.snapshotter.apply(f"sha256:{number}", parent, archive(*_tar(layer)))
                parent = f"sha256:{number}"
            store.snapshotter.prepare("c", parent)
        except InvalidParameter:
            return None
        with mounted(store.snapshotter, "c") as root:
            return _tree(root)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(layers, layers)
@example([(b"5", b"a", b"")], [(b"0", b"a/.wh..wh..opq", b""), (b"0", b"a/b", b"x")])
def test_the_drivers_agree(tmp_path: Path, first: list[Member], second: list[Member]) -> None:
    if probe.try_erofs(tmp_path) is not None:
        pytest.skip("no file-backed EROFS here")
    results = {}
    for driver in ("erofs", "overlay", "plain"):
        place = tmp_path / driver
        place.mkdir()
        try:
            results[driver] = _result(place, driver, [first, second])
        finally:
            shutil.rmtree(place)
    assert results["erofs"] == results["overlay"]
    assert results["erofs"] == results["plain"]
    assert os.listdir(tmp_path) == []
