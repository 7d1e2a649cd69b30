"""Who may do what: rights by name space, grants, visibility and the hub's settings."""

from __future__ import annotations

import base64
import binascii
import fnmatch
import time
from collections.abc import Sequence
from dataclasses import dataclass

from aiohttp import web

from sampan.hub.accounts import ANONYMOUS, Accounts, Identity
from sampan.hub.config import HubConfig
from sampan.hub.failures import RegistryError, denied
from sampan.hub.records import Records
from sampan.hub.tokens import Signer

PULL, PUSH, DELETE = "pull", "push", "delete"
_LEVELS = {"read": {PULL}, "write": {PULL, PUSH}, "admin": {PULL, PUSH, DELETE}}


class Access:
    """Decides about requests.  Rights are read anew for each, so that changes hold at once; a
    bearer token keeps what it was given for its five minutes."""

    def __init__(
        self, config: HubConfig, records: Records, accounts: Accounts, signer: Signer
    ) -> None:
        self._config = config
        self._records = records
        self._accounts = accounts
        self._signer = signer
        self._logins = _Throttle(config.logins_per_minute)

    async def allowed(self, who: Identity, repository: str, action: str) -> bool:
        """Whether ``who`` may do ``action`` (pull, push, delete) in ``repository``."""
        if who.limit and not (
            action in who.limit.actions
            and any(fnmatch.fnmatchcase(repository, glob) for glob in who.limit.repositories)
        ):
            return False
        if who.admin:
            return True
        if action == PULL and await self._is_readable(who, repository):
            return True
        if action == PUSH and self._config.anonymous == "push":
            return True
        if who.anonymous:
            return False
        if repository == who.name or repository.startswith(who.name + "/"):
            return True
        return any(
            action in _LEVELS[level] and fnmatch.fnmatchcase(repository, pattern)
            for pattern, level in await self._accounts.grants_of(who.name)
        )

    async def _is_readable(self, who: Identity, repository: str) -> bool:
        if who.anonymous and self._config.anonymous == "none":
            return False
        found = await self._records.repository(repository)
        # A repository that is not there looks like a public one: its absence is told by a 404.
        return found is None or not found.private

    async def authorize(
        self, request: web.Request, repository: str, actions: Sequence[str]
    ) -> Identity:
        """The identity behind a registry request that may do all ``actions``.

        Raises RegistryError: 401 with a challenge when credentials may help, 403 when not.
        """
        header = request.headers.get("Authorization")
        if header is None:
            who = ANONYMOUS
        else:
            scheme, _, value = header.partition(" ")
            if scheme.lower() == "bearer":
                grant = self._signer.grant(value.strip())
                if grant and all(grant.allows(repository, action) for action in actions):
                    return Identity(grant.subject)
                raise self.challenge(request, repository, actions)
            who = await self.login(request, value if scheme.lower() == "basic" else "")
        for action in actions:
            if not await self.allowed(who, repository, action):
                if who.anonymous:
                    raise self.challenge(request, repository, actions)
                raise denied()
        return who

    async def identify(self, request: web.Request) -> Identity:
        """The identity of a request that is about no repository; a challenge when it needs one."""
        header = request.headers.get("Authorization", "")
        scheme, _, value = header.partition(" ")
        if scheme.lower() == "bearer":
            grant = self._signer.grant(value.strip())
            if grant is None:
                raise self.challenge(request, "", ())
            if not grant.subject:
                return ANONYMOUS
            return await self._accounts.identity(grant.subject) or Identity(grant.subject)
        if scheme.lower() == "basic":
            return await self.login(request, value)
        return ANONYMOUS

    async def login(self, request: web.Request, basic: str) -> Identity:
        """Check Basic credentials.  Raises RegistryError: 401, or 429 after too many failures."""
        try:
            name, _, secret = base64.b64decode(basic, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            raise self.challenge(request, "", ()) from None
        who = await self.check_password(request.remote or "", name, secret)
        if who is None:
            raise RegistryError(
                401,
                "UNAUTHORIZED",
                "incorrect username or password",
                headers={"WWW-Authenticate": f'Basic realm="{_service(request)}"'},
            )
        return who

    async def check_password(self, address: str, name: str, secret: str) -> Identity | None:
        """The identity, or None when name or secret are wrong.

        Raises RegistryError (429) when the address failed too often.
        """
        wait = self._logins.wait(address)
        if wait:
            raise RegistryError(
                429,
                "TOOMANYREQUESTS",
                "too many failed logins: wait a minute",
                headers={"Retry-After": str(int(wait) + 1)},
            )
        who = await self._accounts.verify(name, secret)
        if who is None:
            self._logins.failed(address)
        return who

    def challenge(
        self, request: web.Request, repository: str, actions: Sequence[str]
    ) -> RegistryError:
        scope = f',scope="repository:{repository}:{",".join(actions)}"' if actions else ""
        realm = f"{base_url(self._config, request)}/token"
        return RegistryError(
            401,
            "UNAUTHORIZED",
            "authentication required",
            headers={
                "WWW-Authenticate": f'Bearer realm="{realm}",service="{_service(request)}"{scope}'
            },
        )

    def token(self, request: web.Request, who: Identity, access: dict[str, list[str]]) -> str:
        return self._signer.bearer(who.name, _service(request), access)


@dataclass(slots=True)
class _Bucket:
    level: float
    at: float


class _Throttle:
    """Counts failures by address: a bucket that leaks its size each minute."""

    def __init__(self, per_minute: int) -> None:
        self._size = float(per_minute)
        self._buckets: dict[str, _Bucket] = {}

    def wait(self, address: str) -> float:
        """Seconds until the address may try again; 0 when it may now."""
        bucket = self._drained(address)
        over = bucket.level - self._size + 1
        return over * 60 / self._size if over > 0 else 0.0

    def failed(self, address: str) -> None:
        self._drained(address).level += 1

    def _drained(self, address: str) -> _Bucket:
        now = time.monotonic()
        if len(self._buckets) > 50_000:
            self._buckets.clear()
        bucket = self._buckets.setdefault(address, _Bucket(0.0, now))
        bucket.level = max(0.0, bucket.level - (now - bucket.at) * self._size / 60)
        bucket.at = now
        return bucket


def base_url(config: HubConfig, request: web.Request) -> str:
    """How the client reaches this hub."""
    return config.public_url.rstrip("/") or f"{request.scheme}://{_service(request)}"


def _service(request: web.Request) -> str:
    """The host that the client asked for, safe to quote in a header."""
    return "".join(c for c in request.host if c.isalnum() or c in ".:-[]")
