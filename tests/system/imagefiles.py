"""What an archive of ``save`` holds, read with Python's own tar module, and how two of them differ."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Node:
    """One file of an image.  ``links`` are all names of a file with several, as one value."""

    kind: str
    mode: int
    owner: tuple[int, int]
    content: str = ""
    target: str = ""
    device: tuple[int, int] = (0, 0)
    attributes: tuple[tuple[str, str], ...] = ()
    links: tuple[str, ...] = ()
    mtime: float = 0.0


Tree = dict[str, Node]
_KINDS = {
    tarfile.REGTYPE: "file",
    tarfile.AREGTYPE: "file",
    tarfile.DIRTYPE: "directory",
    tarfile.SYMTYPE: "link",
    tarfile.CHRTYPE: "character device",
    tarfile.BLKTYPE: "block device",
    tarfile.FIFOTYPE: "pipe",
}
_TOUCHED = "etc"
"""BuildKit makes and removes files here for each command to mount its own on, which gives the
directory that time, and a place in the command's layer.  Ours lie below the image's layers."""
_parsed: dict[str, tuple[Tree, dict[str, str]]] = {}


@dataclass
class Saved:
    """An image: its configuration, its files, and for each layer the names in it."""

    config: dict[str, Any]
    tree: Tree = field(default_factory=dict)
    layers: list[list[str]] = field(default_factory=list)


def read(archive: Path) -> Saved:
    with tarfile.open(archive) as tar:

        def member(name: str) -> bytes:
            file = tar.extractfile(name)
            assert file is not None
            return file.read()

        entry = json.loads(member("manifest.json"))[0]
        saved = Saved(json.loads(member(entry["Config"])))
        twins: dict[str, str] = {}
        for name, diff_id in zip(entry["Layers"], saved.config["rootfs"]["diff_ids"], strict=True):
            if diff_id not in _parsed:
                _parsed[diff_id] = _layer(member(name))
            _apply(saved, twins, *_parsed[diff_id])
    groups: dict[str, list[str]] = {}
    for name in saved.tree:
        groups.setdefault(_first(name, twins), []).append(name)
    for names in groups.values():
        if len(names) > 1:
            for name in names:
                node = saved.tree[name]
                saved.tree[name] = Node(
                    **{f.name: getattr(node, f.name) for f in fields(Node) if f.name != "links"},
                    links=tuple(sorted(names)),
                )
    return saved


def _first(name: str, twins: dict[str, str]) -> str:
    while name in twins:
        name = twins[name]
    return name


def _layer(data: bytes) -> tuple[Tree, dict[str, str]]:
    """The members of a layer, and which are further names of which."""
    tree: Tree = {}
    twins: dict[str, str] = {}
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        for info in tar:
            name = info.name.strip("/").removeprefix("./")
            if info.type == tarfile.LNKTYPE:
                twins[name] = info.linkname.strip("/").removeprefix("./")
                tree[name] = tree[twins[name]]
                continue
            content = ""
            if info.isreg():
                file = tar.extractfile(info)
                assert file is not None
                content = hashlib.sha256(file.read()).hexdigest()
            prefix = "SCHILY.xattr."
            tree[name] = Node(
                _KINDS[info.type],
                info.mode & 0o7777,
                (info.uid, info.gid),
                content,
                info.linkname if info.issym() else "",
                (info.devmajor, info.devminor) if info.ischr() or info.isblk() else (0, 0),
                tuple(sorted((k, v) for k, v in info.pax_headers.items() if k.startswith(prefix))),
                mtime=float(info.mtime),
            )
    return tree, twins


def _apply(saved: Saved, twins: dict[str, str], layer: Tree, own: dict[str, str]) -> None:
    tree = saved.tree
    saved.layers.append(sorted(name for name in layer if name not in ("", ".")))
    for name in layer:
        folder, _, last = name.rpartition("/")
        if last == ".wh..wh..opq":
            _remove(tree, twins, folder, itself=False)
        elif last.startswith(".wh."):
            _remove(tree, twins, f"{folder}/{last[4:]}".lstrip("/"))
    for name, node in layer.items():
        if name.rpartition("/")[2].startswith(".wh.") or name in ("", "."):
            continue
        if name in tree and (tree[name].kind != "directory" or node.kind != "directory"):
            _remove(tree, twins, name)
        tree[name] = node
    twins.update(own)


def _remove(tree: Tree, twins: dict[str, str], name: str, *, itself: bool = True) -> None:
    below = [n for n in tree if n.startswith(f"{name}/")]
    for gone in [*below, name] if itself else below:
        tree.pop(gone, None)
        others = [other for other, first in twins.items() if first == gone and other in tree]
        twins.pop(gone, None)
        for other in others:
            if other == others[0]:
                del twins[other]
            else:
                twins[other] = others[0]


def differences(ours: Saved, theirs: Saved, since: float) -> list[str]:
    """What differs in files, layers, configuration and history; *since* is when both were begun:
    of times after it nothing can be said."""
    found = []
    for name in sorted(ours.tree.keys() | theirs.tree.keys()):
        left, right = ours.tree.get(name), theirs.tree.get(name)
        if left is None or right is None:
            found.append(f"/{name}: only in {'ours' if right is None else 'theirs'}")
            continue
        for item in fields(Node):
            a, b = getattr(left, item.name), getattr(right, item.name)
            if item.name == "mtime" and (int(a) == int(b) or _untold(name, a, b, since)):
                continue
            if a != b:
                found.append(f"/{name}: {item.name} {a!r}, theirs {b!r}")
    if ours.layers != theirs.layers:
        for number, (a, b) in enumerate(zip(ours.layers, theirs.layers, strict=False)):
            if a != b and a != [name for name in b if name != _TOUCHED]:
                only, missing = sorted(set(a) - set(b))[:9], sorted(set(b) - set(a))[:9]
                found.append(f"layer {number}: more {only}, fewer {missing}")
        if len(ours.layers) != len(theirs.layers):
            found.append(f"{len(ours.layers)} layers, theirs {len(theirs.layers)}")
    for key in ("architecture", "os", "author", "variant"):
        if (ours.config.get(key) or "") != (theirs.config.get(key) or ""):
            found.append(f"{key}: {ours.config.get(key)!r}, theirs {theirs.config.get(key)!r}")
    settings, others = ours.config["config"], theirs.config["config"]
    for key in sorted(settings.keys() | others.keys()):
        if (settings.get(key) or None) != (others.get(key) or None):
            found.append(f"config {key}: {settings.get(key)!r}, theirs {others.get(key)!r}")
    left_lines, right_lines = _history(ours), _history(theirs)
    for a_line, b_line in zip(left_lines, right_lines, strict=False):
        if a_line != b_line:
            found.append(f"history: {a_line!r}, theirs {b_line!r}")
    if len(left_lines) != len(right_lines):
        found.append(f"history: {len(left_lines)} lines, theirs {len(right_lines)}")
    return found


def _untold(name: str, ours: float, theirs: float, since: float) -> bool:
    """Whether two times of a file say nothing of the images."""
    return theirs >= since and (ours >= since or name == _TOUCHED)


def _history(saved: Saved) -> list[tuple[str, bool]]:
    return [
        (line.get("created_by", "").removesuffix(" # buildkit"), line.get("empty_layer", False))
        for line in saved.config["history"]
    ]
