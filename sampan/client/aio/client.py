"""The client: one daemon's containers, images, networks, volumes and the engine itself."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any

from sampan.client.aio.api import AsyncApi
from sampan.client.aio.containers import AsyncContainers
from sampan.client.aio.images import AsyncImages
from sampan.client.client import network_body, volume_body
from sampan.client.containers import conditions
from sampan.client.hosts import Host
from sampan.client.http import quote
from sampan.client.models import Event, NetworkInfo, VolumeInfo


class AsyncNetworks:
    """``client.networks``."""

    def __init__(self, api: AsyncApi) -> None:
        self._api = api

    async def list(self) -> list[NetworkInfo]:
        """All networks."""
        return [NetworkInfo.parse(raw) for raw in await self._api.get("/networks")]

    async def get(self, name: str) -> NetworkInfo:
        """By name or identifier; NotFound if there is none."""
        return NetworkInfo.parse(await self._api.get(f"/networks/{quote(name)}"))

    async def create(
        self,
        name: str,
        *,
        driver: str = "bridge",
        subnet: str = "",
        internal: bool = False,
        labels: Mapping[str, str] | None = None,
        options: Mapping[str, str] | None = None,
    ) -> NetworkInfo:
        """Make a network."""
        body = network_body(name, driver, subnet, internal, labels, options)
        return await self.get((await self._api.post("/networks/create", json=body))["Id"])

    async def connect(self, network: str, container: str, *, aliases: tuple[str, ...] = ()) -> None:
        """Connect a container to a network."""
        body = {"Container": container, "EndpointConfig": {"Aliases": list(aliases)}}
        await self._api.post(f"/networks/{quote(network)}/connect", json=body)

    async def disconnect(self, network: str, container: str, *, force: bool = False) -> None:
        """Disconnect a container from a network."""
        body = {"Container": container, "Force": force}
        await self._api.post(f"/networks/{quote(network)}/disconnect", json=body)

    async def remove(self, name: str) -> None:
        """Remove a network that nothing is connected to."""
        await self._api.delete(f"/networks/{quote(name)}")


class AsyncVolumes:
    """``client.volumes``."""

    def __init__(self, api: AsyncApi) -> None:
        self._api = api

    async def list(self) -> list[VolumeInfo]:
        """All volumes."""
        found = (await self._api.get("/volumes")).get("Volumes") or []
        return [VolumeInfo.parse(raw) for raw in found]

    async def get(self, name: str) -> VolumeInfo:
        """By name; NotFound if there is none."""
        return VolumeInfo.parse(await self._api.get(f"/volumes/{quote(name)}"))

    async def create(
        self,
        name: str = "",
        *,
        driver: str = "local",
        labels: Mapping[str, str] | None = None,
        options: Mapping[str, str] | None = None,
    ) -> VolumeInfo:
        """Make a volume; an empty name lets the daemon choose."""
        body = volume_body(name, driver, labels, options)
        return VolumeInfo.parse(await self._api.post("/volumes/create", json=body))

    async def remove(self, name: str, *, force: bool = False) -> None:
        """Remove a volume that no container uses."""
        await self._api.delete(f"/volumes/{quote(name)}", {"force": force})


class AsyncSystem:
    """``client.system``."""

    def __init__(self, api: AsyncApi) -> None:
        self._api = api

    async def version(self) -> dict[str, Any]:
        """The daemon's versions, as the API gives them."""
        found: dict[str, Any] = await self._api.get("/version")
        return found

    async def info(self) -> dict[str, Any]:
        """Facts about the daemon, as the API gives them."""
        found: dict[str, Any] = await self._api.get("/info")
        return found

    async def disk_usage(self) -> dict[str, Any]:
        """What takes room, as the API gives it."""
        found: dict[str, Any] = await self._api.get("/system/df")
        return found

    async def events(
        self, *, since: str = "", until: str = "", **filters: str
    ) -> AsyncIterator[Event]:
        """What happens from now on (or ``since``), for ever (or ``until``)."""
        query: dict[str, object] = {
            "since": since or None,
            "until": until or None,
            "filters": conditions(filters),
        }
        async for raw in self._api.messages("GET", "/events", query):
            yield Event.parse(raw)

    async def ping(self) -> bool:
        """True when the daemon answers."""
        await self._api.ping()
        return True


class AsyncClient:
    """A connection to one daemon; close it, or use it as an asynchronous context manager.

    Tasks may share one: each request that is under way has a connection of its own.
    """

    def __init__(self, api: AsyncApi) -> None:
        self.api = api
        self.containers = AsyncContainers(api)
        self.images = AsyncImages(api)
        self.networks = AsyncNetworks(api)
        self.volumes = AsyncVolumes(api)
        self.system = AsyncSystem(api)

    @classmethod
    async def at(cls, host: Host, *, timeout: float | None = None) -> AsyncClient:
        """A client of the daemon at ``host``; it answers, or this raises Unavailable."""
        client = cls(AsyncApi(host, timeout=timeout))
        await client.api.ping()
        return client

    def close(self) -> None:
        """Give the connections back."""
        self.api.close()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()
