"""What a particular client needs to see, where its own checks would refuse what works."""

from __future__ import annotations

from typing import Any

from aiohttp import web

_DOCKER_PY = "docker-sdk-python/"


def container_for(request: web.Request, document: dict[str, Any]) -> dict[str, Any]:
    """A container's document as the client of ``request`` can use it.

    docker-py reads the logs of ``containers.run`` only if inspect names the log driver json-file
    or journald, though any readable driver answers ``GET /containers/{id}/logs``; to it alone
    ``local`` is called json-file.
    """
    log_config = document["HostConfig"]["LogConfig"]
    if log_config["Type"] != "local" or not _is_docker_py(request):
        return document
    host = {**document["HostConfig"], "LogConfig": {**log_config, "Type": "json-file"}}
    return {**document, "HostConfig": host}


def _is_docker_py(request: web.Request) -> bool:
    return request.headers.get("User-Agent", "").startswith(_DOCKER_PY)
