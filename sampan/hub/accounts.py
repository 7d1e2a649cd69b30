"""Users, their passwords and access tokens, and the teams that share rights."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import re
import secrets
import time
from dataclasses import dataclass
from pathlib import Path

import bcrypt

from sampan.errors import Conflict, InvalidParameter, NotFound
from sampan.hub.database import Cursor, Database, Row

TOKEN_PREFIX = "spt_"
ADMIN = "admin"
MIN_PASSWORD = 8
REMEMBER_SECONDS = 300
LEVELS = ("read", "write", "admin")
_NAME_RE = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")


@dataclass(frozen=True, slots=True)
class Limit:
    """What a token may at most do: repositories by glob patterns, and actions."""

    repositories: tuple[str, ...]
    actions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Identity:
    """Who makes a request; ``name`` is empty for someone without an account."""

    name: str = ""
    admin: bool = False
    limit: Limit | None = None

    @property
    def anonymous(self) -> bool:
        return not self.name


ANONYMOUS = Identity()


@dataclass(frozen=True, slots=True)
class Token:
    id: str
    label: str
    repositories: str
    actions: str
    created: int
    expires: int
    used: int


class Accounts:
    """All accounts of a hub.  Passwords are kept as bcrypt, tokens as SHA-256."""

    def __init__(self, database: Database, htpasswd: Path | None = None) -> None:
        self._database = database
        self._htpasswd = htpasswd
        self._remember_key = secrets.token_bytes(32)
        self._remembered: dict[tuple[str, bytes], tuple[str, float]] = {}

    async def first_password(self) -> str | None:
        """On the first start, make the administrator and return the password; else None."""
        count = await self._database.read(lambda sql: sql.one("SELECT count(*) FROM users"))
        if count and count[0]:
            return None
        password = secrets.token_urlsafe(12)
        await self.create(ADMIN, password, admin=True)
        return password

    async def create(self, name: str, password: str, *, admin: bool = False) -> None:
        """Raises InvalidParameter, Conflict."""
        if not _NAME_RE.fullmatch(name):
            raise InvalidParameter(
                "a user name has lower-case letters, digits, dots, dashes and underscores"
            )
        hashed = await _hash(password)

        def change(sql: Cursor) -> None:
            if sql.one("SELECT 1 FROM users WHERE name = ?", name):
                raise Conflict(f"the user {name} exists already")
            sql.run(
                "INSERT INTO users (name, password, admin, created) VALUES (?, ?, ?, ?)",
                name,
                hashed,
                int(admin),
                int(time.time()),
            )

        await self._database.write(change)

    async def set_password(self, name: str, password: str) -> None:
        """Raises InvalidParameter, NotFound."""
        hashed = await _hash(password)
        changed = await self._database.write(
            lambda sql: sql.run("UPDATE users SET password = ? WHERE name = ?", hashed, name)
        )
        if not changed:
            raise NotFound(f"there is no user {name}")

    async def delete(self, name: str) -> None:
        """Raises NotFound, Conflict (the last administrator)."""

        def change(sql: Cursor) -> None:
            others = sql.one("SELECT count(*) FROM users WHERE admin = 1 AND name <> ?", name)
            if not others or not others[0]:
                raise Conflict("the last administrator cannot be deleted")
            if not sql.run("DELETE FROM users WHERE name = ?", name):
                raise NotFound(f"there is no user {name}")
            sql.run("DELETE FROM grants WHERE holder = ?", name)

        await self._database.write(change)

    async def all(self) -> list[tuple[str, bool, int]]:
        """Name, administrator or not, time made."""
        rows = await self._database.read(
            lambda sql: sql.all("SELECT name, admin, created FROM users ORDER BY name")
        )
        return [(row[0], bool(row[1]), row[2]) for row in rows]

    async def verify(self, name: str, secret: str) -> Identity | None:
        """The identity behind a user name with a password or token; None when it is wrong."""
        if secret.startswith(TOKEN_PREFIX):
            return await self._by_token(name, secret)
        row = await self._database.read(
            lambda sql: sql.one("SELECT password, admin FROM users WHERE name = ?", name)
        )
        if row is None:
            row = await asyncio.to_thread(self._from_htpasswd, name)
        hashed, admin = row or (_NOBODY, 0)
        if await self._matches(name, secret, hashed) and row:
            return Identity(name, bool(admin))
        return None

    async def identity(self, name: str) -> Identity | None:
        """The identity of a user who was verified before; None when gone since."""
        row = await self._database.read(
            lambda sql: sql.one("SELECT admin FROM users WHERE name = ?", name)
        )
        return Identity(name, bool(row[0])) if row else None

    async def fingerprint(self, name: str) -> str:
        """Changes when the user's password does, so that old sessions end."""
        row = await self._database.read(
            lambda sql: sql.one("SELECT password FROM users WHERE name = ?", name)
        )
        return hashlib.sha256(row[0].encode()).hexdigest()[:16] if row else ""

    async def create_token(
        self, name: str, label: str, repositories: str, actions: str, days: int
    ) -> str:
        """A new access token of a user; its secret is shown this once.

        ``repositories``: glob patterns with spaces between; ``actions``: of pull, push, delete,
        with commas.  Raises InvalidParameter.
        """
        wanted = [action.strip() for action in actions.split(",") if action.strip()]
        if not wanted or not set(wanted) <= {"pull", "push", "delete"}:
            raise InvalidParameter("a token's actions are of pull, push and delete")
        if not 0 < days <= 3650:
            raise InvalidParameter("a token is valid for 1 to 3650 days")
        secret = TOKEN_PREFIX + secrets.token_urlsafe(32)
        now = int(time.time())
        await self._database.write(
            lambda sql: sql.run(
                "INSERT INTO tokens (id, username, secret, label, repositories, actions, created, "
                "expires) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                secrets.token_hex(8),
                name,
                _digest(secret),
                label[:100],
                " ".join(repositories.split()) or "*",
                ",".join(wanted),
                now,
                now + days * 86400,
            )
        )
        return secret

    async def tokens(self, name: str) -> list[Token]:
        rows = await self._database.read(
            lambda sql: sql.all(
                "SELECT id, label, repositories, actions, created, expires, used FROM tokens "
                "WHERE username = ? ORDER BY created DESC",
                name,
            )
        )
        return [Token(*row) for row in rows]

    async def revoke_token(self, name: str, token_id: str) -> None:
        await self._database.write(
            lambda sql: sql.run("DELETE FROM tokens WHERE username = ? AND id = ?", name, token_id)
        )

    async def add_member(self, team: str, name: str) -> None:
        """Raises InvalidParameter, NotFound."""
        if not _NAME_RE.fullmatch(team):
            raise InvalidParameter("a team's name is built as a user's")

        def change(sql: Cursor) -> None:
            if not sql.one("SELECT 1 FROM users WHERE name = ?", name):
                raise NotFound(f"there is no user {name}")
            sql.run(
                "INSERT INTO members (team, username) VALUES (?, ?) ON CONFLICT DO NOTHING",
                team,
                name,
            )

        await self._database.write(change)

    async def remove_member(self, team: str, name: str) -> None:
        await self._database.write(
            lambda sql: sql.run("DELETE FROM members WHERE team = ? AND username = ?", team, name)
        )

    async def teams(self) -> dict[str, list[str]]:
        rows = await self._database.read(
            lambda sql: sql.all("SELECT team, username FROM members ORDER BY team, username")
        )
        found: dict[str, list[str]] = {}
        for team, name in rows:
            found.setdefault(team, []).append(name)
        return found

    async def grant(self, holder: str, pattern: str, level: str) -> None:
        """Give a user, or a team as ``@team``, a level on repositories by a glob pattern; the
        level ``none`` takes it back.  Raises InvalidParameter."""
        if level not in (*LEVELS, "none"):
            raise InvalidParameter(f"a level is one of {', '.join(LEVELS)} and none")

        def change(sql: Cursor) -> None:
            sql.run("DELETE FROM grants WHERE holder = ? AND pattern = ?", holder, pattern)
            if level != "none":
                sql.run(
                    "INSERT INTO grants (holder, pattern, level) VALUES (?, ?, ?)",
                    holder,
                    pattern,
                    level,
                )

        await self._database.write(change)

    async def grants(self) -> list[tuple[str, str, str]]:
        rows = await self._database.read(
            lambda sql: sql.all(
                "SELECT holder, pattern, level FROM grants ORDER BY holder, pattern"
            )
        )
        return [(row[0], row[1], row[2]) for row in rows]

    async def grants_of(self, name: str) -> list[tuple[str, str]]:
        """Pattern and level of all grants that a user has, also by teams."""
        rows = await self._database.read(
            lambda sql: sql.all(
                "SELECT pattern, level FROM grants WHERE holder = ? OR holder IN "
                "(SELECT '@' || team FROM members WHERE username = ?)",
                name,
                name,
            )
        )
        return [(row[0], row[1]) for row in rows]

    async def _by_token(self, name: str, secret: str) -> Identity | None:
        now = int(time.time())
        row = await self._database.read(
            lambda sql: sql.one(
                "SELECT t.id, t.username, t.repositories, t.actions, t.expires, t.used, u.admin "
                "FROM tokens t JOIN users u ON u.name = t.username WHERE t.secret = ?",
                _digest(secret),
            )
        )
        if row is None or row[4] <= now or (name and name not in (row[1], "token")):
            return None
        if row[5] < now - 3600:
            await self._database.write(
                lambda sql: sql.run("UPDATE tokens SET used = ? WHERE id = ?", now, row[0])
            )
        return Identity(
            row[1], bool(row[6]), Limit(tuple(row[2].split()), tuple(row[3].split(",")))
        )

    def _from_htpasswd(self, name: str) -> Row | None:
        if self._htpasswd is None:
            return None
        for line in self._htpasswd.read_text().splitlines():
            user, colon, hashed = line.strip().partition(":")
            if colon and user == name and hashed.startswith("$2"):
                return hashed, 0
        return None

    async def _matches(self, name: str, secret: str, hashed: str) -> bool:
        """Check a password; a right one is remembered for a while, for bcrypt is slow."""
        key = (name, hmac.digest(self._remember_key, secret.encode(), "sha256"))
        known = self._remembered.get(key)
        if known and known[0] == hashed and known[1] > time.monotonic():
            return True
        right = await asyncio.to_thread(_check, secret, hashed)
        if right:
            if len(self._remembered) > 10_000:
                self._remembered.clear()
            self._remembered[key] = (hashed, time.monotonic() + REMEMBER_SECONDS)
        return right


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


async def _hash(password: str) -> str:
    if len(password) < MIN_PASSWORD or len(password.encode()) > 72:
        raise InvalidParameter(f"a password has {MIN_PASSWORD} to 72 characters")
    return (await asyncio.to_thread(bcrypt.hashpw, password.encode(), bcrypt.gensalt(11))).decode()


def _check(secret: str, hashed: str) -> bool:
    try:
        return bcrypt.checkpw(secret.encode()[:72], hashed.encode())
    except ValueError:
        return False


# Checked for names that do not exist, so that the time of an answer tells nothing.
_NOBODY = "$2b$11$abcdefghijklmnopqrstuuQ0hC4pN3Xb5Jv3xq1zq5gq8Yl2s6b9m"
