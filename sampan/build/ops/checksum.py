"""Checksums of selections: what of a tree decides whether a copy must be made again.

Covered are the paths below the selection, types, modes, link targets, extended attributes,
contents and, but for a build context, owners.  Times are not: another checkout of the same files
has the same checksum.  Digests of contents are remembered by device, inode, size and change time.
"""

from __future__ import annotations

import hashlib
import os
import stat
import threading
from collections.abc import Sequence

from sampan.build.dockerfile.ignore import IgnoreMatcher
from sampan.build.ops.select import select, walk
from sampan.build.ops.tree import NOTHING, Tree

Identity = tuple[int, int, int, int]  # device, inode, size, mtime in ns


class DigestCache:
    """Digests of file contents by identity; bounded, the oldest go first; used by threads."""

    def __init__(self, limit: int = 300_000) -> None:
        self._limit = limit
        self._known: dict[Identity, bytes] = {}
        self._lock = threading.Lock()

    def get(self, info: os.stat_result) -> bytes | None:
        return self._known.get((info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns))

    def put(self, info: os.stat_result, digest: bytes) -> None:
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
    state = hashlib.sha256()
    skip = IgnoreMatcher(exclude)
    for chosen in select(tree, source, parents=parents):
        fd = tree.open("/" + chosen.path, os.O_PATH)
        try:
            if not chosen.is_dir:
                if not (skip and skip.excludes(chosen.path.rpartition("/")[2])):
                    name = f"/proc/self/fd/{fd}"
                    _add(state, tree, name, None, chosen.target or "file", chosen.info, cache)
                continue
            _add(state, tree, "", None, "/" + chosen.target, chosen.info, cache)
        finally:
            os.close(fd)
        for holder, name, relative, info in walk(tree, chosen.path, skip):
            _add(state, tree, name, holder, f"{chosen.target}/{relative}", info, cache)
    return state.hexdigest()


def _add(
    state: hashlib._Hash,
    tree: Tree,
    name: str,
    dirfd: int | None,
    label: str,
    info: os.stat_result,
    cache: DigestCache,
) -> None:
    owner = "" if tree.local else f"{info.st_uid}:{info.st_gid}"
    head = f"{label}\0{info.st_mode:o}\0{owner}\0"
    mode = info.st_mode
    if stat.S_ISREG(mode):
        digest = cache.get(info)
        if digest is None:
            digest = _hash_file(name, dirfd)
            cache.put(info, digest)
        state.update(head.encode(errors="surrogateescape") + digest)
    elif stat.S_ISLNK(mode):
        link = os.readlink(name, dir_fd=dirfd)
        state.update((head + link).encode(errors="surrogateescape") + b"\0")
    elif stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
        state.update(f"{head}{info.st_rdev}\0".encode(errors="surrogateescape"))
    else:
        state.update(head.encode(errors="surrogateescape"))


def _hash_file(name: str, dirfd: int | None) -> bytes:
    flags = os.O_RDONLY | os.O_CLOEXEC | (os.O_NOFOLLOW if dirfd is not None else 0)
    fd = os.open(name, flags, dir_fd=dirfd)
    try:
        data = os.read(fd, 1 << 18)
        state = hashlib.sha256(data)
        while len(data) == 1 << 18:
            data = os.read(fd, 1 << 18)
            state.update(data)
        return state.digest()
    finally:
        os.close(fd)


def ignore_matcher(patterns: Sequence[str]) -> IgnoreMatcher:
    """A matcher, the shared empty one for no patterns."""
    return IgnoreMatcher(patterns) if patterns else NOTHING
