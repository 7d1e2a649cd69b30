"""Snapshots as directories that overlayfs stacks.

    snapshots/overlay/<id>/fs      what the snapshot changed, in overlayfs' form
    snapshots/overlay/<id>/work    overlayfs' scratch directory, of active snapshots
    snapshots/overlay/<id>/spent   the same of one just committed, until it is removed
    snapshots/overlay/gone-<id>-…  a removed snapshot, until its files are deleted
    snapshots/overlay/empty        an empty directory

A committed snapshot stands for itself over its parents.  Nothing is mounted here: callers get the
mount described and make it in their own mount namespace.
"""

from __future__ import annotations

import os
import stat
import threading
import time
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from sampan.errors import DiskFull, SampanError, Unsupported
from sampan.image.layer import is_opaque
from sampan.linux import kernel, quota
from sampan.linux.sync import syncfs
from sampan.linux.trees import below, remove_tree
from sampan.runtime.types import Mount
from sampan.store.content import disk_full_as_error
from sampan.store.extract import extract
from sampan.store.metadata import Metadata
from sampan.store.records import Record, SnapshotRecords
from sampan.store.snapshots import Info, Kind, Usage

# Renaming a directory of a lower layer gives EXDEV instead of a redirect: a layer's tar could not
# express one.
OPTIONS = ("redirect_dir=off", "index=off", "metacopy=off")
_CAN_BE_VOLATILE = kernel.version() >= (5, 10)
_CALM = 0.25
"""Seconds that the scratch directory of a committed snapshot stays: steps of a build follow each
other, and its removal would be in the way of the next one."""
_MARK = "work/work/incompat"
"""Made by a volatile mount, and in the way of every later one."""


class OverlaySnapshotter:
    """The snapshotter interface over overlayfs."""

    driver = "overlay"
    keeps_tars = False

    def __init__(self, state_dir: Path, metadata: Metadata) -> None:
        self.root = state_dir / "snapshots" / self.driver
        self._records = SnapshotRecords(metadata, self.driver, self.root)
        self._records.clean()
        self._empty = self.root / "empty"
        self._empty.mkdir(exist_ok=True)
        self._applying = threading.Lock()
        self._tidying = ThreadPoolExecutor(1, "snapshots-tidy")
        self._open()

    def _open(self) -> None:
        """Make good what a power failure did to the directories of active snapshots and views:
        their record may be on the disk before they are, or their removal before the record's.
        They become what they were at first; nothing that was written to them had been kept."""
        for _, record in self._records.used():
            directory = self._records.directory(record.id)
            if not (directory / "fs").exists():
                remove_tree(directory, ignore_errors=True)
                with suppress(SampanError, OSError):  # check() says what is wrong below it
                    directory.mkdir(mode=0o700)
                    self._fill(directory, record.kind, record.parent)
            elif record.kind == "active":
                (directory / "work").mkdir(mode=0o700, exist_ok=True)

    def prepare(
        self, key: str, parent: str | None, *, volatile: bool = False, becomes: str = ""
    ) -> list[Mount]:
        return self._create(key, "active", parent, volatile, becomes)

    def limit(self, key: str, size: int) -> None:
        record = self._records.find(key)
        directory = self._records.directory(record.id)
        # Other state directories on the same file system have projects of their own.
        project = (zlib.crc32(os.fsencode(self.root)) | 1 << 31) & 0xFFF00000 | record.id & 0xFFFFF
        try:
            quota.limit(directory, project, size)
            for name in ("fs", "work"):
                quota.set_project(directory / name, project)
        except OSError as error:
            raise Unsupported(
                f"storage-opt size: {self.root} is not on a file system with project quotas "
                f"(ext4 or xfs mounted with prjquota): {error.strerror}"
            ) from error

    def view(self, key: str, parent: str | None) -> list[Mount]:
        return self._create(key, "view", parent)

    def mounts(self, key: str, *, volatile: bool = False) -> list[Mount]:
        record = self._records.find(key)
        if record.kind == "active":
            # The mark of an earlier volatile mount: another boot would have to distrust what is
            # there, and removes or remakes it.
            remove_tree(self._records.directory(record.id) / _MARK, ignore_errors=True)
        return self._mounts(record, volatile)

    def commit(self, name: str, key: str) -> None:
        record = self._records.find(key)
        self._records.commit(name, key, record, tree_usage(self._fs(record.id)))
        self._forget(record.id)
        # By a name of its own: the number may belong to another snapshot when it is removed.
        directory = str(self._records.directory(record.id))
        with suppress(OSError):
            os.rename(f"{directory}/work", f"{directory}/spent")
            self._tidying.submit(_tidy, f"{directory}/spent", time.monotonic() + _CALM)

    def _forget(self, id: int) -> None:
        """What is known of a snapshot, if anything, is not so any more."""

    def link(self, name: str, target: str) -> None:
        self._records.link(name, target)

    def remove(self, key: str, unless: Callable[[str], bool] | None = None) -> None:
        self.release(key, unless)()

    def release(self, key: str, unless: Callable[[str], bool] | None = None) -> Callable[[], None]:
        try:
            id = self._records.remove(key, unless)
        except DiskFull:
            # The record of the removal needs space itself: what is removed gives it.
            record = self._records.find(key)
            if record.kind != "active":
                raise
            remove_tree(self._fs(record.id), ignore_errors=True)
            id = self._records.remove(key)
        return self._records.set_aside(id)

    def usage(self, key: str) -> Usage:
        record = self._records.find(key)
        if record.kind == "committed":
            return Usage(record.size, record.inodes)
        return tree_usage(self._fs(record.id))

    def stat(self, key: str) -> Info:
        return self._records.info(key)

    def upper(self, key: str) -> Path:
        record = self._records.find(key)
        if record.kind == "view":
            raise Unsupported(f"the snapshot {key} is a view, which changes nothing")
        return self._fs(record.id)

    def apply(
        self,
        name: str,
        parent: str | None,
        layer: BinaryIO,
        source: Path | None = None,
        *,
        apart: Usage | None = None,
    ) -> None:
        if self._records.get(name) is not None:
            return
        lower = self._lower(self._records.committed(parent).id) if parent is not None else []
        directory = self._records.reserve()
        try:
            with disk_full_as_error(self.root):
                fs = directory / "fs"
                self._make_fs(fs, lower)
                usage = extract(layer, fs, keep_whiteouts=True, lower=lower)
                syncfs(fs)
        except BaseException:
            self._records.abandon(directory)
            raise
        form = "opaque" if is_opaque(fs) else "directory"
        self._records.adopt(directory, name, parent, usage, form)

    def warm(self, name: str) -> None:
        """Nothing: directories can be mounted as they are."""

    def close(self) -> None:
        """Nothing: no mount is held."""

    def layer_tar(self, name: str) -> Path | None:
        return None

    def check(self, repair: bool) -> list[tuple[str, str]]:
        """A snapshot's directories are there."""

        def files(record: Record) -> list[Path]:
            directory = self._records.directory(record.id)
            wanted = [directory / "fs"]
            return [*wanted, directory / "work"] if record.kind == "active" else wanted

        return self._records.check(files)

    def active(self) -> list[str]:
        """The keys of active snapshots and views."""
        return [name for name, _ in self._records.used()]

    def unreached(self, roots: set[str]) -> list[str]:
        """Names of image layers that nothing needs, in the order to remove them."""
        return self._records.unreached(roots)

    def _create(
        self,
        key: str,
        kind: Kind,
        parent: str | None,
        volatile: bool = False,
        becomes: str = "",
    ) -> list[Mount]:
        with disk_full_as_error(self.root):
            with self._records.creating(key, kind, parent, "directory", becomes) as record:
                self._fill(self._records.directory(record.id), kind, record.parent)
                return self._mounts(record, volatile)

    def _fill(self, directory: Path, kind: Kind, parent: int | None) -> None:
        self._make_fs(directory / "fs", self._lower(parent) if parent is not None else [])
        if kind == "active":
            (directory / "work").mkdir(mode=0o700)

    def _make_fs(self, fs: Path, lower: list[Path]) -> None:
        """The directory takes the root's owner and mode from the layer below."""
        fs.mkdir(mode=0o755)
        mode, uid, gid = 0o755, 0, 0
        if lower:
            info = lower[0].stat()
            mode, uid, gid = stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid
        os.chown(fs, uid, gid)
        fs.chmod(mode)

    def _fs(self, id: int) -> Path:
        return self._records.directory(id) / "fs"

    def _lower(self, id: int) -> list[Path]:
        found: list[Path] = []
        for number, form in self._records.chain(id):
            found.append(self._fs(number))
            if form == "opaque":
                break  # Its root hides everything below; overlayfs knows no such roots.
        return found

    def _mounts(self, record: Record, volatile: bool = False) -> list[Mount]:
        lower = self._lower(record.parent) if record.parent is not None else []
        if record.kind == "committed":
            lower.insert(0, self._fs(record.id))
        if record.kind == "active":
            if not lower:
                return [Mount("bind", str(self._fs(record.id)), ["bind", "rw"])]
            directory = self._records.directory(record.id)
            return [overlay(lower, directory / "fs", directory / "work", volatile)]
        return self._mounts_of(lower)

    def _mounts_of(self, lower: list[Path]) -> list[Mount]:
        """Read-only mounts of these directories."""
        if len(lower) < 2:
            return [Mount("bind", str(lower[0] if lower else self._empty), ["bind", "ro"])]
        return [overlay(lower)]


def _tidy(directory: str, at: float) -> None:
    """Remove a scratch directory when it is time: most hold just what overlayfs makes in them."""
    time.sleep(max(0.0, at - time.monotonic()))
    for path in (f"{directory}/work/incompat/volatile", f"{directory}/work/incompat"):
        with suppress(OSError):
            os.rmdir(path)
    try:
        os.rmdir(f"{directory}/work")
        os.rmdir(directory)
    except OSError:
        remove_tree(directory, ignore_errors=True)


def overlay(
    lower: list[Path],
    upper: Path | None = None,
    work: Path | None = None,
    volatile: bool = False,
) -> Mount:
    """An overlay of these directories, uppermost first; read-only without an upper one.  Unless it
    is ``volatile`` its end waits until the whole file system of the upper one is synced."""
    options = ["lowerdir=" + ":".join(escape(str(path)) for path in lower)]
    if upper is not None:
        options += [f"upperdir={upper}", f"workdir={work}"]
        if volatile and _CAN_BE_VOLATILE:
            options.append("volatile")
    else:
        options.append("ro")
    return Mount("overlay", "overlay", [*options, *OPTIONS])


def writable(mounts: Sequence[Mount]) -> Path:
    """Where an active snapshot that is mounted so keeps its changes: an overlay's upper directory,
    or else the whole tree."""
    top = mounts[-1]
    return _option(top, "upperdir=") or Path(top.source)


def scratch(mounts: Sequence[Mount]) -> Path | None:
    """The overlay's scratch directory, if there is an overlay; it goes with the commit."""
    return _option(mounts[-1], "workdir=")


def _option(mount: Mount, name: str) -> Path | None:
    for option in mount.options:
        if option.startswith(name):
            return Path(option.removeprefix(name))
    return None


def tree_usage(root: Path) -> Usage:
    """The space of a directory tree: each inode once, in allocated bytes."""
    size = inodes = 0
    seen: set[tuple[int, int]] = set()
    for entry in below(root):
        with suppress(FileNotFoundError):  # removed meanwhile by the running container
            info = entry.stat(follow_symlinks=False)
            if not stat.S_ISDIR(info.st_mode) and info.st_nlink > 1:
                if (info.st_dev, info.st_ino) in seen:
                    continue
                seen.add((info.st_dev, info.st_ino))
            inodes += 1
            if stat.S_ISREG(info.st_mode):
                size += min(info.st_size, info.st_blocks * 512) or info.st_size
    return Usage(size, inodes)


def escape(path: str) -> str:
    """A path as one among several of an overlay's layers."""
    return path.replace("\\", "\\\\").replace(":", "\\:")
