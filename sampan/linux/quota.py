"""Project quotas: an upper limit of what the files of one project take on a file system
(``linux/fs.h``, quotactl_fd(2)).

A directory that belongs to a project hands it on to everything made inside.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import struct
from pathlib import Path

from sampan.linux.syscalls import error, numbered

_QUOTACTL_FD = numbered(443, ctypes.c_int, ctypes.c_uint, ctypes.c_int, ctypes.c_char_p)
_FSGETXATTR = 0x801C581F
_FSSETXATTR = 0x401C5820
_PROJINHERIT = 0x200
_FSXATTR = struct.Struct("=IIIII8s")
_PROJECT = 2
_SETQUOTA = 0x800008 << 8 | _PROJECT
_DQBLK = struct.Struct("=QQQQQQQQIxxxx")
_BLOCK_LIMITS = 1
_UNIT = 1024


def set_project(directory: Path, project: int) -> None:
    """Make an empty directory, and what will be in it, part of a project.  Raises OSError:
    EOPNOTSUPP or ENOTTY where the file system knows no projects."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        raw = fcntl.ioctl(fd, _FSGETXATTR, bytes(_FSXATTR.size))
        flags, extent, count, _, cow, padding = _FSXATTR.unpack(raw)
        wanted = _FSXATTR.pack(flags | _PROJINHERIT, extent, count, project, cow, padding)
        fcntl.ioctl(fd, _FSSETXATTR, wanted)
    finally:
        os.close(fd)


def limit(directory: Path, project: int, size: int) -> None:
    """Limit a project on the directory's file system to ``size`` bytes, 0 for no limit.  Raises
    OSError: ESRCH or ENOSYS where project quotas are not on."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    blocks = -(-size // _UNIT)
    try:
        wanted = _DQBLK.pack(blocks, blocks, 0, 0, 0, 0, 0, 0, _BLOCK_LIMITS)
        if _QUOTACTL_FD(fd, _SETQUOTA, project, wanted) < 0:
            raise error(f"set the quota of project {project}")
    finally:
        os.close(fd)
