"""``_ping``, ``version``, ``info``, ``events``, ``plugins``; and what is out of scope."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from aiohttp import web

from sampan.api import filters as wire_filters
from sampan.api import progress, streams, versions
from sampan.api.feed import Encoder, Feed
from sampan.engine import Engine
from sampan.engine.event_filters import matching
from sampan.engine.timestamps import parse_time
from sampan.errors import InvalidParameter, Unavailable


def routes(engine: Engine) -> list[web.RouteDef]:
    encoder = Encoder()

    async def ping(request: web.Request) -> web.Response:
        body = b"" if request.method == "HEAD" else b"OK"
        headers = {
            "Cache-Control": "no-cache, no-store, must-revalidate",
            "Pragma": "no-cache",
            "Builder-Version": "1",
            "Swarm": "inactive",
        }
        return web.Response(body=body, headers=headers, content_type="text/plain", charset="utf-8")

    async def version(_request: web.Request) -> web.Response:
        return streams.json(engine.system.version())

    async def info(request: web.Request) -> web.Response:
        return streams.json(_info_for(engine.system.info(), versions.requested(request)))

    async def events(request: web.Request) -> web.StreamResponse:
        query = request.query
        chosen = matching(wire_filters.parse(query.get("filters")))
        since = parse_time(query.get("since"))
        until = parse_time(query.get("until"))
        if since is not None and until is not None and since > until:
            raise InvalidParameter(
                f"`since` time ({query['since']}) cannot be after `until` time ({query['until']})"
            )
        answer = await streams.start(request)
        feed = Feed(request, answer, encoder)

        last = until if until is not None else sys.maxsize
        wanted = chosen if until is None else lambda e: e.time_nano <= last and chosen(e)
        with engine.events.listen(feed.take, wanted, since_ns=since):
            await progress.while_connected(request, feed.run(until))
        return answer

    async def plugins(_request: web.Request) -> web.Response:
        return streams.json([])

    async def swarm(_request: web.Request) -> web.Response:
        raise Unavailable(
            "This node is not a swarm manager: sampan runs containers on one host and has no "
            "swarm mode"
        )

    async def managed_plugins(_request: web.Request) -> web.Response:
        raise Unavailable("managed plugins are not supported")

    swarm_paths = ["swarm", "nodes", "services", "tasks", "secrets", "configs"]
    found = [
        web.get("/_ping", ping, allow_head=False),
        web.head("/_ping", ping),
        web.get("/version", version),
        web.get("/info", info),
        web.get("/events", events),
        web.get("/plugins", plugins),
    ]
    for name in swarm_paths:
        found += [web.route("*", f"/{name}", swarm), web.route("*", f"/{name}/{{rest:.*}}", swarm)]
    found.append(web.route("*", "/plugins/{rest:.+}", managed_plugins))
    return found


def _info_for(info: dict[str, Any], version: tuple[int, int]) -> dict[str, Any]:
    """What ``info`` had in older versions of the API."""
    if version < (1, 50):
        info |= {"BridgeNfIptables": _filtered(""), "BridgeNfIp6tables": _filtered("6")}
    if version < (1, 49):
        for name in ("ContainerdCommit", "RuncCommit", "InitCommit"):
            info[name]["Expected"] = info[name]["ID"]
        registries = info["RegistryConfig"]
        registries["AllowNondistributableArtifactsCIDRs"] = None
        registries["AllowNondistributableArtifactsHostnames"] = None
    if version < (1, 42):
        info["KernelMemory"] = True
    if version < (1, 25):
        info["ExecutionDriver"] = "<not supported>"
        info["SecurityOptions"] = [
            option.removeprefix("name=").partition(",")[0] for option in info["SecurityOptions"]
        ]
    return info


def _filtered(family: str) -> bool:
    """Whether the host's packet filter sees what crosses a bridge."""
    setting = Path(f"/proc/sys/net/bridge/bridge-nf-call-ip{family}tables")
    try:
        return setting.read_text().strip() == "1"
    except OSError:
        return False
