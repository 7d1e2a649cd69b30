"""Trees: directories held by a descriptor, in which every path is resolved with openat2."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from sampan.build.dockerfile.ignore import IgnoreMatcher
from sampan.linux.mount import MountLike, stacked
from sampan.linux.openat2 import open_in_root

NOTHING = IgnoreMatcher(())


class Tree:
    """``fd`` is the root directory.  ``ignore`` hides paths; ``local`` is a build context, whose
    owners do not count."""

    __slots__ = ("fd", "ignore", "local")

    def __init__(self, fd: int, *, local: bool = False, ignore: IgnoreMatcher = NOTHING) -> None:
        self.fd = fd
        self.local = local
        self.ignore = ignore

    def open(self, path: str, flags: int = os.O_PATH) -> int:
        """A descriptor of ``path``, links followed inside the tree.  Raises OSError."""
        return open_in_root(self.fd, path.encode(errors="surrogateescape"), flags | os.O_CLOEXEC)

    def hidden(self, path: str) -> bool:
        return bool(self.ignore) and bool(path) and self.ignore.excludes(path)

    def read(self, path: str, limit: int = 1 << 20) -> bytes:
        """The content of a small file; empty when there is none."""
        try:
            fd = self.open(path, os.O_RDONLY | os.O_NONBLOCK)
        except OSError:
            return b""
        try:
            return os.read(fd, limit)
        except OSError:
            return b""
        finally:
            os.close(fd)


@contextmanager
def mounted(mounts: Sequence[MountLike]) -> Iterator[Tree]:
    """The tree of a snapshot's mounts, seen by nobody else and gone with the block."""
    fd = stacked(mounts)
    try:
        yield Tree(fd)
    finally:
        os.close(fd)


@contextmanager
def folder(path: Path, ignore: IgnoreMatcher = NOTHING, *, local: bool = True) -> Iterator[Tree]:
    """A directory of the host as a tree."""
    fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield Tree(fd, local=local, ignore=ignore)
    finally:
        os.close(fd)
