"""Walk and remove trees of groups."""

from __future__ import annotations

import errno
import os
import time

from sampan.linux import files

_ATTEMPTS = 100


def children(directory: str) -> list[str]:
    """The groups directly below one."""
    try:
        with os.scandir(directory) as entries:
            return [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return []


def below(directory: str) -> list[int]:
    """The processes of a group and of all below it."""
    try:
        pids = [int(line) for line in files.read(f"{directory}/cgroup.procs").split()]
    except OSError:
        return []
    for child in children(directory):
        pids += below(child)
    return pids


def remove_tree(directory: str) -> None:
    """Remove a group and those below it; a process on its way out is waited for, 0.5 s at most."""
    try:
        os.rmdir(directory)
        return
    except FileNotFoundError:
        return
    except OSError as failure:
        if failure.errno not in (errno.EBUSY, errno.ENOTEMPTY):
            raise
    for child in children(directory):
        remove_tree(child)
    for attempt in range(_ATTEMPTS):
        try:
            os.rmdir(directory)
            return
        except FileNotFoundError:
            return
        except OSError as failure:
            if failure.errno != errno.EBUSY or attempt == _ATTEMPTS - 1:
                raise
            time.sleep(0.005)
