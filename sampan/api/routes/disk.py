"""Disk space: ``/system/df``, and the pruning of containers."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from sampan.api import filters as wire_filters
from sampan.api import streams, versions
from sampan.api.routes.images import until_of
from sampan.api.routes.volumes import document as volume_document
from sampan.engine import Engine
from sampan.engine.system_df import KINDS
from sampan.errors import InvalidParameter


def routes(engine: Engine) -> list[web.RouteDef]:
    async def usage(request: web.Request) -> web.Response:
        version = versions.requested(request)
        kinds = request.query.getall("type", []) if version >= (1, 42) else []
        for kind in kinds:
            if kind not in KINDS:
                raise InvalidParameter(f"unknown object type: {kind}")
        measured = await engine.disk_usage.measure(kinds or KINDS)
        # What was not asked for is null.
        body: dict[str, Any] = {
            "LayersSize": measured.layers_size,
            "Images": measured.images,
            "Containers": measured.containers,
            "Volumes": None,
            "BuildCache": measured.build_cache,
        }
        if measured.volumes is not None:
            body["Volumes"] = [
                volume_document(engine.volumes, volume)
                | {"UsageData": {"RefCount": users, "Size": size}}
                for volume, size, users in measured.volumes
            ]
        if version < (1, 44):
            for image in measured.images or ():
                image["VirtualSize"] = image["Size"]
        if version < (1, 42) and measured.builder_size:
            body["BuilderSize"] = measured.builder_size
        return streams.json(body)

    async def prune(request: web.Request) -> web.Response:
        wanted = wire_filters.parse(request.query.get("filters"))
        removed, freed = await engine.prune.containers(wanted, until_of(wanted))
        return streams.json({"ContainersDeleted": removed or None, "SpaceReclaimed": freed})

    return [web.get("/system/df", usage), web.post("/containers/prune", prune)]
