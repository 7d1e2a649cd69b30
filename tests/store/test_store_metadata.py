"""The database: transactions, collections, migrations."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import msgspec
import pytest

from sampan.errors import Conflict, SampanError
from sampan.store.metadata import Metadata


class Thing(msgspec.Struct):
    id: str
    name: str = ""
    value: int = 0


def test_a_collection(tmp_path: Path) -> None:
    metadata = Metadata(tmp_path / "meta.db")
    things = metadata.collection("things", Thing)
    others = metadata.collection("others", Thing)
    things.put(Thing("aa1", "one", 1))
    things.put(Thing("ab2", "two", 2))
    things.put(Thing("b", "", 3))
    things.put(Thing("c", "", 4))
    others.put(Thing("aa1", "one", 5))
    assert things.get("aa1") == Thing("aa1", "one", 1)
    assert things.by_name("two") == Thing("ab2", "two", 2)
    assert things.get("zz") is None
    assert things.find_prefix("a") == ["aa1", "ab2"]
    with pytest.raises(Conflict):
        things.put(Thing("d", "one"))
    things.put(Thing("aa1", "renamed", 6))
    things.put(Thing("d", "one"))
    things.delete("ab2")
    assert [thing.id for thing in things.all()] == ["aa1", "b", "c", "d"]
    metadata.close()
    again = Metadata(tmp_path / "meta.db").collection("things", Thing)
    assert again.get("aa1") == Thing("aa1", "renamed", 6)


def test_a_transaction_is_all_or_nothing(tmp_path: Path) -> None:
    metadata = Metadata(tmp_path / "meta.db")
    things = metadata.collection("things", Thing)
    with pytest.raises(ZeroDivisionError):
        with metadata.transaction():
            things.put(Thing("a"))
            with metadata.transaction():
                things.put(Thing("b"))
            raise ZeroDivisionError
    assert things.all() == []
    with metadata.transaction():
        things.put(Thing("a"))
    assert len(things.all()) == 1


def test_a_newer_database_is_refused(tmp_path: Path) -> None:
    Metadata(tmp_path / "meta.db").close()
    with sqlite3.connect(tmp_path / "meta.db") as connection:
        connection.execute("PRAGMA user_version = 999")
    connection.close()
    with pytest.raises(SampanError, match="newer version"):
        Metadata(tmp_path / "meta.db")
