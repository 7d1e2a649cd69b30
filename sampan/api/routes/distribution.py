"""Registries: ``/auth`` and ``/distribution``.

Beside the API's ``/json`` there are ``/manifest``, which reads a manifest as it is and writes an
index, and ``/referrers``; the ``manifest`` commands use them.
"""

from __future__ import annotations

from typing import Any

import msgspec
from aiohttp import web

from sampan.api import body as bodies
from sampan.api import streams
from sampan.api.query import flag
from sampan.engine import Engine
from sampan.errors import InvalidParameter
from sampan.image.manifest import Descriptor
from sampan.image.reference import InvalidReference, Reference
from sampan.progress import ignore
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


class ManualIndex(msgspec.Struct):
    """Body of ``PUT /distribution/NAME/manifest``: the index as text, and for the digests of its
    manifests a name under which each is."""

    manifest: str
    sources: dict[str, str] = {}


def _named(text: str) -> Reference:
    try:
        return Reference.parse(text)
    except InvalidReference as error:
        raise InvalidParameter(str(error)) from None


def _auth(request: web.Request) -> Auth | None:
    return Auth.from_header(request.headers.get("X-Registry-Auth"))


def _raw(descriptor: Descriptor, data: bytes) -> web.Response:
    """A manifest as a registry answers with it."""
    headers = {"Content-Type": descriptor.media_type, "Docker-Content-Digest": descriptor.digest}
    return web.Response(body=data, headers=headers)


def routes(engine: Engine) -> list[web.RouteDef]:
    async def log_in(request: web.Request) -> web.Response:
        wish = await bodies.document(request, LogIn)
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
        reference, auth = _named(request.match_info["name"]), _auth(request)
        descriptor, platforms = await engine.distribution.inspect(
            reference, auth, flag(request, "insecure")
        )
        body: dict[str, Any] = {
            "Descriptor": {
                "mediaType": descriptor.media_type,
                "digest": descriptor.digest,
                "size": descriptor.size,
            },
            "Platforms": [msgspec.to_builtins(platform) for platform in platforms],
        }
        return streams.json(body)

    async def document(request: web.Request) -> web.Response:
        found = await engine.distribution.document(
            _named(request.match_info["name"]), _auth(request), flag(request, "insecure")
        )
        return _raw(*found)

    async def put(request: web.Request) -> web.Response:
        wish = await bodies.document(request, ManualIndex)
        pushed = await engine.distribution.push_index(
            _named(request.match_info["name"]),
            wish.manifest.encode(),
            {digest: _named(name) for digest, name in wish.sources.items()},
            ignore,
            auth=_auth(request),
            insecure=flag(request, "insecure"),
        )
        return streams.json({"Digest": pushed.digest, "Size": pushed.size}, status=201)

    async def referrers(request: web.Request) -> web.Response:
        found = await engine.distribution.referrers(
            _named(request.match_info["name"]),
            request.query.get("artifactType", ""),
            _auth(request),
        )
        return _raw(*found)

    return [
        web.post("/auth", log_in),
        web.get("/distribution/{name:.+}/manifest", document),
        web.put("/distribution/{name:.+}/manifest", put),
        web.get("/distribution/{name:.+}/referrers", referrers),
        web.get("/distribution/{name:.+}/json", inspect),
    ]
