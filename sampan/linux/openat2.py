"""openat2(2): open a path that cannot lead out of a directory.

:func:`open_in_root` resolves as if the directory were the root: absolute symbolic links and
``..`` stay below it, so a hostile tree cannot redirect the caller.  Linux ≥ 5.6.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat

from sampan.linux.syscalls import error, numbered, path_bytes

RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10

O_PATH = os.O_PATH | os.O_CLOEXEC
_MAX_LINKS = 40
_RETRIES = 128


class _OpenHow(ctypes.Structure):
    _fields_ = (
        ("flags", ctypes.c_uint64),
        ("mode", ctypes.c_uint64),
        ("resolve", ctypes.c_uint64),
    )


_SIZE = ctypes.sizeof(_OpenHow)
_openat2 = numbered(437, ctypes.c_int, ctypes.c_char_p, ctypes.POINTER(_OpenHow), ctypes.c_size_t)


def openat2(
    dirfd: int, path: str | bytes, flags: int, mode: int = 0, resolve: int = RESOLVE_IN_ROOT
) -> int:
    """Open ``path`` below ``dirfd``; the descriptor is close-on-exec.

    EAGAIN (a rename raced with the walk) is tried again, a bounded number of times.
    """
    how = _OpenHow(flags | os.O_CLOEXEC, mode, resolve)
    name = path_bytes(path)
    for _ in range(_RETRIES):
        fd = _openat2(dirfd, name, ctypes.byref(how), _SIZE)
        if fd >= 0:
            return fd
        if ctypes.get_errno() != errno.EAGAIN:
            break
    raise error(f"open {os.fsdecode(name)}")


def open_in_root(dirfd: int, path: str | bytes, flags: int = O_PATH, mode: int = 0) -> int:
    """Open ``path`` with ``dirfd`` as its root; magic links (of procfs) are refused."""
    return openat2(
        dirfd, path_bytes(path) or b".", flags, mode, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS
    )


def make_directories(dirfd: int, path: str | bytes, mode: int = 0o755) -> int:
    """Open the directory ``path`` inside the root, making what is missing of it (mkdir -p).

    Symbolic links on the way are followed inside the root; a dangling one is followed to where it
    points and that is made.  Returns an O_PATH descriptor.  Raises NotADirectoryError.
    """
    try:
        return open_in_root(dirfd, path, O_PATH | os.O_DIRECTORY)
    except FileNotFoundError:
        pass
    parent, name = _make_parent(dirfd, path_bytes(path), mode)
    try:
        try:
            os.mkdir(name, mode, dir_fd=parent)
        except FileExistsError:
            pass
        return open_in_root(parent, name, O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW)
    finally:
        os.close(parent)


def make_file(dirfd: int, path: str | bytes, mode: int = 0o644) -> int:
    """Open ``path`` inside the root as O_PATH, making an empty file (and its parents) if missing."""
    try:
        return open_in_root(dirfd, path)
    except FileNotFoundError:
        pass
    parent, name = _make_parent(dirfd, path_bytes(path), 0o755)
    try:
        try:
            os.close(open_in_root(parent, name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode))
        except FileExistsError:
            pass
        return open_in_root(parent, name, O_PATH | os.O_NOFOLLOW)
    finally:
        os.close(parent)


def _make_parent(root: int, path: bytes, mode: int) -> tuple[int, bytes]:
    """The directory that holds the last component, and that component, links followed.

    Walked by components so that dangling links are resolved against the root by hand; each step
    opens one component without following, so nothing can be swapped in between.
    """
    pending = [part for part in reversed(path.split(b"/")) if part not in (b"", b".")]
    trail = [os.dup(root)]
    links = 0
    try:
        while pending:
            part = pending.pop()
            if part == b"..":
                if len(trail) > 1:
                    os.close(trail.pop())
                continue
            try:
                fd = openat2(trail[-1], part, O_PATH | os.O_NOFOLLOW)
            except FileNotFoundError:
                if not pending:
                    return os.dup(trail[-1]), part
                try:
                    os.mkdir(part, mode, dir_fd=trail[-1])
                except FileExistsError:
                    pass
                fd = openat2(trail[-1], part, O_PATH | os.O_NOFOLLOW)
            kind = stat.S_IFMT(os.fstat(fd).st_mode)
            if kind == stat.S_IFLNK:
                links += 1
                target = os.readlink(b"", dir_fd=fd)
                os.close(fd)
                if links > _MAX_LINKS:
                    raise OSError(errno.ELOOP, f"{os.fsdecode(path)}: too many symbolic links")
                if target.startswith(b"/"):
                    while len(trail) > 1:
                        os.close(trail.pop())
                pending += [p for p in reversed(target.split(b"/")) if p not in (b"", b".")]
            elif kind == stat.S_IFDIR:
                if not pending:
                    os.close(fd)
                    return os.dup(trail[-1]), part
                trail.append(fd)
            elif pending:
                os.close(fd)
                raise NotADirectoryError(
                    errno.ENOTDIR, f"{os.fsdecode(path)}: {os.fsdecode(part)} is not a directory"
                )
            else:
                os.close(fd)
                return os.dup(trail[-1]), part
        return os.dup(trail[-1]), b"."
    finally:
        for fd in trail:
            os.close(fd)
