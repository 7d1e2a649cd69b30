"""``/containers``: from create to remove."""

from __future__ import annotations

from aiohttp import web

from sampan.engine import Engine


def routes(engine: Engine) -> list[web.RouteDef]:
    """The routes of containers."""
    return []
