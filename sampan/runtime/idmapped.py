"""Root file systems for user namespaces: the same layers, under other numbers.

An overlay cannot be id-mapped itself, but its layers can (Linux ≥ 5.19): each is copied as a mount,
id-mapped, and attached below a directory of the caller's own mount namespace for as long as it
takes to make the overlay of them.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from typing import NamedTuple

from sampan.linux import mount as mounts
from sampan.linux.syscalls import AT_FDCWD
from sampan.runtime import userns


class _Mount(NamedTuple):
    type: str
    source: str
    options: list[str]


def root(stack: Sequence[mounts.MountLike], place: str, user: int) -> int:
    """As :func:`sampan.linux.mount.stacked`, for the user namespace ``user`` (a descriptor).

    The caller makes files as the namespace's root.  Raises OSError.
    """
    if len(stack) != 1:
        raise OSError(errno.EINVAL, "a root file system of several mounts cannot be id-mapped")
    (entry,) = stack
    options = mounts.parse_options(entry.options)
    if entry.type == "bind" or options.bind:
        tree = mounts.detached(entry)
        userns.idmap(tree, user)
        return tree
    if entry.type != "overlay":
        raise OSError(errno.EINVAL, f"a root of type {entry.type} cannot be id-mapped")
    return _overlay(entry, place, user)


def _overlay(entry: mounts.MountLike, place: str, user: int) -> int:
    folder = mounts.new_filesystem("tmpfs", "layers", ["mode=700"])
    mounts.move_mount_to(folder, place)
    os.close(folder)
    try:
        return mounts.detached(
            _Mount(entry.type, entry.source, _mapped(entry.options, place, user))
        )
    finally:
        mounts.umount(place, mounts.MNT_DETACH)


def _mapped(options: Sequence[str], place: str, user: int) -> list[str]:
    """The options with every layer replaced by an id-mapped mount of it."""
    found = []
    writable = ""
    for option in options:
        name, _, value = option.partition("=")
        if name == "lowerdir":
            layers = mounts.split_layers(value)
            paths = [
                _attach(layer, f"{place}/{number}", user) for number, layer in enumerate(layers)
            ]
            escaped = (path.replace("\\", "\\\\").replace(":", "\\:") for path in paths)
            option = f"lowerdir={':'.join(escaped)}"
        elif name in ("upperdir", "workdir"):
            # One mount for both: they must be on the same.
            parent, _, last = value.rpartition("/")
            if not writable:
                writable = parent
                _attach(parent, f"{place}/upper", user)
            elif parent != writable:
                raise OSError(errno.EXDEV, "upperdir and workdir must have one parent directory")
            option = f"{name}={place}/upper/{last}"
        found.append(option)
    return found


def _attach(source: str, place: str, user: int) -> str:
    os.mkdir(place, 0o700)
    tree = mounts.open_tree(AT_FDCWD, source)
    try:
        userns.idmap(tree, user)
        mounts.move_mount_to(tree, place)
    finally:
        os.close(tree)
    return place
