"""The metadata database: one SQLite file in WAL mode.

``synchronous`` is FULL: a commit is an fsync of the log, so what was acknowledged survives a
power loss.  A transaction that nobody is told of, or whose loss leaves a state that the next start
of the daemon tidies, is committed without one (``durable=False``); the fsync of any later one is
its too.  Every change of several steps is one transaction; ``docs/decisions`` has the figures.

One connection serves all threads under one lock.  Statements here take well under a millisecond,
so the event loop may call them.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from sqlite3 import Connection
from typing import Generic, Protocol, TypeVar

import msgspec

from sampan.errors import Conflict, DiskFull, SampanError
from sampan.store.schema import MIGRATIONS


class HasId(Protocol):
    @property
    def id(self) -> str: ...


T = TypeVar("T", bound=HasId)


class Collection(Generic[T]):
    """Objects of one msgspec Struct by ID; ``name`` is unique in the collection where T has one."""

    def __init__(self, metadata: Metadata, name: str, type: type[T]) -> None:
        self._metadata = metadata
        self._name = name
        self._decoder = msgspec.json.Decoder(type)

    def get(self, id: str) -> T | None:
        return self._one("id", id)

    def by_name(self, name: str) -> T | None:
        return self._one("name", name)

    def put(self, obj: T, *, durable: bool = True) -> None:
        """Insert or replace; raises errors.Conflict when another object has the name."""
        name = getattr(obj, "name", None) or None
        with self._metadata.transaction(durable=durable) as connection:
            try:
                connection.execute(
                    "INSERT INTO objects (collection, id, name, data) VALUES (?, ?, ?, ?)"
                    " ON CONFLICT (collection, id)"
                    " DO UPDATE SET name = excluded.name, data = excluded.data",
                    (self._name, obj.id, name, msgspec.json.encode(obj)),
                )
            except sqlite3.IntegrityError:
                raise Conflict(f"the name {name!r} is already in use in {self._name}") from None

    def delete(self, id: str, *, durable: bool = True) -> None:
        with self._metadata.transaction(durable=durable) as connection:
            connection.execute(
                "DELETE FROM objects WHERE collection = ? AND id = ?", (self._name, id)
            )

    def all(self) -> list[T]:
        rows = self._metadata.query(
            "SELECT data FROM objects WHERE collection = ? ORDER BY id", (self._name,)
        )
        return [self._decoder.decode(data) for (data,) in rows]

    def find_prefix(self, prefix: str) -> list[str]:
        """The IDs that begin with ``prefix``."""
        rows = self._metadata.query(
            "SELECT id FROM objects WHERE collection = ? AND id >= ? AND id < ? ORDER BY id",
            (self._name, prefix, prefix + "\U0010ffff"),
        )
        return [id for (id,) in rows]

    def _one(self, column: str, value: str) -> T | None:
        rows = self._metadata.query(
            f"SELECT data FROM objects WHERE collection = ? AND {column} = ?", (self._name, value)
        )
        return self._decoder.decode(rows[0][0]) if rows else None


class Metadata:
    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = threading.RLock()
        self._depth = 0
        self._durable = True
        self._connection = sqlite3.connect(
            path, isolation_level=None, check_same_thread=False, cached_statements=256
        )
        for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
            self._connection.execute(f"PRAGMA {pragma}")
        self._migrate(path)

    @contextmanager
    def transaction(self, *, durable: bool = True) -> Iterator[Connection]:
        """All or nothing; a transaction inside another one joins it.  Do not await inside.
        One that is not ``durable`` may be lost, whole, if the power fails before the next that is.
        Raises errors.DiskFull, with nothing changed, when there is no space for it."""
        with self._lock:
            if self._depth:
                yield self._connection
                return
            self._synchronize(durable)
            self._connection.execute("BEGIN IMMEDIATE")
            self._depth = 1
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException as error:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                if isinstance(error, sqlite3.OperationalError) and "full" in str(error):
                    raise DiskFull("no space left on the disk that holds the database") from error
                raise
            finally:
                self._depth = 0

    def _synchronize(self, durable: bool) -> None:
        """Have commits wait for the disk, or not; SQLite takes this only between transactions."""
        if durable != self._durable:
            self._connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            self._durable = durable

    def query(self, sql: str, parameters: tuple[object, ...] = ()) -> list[tuple[str, ...]]:
        """The rows of a SELECT; sees the changes of the transaction that this thread is in."""
        with self._lock:
            return self._connection.execute(sql, parameters).fetchall()

    def collection(self, name: str, type: type[T]) -> Collection[T]:
        return Collection(self, name, type)

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    def _migrate(self, path: Path) -> None:
        """Bring the schema to the newest version, one transaction a step."""
        (version,) = self._connection.execute("PRAGMA user_version").fetchone()
        if version > len(MIGRATIONS):
            raise SampanError(
                f"{path} was written by a newer version (schema {version}, this one knows"
                f" {len(MIGRATIONS)}): upgrade, or use another state directory"
            )
        for number, statements in enumerate(MIGRATIONS[version:], version + 1):
            with self.transaction() as connection:
                for statement in statements:
                    connection.execute(statement)
                connection.execute(f"PRAGMA user_version = {number}")
