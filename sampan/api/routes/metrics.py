"""Counters for Prometheus: ``/metrics``, in its text format 0.0.4."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from aiohttp import web

from sampan import __version__
from sampan.engine import Engine

_STATES = ("running", "paused", "stopped")
REQUESTS = web.AppKey("requests", Counter[tuple[str, str, str]])
"""Answers by method, route (as it is declared) and status."""


async def count(request: web.Request, answer: web.StreamResponse) -> None:
    """Count an answer when it begins; to be called for every one."""
    resource = request.match_info.route.resource
    route = resource.canonical if resource is not None else "unknown"
    method = request.method if request.method in _METHODS else "other"
    request.app[REQUESTS][method, route, str(answer.status)] += 1


_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"})


def routes(engine: Engine) -> list[web.RouteDef]:
    async def metrics(request: web.Request) -> web.Response:
        found = engine.system.info()
        states = {state: int(found[f"Containers{state.capitalize()}"]) for state in _STATES}
        parts = [
            _family("sampan_build_info", "gauge", "The version", [({"version": __version__}, 1)]),
            _family(
                "sampan_containers",
                "gauge",
                "Containers by state",
                [({"state": state}, number) for state, number in states.items()],
            ),
            _family("sampan_images", "gauge", "Images", [({}, int(found["Images"]))]),
            _family(
                "sampan_events_total",
                "counter",
                "Events published",
                [
                    ({"type": kind, "action": action}, number)
                    for (kind, action), number in sorted(engine.events.published.items())
                ],
            ),
            _family(
                "sampan_api_requests_total",
                "counter",
                "Requests answered",
                [
                    ({"method": method, "route": route, "status": status}, number)
                    for (method, route, status), number in sorted(request.app[REQUESTS].items())
                ],
            ),
        ]
        return web.Response(
            text="".join(parts),
            headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"},
        )

    return [web.get("/metrics", metrics)]


def _family(
    name: str, kind: str, help_text: str, samples: Iterable[tuple[Mapping[str, str], int]]
) -> str:
    lines = [f"# HELP {name} {help_text}", f"# TYPE {name} {kind}"]
    for labels, value in samples:
        shown = ",".join(f'{label}="{_escaped(text)}"' for label, text in labels.items())
        lines.append(f"{name}{{{shown}}} {value}" if shown else f"{name} {value}")
    return "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
