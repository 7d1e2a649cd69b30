"""Registries: ``/auth`` and ``/distribution``."""

from __future__ import annotations

from typing import Any

import msgspec
from aiohttp import web

from sampan.api import streams
from sampan.engine import Engine
from sampan.engine.types import decode
from sampan.errors import InvalidParameter
from sampan.image.reference import InvalidReference, Reference
from sampan.registry.auth import Auth


class LogIn(msgspec.Struct, rename="lower"):
    """Body of ``POST /auth``."""

    username: str = ""
    password: str = ""
    auth: str = ""
    email: str = ""
    server_address: str = msgspec.field(name="serveraddress", default="")
    identity_token: str = msgspec.field(name="identitytoken", default="")
    registry_token: str = msgspec.field(name="registrytoken", default="")


def routes(engine: Engine) -> list[web.RouteDef]:
    async def log_in(request: web.Request) -> web.Response:
        wish = decode(await request.read(), LogIn)
        auth = Auth(
            wish.username,
            wish.password,
            wish.identity_token,
            wish.registry_token,
            wish.server_address,
        )
        token = await engine.distribution.log_in(auth)
        return streams.json({"IdentityToken": token, "Status": "Login Succeeded"})

    async def inspect(request: web.Request) -> web.Response:
        try:
            reference = Reference.parse(request.match_info["name"])
        except InvalidReference as error:
            raise InvalidParameter(str(error)) from None
        auth = Auth.from_header(request.headers.get("X-Registry-Auth"))
        descriptor, platforms = await engine.distribution.inspect(reference, auth)
        body: dict[str, Any] = {
            "Descriptor": {
                "mediaType": descriptor.media_type,
                "digest": descriptor.digest,
                "size": descriptor.size,
            },
            "Platforms": [msgspec.to_builtins(platform) for platform in platforms],
        }
        return streams.json(body)

    return [
        web.post("/auth", log_in),
        web.get("/distribution/{name:.+}/json", inspect),
    ]
