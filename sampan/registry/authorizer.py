"""Answering a registry's authentication challenges: bearer tokens and basic (RFC 9110, 11.6.1;
the distribution project's token and OAuth 2 specifications)."""

from __future__ import annotations

import asyncio
import base64
import re
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import msgspec

from sampan.errors import Unauthorized, Unavailable
from sampan.registry import failures
from sampan.registry.auth import Auth
from sampan.registry.config import Endpoint

CLIENT_ID = "sampan"
MAX_TOKEN_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Challenge:
    """One challenge of a ``WWW-Authenticate`` header: scheme in lower case, parameters."""

    scheme: str
    parameters: Mapping[str, str]


_CHALLENGE_RE = re.compile(r"\s*,?\s*([A-Za-z][A-Za-z0-9._~+-]*)(?:\s+|$)")
_PARAMETER_RE = re.compile(r'\s*,?\s*([A-Za-z0-9_.-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))')


def parse_challenges(values: Iterable[str]) -> list[Challenge]:
    """Parse ``WWW-Authenticate`` header values (RFC 9110, 11.6.1); what is malformed is dropped."""
    found: list[Challenge] = []
    for value in values:
        position = 0
        while match := _CHALLENGE_RE.match(value, position):
            position = match.end()
            parameters: dict[str, str] = {}
            while parameter := _PARAMETER_RE.match(value, position):
                position = parameter.end()
                name, quoted, bare = parameter.groups()
                text = bare if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
                parameters[name.lower()] = text
            found.append(Challenge(match[1].lower(), parameters))
    return found


def repository_scope(path: str, actions: str) -> str:
    """The scope for a repository: ``repository:library/app:pull,push``."""
    return f"repository:{path}:{actions}"


async def _read_some(content: aiohttp.StreamReader) -> bytes:
    """A whole answer, which may come in pieces; of one that is too large, the beginning."""
    data = bytearray()
    async for piece in content.iter_any():
        data += piece
        if len(data) > MAX_TOKEN_BYTES:
            break
    return bytes(data[:MAX_TOKEN_BYTES])


class _Token(msgspec.Struct):
    token: str = ""
    access_token: str = ""
    refresh_token: str = ""
    expires_in: float = 60


class Authorizer:
    """Answers the challenges of one endpoint with one set of credentials.

    Bearer tokens are kept for each set of scopes until shortly before they expire; concurrent
    requests wait for one token fetch.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        endpoint: Endpoint,
        auth: Auth | None,
        request_options: Callable[[str], dict[str, Any]],
        *,
        offline: bool = False,
    ) -> None:
        """``request_options`` gives TLS and proxy for a URL; ``offline`` asks for an identity
        token along with the first bearer token."""
        self._session = session
        self._endpoint = endpoint
        self._auth = auth
        self._options = request_options
        self._headers: dict[frozenset[str], tuple[str, float]] = {}
        self._lock = asyncio.Lock()
        self._offline = offline
        self.identity_token = ""

    def header(self, scopes: frozenset[str]) -> str | None:
        """The Authorization header known to fit ``scopes``, if any."""
        if self._auth and self._auth.registry_token:
            return f"Bearer {self._auth.registry_token}"
        value, deadline = self._headers.get(scopes, ("", 0.0))
        return value if value and time.monotonic() < deadline else None

    async def answer(
        self, challenges: list[Challenge], scopes: frozenset[str], refused: str | None
    ) -> bool:
        """Get credentials that fit; False when there are none better than ``refused``.

        Raises Unauthorized when the token server refuses, Unavailable when it fails.
        """
        async with self._lock:
            current = self.header(scopes)
            if current is not None and current != refused:
                return True
            self._headers.pop(scopes, None)
            for challenge in challenges:
                if challenge.scheme == "bearer":
                    token, lifetime = await self._fetch_token(challenge.parameters, scopes)
                    self._headers[scopes] = (f"Bearer {token}", time.monotonic() + lifetime)
                    return self._headers[scopes][0] != refused
            basic = self._basic()
            if basic and basic != refused and any(c.scheme == "basic" for c in challenges):
                self._headers[scopes] = (basic, float("inf"))
                return True
        return False

    def _basic(self) -> str | None:
        if self._auth is None or not self._auth.username:
            return None
        pair = f"{self._auth.username}:{self._auth.password}".encode()
        return "Basic " + base64.b64encode(pair).decode()

    async def _fetch_token(
        self, parameters: Mapping[str, str], scopes: frozenset[str]
    ) -> tuple[str, float]:
        realm = parameters.get("realm", "")
        self._check_realm(realm)
        wanted = sorted(scopes) or parameters.get("scope", "").split()
        try:
            async with self._token_request(realm, parameters.get("service", ""), wanted) as answer:
                body = await _read_some(answer.content)
                status = answer.status
        except (TimeoutError, aiohttp.ClientError, OSError) as exc:
            raise failures.of_exception(exc, urlsplit(realm).netloc) from exc
        if status in failures.RETRIED_STATUSES:
            raise failures.Transient(
                Unavailable(f"the token server says: {failures.explain(status, body)}")
            )
        if status != 200:
            said = failures.explain(status, body)
            if status in (400, 401, 403):
                raise Unauthorized(said if "unauthorized" in said else f"unauthorized: {said}")
            raise Unavailable(f"the token server says: {said}")
        try:
            token = msgspec.json.decode(body, type=_Token)
        except msgspec.MsgspecError as exc:
            raise Unavailable(f"the token server sent no token: {exc}") from exc
        self.identity_token = token.refresh_token or self.identity_token
        text = token.token or token.access_token
        if not text:
            raise Unavailable("the token server sent no token")
        # Refresh a little early; the spec's minimum lifetime is 60 s.
        return text, max(token.expires_in, 60.0) * 0.8

    def _check_realm(self, realm: str) -> None:
        parts = urlsplit(realm)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise Unavailable(f"the registry names an invalid token server {realm!r}")
        if parts.scheme == "http" and self._endpoint.secure and self._endpoint.verify:
            raise Unauthorized(
                f"registry {self._endpoint.host} wants credentials sent in plain text to {realm}"
            )

    def _token_request(
        self, realm: str, service: str, scopes: list[str]
    ) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        options = self._options(realm)
        if self._auth and self._auth.identity_token:
            form = {
                "grant_type": "refresh_token",
                "refresh_token": self._auth.identity_token,
                "service": service,
                "client_id": CLIENT_ID,
                "scope": " ".join(scopes),
            }
            return self._session.post(realm, data=form, **options)
        query = [("service", service)] if service else []
        query += [("scope", scope) for scope in scopes]
        headers = {}
        if (basic := self._basic()) and self._auth:
            query += [("account", self._auth.username), ("client_id", CLIENT_ID)]
            if self._offline:
                query.append(("offline_token", "true"))
            headers["Authorization"] = basic
        return self._session.get(realm, params=query, headers=headers, **options)
