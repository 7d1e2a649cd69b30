"""Copying a folder of a context straight into a layer's tar.

Where snapshots are their layers' tars, a COPY of many files need not make them: what the copy would
leave in an overlay's upper directory is written down instead, read from the context's archive.  The
tar is byte for byte the one that the copied files would give, but for times of directories that
nobody chose.  Only the usual case is done here; :class:`Unsuitable` sends every other one, and what
is an error, to :mod:`sampan.build.ops.copy`.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import BinaryIO

from sampan.build.graph.ops import CopyAction, File
from sampan.build.ops.archive import ArchiveItem, ArchiveTree
from sampan.build.ops.checksum import ignore_matcher
from sampan.build.ops.copy import Copier
from sampan.build.ops.owners import ModeChange, resolve_owner
from sampan.build.ops.select import select
from sampan.build.ops.tree import Folder, Status, Tree
from sampan.image import tar
from sampan.image.layer import KINDS, WHITEOUT_PREFIX, status_in, xattrs_of
from sampan.image.tar import Entry
from sampan.image.tarwrite import END, Gathered, header, padding
from sampan.store.snapshots import Usage

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_SECOND = 1_000_000_000
# What a file system can hold; copying says what is wrong with more.
_NAME_LIMIT = 255
_PATH_LIMIT = 4096
_MAJORS, _MINORS = 1 << 12, 1 << 20


class Unsuitable(Exception):
    """The operation is to be done by copying files."""


@dataclass(slots=True)
class _Place:
    """A file of the layer: its entry, the item that has its data, and what is in it."""

    entry: Entry
    item: ArchiveItem | None = None
    inode: tuple[int, int] | None = None
    inside: dict[bytes, _Place] = field(default_factory=dict)


class DirectCopy:
    """One operation's layer over ``target``, which is only read.  Blocking.

    Raises Unsuitable before anything is written.
    """

    def __init__(self, op: File, inputs: Mapping[int, Tree], target: Folder) -> None:
        self._target = target
        self._now = time.time_ns()
        self._top = _Place(Entry(b"", tar.DIRECTORY, 0, 0, 0, 0, 0))
        self.usage = Usage(0, 0)
        """What the layer takes, once it is written."""
        action = op.actions[0] if len(op.actions) == 1 else None
        if not isinstance(action, CopyAction) or action.parents:
            raise Unsuitable
        source = inputs[action.input]
        if not isinstance(source, ArchiveTree) or not source.local:
            raise Unsuitable
        chosen = select(source, action.source)
        if len(chosen) != 1 or not chosen[0].is_dir:
            raise Unsuitable
        owner = resolve_owner(target, action.owner) if action.owner else None
        mode = ModeChange(action.mode) if action.mode else None
        self._copier = Copier(source, target, owner, mode, ignore_matcher(action.exclude))
        with ExitStack() as stack:
            self._copy(source, chosen[0].path, chosen[0].info, action.dest, stack)

    def write(self, out: BinaryIO) -> int:
        """Write the tar; returns the sum of the sizes of the regular files in bytes."""
        gathered = Gathered(out)
        first: dict[tuple[int, int], bytes] = {}
        size = inodes = 0
        for place in _sorted(self._top):
            entry = place.entry
            if place.inode is not None:
                earlier = first.setdefault(place.inode, entry.name)
                if earlier != entry.name:
                    entry.type, entry.linkname, entry.size = tar.HARDLINK, earlier, 0
                    entry.xattrs = None
            inodes += entry.type != tar.HARDLINK
            gathered.put(header(entry))
            if entry.type == tar.REGULAR and place.item is not None:
                gathered.put(place.item.contents())
                gathered.put(padding(entry.size))
                size += entry.size
        gathered.put(END)
        gathered.flush()
        self.usage = Usage(size, inodes)
        return size

    # what the copy makes

    def _copy(
        self, source: ArchiveTree, start: str, info: Status, dest: str, stack: ExitStack
    ) -> None:
        base, root = self._holder(dest, stack)
        made = {"": base}
        below: dict[str, int | None] = {"": root}
        opened: list[str] = []
        count = 0
        for item in source.walk(start, self._copier.exclude):
            assert isinstance(item, ArchiveItem)
            parent, _, name = item.relative.rpartition("/")
            # Directories come before what they hold: close those that have been left.
            while opened and not (parent == opened[-1] or parent.startswith(opened[-1] + "/")):
                fd = below.pop(opened.pop())
                if fd is not None:
                    os.close(fd)
            raw = os.fsencode(name)
            if raw.startswith(WHITEOUT_PREFIX) or len(raw) > _NAME_LIMIT:
                raise Unsuitable
            holder = made[parent]
            old = status_in(below[parent], raw)
            place = self._place(item, holder, raw, old)
            if place is None:
                continue
            holder.inside[raw] = place
            count += 1
            if parent == "":
                base.entry.mtime = self._now
            if place.entry.type == tar.DIRECTORY:
                made[item.relative] = place
                fd = None
                if old is not None:
                    fd = os.open(raw, _DIRECTORY, dir_fd=below[parent])
                    place.entry.xattrs = {**(xattrs_of(fd) or {}), **(place.entry.xattrs or {})}
                below[item.relative] = fd
                opened.append(item.relative)
        for path in opened:
            fd = below[path]
            if fd is not None:
                os.close(fd)
        if not count:
            raise Unsuitable
        if start:
            base.entry.mtime = info.st_mtime_ns

    def _place(
        self, item: ArchiveItem, holder: _Place, name: bytes, old: os.stat_result | None
    ) -> _Place | None:
        """What the item becomes; None for what no layer has."""
        info = item.info
        kind = KINDS.get(stat.S_IFMT(info.st_mode))
        if kind is None or (kind == tar.CHAR and info.st_rdev == 0):
            return None
        directory = kind == tar.DIRECTORY
        if old is not None and stat.S_ISDIR(old.st_mode) != directory:
            raise Unsuitable
        path = holder.entry.name + b"/" + name if holder.entry.name else name
        uid, gid = self._copier.owner_of(info)
        mode = self._copier.mode_of(info, directory=directory)
        entry = Entry(path, kind, mode, uid, gid, 0, info.st_mtime_ns)
        if kind == tar.SYMLINK:
            entry.mode, entry.linkname = 0o777, os.fsencode(item.link())
            if not 0 < len(entry.linkname) < _PATH_LIMIT:
                raise Unsuitable
            return _Place(entry)
        place = _Place(entry)
        if info.st_nlink > 1 and not directory:
            place.inode = (info.st_dev, info.st_ino)
        if kind in (tar.CHAR, tar.BLOCKDEV):
            entry.major, entry.minor = os.major(info.st_rdev), os.minor(info.st_rdev)
            if entry.major >= _MAJORS or entry.minor >= _MINORS:
                raise Unsuitable
        if item.xattrs and (directory or kind == tar.REGULAR):
            entry.xattrs = {
                os.fsencode(key): value for key, value in self._copier.attributes_of(item)
            }
        if kind == tar.REGULAR:
            if item.sparse:
                raise Unsuitable
            entry.size = info.st_size
            place.item = item
        return place

    def _holder(self, dest: str, stack: ExitStack) -> tuple[_Place, int | None]:
        """The place of the directory ``dest``, in the places of those above it; and a descriptor
        of it if the target has it."""
        parts = [part for part in dest.split("/") if part not in ("", ".")]
        if ".." in parts:
            raise Unsuitable
        fd: int | None = self._target.open("/", _DIRECTORY & ~os.O_NOFOLLOW)
        assert fd is not None
        stack.callback(os.close, fd)
        place = self._top
        path = b""
        for part in parts:
            name = os.fsencode(part)
            path = path + b"/" + name if path else name
            info = status_in(fd, name)
            if info is None:
                # Made by the copy; what it is made in changes by that.
                place.entry.mtime = self._now
                uid, gid = self._copier.owner or (0, 0)
                entry = Entry(path, tar.DIRECTORY, 0o755, uid, gid, 0, self._now)
                fd = None
            elif stat.S_ISDIR(info.st_mode):
                fd = os.open(name, _DIRECTORY, dir_fd=fd)
                stack.callback(os.close, fd)
                mode = stat.S_IMODE(info.st_mode)
                entry = Entry(
                    path, tar.DIRECTORY, mode, info.st_uid, info.st_gid, 0, info.st_mtime_ns
                )
                entry.xattrs = xattrs_of(fd)
            else:
                raise Unsuitable  # A link to follow, or something in the way.
            place.inside[name] = inner = _Place(entry)
            place = inner
        return place, fd


def _sorted(place: _Place) -> Iterator[_Place]:
    """Everything in a directory by name, each with what is in it."""
    for _, inner in sorted(place.inside.items()):
        yield inner
        if inner.inside:
            yield from _sorted(inner)
