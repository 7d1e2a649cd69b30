"""Replaying what one layer changes on another tree: copies, deletions and replaced directories.

The input is an overlay's upper directory, where a character device 0:0 is a deletion and the
attribute ``trusted.overlay.opaque`` marks a directory that hides the one below.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from sampan.build.ops.copy import Copier
from sampan.build.ops.select import select
from sampan.build.ops.tree import NOTHING, Folder, Status, folder
from sampan.build.ops.unpack import extract
from sampan.linux.trees import remove_tree
from sampan.store.snapshots import Snapshotter

_OPAQUE = "trusted.overlay.opaque"


def replay(snapshots: Snapshotter, name: str, target: Folder) -> None:
    """Make the changes of a snapshot to ``target``.  Blocking."""
    layer = snapshots.layer_tar(name)
    if layer is None:
        replay_upper(snapshots.upper(name), target)
        return
    # Written by a copy, so there are no deletions in it.
    with layer.open("rb") as stream:
        extract(stream, target)


def replay_upper(upper: Path, target: Folder) -> None:
    """Make the changes of an overlay's upper directory to ``target``.  Blocking."""
    with folder(upper, local=False) as source:
        for item in source.walk("", NOTHING):
            directory = stat.S_ISDIR(item.info.st_mode)
            replaced = directory != target.is_dir(item.relative, follow=False)
            opaque = directory and dict(item.attributes()).get(_OPAQUE) == b"y"
            if replaced or opaque or is_whiteout(item.info):
                _remove(target, item.relative)
        copier = Copier(source, target)
        for chosen in select(source, "/"):
            copier.copy(chosen, "/", into=True)


def is_whiteout(info: Status) -> bool:
    """Whether a file of an upper directory stands for a deletion."""
    return stat.S_ISCHR(info.st_mode) and info.st_rdev == 0


def _remove(target: Folder, path: str) -> None:
    parent, _, name = path.rpartition("/")
    try:
        holder = target.open("/" + parent, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return
    try:
        info = os.stat(name, dir_fd=holder, follow_symlinks=False)
        if stat.S_ISDIR(info.st_mode):
            remove_tree(name, dir_fd=holder)
        else:
            os.unlink(name, dir_fd=holder)
    except FileNotFoundError:
        pass
    finally:
        os.close(holder)
