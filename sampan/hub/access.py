"""Who may do what: rights by name space, grants, visibility and the hub's settings."""

from __future__ import annotations

import base64
import binascii
import fnmatch
from collections.abc import Sequence

from aiohttp import web

from sampan.hub.accounts import ANONYMOUS, Accounts, Identity
from sampan.hub.addresses import client_address, networks
from sampan.hub.config import HubConfig
from sampan.hub.failures import RegistryError, denied
from sampan.hub.rates import Rates, Standing, network_of
from sampan.hub.records import Records
from sampan.hub.tokens import Signer

PULL, PUSH, DELETE = "pull", "push", "delete"
STANDING: web.RequestKey[Standing] = web.RequestKey("standing", Standing)
"""How a request's client stands, where a limit applies to it."""
_LEVELS = {"read": {PULL}, "write": {PULL, PUSH}, "admin": {PULL, PUSH, DELETE}}


class Access:
    """Decides about requests.  Rights are read anew for each, so that changes hold at once; a
    bearer token keeps what it was given for its five minutes."""

    def __init__(
        self,
        config: HubConfig,
        records: Records,
        accounts: Accounts,
        signer: Signer,
        rates: Rates,
    ) -> None:
        self._config = config
        self._records = records
        self._accounts = accounts
        self._signer = signer
        self._rates = rates
        self._trusted = networks(config.trusted_proxies)

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
                    who = Identity(grant.subject)
                    self.count(request, who)
                    return who
                raise self.challenge(request, repository, actions)
            who = await self.login(request, value if scheme.lower() == "basic" else "")
        self.count(request, who)
        for action in actions:
            if not await self.allowed(who, repository, action):
                if who.anonymous:
                    raise self.challenge(request, repository, actions)
                raise denied()
        return who

    async def identify(self, request: web.Request) -> Identity:
        """The identity of a request that is about no repository; a challenge when it needs one.

        Raises RegistryError: 401, 429.
        """
        who = await self._identify(request)
        self.count(request, who)
        return who

    async def _identify(self, request: web.Request) -> Identity:
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
        who = await self.check_password(self.address(request), name, secret)
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
        key, limit = f"login {network_of(address)}", self._config.logins_per_minute
        standing = self._rates.check(key, limit)
        if standing.wait:
            raise RegistryError(
                429,
                "TOOMANYREQUESTS",
                "too many failed logins: wait a minute",
                headers={"Retry-After": standing.headers()["Retry-After"]},
            )
        who = await self._accounts.verify(name, secret)
        if who is None:
            self._rates.take(key, limit)
        return who

    def address(self, request: web.Request) -> str:
        """The address of the client, seen through trusted proxies."""
        return client_address(request, self._trusted)

    def count(self, request: web.Request, who: Identity) -> None:
        """Count a request against its account's or address's rate, once.

        Raises RegistryError (429).
        """
        if STANDING in request:
            return
        limit = self._config.anonymous_rate if who.anonymous else self._config.account_rate
        if not limit:
            return
        key = f"from {network_of(self.address(request))}" if who.anonymous else f"of {who.name}"
        standing = request[STANDING] = self._rates.take(key, limit)
        if standing.wait:
            raise RegistryError(
                429,
                "TOOMANYREQUESTS",
                f"more than {limit} requests a minute: wait a little"
                + (", or log in" if who.anonymous else ""),
            )

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


def base_url(config: HubConfig, request: web.Request) -> str:
    """How the client reaches this hub."""
    return config.public_url.rstrip("/") or f"{request.scheme}://{_service(request)}"


def _service(request: web.Request) -> str:
    """The host that the client asked for, safe to quote in a header."""
    return "".join(c for c in request.host if c.isalnum() or c in ".:-[]")
