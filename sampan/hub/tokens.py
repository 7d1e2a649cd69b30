"""Signed tokens: the registry's bearer tokens and the web page's sessions (JWT, RFC 7519).

The key is in the database, so that every process of a hub accepts what another one signed.
"""

from __future__ import annotations

import secrets
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import OctKey

from sampan.hub.database import Cursor, Database

LIFETIME = 300
SESSION_LIFETIME = 12 * 3600
LEEWAY = 30
_ALGORITHMS = ["HS256"]
_CACHED = 4096


@dataclass(frozen=True, slots=True)
class Grant:
    """What a bearer token says: who has it, and which actions on which repositories."""

    subject: str
    actions: dict[str, frozenset[str]]
    expires: float

    def allows(self, repository: str, action: str) -> bool:
        return action in self.actions.get(repository, frozenset())


class Signer:
    """Signs and verifies the tokens of one hub."""

    def __init__(self, issuer: str = "sampan-hub") -> None:
        self._key = OctKey.generate_key(256)
        self._issuer = issuer
        self._verified: OrderedDict[str, Grant] = OrderedDict()

    async def load(self, database: Database) -> None:
        """Use the database's key, which is made on the first start."""
        fresh = secrets.token_urlsafe(48)

        def change(sql: Cursor) -> str:
            sql.run(
                "INSERT INTO settings (name, value) VALUES ('signing-key', ?) "
                "ON CONFLICT (name) DO NOTHING",
                fresh,
            )
            row = sql.one("SELECT value FROM settings WHERE name = 'signing-key'")
            assert row
            return str(row[0])

        self._key = OctKey.import_key(await database.write(change))

    def bearer(self, subject: str, service: str, access: dict[str, list[str]]) -> str:
        """A bearer token by the distribution project's token specification."""
        entries = [
            {"type": "repository", "name": name, "actions": actions}
            for name, actions in access.items()
        ]
        return self._sign({"sub": subject, "aud": service, "access": entries}, LIFETIME, "bearer")

    def grant(self, token: str) -> Grant | None:
        """What a bearer token grants; None when it is forged, too old or another kind."""
        known = self._verified.get(token)
        if known is None:
            claims = self._verify(token, "bearer")
            if claims is None:
                return None
            known = _grant(claims)
            self._verified[token] = known
            if len(self._verified) > _CACHED:
                self._verified.popitem(last=False)
        return known if known.expires > time.time() - LEEWAY else None

    def session(self, subject: str, fingerprint: str) -> str:
        """A session of the web page, bound to the password's fingerprint."""
        claims = {"sub": subject, "fp": fingerprint, "csrf": secrets.token_urlsafe(16)}
        return self._sign(claims, SESSION_LIFETIME, "session")

    def open_session(self, token: str) -> tuple[str, str, str] | None:
        """Subject, fingerprint and CSRF token of a session; None when it is not valid."""
        claims = self._verify(token, "session")
        return (claims["sub"], claims["fp"], claims["csrf"]) if claims else None

    def _sign(self, claims: dict[str, Any], lifetime: int, kind: str) -> str:
        now = int(time.time())
        times = {"iat": now, "nbf": now - LEEWAY, "exp": now + lifetime}
        identity = {"iss": self._issuer, "jti": secrets.token_hex(8), "kind": kind}
        return jwt.encode({"alg": "HS256"}, {**claims, **times, **identity}, self._key)

    def _verify(self, token: str, kind: str) -> dict[str, Any] | None:
        try:
            claims = jwt.decode(token, self._key, algorithms=_ALGORITHMS).claims
        except (JoseError, ValueError):
            return None
        now = time.time()
        in_time = claims.get("nbf", now) <= now + LEEWAY and claims.get("exp", 0) > now - LEEWAY
        fits = claims.get("iss") == self._issuer and claims.get("kind") == kind
        return dict(claims) if in_time and fits else None


def _grant(claims: dict[str, Any]) -> Grant:
    actions: dict[str, frozenset[str]] = {}
    for entry in claims.get("access", []):
        if entry.get("type") == "repository":
            actions[entry["name"]] = frozenset(entry["actions"])
    return Grant(claims["sub"], actions, claims["exp"])
