"""The files of a log as a reader finds them, whatever the keeper renames or compresses meanwhile."""

from __future__ import annotations

import os
import sys
import tempfile
import zlib
from typing import NamedTuple

from sampan.runtime.logs.compress import SUFFIX, made_of
from sampan.runtime.types import LogConfig

_BLOCK = 1 << 18
_RDONLY = os.O_RDONLY | os.O_CLOEXEC


class LogFile(NamedTuple):
    """One file: where it was seen, and what it is.

    A ``packed`` file has the inode and the time of change (nanoseconds) of what it was made of.
    Inodes of plain files are used anew, so they say something of files that are open only.
    """

    path: str
    inode: int
    changed: int
    size: int
    packed: bool = False

    def is_same(self, other: LogFile) -> bool:
        """Whether both have the same content; one of them is open."""
        if not self.packed and not other.packed:
            return self.inode == other.inode
        return (self.inode, self.changed) == (other.inode, other.changed)


def listing(config: LogConfig) -> list[LogFile]:
    """The files that there are, newest first.

    They move away from where we look first, and a compressed file is there before the other goes:
    so none is missed, but one may be met twice.
    """
    path = config.path
    names = [path, *(f"{path}.{number}" for number in range(1, config.max_file))]
    found = []
    for name in names:
        file = _look(name) or (_look_packed(name + SUFFIX) if config.compress else None)
        if file is not None:
            found.append(file)
    return found


def _look(path: str) -> LogFile | None:
    try:
        info = os.stat(path)
    except FileNotFoundError:
        return None
    return LogFile(path, info.st_ino, info.st_mtime_ns, info.st_size)


def _look_packed(path: str) -> LogFile | None:
    try:
        fd = os.open(path, _RDONLY)
    except FileNotFoundError:
        return None
    try:
        source = made_of(fd)
    finally:
        os.close(fd)
    return None if source is None else LogFile(path, *source, sys.maxsize, True)


def open_file(file: LogFile) -> int:
    """A descriptor of the file's content; -1 when it is no longer found under its name."""
    try:
        fd = os.open(file.path, _RDONLY)
    except FileNotFoundError:
        return -1
    if not file.packed:
        if os.fstat(fd).st_ino == file.inode:
            return fd
    elif made_of(fd) == (file.inode, file.changed):
        try:
            return _unpack(fd, os.path.dirname(file.path))
        finally:
            os.close(fd)
    os.close(fd)
    return -1


def changed(fd: int) -> int:
    """When an open file was last written to."""
    return os.fstat(fd).st_mtime_ns


def _unpack(fd: int, directory: str) -> int:
    """A nameless file with the content of a compressed one; in memory if the disk is full."""
    try:
        target = tempfile.TemporaryFile(dir=directory, buffering=0)
        with target:
            _inflate(fd, target.fileno())
            return os.dup(target.fileno())
    except OSError:
        memory = os.memfd_create("log", os.MFD_CLOEXEC)
        _inflate(fd, memory)
        return memory


def _inflate(source: int, target: int) -> None:
    """What is damaged ends the content."""
    os.lseek(source, 0, os.SEEK_SET)
    inflate = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
    while not inflate.eof and (data := os.read(source, _BLOCK)):
        try:
            view = memoryview(inflate.decompress(data))
        except zlib.error:
            return
        while view:
            view = view[os.write(target, view) :]
