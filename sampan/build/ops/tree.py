"""Trees of files to copy from and to: folders, mounted snapshots, and archives never extracted.

A :class:`Tree` answers for paths from its root; links are followed inside it and cannot lead out.
An :class:`Item` is one file found in it.  :class:`Folder` holds a directory by its descriptor and
resolves every path with openat2; it is also what is written to.  ``ops.archive`` has the other.
"""

from __future__ import annotations

import errno
import hashlib
import os
import posixpath
import stat
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import BinaryIO, Protocol

from sampan.image.ignore import IgnoreMatcher
from sampan.linux.mount import MountLike, stacked
from sampan.linux.openat2 import open_in_root

NOTHING = IgnoreMatcher(())
_MAX_LINKS = 40
_SMALL = 1 << 16
_CHUNK = 1 << 20
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Status(Protocol):
    """The part of :class:`os.stat_result` that copying needs."""

    @property
    def st_mode(self) -> int: ...
    @property
    def st_uid(self) -> int: ...
    @property
    def st_gid(self) -> int: ...
    @property
    def st_size(self) -> int: ...
    @property
    def st_mtime_ns(self) -> int: ...
    @property
    def st_nlink(self) -> int: ...
    @property
    def st_rdev(self) -> int: ...
    @property
    def st_dev(self) -> int: ...
    @property
    def st_ino(self) -> int: ...


class Item(ABC):
    """A file of any kind; valid until the walk that found it takes its next step.

    ``relative`` is its path from where the walk began.
    """

    __slots__ = ("info", "relative")

    def __init__(self, relative: str, info: Status) -> None:
        self.relative = relative
        self.info = info

    @abstractmethod
    def link(self) -> str:
        """Where a symbolic link points."""

    @abstractmethod
    def digest(self) -> bytes:
        """SHA-256 of a regular file's contents."""

    @abstractmethod
    def write_to(self, fd: int) -> None:
        """Write a regular file's contents to an empty file."""

    @abstractmethod
    def attributes(self) -> Iterable[tuple[str, bytes]]:
        """Extended attributes."""


class Tree(ABC):
    """``ignore`` hides paths; ``local`` is a build context, whose owners do not count."""

    local: bool
    ignore: IgnoreMatcher

    def hidden(self, path: str) -> bool:
        return bool(self.ignore) and bool(path) and self.ignore.excludes(path)

    @abstractmethod
    def status(self, path: str) -> Status:
        """Of the path with links followed.  Raises OSError."""

    @abstractmethod
    def names(self, path: str) -> list[str]:
        """The names in a directory, sorted; empty for anything else."""

    @abstractmethod
    def is_dir(self, path: str, *, follow: bool = True) -> bool: ...

    @abstractmethod
    def item(self, path: str) -> AbstractContextManager[Item]:
        """The file at a path, links followed, for the length of a block.  Raises OSError."""

    @abstractmethod
    def open_file(self, path: str) -> BinaryIO:
        """A regular file's contents.  Raises OSError."""

    @abstractmethod
    def walk(self, start: str, exclude: IgnoreMatcher) -> Iterator[Item]:
        """Everything below a directory, parents first, sorted by name, links not followed.

        What the tree's ignore patterns or ``exclude`` leave out is not there, unless something
        below it is wanted again.  Raises OSError.
        """

    def read(self, path: str, limit: int = 1 << 20) -> bytes:
        """The content of a small file; empty when there is none."""
        try:
            with self.open_file(path) as stream:
                return stream.read(limit)
        except OSError:
            return b""

    def skips(
        self, start: str, relative: str, exclude: IgnoreMatcher, *, directory: bool
    ) -> tuple[bool, bool]:
        """Whether a walk leaves a path out, and whether it need not go below it."""
        skip = False
        if self.ignore:
            path = f"{start}/{relative}" if start else relative
            if self.ignore.excludes(path):
                skip = True
                if not directory or self.ignore.prunes(path):
                    return True, True
        if exclude and exclude.excludes(relative):
            return True, not directory or exclude.prunes(relative)
        return skip, False


class Folder(Tree):
    """A directory held by the descriptor ``fd``."""

    __slots__ = ("fd", "ignore", "local")

    def __init__(self, fd: int, *, local: bool = False, ignore: IgnoreMatcher = NOTHING) -> None:
        self.fd = fd
        self.local = local
        self.ignore = ignore

    def open(self, path: str, flags: int = os.O_PATH) -> int:
        """A descriptor of ``path``, links followed inside the tree.  Raises OSError."""
        return open_in_root(self.fd, path.encode(errors="surrogateescape"), flags | os.O_CLOEXEC)

    def status(self, path: str) -> Status:
        fd = self.open("/" + path)
        try:
            return os.fstat(fd)
        finally:
            os.close(fd)

    def names(self, path: str) -> list[str]:
        try:
            fd = self.open("/" + path, os.O_RDONLY | os.O_DIRECTORY)
        except OSError:
            return []
        try:
            return sorted(os.listdir(fd))
        finally:
            os.close(fd)

    def is_dir(self, path: str, *, follow: bool = True) -> bool:
        flags = os.O_PATH | os.O_DIRECTORY | (0 if follow else os.O_NOFOLLOW)
        try:
            os.close(self.open("/" + path, flags))
        except OSError:
            return False
        return True

    def followed(self, path: str) -> str:
        """Where ``path`` leads when it is a link, dangling or not; links in its directories stay.

        Raises OSError for links in a circle.
        """
        for _ in range(_MAX_LINKS):
            try:
                fd = self.open("/" + path, os.O_PATH | os.O_NOFOLLOW)
            except OSError:
                return path
            try:
                if not stat.S_ISLNK(os.fstat(fd).st_mode):
                    return path
                path = posixpath.join(posixpath.dirname(path), os.readlink("", dir_fd=fd))
            finally:
                os.close(fd)
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)

    @contextmanager
    def item(self, path: str) -> Iterator[Item]:
        fd = self.open("/" + path)
        try:
            # Reached with links followed: what the descriptor is, is meant.
            yield _FolderItem(path, os.fstat(fd), f"/proc/self/fd/{fd}", None)
        finally:
            os.close(fd)

    def open_file(self, path: str) -> BinaryIO:
        fd = self.open("/" + path, os.O_RDONLY | os.O_NONBLOCK)
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise OSError(errno.EINVAL, f"{path} is not a regular file")
        return os.fdopen(fd, "rb")

    def walk(self, start: str, exclude: IgnoreMatcher) -> Iterator[Item]:
        fd = self.open("/" + start, os.O_RDONLY | os.O_DIRECTORY)
        try:
            yield from self._walk(fd, start, "", exclude)
        finally:
            os.close(fd)

    def _walk(self, fd: int, start: str, prefix: str, exclude: IgnoreMatcher) -> Iterator[Item]:
        filtering = bool(self.ignore) or bool(exclude)
        for name in sorted(os.listdir(fd)):
            relative = f"{prefix}/{name}" if prefix else name
            info = os.stat(name, dir_fd=fd, follow_symlinks=False)
            directory = stat.S_ISDIR(info.st_mode)
            skip = prune = False
            if filtering:
                skip, prune = self.skips(start, relative, exclude, directory=directory)
            if prune:
                continue
            item = _FolderItem(relative, info, name, fd)
            if not directory:
                if not skip:
                    yield item
                continue
            inner = os.open(name, _FOLDER, dir_fd=fd)
            try:
                below = self._walk(inner, start, relative, exclude)
                yield from only_if_needed(item, below) if skip else with_parent(item, below)
            finally:
                os.close(inner)


def with_parent(item: Item, below: Iterator[Item]) -> Iterator[Item]:
    """A directory and what is in it."""
    yield item
    yield from below


def only_if_needed(item: Item, below: Iterator[Item]) -> Iterator[Item]:
    """A directory that is left out itself, but not if something below it is wanted."""
    shown = False
    for inner in below:
        if not shown:
            yield item
            shown = True
        yield inner


class _FolderItem(Item):
    """``name`` in the directory ``dirfd``; or a path of a descriptor, then ``dirfd`` is None."""

    __slots__ = ("_dirfd", "_name")

    def __init__(self, relative: str, info: os.stat_result, name: str, dirfd: int | None) -> None:
        super().__init__(relative, info)
        self._name = name
        self._dirfd = dirfd

    def link(self) -> str:
        return os.readlink(self._name, dir_fd=self._dirfd)

    def _open(self, flags: int = os.O_RDONLY | os.O_NONBLOCK) -> int:
        if self._dirfd is not None:
            flags |= os.O_NOFOLLOW
        return os.open(self._name, flags | os.O_CLOEXEC, dir_fd=self._dirfd)

    def digest(self) -> bytes:
        fd = self._open()
        try:
            state = hashlib.sha256()
            while data := os.read(fd, _CHUNK):
                state.update(data)
            return state.digest()
        finally:
            os.close(fd)

    def write_to(self, fd: int) -> None:
        source = self._open()
        try:
            copy_data(source, fd, self.info.st_size)
        finally:
            os.close(source)

    def attributes(self) -> Iterable[tuple[str, bytes]]:
        mode = self.info.st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            return ()
        fd = self._open()
        try:
            return [(name, os.getxattr(fd, name)) for name in os.listxattr(fd)]
        except OSError as error:
            if error.errno in (errno.ENOTSUP, errno.ENODATA):
                return ()
            raise
        finally:
            os.close(fd)


def copy_data(source: int, target: int, size: int) -> None:
    """The contents of one regular file; large ones inside the kernel."""
    if size <= _SMALL:
        while data := os.read(source, _SMALL):
            write_all(target, data)
        return
    while True:
        try:
            if not os.copy_file_range(source, target, _CHUNK * 64):
                return
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
                raise
            break
    while os.sendfile(target, source, None, _CHUNK):
        pass


def write_all(fd: int, data: bytes | memoryview) -> None:
    """Write every byte; a full disk may take only a part at first."""
    written = os.write(fd, data)
    while written < len(data):
        written += os.write(fd, memoryview(data)[written:])


@contextmanager
def mounted(mounts: Sequence[MountLike]) -> Iterator[Folder]:
    """The tree of a snapshot's mounts, seen by nobody else and gone with the block."""
    fd = stacked(mounts)
    try:
        yield Folder(fd)
    finally:
        os.close(fd)


@contextmanager
def folder(path: Path, ignore: IgnoreMatcher = NOTHING, *, local: bool = True) -> Iterator[Folder]:
    """A directory of the host as a tree."""
    fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield Folder(fd, local=local, ignore=ignore)
    finally:
        os.close(fd)


def clean(path: str) -> str:
    """A path from the root without leading and doubled slashes, ``.`` and ``..``."""
    return posixpath.normpath("/" + path).strip("/")
