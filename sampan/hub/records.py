"""The registry's records: repositories, manifests, tags and links, as typed queries."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from sampan.hub import failures
from sampan.hub.database import Cursor, Database, Row


@dataclass(frozen=True, slots=True)
class Repository:
    name: str
    created: int
    updated: int
    private: bool
    description: str
    readme: str
    pulls: int
    stars: int


@dataclass(frozen=True, slots=True)
class StoredManifest:
    digest: str
    media_type: str
    content: bytes


@dataclass(frozen=True, slots=True)
class TagRow:
    name: str
    digest: str
    media_type: str
    updated: int


@dataclass(frozen=True, slots=True)
class NewManifest:
    """A manifest that was checked and is about to be stored."""

    repository: str
    digest: str
    media_type: str
    content: bytes
    blobs: Sequence[str]
    children: Sequence[str]
    subject: str | None
    artifact_type: str
    annotations: dict[str, str]
    description: str = ""


@dataclass(frozen=True, slots=True)
class Actor:
    """Who pushes, and from which address; kept in the audit log."""

    name: str
    address: str


@dataclass(frozen=True, slots=True)
class Referrer:
    digest: str
    media_type: str
    size: int
    artifact_type: str
    annotations: dict[str, str]


_REPOSITORY = "name, created, updated, private, description, readme, pulls, stars"


class Records:
    """All queries that the registry and its web page make about repositories."""

    def __init__(self, database: Database) -> None:
        self.database = database

    async def repository(self, name: str) -> Repository | None:
        row = await self.database.read(
            lambda sql: sql.one(f"SELECT {_REPOSITORY} FROM repositories WHERE name = ?", name)
        )
        return _repository(row) if row else None

    async def repositories(self, last: str, limit: int, *, private: bool) -> list[str]:
        """Names after ``last``, in order; the private ones too if ``private``."""
        # The plus keeps the condition from choosing an index by pulls, and so a sort of all names.
        hidden = "" if private else "AND +private = 0"
        rows = await self.database.read(
            lambda sql: sql.all(
                f"SELECT name FROM repositories WHERE name > ? {hidden} ORDER BY name LIMIT ?",
                last,
                limit,
            )
        )
        return [row[0] for row in rows]

    async def search(self, term: str, limit: int, offset: int = 0) -> tuple[int, list[Repository]]:
        """Public repositories whose name or description contains ``term``: most pulled first."""
        wanted = term.lower()
        where = "private = 0" + (" AND instr(searched, ?) > 0" if wanted else "")
        values = (wanted,) if wanted else ()

        def query(sql: Cursor) -> tuple[int, list[Repository]]:
            rows = sql.all(
                f"SELECT {_REPOSITORY} FROM repositories WHERE {where} "
                "ORDER BY pulls DESC, name LIMIT ? OFFSET ?",
                *values,
                limit,
                offset,
            )
            if not offset and len(rows) < limit:
                return len(rows), [_repository(row) for row in rows]
            count = sql.one(f"SELECT count(*) FROM repositories WHERE {where}", *values)
            return (count[0] if count else 0), [_repository(row) for row in rows]

        return await self.database.scan(query)

    async def describe(self, name: str, *, description: str, readme: str, private: bool) -> bool:
        """Change what people read about a repository; False when it is not there."""
        changed = await self.database.write(
            lambda sql: sql.run(
                "UPDATE repositories SET description = ?, readme = ?, private = ?, searched = ? "
                "WHERE name = ?",
                description,
                readme,
                int(private),
                _searched(name, description),
                name,
            )
        )
        return changed > 0

    async def manifest(self, repository: str, reference: str) -> StoredManifest | None:
        """A manifest by digest or by tag."""
        if ":" in reference:
            sql_text = (
                "SELECT digest, media_type, content FROM manifests "
                "WHERE repository = ? AND digest = ?"
            )
        else:
            sql_text = (
                "SELECT m.digest, m.media_type, m.content FROM tags t JOIN manifests m "
                "ON m.repository = t.repository AND m.digest = t.digest "
                "WHERE t.repository = ? AND t.name = ?"
            )
        row = await self.database.read(lambda sql: sql.one(sql_text, repository, reference))
        return StoredManifest(row[0], row[1], bytes(row[2])) if row else None

    async def tags(self, repository: str, last: str = "", limit: int = -1) -> list[TagRow]:
        """Tags after ``last`` in order; all of them when ``limit`` is negative."""
        bound = "" if limit < 0 else f"LIMIT {int(limit)}"
        rows = await self.database.read(
            lambda sql: sql.all(
                "SELECT t.name, t.digest, m.media_type, t.updated FROM tags t JOIN manifests m "
                "ON m.repository = t.repository AND m.digest = t.digest "
                f"WHERE t.repository = ? AND t.name > ? ORDER BY t.name {bound}",
                repository,
                last,
            )
        )
        return [TagRow(*row) for row in rows]

    async def store_manifest(
        self,
        new: NewManifest,
        tag: str | None,
        *,
        immutable: bool = False,
        quota: int = 0,
        complete: bool = True,
        actor: Actor | None = None,
    ) -> None:
        """Store a manifest and move ``tag`` to it, in one transaction.

        Raises RegistryError when something that it names is not in the repository (unless it need
        not be ``complete``, as in a cache), when an ``immutable`` tag would move, or when the repository would exceed ``quota`` bytes.
        """
        now = int(time.time())

        def change(sql: Cursor) -> None:
            if complete:
                _check_references(sql, new)
            sql.run(
                "INSERT INTO repositories (name, created, updated, description, searched) "
                "VALUES (?, ?, ?, ?, ?) ON CONFLICT (name) DO UPDATE SET updated = excluded.updated",
                new.repository,
                now,
                now,
                new.description,
                _searched(new.repository, new.description),
            )
            if new.description:
                # What people wrote on the page stays; an image's own words fill a gap.
                sql.run(
                    "UPDATE repositories SET description = ?, searched = ? "
                    "WHERE name = ? AND description = ''",
                    new.description,
                    _searched(new.repository, new.description),
                    new.repository,
                )
            sql.run(
                "INSERT INTO manifests (repository, digest, media_type, size, content, subject, "
                "artifact_type, annotations, created) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) "
                "ON CONFLICT (repository, digest) DO NOTHING",
                new.repository,
                new.digest,
                new.media_type,
                len(new.content),
                new.content,
                new.subject,
                new.artifact_type,
                msgspec.json.encode(new.annotations).decode(),
                now,
            )
            for digest in dict.fromkeys((*new.blobs, *new.children)):
                sql.run(
                    "INSERT INTO manifest_blobs (repository, manifest, digest) VALUES (?, ?, ?) "
                    "ON CONFLICT DO NOTHING",
                    new.repository,
                    new.digest,
                    digest,
                )
            if quota:
                _check_quota(sql, new.repository, quota)
            if tag is not None:
                if immutable:
                    _check_immutable(sql, new.repository, tag, new.digest)
                sql.run(
                    "INSERT INTO tags (repository, name, digest, updated) VALUES (?, ?, ?, ?) "
                    "ON CONFLICT (repository, name) DO UPDATE SET digest = excluded.digest, "
                    "updated = excluded.updated",
                    new.repository,
                    tag,
                    new.digest,
                    now,
                )

            if actor:
                sql.run(
                    "INSERT INTO audit (at, actor, action, subject, address) "
                    "VALUES (?, ?, 'push', ?, ?)",
                    now,
                    actor.name,
                    f"{new.repository} {tag or new.digest}",
                    actor.address,
                )

        await self.database.write(change)

    async def delete_tag(self, repository: str, tag: str) -> bool:
        changed = await self.database.write(
            lambda sql: sql.run(
                "DELETE FROM tags WHERE repository = ? AND name = ?", repository, tag
            )
        )
        return changed > 0

    async def delete_manifest(self, repository: str, digest: str) -> bool:
        """Delete a manifest with the tags that point to it."""
        changed = await self.database.write(
            lambda sql: sql.run(
                "DELETE FROM manifests WHERE repository = ? AND digest = ?", repository, digest
            )
        )
        return changed > 0

    async def delete_repository(self, name: str) -> bool:
        """Delete a repository with all that is in it."""

        def change(sql: Cursor) -> bool:
            sql.run("DELETE FROM links WHERE repository = ?", name)
            sql.run("DELETE FROM daily_pulls WHERE repository = ?", name)
            return sql.run("DELETE FROM repositories WHERE name = ?", name) > 0

        return await self.database.write(change)

    async def referrers(self, repository: str, digest: str) -> list[Referrer]:
        rows = await self.database.read(
            lambda sql: sql.all(
                "SELECT digest, media_type, size, artifact_type, annotations FROM manifests "
                "WHERE repository = ? AND subject = ? ORDER BY created, digest",
                repository,
                digest,
            )
        )
        return [_referrer(row) for row in rows]

    async def blob_size(self, repository: str, digest: str) -> int | None:
        """The size of a blob that is linked to the repository; None when it is not."""
        row = await self.database.read(
            lambda sql: sql.one(
                "SELECT b.size FROM links l JOIN blobs b ON b.digest = l.digest "
                "WHERE l.repository = ? AND l.digest = ?",
                repository,
                digest,
            )
        )
        return row[0] if row else None

    async def holders(self, digest: str) -> list[str]:
        """The repositories that a blob is linked to."""
        rows = await self.database.read(
            lambda sql: sql.all("SELECT repository FROM links WHERE digest = ?", digest)
        )
        return [row[0] for row in rows]

    async def reserve_blob(self, digest: str, size: int) -> bool:
        """Protect a blob's file from collection before it is put in place.

        False when a collection is removing that very blob now: ask again shortly.
        """
        now = int(time.time())

        def change(sql: Cursor) -> bool:
            row = sql.one("SELECT doomed FROM blobs WHERE digest = ?", digest)
            if row and row[0] is not None and row[0] > now - DOOMED_SECONDS:
                return False
            sql.run(
                "INSERT INTO blobs (digest, size, touched) VALUES (?, ?, ?) ON CONFLICT (digest) "
                "DO UPDATE SET touched = excluded.touched, doomed = NULL",
                digest,
                size,
                now,
            )
            return True

        return await self.database.write(change)

    async def link_blob(self, repository: str, digest: str) -> None:
        """Make a blob that is in place visible in a repository."""
        now = int(time.time())
        await self.database.write(
            lambda sql: sql.run(
                "INSERT INTO links (repository, digest, touched) VALUES (?, ?, ?) "
                "ON CONFLICT (repository, digest) DO UPDATE SET touched = excluded.touched",
                repository,
                digest,
                now,
            )
        )

    async def mount_blob(self, source: str | None, repository: str, digest: str) -> bool:
        """Link a blob that ``source`` has (any repository when None); False when it has not."""
        now = int(time.time())

        def change(sql: Cursor) -> bool:
            if source is None:
                found = sql.one("SELECT 1 FROM links WHERE digest = ?", digest)
            else:
                found = sql.one(
                    "SELECT 1 FROM links WHERE repository = ? AND digest = ?", source, digest
                )
            if not found:
                return False
            sql.run(
                "INSERT INTO links (repository, digest, touched) VALUES (?, ?, ?) "
                "ON CONFLICT (repository, digest) DO UPDATE SET touched = excluded.touched",
                repository,
                digest,
                now,
            )
            return True

        return await self.database.write(change)

    async def unlink_blob(self, repository: str, digest: str) -> bool:
        """Hide a blob from a repository.  Raises RegistryError when a manifest names it."""

        def change(sql: Cursor) -> bool:
            if sql.one(
                "SELECT 1 FROM manifest_blobs WHERE repository = ? AND digest = ?",
                repository,
                digest,
            ):
                raise failures.RegistryError(
                    409, "DENIED", "the blob is named by a manifest: delete that first"
                )
            return (
                sql.run("DELETE FROM links WHERE repository = ? AND digest = ?", repository, digest)
                > 0
            )

        return await self.database.write(change)

    async def touch_link(self, repository: str, digest: str, older_than: float) -> None:
        """Keep a blob that a push was told exists from being collected under it."""
        now = int(time.time())
        row = await self.database.read(
            lambda sql: sql.one(
                "SELECT touched FROM links WHERE repository = ? AND digest = ?", repository, digest
            )
        )
        if row and row[0] < now - older_than:
            await self.link_blob(repository, digest)

    async def count_pulls(self, counts: dict[str, int]) -> None:
        day = int(time.time() // 86400)

        def change(sql: Cursor) -> None:
            for repository, count in counts.items():
                sql.run(
                    "UPDATE repositories SET pulls = pulls + ? WHERE name = ?", count, repository
                )
                sql.run(
                    "INSERT INTO daily_pulls (repository, day, pulls) VALUES (?, ?, ?) "
                    "ON CONFLICT (repository, day) DO UPDATE SET "
                    "pulls = daily_pulls.pulls + excluded.pulls",
                    repository,
                    day,
                    count,
                )

        await self.database.write(change)

    async def pulls_by_day(self, repository: str, days: int) -> list[int]:
        """Pulls of the last ``days`` days, oldest first."""
        today = int(time.time() // 86400)
        rows = await self.database.read(
            lambda sql: sql.all(
                "SELECT day, pulls FROM daily_pulls WHERE repository = ? AND day > ?",
                repository,
                today - days,
            )
        )
        known = {row[0]: row[1] for row in rows}
        return [known.get(day, 0) for day in range(today - days + 1, today + 1)]

    async def used_bytes(self, repository: str) -> int:
        return await self.database.read(lambda sql: _used_bytes(sql, repository))


DOOMED_SECONDS = 300
"""How long a collection that was interrupted may keep a blob from being written again."""


def _searched(name: str, description: str) -> str:
    return f"{name}\n{description}".lower()


def _repository(row: Row) -> Repository:
    name, created, updated, private, description, readme, pulls, stars = row
    return Repository(name, created, updated, bool(private), description, readme, pulls, stars)


def _referrer(row: Row) -> Referrer:
    digest, media_type, size, artifact_type, annotations = row
    return Referrer(digest, media_type, size, artifact_type, msgspec.json.decode(annotations))


def _check_references(sql: Cursor, new: NewManifest) -> None:
    for digest in new.blobs:
        if not sql.one(
            "SELECT 1 FROM links WHERE repository = ? AND digest = ?", new.repository, digest
        ):
            raise failures.RegistryError(
                400, "MANIFEST_BLOB_UNKNOWN", "blob unknown to registry", {"digest": digest}
            )
    for digest in new.children:
        if not sql.one(
            "SELECT 1 FROM manifests WHERE repository = ? AND digest = ?", new.repository, digest
        ):
            raise failures.RegistryError(
                400, "MANIFEST_BLOB_UNKNOWN", "manifest unknown to registry", {"digest": digest}
            )


def _check_immutable(sql: Cursor, repository: str, tag: str, digest: str) -> None:
    row = sql.one("SELECT digest FROM tags WHERE repository = ? AND name = ?", repository, tag)
    if row and row[0] != digest:
        raise failures.denied(f"the tag {tag} is immutable and names another manifest")


def _check_quota(sql: Cursor, repository: str, quota: int) -> None:
    used = _used_bytes(sql, repository)
    if used > quota:
        raise failures.denied(
            f"the repository would hold {used} bytes, more than its quota of {quota}"
        )


def _used_bytes(sql: Cursor, repository: str) -> int:
    row = sql.one(
        "SELECT coalesce(sum(size), 0) FROM blobs WHERE digest IN "
        "(SELECT DISTINCT digest FROM manifest_blobs WHERE repository = ?)",
        repository,
    )
    return int(row[0]) if row else 0
