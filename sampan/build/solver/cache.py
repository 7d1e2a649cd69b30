"""The build cache: records of results by key, persisted in the metadata database."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from weakref import WeakValueDictionary

import msgspec

from sampan.errors import Conflict, NotFound
from sampan.linux.trees import remove_tree
from sampan.store.layers import LayerRef
from sampan.store.metadata import Metadata
from sampan.store.snapshots import Snapshotter

# Names of finished snapshots, and of those still being made.
PREFIX = "build-"
UNFINISHED = "building-"


class CacheKey(msgspec.Struct):
    """``id`` (a key) leads to the record ``record``."""

    id: str
    record: str


class CacheRecord(msgspec.Struct):
    """One result.  ``id`` is the result key (64 hex digits), ``snapshot`` the snapshotter's name
    of it and ``parent`` of what it lies on (None: nothing).  ``empty`` says that nothing changed,
    ``snapshot`` is then the parent's.  Times are seconds since the epoch.  ``kind`` is
    ``regular``, ``exec.cachemount`` or ``source.local``; a cache mount's directory is
    ``snapshot``.  ``boot`` names the boot of this machine in which it was made, until its files
    are known to be on the disk."""

    id: str
    snapshot: str | None
    parent: str | None
    created: float
    last_used: float
    description: str = ""
    uses: int = 1
    size: int = 0
    empty: bool = False
    kind: str = "regular"
    layer: LayerRef | None = None
    keys: list[str] = []
    boot: str = ""


class BuildCache:
    """Finds, adds and prunes records.  Quick enough for the event loop, but for :meth:`prune`."""

    def __init__(self, metadata: Metadata, snapshotter: Snapshotter, mounts_dir: Path) -> None:
        self._metadata = metadata
        self._snapshotter = snapshotter
        self._keys = metadata.collection("build_keys", CacheKey)
        self._records = metadata.collection("build_cache", CacheRecord)
        self.mounts_dir = mounts_dir
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        # Layers that are not in their records yet.
        self.made: dict[str, LayerRef] = {}
        self.in_use: Counter[str] = Counter()
        self.boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        self._unsettled: set[str] = set()

    def lock(self, record_id: str) -> asyncio.Lock:
        """The lock for making something of a record."""
        lock = self._locks.get(record_id)
        if lock is None:
            lock = self._locks[record_id] = asyncio.Lock()
        return lock

    def layer(self, record_id: str) -> LayerRef | None:
        """The layer of a record, if there is one by now."""
        if record_id in self.made:
            return self.made[record_id]
        record = self._records.get(record_id)
        return record.layer if record is not None else None

    def record(self, record_id: str) -> CacheRecord | None:
        return self._records.get(record_id)

    def find(self, key: str) -> CacheRecord | None:
        """The record under ``key`` whose snapshot is still there."""
        entry = self._keys.get(key)
        record = entry and self._records.get(entry.record)
        if not record:
            return None
        if record.snapshot is not None and not self._has(record.snapshot):
            self.drop(record)
            return None
        return record

    def _has(self, snapshot: str) -> bool:
        try:
            return self._snapshotter.stat(snapshot).kind == "committed"
        except NotFound:
            return False

    def add(self, record: CacheRecord, keys: Iterable[str]) -> None:
        """Put the record, and let the keys lead to it from now on."""
        with self._metadata.transaction():
            record.keys = [*record.keys, *(key for key in keys if key not in record.keys)]
            self._records.put(record)
            for key in record.keys:
                self._keys.put(CacheKey(key, record.id))

    def commit(self, record: CacheRecord, keys: Iterable[str], active: str | None) -> None:
        """Commit the active snapshot as the record's and add the record, in one transaction.

        Nobody waits for the disk: what is lost with the power is built again, and the
        registration of an image makes all that went before durable.
        """
        with self._metadata.transaction(durable=False):
            if active is not None and record.snapshot is not None:
                self._snapshotter.commit(record.snapshot, active)
            self.add(record, keys)
        self._unsettled.add(record.id)

    def unsettled(self) -> set[str]:
        """The records whose files may not be on the disk yet."""
        return set(self._unsettled)

    def settle(self, ids: Iterable[str]) -> None:
        """Note that the files of these records are on the disk."""
        with self._metadata.transaction(durable=False):
            for id in ids:
                record = self._records.get(id)
                if record is not None:
                    record.boot = ""
                    self._records.put(record)
        self._unsettled.difference_update(ids)

    def distrust(self) -> None:
        """Forget what an earlier boot had not written to the disk for certain.

        The snapshots lose the names by which images find them too: these unpack their layers.
        """
        rows = self._metadata.query(
            "SELECT id FROM objects WHERE collection = 'build_cache'"
            " AND CAST(data AS TEXT) NOT LIKE ?",
            ('%"boot":""%',),
        )
        for (id,) in rows:
            record = self._records.get(id)
            if record is None or not record.boot:
                continue
            if record.boot == self.boot:
                self._unsettled.add(id)
                continue
            self.drop(record)
            if record.snapshot is None or record.empty:
                continue
            names = self._metadata.query(
                "SELECT n.name FROM snapshot_names n JOIN snapshot_names m"
                " ON m.snapshot = n.snapshot AND m.driver = n.driver"
                " WHERE m.driver = ? AND m.name = ? ORDER BY n.name DESC",
                (self._snapshotter.driver, record.snapshot),
            )
            for (name,) in names:
                # One that something stands on keeps its last name.
                with contextlib.suppress(Conflict, NotFound):
                    self._snapshotter.remove(name)

    def touch(self, records: Iterable[CacheRecord]) -> None:
        """Note a use of each record, in one transaction."""
        now = time.time()
        with self._metadata.transaction(durable=False):
            for record in records:
                # Another build may have added to it.
                current = self._records.get(record.id) or record
                current.last_used = now
                current.uses += 1
                self._records.put(current)

    def link(self, names: Mapping[str, str]) -> None:
        """Give snapshots further names (new name: old name), where these are not taken."""
        with self._metadata.transaction(durable=False):
            for name, target in names.items():
                if not self._has(name):
                    self._snapshotter.link(name, target)

    def save(self, records: Sequence[CacheRecord]) -> None:
        """Put records with their new layers, in one transaction."""
        if not records:
            return
        with self._metadata.transaction(durable=False):
            for record in records:
                self._records.put(record)
        for record in records:
            self.made.pop(record.id, None)

    def drop(self, record: CacheRecord) -> None:
        """Forget the record; its snapshot stays."""
        with self._metadata.transaction():
            self._records.delete(record.id)
            for key in record.keys:
                entry = self._keys.get(key)
                if entry is not None and entry.record == record.id:
                    self._keys.delete(key)

    def records(self) -> list[CacheRecord]:
        return self._records.all()

    def roots(self) -> list[str]:
        """Names of the snapshots and blobs that the cache keeps."""
        found: list[str] = []
        for record in self._records.all():
            if record.kind == "regular" and record.snapshot is not None:
                found.append(record.snapshot)
            if record.layer is not None:
                found.append(record.layer.blob.digest)
        return found

    def prune(
        self,
        wanted: Callable[[CacheRecord], bool] = lambda _: True,
        *,
        keep_storage: int = 0,
    ) -> tuple[list[str], int]:
        """Remove records that ``wanted`` accepts and no build uses, the least recently used first,
        until the cache takes at most ``keep_storage`` bytes (0: all of them).

        Returns the removed records' ids and the bytes freed.  Blocking.
        """
        records = sorted(self._records.all(), key=lambda record: record.last_used)
        total = sum(self.size_of(record) for record in records)
        removed: list[str] = []
        freed = 0
        # A snapshot goes only after those that lie on it, so go round until nothing moves.
        pending = [r for r in records if not self.in_use[r.id] and wanted(r)]
        moved = True
        while moved and pending:
            moved = False
            for record in list(pending):
                if keep_storage and total - freed <= keep_storage:
                    return removed, freed
                size = self.size_of(record)
                if not self._remove(record):
                    continue
                pending.remove(record)
                removed.append(record.id)
                freed += size
                moved = True
        return removed, freed

    def size_of(self, record: CacheRecord) -> int:
        """Bytes that the record takes on disk.  Blocking."""
        if record.kind == "exec.cachemount":
            directory = self.mounts_dir / str(record.snapshot)
            return sum(
                path.lstat().st_blocks * 512 for path in directory.rglob("*") if not path.is_dir()
            )
        if record.empty or record.snapshot is None:
            return 0
        try:
            return self._snapshotter.usage(record.snapshot).size
        except NotFound:
            return 0

    def _remove(self, record: CacheRecord) -> bool:
        if record.kind == "exec.cachemount":
            remove_tree(self.mounts_dir / str(record.snapshot), ignore_errors=True)
        elif (
            record.snapshot is not None and record.snapshot.startswith(PREFIX) and not record.empty
        ):
            try:
                self._snapshotter.remove(record.snapshot)
            except NotFound:
                pass
            except Conflict:
                return False
        self.drop(record)
        return True
