"""``/containers``: from create to remove."""

from __future__ import annotations

from typing import Any

import msgspec
from aiohttp import web

from sampan.api import body, clients, progress, query, streams, versions
from sampan.api import filters as wire_filters
from sampan.engine import Engine
from sampan.engine.networks import PREDEFINED
from sampan.engine.state import Container
from sampan.engine.types import CreateRequest, HostConfig, docker_name
from sampan.engine.waits import condition, wait
from sampan.errors import Conflict, InvalidParameter, NotFound

_UPDATABLE = (
    "blkio_weight",
    "cpu_period",
    "cpu_quota",
    "cpu_realtime_period",
    "cpu_realtime_runtime",
    "cpu_shares",
    "cpuset_cpus",
    "cpuset_mems",
    "memory",
    "memory_reservation",
    "memory_swap",
    "nano_cpus",
    "pids_limit",
    "restart_policy",
)

MAC_ADDRESS_MOVED = (
    "The container-wide MacAddress field is now deprecated. It should be specified in "
    "EndpointsConfig instead."
)


def routes(engine: Engine) -> list[web.RouteDef]:
    """The routes of containers, but for their streams."""
    containers, lifecycle = engine.containers, engine.lifecycle

    def named(request: web.Request) -> Container:
        return containers.get(request.match_info["name"])

    async def listing(request: web.Request) -> web.Response:
        documents = engine.listing.documents(
            wire_filters.parse(request.query.get("filters")),
            everything=query.flag(request, "all"),
            limit=query.integer(request, "limit"),
            size=query.flag(request, "size"),
        )
        return streams.json(documents)

    async def create(request: web.Request) -> web.Response:
        version = versions.requested(request)
        wish = await body.document(request, CreateRequest, required=True)
        created = await containers.create(
            request.query.get("name"),
            _for_version(wish, version),
            request.query.get("platform", ""),
        )
        warnings = [*created.warnings]
        if wish.mac_address and version >= (1, 44):
            warnings.append(MAC_ADDRESS_MOVED)
        return streams.json({"Id": created.id, "Warnings": warnings}, status=201)

    async def inspect(request: web.Request) -> web.Response:
        container = named(request)
        document = engine.inspector.document(container, size=query.flag(request, "size"))
        if versions.requested(request) < (1, 44):
            _name_by_id(container, document)
        return streams.json(clients.container_for(request, document))

    async def start(request: web.Request) -> web.Response:
        if request.query.get("checkpoint"):
            raise InvalidParameter("checkpoints are not supported")
        await lifecycle.start(named(request))
        return web.Response(status=204)

    async def stop(request: web.Request) -> web.Response:
        container, seconds = named(request), _seconds(request)
        try:
            await lifecycle.stop(container, seconds, request.query.get("signal", ""))
        except InvalidParameter as error:
            name = request.match_info["name"]
            raise InvalidParameter(f"cannot stop container: {name}: {error}") from None
        return web.Response(status=204)

    async def restart(request: web.Request) -> web.Response:
        await lifecycle.restart(named(request), _seconds(request), request.query.get("signal", ""))
        return web.Response(status=204)

    async def kill(request: web.Request) -> web.Response:
        try:
            await lifecycle.kill(named(request), request.query.get("signal", ""))
        except (NotFound, Conflict, InvalidParameter) as error:
            name = request.match_info["name"]
            raise type(error)(f"cannot kill container: {name}: {error}") from None
        return web.Response(status=204)

    async def pause(request: web.Request) -> web.Response:
        await lifecycle.pause(named(request))
        return web.Response(status=204)

    async def unpause(request: web.Request) -> web.Response:
        await lifecycle.unpause(named(request))
        return web.Response(status=204)

    async def rename(request: web.Request) -> web.Response:
        lifecycle.rename(named(request), request.query.get("name", ""))
        return web.Response(status=204)

    async def resize(request: web.Request) -> web.Response:
        rows, columns = window_size(request)
        await lifecycle.resize(named(request), rows, columns)
        return web.Response(status=200)

    async def update(request: web.Request) -> web.Response:
        container = named(request)
        wish = await body.document(request, HostConfig, required=True)
        warnings = await lifecycle.update(container, _changes(wish))
        return streams.json({"Warnings": warnings or None})

    async def remove(request: web.Request) -> web.Response:
        await lifecycle.remove(
            request.match_info["name"],
            force=query.flag(request, "force"),
            volumes=query.flag(request, "v"),
            link=query.flag(request, "link"),
        )
        return web.Response(status=204)

    async def waiting(request: web.Request) -> web.StreamResponse:
        container = named(request)
        until = condition(request.query.get("condition"))
        # The client starts the container when it has seen the head.
        answer = web.StreamResponse()
        answer.content_type = "application/json"
        answer.enable_chunked_encoding()
        pending = wait(container, until)
        await answer.prepare(request)
        outcome = await progress.while_connected(request, pending)
        document: dict[str, Any] = {"StatusCode": outcome.code}
        if outcome.error:
            document["Error"] = {"Message": outcome.error}
        await streams.send_json(answer, document)
        return answer

    async def top(request: web.Request) -> web.Response:
        titles, processes = await engine.processes.top(
            named(request), request.query.get("ps_args", "")
        )
        return streams.json({"Titles": titles, "Processes": processes})

    async def changes(request: web.Request) -> web.Response:
        return streams.json(await engine.processes.changes(named(request)))

    async def stats(request: web.Request) -> web.StreamResponse:
        container = named(request)
        stream = query.flag(request, "stream", default=True)
        one_shot = query.flag(request, "one-shot")
        if one_shot and stream:
            raise InvalidParameter("cannot have stream=true and one-shot=true")
        samples = engine.stats.samples(container, stream=stream, one_shot=one_shot)
        answer = await streams.start(request)

        async def send() -> None:
            async for sample in samples:
                await streams.send_json(answer, sample)

        await progress.while_connected(request, send())
        return answer

    return [
        web.get("/containers/json", listing, allow_head=False),
        web.post("/containers/create", create),
        web.get("/containers/{name}/json", inspect, allow_head=False),
        web.get("/containers/{name}/top", top, allow_head=False),
        web.get("/containers/{name}/changes", changes, allow_head=False),
        web.get("/containers/{name}/stats", stats, allow_head=False),
        web.post("/containers/{name}/start", start),
        web.post("/containers/{name}/stop", stop),
        web.post("/containers/{name}/restart", restart),
        web.post("/containers/{name}/kill", kill),
        web.post("/containers/{name}/pause", pause),
        web.post("/containers/{name}/unpause", unpause),
        web.post("/containers/{name}/rename", rename),
        web.post("/containers/{name}/resize", resize),
        web.post("/containers/{name}/update", update),
        web.post("/containers/{name}/wait", waiting),
        # The name of a link has slashes.
        web.delete("/containers/{name:.+}", remove),
    ]


def window_size(request: web.Request) -> tuple[int, int]:
    """Rows and columns of a resize, both of which are needed.  Raises InvalidParameter."""
    for name in ("h", "w"):
        if not request.query.get(name):
            raise InvalidParameter(f"invalid value for {name}: a number is needed")
    rows, columns = query.integer(request, "h"), query.integer(request, "w")
    if not (0 <= rows < 1 << 16 and 0 <= columns < 1 << 16):
        raise InvalidParameter(f"invalid window size: {columns} columns, {rows} rows")
    return rows, columns


def _name_by_id(container: Container, document: dict[str, Any]) -> None:
    """Show the short id among the aliases, as it was before names in the DNS were shown."""
    for name, endpoint in document["NetworkSettings"]["Networks"].items():
        if name not in PREDEFINED:
            aliases = [*(endpoint["Aliases"] or ()), container.id[:12]]
            endpoint["Aliases"] = list(dict.fromkeys(aliases))


def _seconds(request: web.Request) -> int | None:
    return query.integer(request, "t") if request.query.get("t") else None


def _for_version(body: CreateRequest, version: tuple[int, int]) -> CreateRequest:
    """Defaults that depend on what the client speaks."""
    host = body.host_config
    if version < (1, 40) and not host.ipc_mode:
        host = msgspec.structs.replace(host, ipc_mode="shareable")
    if version < (1, 41) and not host.cgroupns_mode:
        host = msgspec.structs.replace(host, cgroupns_mode="host")
    return msgspec.structs.replace(body, host_config=host)


def _changes(host: HostConfig) -> dict[str, Any]:
    """What an update sets: Docker's clients send every field, and zero means unchanged."""
    unset = HostConfig()
    changes: dict[str, Any] = {}
    for name in HostConfig.__struct_fields__:
        if getattr(host, name) == getattr(unset, name):
            continue
        if name not in _UPDATABLE:
            raise InvalidParameter(f"{docker_name(name)} of a container cannot be updated")
        changes[name] = getattr(host, name)
    return changes
