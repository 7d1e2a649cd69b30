"""``/v1/search``, as ``docker search`` asks it."""

from __future__ import annotations

from aiohttp import web

from sampan.hub.accounts import Identity
from sampan.hub.core import Hub
from sampan.hub.failures import RegistryError

MAX_RESULTS = 100


def routes(hub: Hub) -> list[web.RouteDef]:
    async def search(request: web.Request) -> web.Response:
        try:
            who: Identity = await hub.access.identify(request)
            if who.anonymous and hub.config.anonymous == "none":
                raise hub.access.challenge(request, "", ())
        except RegistryError as exc:
            return exc.response()
        term = request.query.get("q", "")
        size = _number(request, "n", 25, MAX_RESULTS)
        page = _number(request, "page", 1, 100_000)
        total, found = await hub.records.search(term, size, (page - 1) * size)
        results = [
            {
                "name": repository.name,
                "description": repository.description,
                "star_count": repository.stars,
                "is_official": repository.name.startswith("library/"),
                "is_automated": False,
                "is_trusted": False,
            }
            for repository in found
        ]
        return web.json_response(
            {
                "query": term,
                "num_results": total,
                "num_pages": -(-total // size),
                "page": page,
                "page_size": size,
                "results": results,
            }
        )

    return [web.get("/v1/search", search), web.get("/v1/_ping", _ping)]


async def _ping(request: web.Request) -> web.Response:
    return web.Response(text="true", headers={"X-Docker-Registry-Version": "0.6.3"})


def _number(request: web.Request, name: str, default: int, limit: int) -> int:
    text = request.query.get(name, "")
    return max(1, min(int(text), limit)) if text.isdecimal() and len(text) < 9 else default
