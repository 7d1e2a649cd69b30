"""``/exec``: further processes in running containers."""

from __future__ import annotations

import os

import msgspec
from aiohttp import web

from sampan.api import body, clients, hijack, streams, versions
from sampan.api.routes.attach import content_type
from sampan.api.routes.containers import window_size
from sampan.engine import Engine
from sampan.engine.attach import detach_keys
from sampan.engine.execs import ExecConfig
from sampan.errors import InvalidParameter, SampanError
from sampan.runtime.types import AttachRequest


class ExecStart(msgspec.Struct, frozen=True, rename="pascal"):
    """Body of ``POST /exec/{id}/start``."""

    detach: bool = False
    tty: bool = False
    console_size: tuple[int, int] = (0, 0)


def routes(engine: Engine) -> list[web.RouteDef]:
    """The routes of execs."""
    execs = engine.execs

    async def create(request: web.Request) -> web.Response:
        config = await body.document(request, ExecConfig)
        if not config.cmd:
            raise InvalidParameter("No exec command specified")
        detach_keys(config.detach_keys, config.tty)
        found = execs.create(request.match_info["name"], config)
        return streams.json({"Id": found.id}, status=201)

    async def start(request: web.Request) -> web.StreamResponse:
        found = execs.get(request.match_info["id"])
        wish = await body.document(request, ExecStart)
        if wish.detach:
            await execs.start(found, console_size=wish.console_size)
            return web.Response(status=200)
        execs.check(found)
        config = found.config
        kind = content_type(versions.requested(request), config.tty)
        connection = hijack.take(request, kind)
        attach = AttachRequest(
            stdin=config.attach_stdin,
            stdout=config.attach_stdout,
            stderr=config.attach_stderr,
            raw=config.tty,
            detach_keys=detach_keys(config.detach_keys, config.tty),
            initial=connection.initial,
        )
        try:
            await clients.head_read(request, connection.fd)
            await execs.start(found, attach, connection.fd, wish.console_size)
        except SampanError as error:
            # The head has been sent: the reason goes where the output would.
            text = f"{error}\r\n".encode()
            await hijack.send(
                connection.fd, text if config.tty else streams.frame(streams.STDOUT, text)
            )
        finally:
            os.close(connection.fd)
        return hijack.Done()

    async def inspect(request: web.Request) -> web.Response:
        return streams.json(execs.get(request.match_info["id"]).document())

    async def resize(request: web.Request) -> web.Response:
        found = execs.get(request.match_info["id"])
        rows, columns = window_size(request)
        await execs.resize(found, rows, columns)
        return web.Response(status=200)

    return [
        web.post("/containers/{name}/exec", create),
        web.post("/exec/{id}/start", start),
        web.get("/exec/{id}/json", inspect, allow_head=False),
        web.post("/exec/{id}/resize", resize),
    ]
