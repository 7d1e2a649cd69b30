"""A check of everything, which Docker has no path for: ``/sampan/check``."""

from __future__ import annotations

import msgspec
from aiohttp import web

from sampan.api import streams
from sampan.engine import Engine


def routes(engine: Engine) -> list[web.RouteDef]:
    async def look(request: web.Request) -> web.Response:
        return streams.json({"Problems": msgspec.to_builtins(await engine.check.run())})

    async def repair(request: web.Request) -> web.Response:
        found = await engine.check.run(repair=True)
        return streams.json({"Problems": msgspec.to_builtins(found)})

    return [web.get("/sampan/check", look), web.post("/sampan/check", repair)]
