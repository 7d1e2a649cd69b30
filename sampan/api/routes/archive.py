"""Files into and out of containers: ``/containers/{id}/archive`` and ``/export``."""

from __future__ import annotations

import base64
from contextlib import aclosing
from typing import Any

import msgspec
from aiohttp import web

from sampan.api import progress, streams
from sampan.api.body import chunks
from sampan.api.query import flag, integer
from sampan.engine import Engine
from sampan.errors import InvalidParameter

TAR = "application/x-tar"


def routes(engine: Engine) -> list[web.RouteDef]:
    archive = engine.archive

    async def head(request: web.Request) -> web.Response:
        found = await archive.stat(request.match_info["id"], _path(request))
        return web.Response(headers=stat_header(found))

    async def get(request: web.Request) -> web.StreamResponse:
        found, pieces = await archive.get(request.match_info["id"], _path(request))
        answer = web.StreamResponse(headers=stat_header(found))
        answer.content_type = TAR
        if request.version >= (1, 1):
            answer.enable_chunked_encoding()
        await answer.prepare(request)
        async with aclosing(pieces):
            async for piece in pieces:
                if piece:
                    await answer.write(piece)
        await answer.write_eof()
        return answer

    async def put(request: web.Request) -> web.Response:
        await progress.while_connected(
            request,
            archive.put(
                request.match_info["id"],
                _path(request),
                chunks(request),
                strict=flag(request, "noOverwriteDirNonDir"),
                keep_owner=flag(request, "copyUIDGID"),
            ),
        )
        return web.Response()

    async def export(request: web.Request) -> web.StreamResponse:
        epoch = integer(request, "sourcedateepoch", -1)
        latest = epoch * 10**9 if epoch >= 0 else None
        pieces = await archive.export(request.match_info["id"], latest)
        answer = await streams.start(request, "application/octet-stream")
        async with aclosing(pieces):
            async for piece in pieces:
                await answer.write(piece)
        await answer.write_eof()
        return answer

    return [
        web.head("/containers/{id}/archive", head),
        web.get("/containers/{id}/archive", get, allow_head=False),
        web.put("/containers/{id}/archive", put),
        web.get("/containers/{id}/export", export),
    ]


def stat_header(found: dict[str, Any]) -> dict[str, str]:
    """The header that tells what is at the path."""
    encoded = base64.b64encode(msgspec.json.encode(found)).decode()
    return {"X-Docker-Container-Path-Stat": encoded}


def _path(request: web.Request) -> str:
    path = request.query.get("path", "")
    if not path:
        raise InvalidParameter("bad parameter: the path is missing")
    if "\0" in path:
        raise InvalidParameter("bad parameter: the path has a null byte")
    return path
