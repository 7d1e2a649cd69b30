"""Volumes: ``/volumes``."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from sampan.api import body, streams, versions
from sampan.api import filters as wire_filters
from sampan.api.query import flag
from sampan.engine import Engine
from sampan.engine.timestamps import format_time
from sampan.engine.types import Document
from sampan.engine.volumes import Volume, Volumes
from sampan.errors import Unavailable


class VolumeCreate(Document, frozen=True):
    """Body of ``POST /volumes/create``."""

    name: str = ""
    driver: str = ""
    driver_opts: dict[str, str] | None = None
    labels: dict[str, str] | None = None
    cluster_volume_spec: dict[str, Any] | None = None


def document(volumes: Volumes, volume: Volume) -> dict[str, Any]:
    """The volume as the API shows it."""
    return {
        "CreatedAt": format_time(volume.created // 10**9 * 10**9),
        "Driver": volume.driver,
        "Labels": volume.labels,
        "Mountpoint": str(volumes.path(volume.id)),
        "Name": volume.id,
        "Options": volume.options,
        "Scope": "local",
    }


def routes(engine: Engine) -> list[web.RouteDef]:
    volumes = engine.volumes

    async def listing(request: web.Request) -> web.Response:
        found = volumes.list(wire_filters.parse(request.query.get("filters")))
        return streams.json({"Volumes": [document(volumes, v) for v in found], "Warnings": None})

    async def create(request: web.Request) -> web.Response:
        wish = await body.document(request, VolumeCreate)
        if wish.cluster_volume_spec is not None:
            raise Unavailable("This node is not a swarm manager: cluster volumes need one")
        volume = await volumes.create(wish.name, wish.driver, wish.driver_opts, wish.labels)
        return streams.json(document(volumes, volume), status=201)

    async def inspect(request: web.Request) -> web.Response:
        return streams.json(document(volumes, volumes.get(request.match_info["name"])))

    async def update(request: web.Request) -> web.Response:
        volumes.get(request.match_info["name"])
        raise Unavailable("volume update only valid for cluster volumes, but swarm is unavailable")

    async def remove(request: web.Request) -> web.Response:
        await volumes.remove(request.match_info["name"], force=flag(request, "force"))
        return web.Response(status=204)

    async def prune(request: web.Request) -> web.Response:
        wanted = wire_filters.parse(request.query.get("filters"))
        # Before API 1.42 there was no telling anonymous volumes from named ones.
        everything = versions.requested(request) < (1, 42)
        removed, freed = await volumes.prune(wanted, everything)
        return streams.json({"VolumesDeleted": removed, "SpaceReclaimed": freed})

    return [
        web.get("/volumes", listing),
        web.post("/volumes/create", create),
        web.post("/volumes/prune", prune),
        web.get("/volumes/{name}", inspect),
        web.put("/volumes/{name}", update),
        web.delete("/volumes/{name}", remove),
    ]
