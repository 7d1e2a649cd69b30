"""Health and metrics."""

from __future__ import annotations

from aiohttp import web

from sampan.hub.core import Hub


def routes(hub: Hub) -> list[web.RouteDef]:
    async def live(request: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def ready(request: web.Request) -> web.Response:
        """Whether the database answers."""
        try:
            await hub.database.read(lambda sql: sql.one("SELECT 1"))
        except Exception as exc:
            return web.json_response({"status": "failing", "reason": str(exc)}, status=503)
        return web.json_response({"status": "ok"})

    async def metrics(request: web.Request) -> web.Response:
        return web.Response(
            body=hub.metrics.text(),
            headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"},
        )

    return [
        web.get("/healthz", live),
        web.get("/readyz", ready),
        web.get("/metrics", metrics),
    ]
