"""The records' database: SQLite for one node, PostgreSQL for many, one interface.

SQL is written once, in the part that both understand, with ``?`` for parameters.  A read is one
function over a :class:`Cursor`; a write is one function that runs as one transaction and is
repeated when a concurrent one stood in its way, so it must do nothing but SQL::

    row = await database.read(lambda sql: sql.one("SELECT …", name))
    await database.write(lambda sql: sql.run("INSERT …", name, digest))
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol, TypeVar

T = TypeVar("T")
Row = tuple[Any, ...]


class Cursor(Protocol):
    """What a query function is given."""

    def one(self, sql: str, *args: Any) -> Row | None:
        """The first row, or None."""

    def all(self, sql: str, *args: Any) -> list[Row]:
        """All rows."""

    def run(self, sql: str, *args: Any) -> int:
        """Execute; returns the number of rows changed."""


class Database(Protocol):
    """Where the records are."""

    async def read(self, query: Callable[[Cursor], T]) -> T:
        """Run ``query`` on a consistent view."""

    async def scan(self, query: Callable[[Cursor], T]) -> T:
        """As :meth:`read`, for a query that looks at very many rows."""

    async def write(self, change: Callable[[Cursor], T]) -> T:
        """Run ``change`` as one durable transaction; nothing of it is kept when it raises."""

    async def close(self) -> None:
        """Finish what is running and let go."""


class _SqliteCursor:
    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def one(self, sql: str, *args: Any) -> Row | None:
        row: Row | None = self._connection.execute(sql, args).fetchone()
        return row

    def all(self, sql: str, *args: Any) -> list[Row]:
        return self._connection.execute(sql, args).fetchall()

    def run(self, sql: str, *args: Any) -> int:
        return self._connection.execute(sql, args).rowcount


class SqliteDatabase:
    """One file in WAL mode.  Reads are short and run on the loop; writes, which wait for the
    disk, and scans run one after another in a thread each."""

    def __init__(self, path: Path, migrations: list[str]) -> None:
        self._writer = self._open(path)
        self._migrate(migrations)
        self._reader = self._open(path)
        self._reader.execute("PRAGMA query_only = 1")
        self._read_cursor = _SqliteCursor(self._reader)
        self._scanner = self._open(path)
        self._scanner.execute("PRAGMA query_only = 1")
        self._thread = ThreadPoolExecutor(1, "hub-database")
        self._scan_thread = ThreadPoolExecutor(1, "hub-scan")

    @staticmethod
    def _open(path: Path) -> sqlite3.Connection:
        connection = sqlite3.connect(
            path, isolation_level=None, check_same_thread=False, cached_statements=256, timeout=30
        )
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA cache_size = -16384")
        return connection

    def _migrate(self, migrations: list[str]) -> None:
        connection = self._writer
        connection.execute("BEGIN IMMEDIATE")
        (done,) = connection.execute("PRAGMA user_version").fetchone()
        for script in migrations[done:]:
            for statement in filter(str.strip, script.split(";")):
                connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {len(migrations)}")
        connection.execute("COMMIT")

    async def read(self, query: Callable[[Cursor], T]) -> T:
        return query(self._read_cursor)

    async def scan(self, query: Callable[[Cursor], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(
            self._scan_thread, query, _SqliteCursor(self._scanner)
        )

    async def write(self, change: Callable[[Cursor], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(
            self._thread, self._transaction, change
        )

    def _transaction(self, change: Callable[[Cursor], T]) -> T:
        self._writer.execute("BEGIN IMMEDIATE")
        try:
            result = change(_SqliteCursor(self._writer))
            self._writer.execute("COMMIT")
        except BaseException:
            if self._writer.in_transaction:
                self._writer.execute("ROLLBACK")
            raise
        return result

    async def close(self) -> None:
        await asyncio.to_thread(self._thread.shutdown)
        await asyncio.to_thread(self._scan_thread.shutdown)
        self._scanner.close()
        self._reader.close()
        self._writer.close()
