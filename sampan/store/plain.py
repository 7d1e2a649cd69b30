"""Snapshots as whole copies, for file systems that overlayfs cannot use.

    snapshots/plain/<id>/fs    the complete tree

A copy shares its blocks with the original where the file system can (reflink).  There is no upper
directory; a diff is made by comparing with the parent.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from sampan.errors import Conflict, SampanError, Unsupported
from sampan.linux.sync import syncfs
from sampan.linux.trees import remove_tree
from sampan.runtime.types import Mount
from sampan.store.compare import difference
from sampan.store.content import disk_full_as_error
from sampan.store.copytree import copy_tree
from sampan.store.extract import extract
from sampan.store.metadata import Metadata
from sampan.store.overlay import tree_usage
from sampan.store.records import Record, SnapshotRecords
from sampan.store.snapshots import Info, Kind, Usage


class PlainSnapshotter:
    """The snapshotter interface by copying."""

    driver = "plain"
    keeps_tars = False

    def __init__(self, state_dir: Path, metadata: Metadata) -> None:
        self.root = state_dir / "snapshots" / self.driver
        self._records = SnapshotRecords(metadata, self.driver, self.root)
        self._records.clean()
        self._open()

    def _open(self) -> None:
        """Make the trees of active snapshots and views again that a power failure took: they
        become what they were at first.  A tree that is there is whole: it was on the disk before
        its record."""
        for _, record in self._records.used():
            if not self._needed(record).exists():
                directory = self._records.directory(record.id)
                remove_tree(directory, ignore_errors=True)
                with suppress(SampanError, OSError):  # check() says what is wrong below it
                    directory.mkdir(mode=0o700)
                    self._fill(directory, record.kind, record.parent)

    def prepare(
        self, key: str, parent: str | None, *, volatile: bool = False, becomes: str = ""
    ) -> list[Mount]:
        if becomes:
            raise Unsupported("the storage driver plain copies a snapshot when it is complete")
        return self._create(key, "active", parent)

    def limit(self, key: str, size: int) -> None:
        raise Unsupported("storage-opt size: the storage driver plain cannot limit a container")

    def view(self, key: str, parent: str | None) -> list[Mount]:
        return self._create(key, "view", parent)

    def mounts(self, key: str, *, volatile: bool = False) -> list[Mount]:
        return self._mounts(self._records.find(key))

    def commit(self, name: str, key: str) -> None:
        record = self._records.find(key)
        self._records.commit(name, key, record, self._own_usage(record))

    def link(self, name: str, target: str) -> None:
        self._records.link(name, target)

    def remove(self, key: str, unless: Callable[[str], bool] | None = None) -> None:
        self.release(key, unless)()

    def release(self, key: str, unless: Callable[[str], bool] | None = None) -> Callable[[], None]:
        return self._records.set_aside(self._records.remove(key, unless))

    def usage(self, key: str) -> Usage:
        record = self._records.find(key)
        if record.kind == "committed":
            return Usage(record.size, record.inodes)
        return self._own_usage(record)

    def stat(self, key: str) -> Info:
        return self._records.info(key)

    def upper(self, key: str) -> Path:
        """The difference to the parent, laid out anew at each call as overlayfs would have it."""
        record = self._records.find(key)
        place = self._records.directory(record.id) / "upper"
        remove_tree(place, ignore_errors=True)
        with disk_full_as_error(self.root):
            lower = self._fs(record.parent) if record.parent is not None else None
            difference(self._fs(record.id), lower, place)
        return place

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
        base = self._fs(self._records.committed(parent).id) if parent is not None else None
        directory = self._records.reserve()
        try:
            with disk_full_as_error(self.root):
                fs = directory / "fs"
                _make(fs, base)
                usage = extract(layer, fs, keep_whiteouts=False)
                syncfs(fs)
        except BaseException:
            self._records.abandon(directory)
            raise
        self._records.adopt(directory, name, parent, usage, "directory")

    def warm(self, name: str) -> None:
        """Nothing: a tree can be copied as it is."""

    def close(self) -> None:
        """Nothing: no mount is held."""

    def layer_tar(self, name: str) -> Path | None:
        return None

    def check(self, repair: bool) -> list[tuple[str, str]]:
        """A snapshot's tree is there."""

        def files(record: Record) -> list[Path]:
            return [self._needed(record)]

        return self._records.check(files)

    def active(self) -> list[str]:
        """The keys of active snapshots and views."""
        return [name for name, _ in self._records.used()]

    def unreached(self, roots: set[str]) -> list[str]:
        """Names of image layers that nothing needs, in the order to remove them."""
        return self._records.unreached(roots)

    def _create(self, key: str, kind: Kind, parent: str | None) -> list[Mount]:
        if self._records.get(key) is not None:
            raise Conflict(f"the snapshot {key} exists already")
        base = self._records.committed(parent).id if parent is not None else None
        directory = self._records.reserve()
        try:
            with disk_full_as_error(self.root):
                self._fill(directory, kind, base)
        except BaseException:
            self._records.abandon(directory)
            raise
        if not self._records.adopt(directory, key, parent, Usage(-1, -1), "directory", kind):
            raise Conflict(f"the snapshot {key} exists already")
        return self.mounts(key)

    def _fill(self, directory: Path, kind: Kind, parent: int | None) -> None:
        if kind == "active" or parent is None:
            fs = directory / "fs"
            _make(fs, self._fs(parent) if parent is not None else None)
            syncfs(fs)

    def _needed(self, record: Record) -> Path:
        """What a snapshot has on the disk; a view is a look at its parent."""
        directory = self._records.directory(record.id)
        if record.kind == "view" and record.parent is not None:
            return directory
        return directory / "fs"

    def _mounts(self, record: Record) -> list[Mount]:
        if record.kind == "view" and record.parent is not None:
            return [Mount("bind", str(self._fs(record.parent)), ["bind", "ro"])]
        access = "rw" if record.kind == "active" else "ro"
        return [Mount("bind", str(self._fs(record.id)), ["bind", access])]

    def _own_usage(self, record: Record) -> Usage:
        if record.kind == "view":
            return Usage(0, 0)
        whole = tree_usage(self._fs(record.id))
        if record.parent is None:
            return whole
        base = tree_usage(self._fs(record.parent))
        return Usage(max(0, whole.size - base.size), max(0, whole.inodes - base.inodes))

    def _fs(self, id: int) -> Path:
        return self._records.directory(id) / "fs"


def _make(fs: Path, base: Path | None) -> None:
    if base is None:
        fs.mkdir(mode=0o755)
        return
    copy_tree(base, fs)
