"""The token server (the distribution project's token and OAuth 2 specifications)."""

from __future__ import annotations

import re

from aiohttp import web

from sampan.hub.access import DELETE, PULL, PUSH
from sampan.hub.accounts import ANONYMOUS, Identity
from sampan.hub.core import Hub
from sampan.hub.failures import RegistryError
from sampan.hub.tokens import LIFETIME
from sampan.image.reference import is_repository_path

MAX_SCOPES = 20
_SCOPE_RE = re.compile(r"repository(?:\([a-z0-9]+\))?:([^:]+):([a-z*,]+)")


def routes(hub: Hub) -> list[web.RouteDef]:
    api = TokenApi(hub)
    return [web.get("/token", api.get), web.post("/token", api.post)]


class TokenApi:
    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    async def get(self, request: web.Request) -> web.Response:
        """A token for the credentials in the header, or for someone without any."""
        try:
            scheme, _, value = request.headers.get("Authorization", "").partition(" ")
            who = ANONYMOUS
            if scheme:
                who = await self._hub.access.login(request, value)
            self._hub.access.count(request, who)
            return await self._answer(request, who, request.query.getall("scope", []))
        except RegistryError as exc:
            return exc.response()

    async def post(self, request: web.Request) -> web.Response:
        """OAuth 2: a password, or an access token as refresh token."""
        form = await request.post()
        kind = form.get("grant_type")
        name = str(form.get("username", ""))
        secret = str(form.get("password" if kind == "password" else "refresh_token", ""))
        if kind not in ("password", "refresh_token"):
            return web.json_response({"error": "unsupported_grant_type"}, status=400)
        try:
            who = await self._hub.access.check_password(
                self._hub.access.address(request), name, secret
            )
            if who is None:
                return web.json_response(
                    {"error": "invalid_grant", "error_description": "incorrect credentials"},
                    status=401,
                )
            self._hub.access.count(request, who)
            return await self._answer(request, who, [str(form.get("scope", ""))])
        except RegistryError as exc:
            return exc.response()

    async def _answer(self, request: web.Request, who: Identity, scopes: list[str]) -> web.Response:
        granted = await self._granted(who, " ".join(scopes).split())
        token = self._hub.access.token(request, who, granted)
        body = {"token": token, "access_token": token, "expires_in": LIFETIME}
        return web.json_response(body, headers={"Cache-Control": "no-store"})

    async def _granted(self, who: Identity, scopes: list[str]) -> dict[str, list[str]]:
        """What of the wanted actions this identity may do."""
        granted: dict[str, list[str]] = {}
        for scope in scopes[:MAX_SCOPES]:
            match = _SCOPE_RE.fullmatch(scope)
            if match is None or not is_repository_path(match[1]):
                continue
            wanted = set(match[2].split(","))
            if "*" in wanted:
                wanted |= {PULL, PUSH, DELETE}
            actions = granted.setdefault(match[1], [])
            for action in (PULL, PUSH, DELETE):
                if (
                    action in wanted
                    and action not in actions
                    and await self._hub.access.allowed(who, match[1], action)
                ):
                    actions.append(action)
        return granted
