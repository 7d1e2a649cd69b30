"""The snapshots' records in the database, shared by the snapshotters.

A snapshot is a numbered directory; names point at it.  Creation is: record and directory in one
transaction; removal: record first, then the directory, which is moved aside before it is deleted.
What a crash leaves in between is a directory without a record, which
:meth:`SnapshotRecords.clean` removes at start.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from sqlite3 import IntegrityError

from sampan.errors import Conflict, NotFound
from sampan.linux.trees import remove_tree
from sampan.store.metadata import Metadata
from sampan.store.snapshots import Info, Kind, Usage

_ASIDE = "gone-"
_FIELDS = "s.id, s.kind, s.parent, n.parent_name, s.size, s.inodes, s.form"


@dataclass(frozen=True, slots=True)
class Record:
    """``form`` is the driver's own word for how the snapshot is stored."""

    id: int
    kind: Kind
    parent: int | None
    parent_name: str | None
    size: int
    inodes: int
    form: str


class SnapshotRecords:
    def __init__(self, metadata: Metadata, driver: str, root: Path) -> None:
        self.root = root
        self._metadata = metadata
        self._driver = driver
        root.mkdir(parents=True, exist_ok=True, mode=0o700)

    def directory(self, id: int) -> Path:
        return self.root / str(id)

    def find(self, name: str) -> Record:
        """Raises errors.NotFound."""
        record = self.get(name)
        if record is None:
            raise NotFound(f"no such snapshot: {name}")
        return record

    def get(self, name: str) -> Record | None:
        rows = self._metadata.query(
            f"SELECT {_FIELDS} FROM snapshot_names n JOIN snapshots s ON s.id = n.snapshot"
            " WHERE n.driver = ? AND n.name = ?",
            (self._driver, name),
        )
        return Record(*rows[0]) if rows else None  # type: ignore[arg-type]

    def committed(self, name: str) -> Record:
        """A snapshot that can be a parent; raises errors.NotFound or errors.Conflict."""
        record = self.find(name)
        if record.kind != "committed":
            raise Conflict(f"the snapshot {name} is not committed, so it cannot be a parent")
        return record

    def made_on(self, id: int) -> tuple[int | None, str]:
        """The number of a snapshot's parent, and its own form."""
        rows = self._metadata.query("SELECT parent, form FROM snapshots WHERE id = ?", (id,))
        parent, form = rows[0] if rows else (None, "")
        return (int(parent) if parent is not None else None), form

    def chain(self, id: int) -> list[tuple[int, str]]:
        """``(id, form)`` of the snapshot and its parents, uppermost first."""
        rows = self._metadata.query(
            "WITH RECURSIVE up (id, parent, form, depth) AS ("
            " SELECT id, parent, form, 0 FROM snapshots WHERE id = ?"
            " UNION ALL SELECT s.id, s.parent, s.form, up.depth + 1"
            " FROM snapshots s JOIN up ON s.id = up.parent)"
            " SELECT id, form FROM up ORDER BY depth",
            (id,),
        )
        return [(int(row[0]), row[1]) for row in rows]

    @contextmanager
    def creating(
        self, name: str, kind: Kind, parent: str | None, form: str, becomes: str = ""
    ) -> Iterator[Record]:
        """Insert a record and make its directory, for the block to fill; if that fails, neither is
        left.  Whoever is told of the snapshot has a record of his own, whose transaction makes
        this one durable.  With ``becomes``, the parent is an active snapshot that will be
        committed under this name."""
        directory: Path | None = None
        try:
            with self._metadata.transaction(durable=False) as connection:
                parent_id = None
                if parent is not None:
                    below = self.find(parent) if becomes else self.committed(parent)
                    parent, parent_id = becomes or parent, below.id
                cursor = connection.execute(
                    "INSERT INTO snapshots (driver, kind, parent, form) VALUES (?, ?, ?, ?)",
                    (self._driver, kind, parent_id, form),
                )
                id = cursor.lastrowid
                assert id is not None
                with _unless_taken(name):
                    connection.execute(
                        "INSERT INTO snapshot_names VALUES (?, ?, ?, ?)",
                        (self._driver, name, id, parent),
                    )
                directory = self.directory(id)
                try:
                    directory.mkdir(mode=0o700)
                except FileExistsError:
                    remove_tree(directory, ignore_errors=True)
                    directory.mkdir(mode=0o700)
                yield Record(id, kind, parent_id, parent, -1, -1, form)
        except BaseException:
            if directory is not None:
                remove_tree(directory, ignore_errors=True)
            raise

    def reserve(self) -> Path:
        """A directory for a snapshot that takes long to fill; see :meth:`adopt`."""
        with self._metadata.transaction() as connection:
            cursor = connection.execute(
                "INSERT INTO snapshots (driver, kind, form) VALUES (?, 'filling', '')",
                (self._driver,),
            )
            directory = self.directory(cursor.lastrowid or 0)
            remove_tree(directory, ignore_errors=True)
            directory.mkdir(mode=0o700)
        return directory

    def abandon(self, directory: Path) -> None:
        """Give a reserved directory up."""
        with self._metadata.transaction() as connection:
            connection.execute(
                "DELETE FROM snapshots WHERE id = ? AND kind = 'filling'", (int(directory.name),)
            )
        remove_tree(directory, ignore_errors=True)

    def adopt(
        self,
        directory: Path,
        name: str,
        parent: str | None,
        usage: Usage,
        form: str,
        kind: Kind = "committed",
    ) -> bool:
        """Make a filled directory the snapshot ``name``.  False, and the directory is gone, when
        another caller was quicker."""
        with self._metadata.transaction() as connection:
            taken = self.get(name) is not None
            if not taken:
                parent_id = self.committed(parent).id if parent is not None else None
                id = int(directory.name)
                connection.execute(
                    "UPDATE snapshots SET kind = ?, parent = ?, size = ?, inodes = ?, form = ?"
                    " WHERE id = ?",
                    (kind, parent_id, usage.size, usage.inodes, form, id),
                )
                connection.execute(
                    "INSERT INTO snapshot_names VALUES (?, ?, ?, ?)",
                    (self._driver, name, id, parent),
                )
        if taken:
            self.abandon(directory)
        return not taken

    def commit(self, name: str, key: str, record: Record, usage: Usage) -> None:
        """Commit the snapshot ``key``, whose record this was a moment ago."""
        with self._metadata.transaction() as connection:
            changed = connection.execute(
                "UPDATE snapshots SET kind = 'committed', size = ?, inodes = ?"
                " WHERE id = ? AND kind = 'active'",
                (usage.size, usage.inodes, record.id),
            )
            if not changed.rowcount:
                raise Conflict(f"the snapshot {key} is not active, so it cannot be committed")
            with _unless_taken(name):
                connection.execute(
                    "UPDATE snapshot_names SET name = ? WHERE driver = ? AND name = ?",
                    (name, self._driver, key),
                )

    def link(self, name: str, target: str) -> None:
        with self._metadata.transaction() as connection:
            record = self.committed(target)
            with _unless_taken(name):
                connection.execute(
                    "INSERT INTO snapshot_names VALUES (?, ?, ?, ?)",
                    (self._driver, name, record.id, record.parent_name),
                )

    def remove(self, name: str, unless: Callable[[str], bool] | None = None) -> int | None:
        """Remove a name; returns the snapshot's ID when it was the last one.  Raises
        errors.Conflict while it is a parent, and if ``unless`` says so of it: whoever makes it say
        so and looks afterwards finds the name, or finds it gone.  An active snapshot is removed
        durably by the transaction that removes what it belonged to."""
        with self._metadata.transaction(durable=name.startswith("sha256:")) as connection:
            record = self.find(name)
            if unless is not None and unless(name):
                raise Conflict(f"the snapshot {name} is wanted")
            connection.execute(
                "DELETE FROM snapshot_names WHERE driver = ? AND name = ?", (self._driver, name)
            )
            rest = connection.execute(
                "SELECT 1 FROM snapshot_names WHERE snapshot = ? LIMIT 1", (record.id,)
            ).fetchone()
            if rest is not None:
                return None
            child = connection.execute(
                "SELECT 1 FROM snapshots WHERE parent = ? LIMIT 1", (record.id,)
            ).fetchone()
            if child is not None:
                raise Conflict(f"the snapshot {name} is the parent of another one")
            connection.execute("DELETE FROM snapshots WHERE id = ?", (record.id,))
            return record.id

    def set_aside(self, id: int | None) -> Callable[[], None]:
        """Move the directory of a removed snapshot, if one was, out of the way of the next one
        with its number; what is returned deletes it, and :meth:`clean` what a crash leaves."""
        if id is None:
            return _nothing
        aside = self.root / f"{_ASIDE}{id}-{secrets.token_hex(8)}"
        with suppress(FileNotFoundError):
            os.rename(self.directory(id), aside)
        return partial(remove_tree, aside, ignore_errors=True)

    def info(self, name: str) -> Info:
        record = self.find(name)
        return Info(name, record.kind, record.parent_name)

    @contextmanager
    def still(self) -> Iterator[None]:
        """Nobody else changes or reads the records meanwhile."""
        with self._metadata.transaction():
            yield

    def uses(self, id: int) -> bool:
        """Whether an active snapshot or a view stands on this committed one."""
        rows = self._metadata.query(
            "WITH RECURSIVE above (id) AS (SELECT ? UNION ALL"
            " SELECT s.id FROM snapshots s JOIN above ON s.parent = above.id)"
            " SELECT 1 FROM snapshots s JOIN above ON s.id = above.id"
            " WHERE s.kind IN ('active', 'view') LIMIT 1",
            (id,),
        )
        return bool(rows)

    def used(self) -> list[tuple[str, Record]]:
        """Active snapshots and views with their names, the uppermost first."""
        rows = self._metadata.query(
            f"SELECT n.name, {_FIELDS} FROM snapshot_names n JOIN snapshots s ON s.id = n.snapshot"
            " WHERE n.driver = ? AND s.kind IN ('active', 'view') ORDER BY s.id DESC",
            (self._driver,),
        )
        return [(name, Record(*fields)) for name, *fields in rows]  # type: ignore[arg-type]

    def unreached(self, roots: set[str]) -> list[str]:
        """Names of committed image layers (digests) that neither ``roots`` nor any other snapshot
        reaches; those uppermost come first, so that they can be removed in this order."""
        rows = self._metadata.query(
            "SELECT n.name, s.id, s.parent, s.kind FROM snapshot_names n"
            " JOIN snapshots s ON s.id = n.snapshot WHERE n.driver = ? ORDER BY s.id DESC",
            (self._driver,),
        )
        parents = {int(row[1]): row[2] for row in rows}
        kept: set[int] = set()
        for name, id, _, kind in rows:
            if kind == "committed" and name.startswith("sha256:") and name not in roots:
                continue
            current: int | None = int(id)
            while current is not None and current not in kept:
                kept.add(current)
                following = parents.get(current)
                current = int(following) if following is not None else None
        return [row[0] for row in rows if int(row[1]) not in kept]

    def check(self, files: Callable[[Record], list[Path]]) -> list[tuple[str, str]]:
        """The snapshots (uppermost first) that lack one of the files that they should have."""
        rows = self._metadata.query(
            f"SELECT n.name, {_FIELDS} FROM snapshot_names n JOIN snapshots s ON s.id = n.snapshot"
            " WHERE n.driver = ? ORDER BY s.id DESC",
            (self._driver,),
        )
        found: list[tuple[str, str]] = []
        for name, *fields in rows:
            for path in files(Record(*fields)):  # type: ignore[arg-type]
                if not path.exists():
                    found.append((name, f"the snapshot {name} lacks {path}"))
                    break
        return found

    def clean(self) -> None:
        """Remove what a crash left: unfinished records, directories without a record."""
        with self._metadata.transaction() as connection:
            connection.execute(
                "DELETE FROM snapshots WHERE driver = ? AND id NOT IN"
                " (SELECT snapshot FROM snapshot_names) AND id NOT IN"
                " (SELECT parent FROM snapshots WHERE parent IS NOT NULL)",
                (self._driver,),
            )
        rows = self._metadata.query("SELECT id FROM snapshots WHERE driver = ?", (self._driver,))
        known = {str(id) for (id,) in rows}
        for path in self.root.iterdir():
            name = path.name
            if (name.isdigit() and name not in known) or name.startswith(_ASIDE):
                remove_tree(path, ignore_errors=True)


@contextmanager
def _unless_taken(name: str) -> Iterator[None]:
    """Raises Conflict where the name that a statement gives is another snapshot's."""
    try:
        yield
    except IntegrityError:
        raise Conflict(f"the snapshot {name} exists already") from None


def _nothing() -> None:
    """What is left to do when another name of the snapshot remains."""
