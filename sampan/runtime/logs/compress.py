"""Compress rotated log files, in a process of its own, while the container writes on.

A file ``log.N`` becomes ``log.N.gz``, gzip as RFC 1952 has it, whose extra field tells what it was
made of (inode and time of last change), so that a reader that was in the middle of the one goes
on after the other.  Steps, so that nothing is lost or doubled whenever this process is killed:

1. the content goes to ``log.part``, which is locked: only one process compresses;
2. under the lock of the directory, which rotation takes as well, it gets its name; as long as both
   ``log.N`` and ``log.N.gz`` exist, only the first counts;
3. ``log.N`` is removed.

What was left undone is done after the next rotation.
"""

from __future__ import annotations

import fcntl
import os
import struct
from typing import NamedTuple

SUFFIX = ".gz"
_PART = ".part"
_BLOCK = 1 << 18
_LEVEL = 1
_FIELD = struct.Struct("<2sHQQ")
_FIELD_NAME = b"SL"
_HEADER = struct.Struct("<4sIBBH")
_MAGIC = b"\x1f\x8b\x08\x04"
_RDONLY = os.O_RDONLY | os.O_CLOEXEC
_EXTREME_FDS = 1 << 20


class Identity(NamedTuple):
    """What a compressed file was made of."""

    inode: int
    changed: int


class Turn:
    """The lock of a directory's log files, while they change their names."""

    def __init__(self, path: str) -> None:
        self._directory = os.path.dirname(path)
        self._fd = -1

    def __enter__(self) -> None:
        self._fd = os.open(self._directory, _RDONLY | os.O_DIRECTORY)
        fcntl.flock(self._fd, fcntl.LOCK_EX)

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)


def shift(older: str, newer: str) -> None:
    """Rename a rotated file, compressed or not, over another.  Call it in the :class:`Turn`."""
    if os.path.exists(older):
        _unlink(newer + SUFFIX)
        _unlink(older + SUFFIX)
        os.replace(older, newer)
    elif os.path.exists(older + SUFFIX):
        _unlink(newer)
        os.replace(older + SUFFIX, newer + SUFFIX)


def start(path: str, count: int) -> None:
    """Have the rotated ones of a log's ``count`` files compressed; return at once."""
    try:
        pid = os.fork()
    except OSError:
        return  # after the next rotation, then
    if not pid:
        try:
            # A child's child needs nobody here to wait for its end.
            if not os.fork():
                os.closerange(3, _EXTREME_FDS)
                os.nice(10)
                run(path, count)
        finally:
            os._exit(0)
    os.waitpid(pid, 0)


def run(path: str, count: int) -> None:
    """Compress what there is, the oldest first, unless another process does.

    Raises OSError, for one when the disk is full; what was there is there then.
    """
    while (source := _oldest(path, count)) >= 0:
        try:
            part = _claim(path + _PART)
            if part < 0:
                return
            try:
                made_of = _identity(source)
                _compress(source, part, made_of)
                os.fsync(part)
                _put_in_place(path, count, made_of)
            finally:
                os.close(part)
        finally:
            os.close(source)


def made_of(fd: int) -> Identity | None:
    """What a compressed file was made of, if it says so."""
    head = os.pread(fd, _HEADER.size + _FIELD.size, 0)
    if len(head) < _HEADER.size + _FIELD.size or not head.startswith(_MAGIC):
        return None
    name, _, inode, changed = _FIELD.unpack_from(head, _HEADER.size)
    return Identity(inode, changed) if name == _FIELD_NAME else None


def _identity(fd: int) -> Identity:
    info = os.fstat(fd)
    return Identity(info.st_ino, info.st_mtime_ns)


def _oldest(path: str, count: int) -> int:
    """The oldest rotated file that is not compressed, opened; -1 when there is none."""
    for number in range(count - 1, 0, -1):
        try:
            return os.open(f"{path}.{number}", _RDONLY)
        except FileNotFoundError:
            continue
    return -1


def _claim(path: str) -> int:
    """The file to write to, empty and locked; -1 when another process is at it."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o640)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Whoever had the lock before may have given the file its last name meanwhile.
        if os.stat(path).st_ino == os.fstat(fd).st_ino:
            os.ftruncate(fd, 0)
            return fd
    except (BlockingIOError, FileNotFoundError):
        pass
    os.close(fd)
    return -1


def _compress(source: int, target: int, identity: Identity) -> None:
    import zlib

    head = _HEADER.pack(_MAGIC, identity.changed // 10**9 & 0xFFFFFFFF, 4, 3, _FIELD.size)
    field = _FIELD.pack(_FIELD_NAME, _FIELD.size - 4, *identity)
    _write(target, head + field)
    deflate = zlib.compressobj(_LEVEL, wbits=-zlib.MAX_WBITS)
    check = size = 0
    while data := os.read(source, _BLOCK):
        check = zlib.crc32(data, check)
        size += len(data)
        _write(target, deflate.compress(data))
    _write(target, deflate.flush() + struct.pack("<II", check, size & 0xFFFFFFFF))


def _write(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]


def _put_in_place(path: str, count: int, identity: Identity) -> None:
    """Give the compressed file the name that its source has by now, if that is still kept."""
    with Turn(path):
        for number in range(1, count):
            name = f"{path}.{number}"
            try:
                info = os.stat(name)
            except FileNotFoundError:
                continue
            if info.st_ino == identity.inode:
                os.replace(path + _PART, name + SUFFIX)
                os.unlink(name)
                return
        os.unlink(path + _PART)


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
