"""The records' database in PostgreSQL, for several hub processes on one set of records.

Queries run in threads over a few connections; transactions are serializable and repeated when
PostgreSQL asks for it, so that a collection on one node and a push on another see each other.
"""

from __future__ import annotations

import asyncio
import queue
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import psycopg
from psycopg import IsolationLevel
from psycopg.errors import DeadlockDetected, SerializationFailure

from sampan.errors import Unavailable
from sampan.hub.database import Cursor, Row

CONNECTIONS = 8
ATTEMPTS = 20
# Any number will do, if it is always the same: it keeps two processes from migrating at once.
_MIGRATION_LOCK = 0x53414D50

T = TypeVar("T")


class _PostgresCursor:
    def __init__(self, connection: psycopg.Connection[Row]) -> None:
        self._connection = connection

    def _execute(self, sql: str, args: tuple[Any, ...]) -> psycopg.Cursor[Row]:
        # The SQL is ours alone: values are always parameters.
        text = sql.replace("?", "%s").replace("instr(", "strpos(")
        return self._connection.execute(text.encode(), args)

    def one(self, sql: str, *args: Any) -> Row | None:
        return self._execute(sql, args).fetchone()

    def all(self, sql: str, *args: Any) -> list[Row]:
        return self._execute(sql, args).fetchall()

    def run(self, sql: str, *args: Any) -> int:
        return self._execute(sql, args).rowcount


class PostgresDatabase:
    """Raises errors.Unavailable when the server cannot be reached at the start."""

    def __init__(self, url: str, migrations: list[str]) -> None:
        self._url = url
        self._idle: queue.Queue[psycopg.Connection[Row] | None] = queue.Queue()
        for _ in range(CONNECTIONS):
            self._idle.put(None)
        try:
            with self._connection() as connection:
                _migrate(connection, migrations)
        except psycopg.OperationalError as exc:
            raise Unavailable(f"cannot use the database: {str(exc).splitlines()[0]}") from exc
        self._threads = ThreadPoolExecutor(CONNECTIONS, "hub-postgres")

    async def read(self, query: Callable[[Cursor], T]) -> T:
        return await self._run(query)

    async def scan(self, query: Callable[[Cursor], T]) -> T:
        return await self._run(query)

    async def write(self, change: Callable[[Cursor], T]) -> T:
        return await self._run(change)

    async def _run(self, function: Callable[[Cursor], T]) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, self._transaction, function)

    def _transaction(self, function: Callable[[Cursor], T]) -> T:
        for attempt in range(ATTEMPTS):
            try:
                with self._connection() as connection, connection.transaction():
                    return function(_PostgresCursor(connection))
            except (SerializationFailure, DeadlockDetected):
                if attempt == ATTEMPTS - 1:
                    raise
            except psycopg.OperationalError:
                # The server was restarted: a fresh connection may do.  A commit whose answer was
                # lost may be done twice, so all our changes are written to bear that.
                if attempt:
                    raise
        raise AssertionError("unreachable")

    @contextmanager
    def _connection(self) -> Iterator[psycopg.Connection[Row]]:
        connection = self._idle.get()
        try:
            if connection is None or connection.closed:
                connection = psycopg.connect(self._url, autocommit=True, connect_timeout=10)
                connection.isolation_level = IsolationLevel.SERIALIZABLE
            yield connection
        finally:
            self._idle.put(connection)

    async def close(self) -> None:
        await asyncio.to_thread(self._threads.shutdown)
        while not self._idle.empty():
            if connection := self._idle.get():
                connection.close()


def _migrate(connection: psycopg.Connection[Row], migrations: list[str]) -> None:
    connection.isolation_level = None
    with connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(%s)", (_MIGRATION_LOCK,))
        connection.execute("CREATE TABLE IF NOT EXISTS migrations (done BIGINT NOT NULL)")
        row = connection.execute("SELECT coalesce(max(done), 0) FROM migrations").fetchone()
        done = int(row[0]) if row else 0
        for script in migrations[done:]:
            for statement in filter(str.strip, script.split(";")):
                # Names sort by bytes, as the distribution-spec wants tags sorted, and as SQLite does.
                text = statement.replace(" TEXT", ' TEXT COLLATE "C"')
                connection.execute(text.encode())
        connection.execute("DELETE FROM migrations")
        connection.execute("INSERT INTO migrations VALUES (%s)", (len(migrations),))
    connection.isolation_level = IsolationLevel.SERIALIZABLE
