"""``/session`` and ``/grpc``: BuildKit's own protocol, which this engine does not speak."""

from __future__ import annotations

from typing import NoReturn

from aiohttp import web

from sampan.engine import Engine
from sampan.errors import Unsupported


def routes(_engine: Engine) -> list[web.RouteDef]:
    async def refuse(request: web.Request) -> NoReturn:
        raise Unsupported(
            f"BuildKit's protocol ({request.path.rsplit('/', 1)[-1]}) is not supported: use "
            "`sampan build`, or the docker CLI with DOCKER_BUILDKIT=0"
        )

    return [web.post("/session", refuse), web.post("/grpc", refuse)]
