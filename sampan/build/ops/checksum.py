"""Checksums of selections: what of a tree decides whether a copy must be made again.

Covered are the paths below the selection, types, modes, link targets, contents and, but for a
build context, owners.  Times are not: another checkout of the same files has the same checksum.
Digests of contents are remembered by device, inode, size and change time.
"""

from __future__ import annotations

import hashlib
import stat
import threading
from collections.abc import Sequence

from sampan.build.ops.archive import NO_DEVICE, ArchiveTree
from sampan.build.ops.select import select
from sampan.build.ops.tree import NOTHING, Item, Status, Tree
from sampan.image.ignore import IgnoreMatcher

Identity = tuple[int, int, int, int]  # device, inode, size, mtime in ns


class DigestCache:
    """Digests of file contents by identity; bounded, the oldest go first; used by threads."""

    def __init__(self, limit: int = 300_000) -> None:
        self._limit = limit
        self._known: dict[Identity, bytes] = {}
        self._lock = threading.Lock()

    def get(self, info: Status) -> bytes | None:
        return self._known.get((info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns))

    def put(self, info: Status, digest: bytes) -> None:
        with self._lock:
            if len(self._known) >= self._limit:
                for key in list(self._known)[: self._limit // 10]:
                    del self._known[key]
            self._known[(info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns)] = digest


DIGESTS = DigestCache()


def checksum(
    tree: Tree,
    source: str,
    *,
    parents: bool = False,
    exclude: Sequence[str] = (),
    cache: DigestCache = DIGESTS,
) -> str:
    """``sha256`` hex of what ``source`` selects.  Raises what :func:`select` raises.

    Blocking: call it in a thread.
    """
    if not isinstance(tree, ArchiveTree):
        return _checksum(tree, source, parents, exclude, cache)
    asked = (source, parents, tuple(exclude), tree.ignore.patterns)
    known = tree.memo.get(asked)
    if known is None:
        known = tree.memo[asked] = _checksum(tree, source, parents, exclude, cache)
    return known


def _checksum(
    tree: Tree, source: str, parents: bool, exclude: Sequence[str], cache: DigestCache
) -> str:
    state = hashlib.sha256()
    skip = ignore_matcher(exclude)
    for chosen in select(tree, source, parents=parents):
        if not chosen.is_dir:
            if not (skip and skip.excludes(chosen.path.rpartition("/")[2])):
                with tree.item(chosen.path) as item:
                    state.update(_line(tree, item, chosen.target or "file", cache))
            continue
        with tree.item(chosen.path) as item:
            state.update(_line(tree, item, "/" + chosen.target, cache))
        for item in tree.walk(chosen.path, skip):
            state.update(_line(tree, item, f"{chosen.target}/{item.relative}", cache))
    return state.hexdigest()


def _line(tree: Tree, item: Item, label: str, cache: DigestCache) -> bytes:
    info = item.info
    mode = info.st_mode
    owner = "" if tree.local else f"{info.st_uid}:{info.st_gid}"
    head = f"{label}\0{mode:o}\0{owner}\0".encode(errors="surrogateescape")
    if stat.S_ISREG(mode):
        if info.st_dev == NO_DEVICE:
            return head + item.digest()
        digest = cache.get(info)
        if digest is None:
            digest = item.digest()
            cache.put(info, digest)
        return head + digest
    if stat.S_ISLNK(mode):
        return head + item.link().encode(errors="surrogateescape") + b"\0"
    if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
        return head + f"{info.st_rdev}\0".encode()
    return head


def ignore_matcher(patterns: Sequence[str]) -> IgnoreMatcher:
    """A matcher, the shared empty one for no patterns."""
    return IgnoreMatcher(patterns) if patterns else NOTHING
