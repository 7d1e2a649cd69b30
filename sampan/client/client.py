"""The client: one daemon's containers, images, networks, volumes and the engine itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from sampan.client.api import Api
from sampan.client.containers import Containers, conditions
from sampan.client.hosts import Host
from sampan.client.http import quote
from sampan.client.images import Images
from sampan.client.models import Event, NetworkInfo, VolumeInfo


def network_body(
    name: str,
    driver: str,
    subnet: str,
    internal: bool,
    labels: Mapping[str, str] | None,
    options: Mapping[str, str] | None,
) -> dict[str, Any]:
    """The body of ``POST /networks/create``."""
    body: dict[str, Any] = {
        "Name": name,
        "Driver": driver,
        "Internal": internal,
        "Labels": dict(labels or {}),
        "Options": dict(options or {}),
    }
    if subnet:
        body["IPAM"] = {"Config": [{"Subnet": subnet}]}
    return body


def volume_body(
    name: str, driver: str, labels: Mapping[str, str] | None, options: Mapping[str, str] | None
) -> dict[str, Any]:
    """The body of ``POST /volumes/create``."""
    return {
        "Name": name,
        "Driver": driver,
        "Labels": dict(labels or {}),
        "DriverOpts": dict(options or {}),
    }


class Networks:
    """``client.networks``."""

    def __init__(self, api: Api) -> None:
        self._api = api

    def list(self) -> list[NetworkInfo]:
        """All networks."""
        return [NetworkInfo.parse(raw) for raw in self._api.get("/networks")]

    def get(self, name: str) -> NetworkInfo:
        """By name or identifier; NotFound if there is none."""
        return NetworkInfo.parse(self._api.get(f"/networks/{quote(name)}"))

    def create(
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
        return self.get(self._api.post("/networks/create", json=body)["Id"])

    def connect(self, network: str, container: str, *, aliases: tuple[str, ...] = ()) -> None:
        """Connect a container to a network."""
        body = {"Container": container, "EndpointConfig": {"Aliases": list(aliases)}}
        self._api.post(f"/networks/{quote(network)}/connect", json=body)

    def disconnect(self, network: str, container: str, *, force: bool = False) -> None:
        """Disconnect a container from a network."""
        body = {"Container": container, "Force": force}
        self._api.post(f"/networks/{quote(network)}/disconnect", json=body)

    def remove(self, name: str) -> None:
        """Remove a network that nothing is connected to."""
        self._api.delete(f"/networks/{quote(name)}")


class Volumes:
    """``client.volumes``."""

    def __init__(self, api: Api) -> None:
        self._api = api

    def list(self) -> list[VolumeInfo]:
        """All volumes."""
        found = self._api.get("/volumes").get("Volumes") or []
        return [VolumeInfo.parse(raw) for raw in found]

    def get(self, name: str) -> VolumeInfo:
        """By name; NotFound if there is none."""
        return VolumeInfo.parse(self._api.get(f"/volumes/{quote(name)}"))

    def create(
        self,
        name: str = "",
        *,
        driver: str = "local",
        labels: Mapping[str, str] | None = None,
        options: Mapping[str, str] | None = None,
    ) -> VolumeInfo:
        """Make a volume; an empty name lets the daemon choose."""
        body = volume_body(name, driver, labels, options)
        return VolumeInfo.parse(self._api.post("/volumes/create", json=body))

    def remove(self, name: str, *, force: bool = False) -> None:
        """Remove a volume that no container uses."""
        self._api.delete(f"/volumes/{quote(name)}", {"force": force})


class System:
    """``client.system``."""

    def __init__(self, api: Api) -> None:
        self._api = api

    def version(self) -> dict[str, Any]:
        """The daemon's versions, as the API gives them."""
        found: dict[str, Any] = self._api.get("/version")
        return found

    def info(self) -> dict[str, Any]:
        """Facts about the daemon, as the API gives them."""
        found: dict[str, Any] = self._api.get("/info")
        return found

    def disk_usage(self) -> dict[str, Any]:
        """What takes room, as the API gives it."""
        found: dict[str, Any] = self._api.get("/system/df")
        return found

    def events(self, *, since: str = "", until: str = "", **filters: str) -> Iterator[Event]:
        """What happens from now on (or ``since``), for ever (or ``until``)."""
        query: dict[str, object] = {
            "since": since or None,
            "until": until or None,
            "filters": conditions(filters),
        }
        for raw in Api(self._api.host).messages("GET", "/events", query):
            yield Event.parse(raw)

    def ping(self) -> bool:
        """True when the daemon answers."""
        self._api.ping()
        return True


class Client:
    """A connection to one daemon; close it, or use it as a context manager.

    >>> import sampan
    >>> with sampan.connect() as client:                               # doctest: +SKIP
    ...     print(client.containers.run("busybox", ["echo", "hello"]))
    b'hello\\n'
    """

    def __init__(self, api: Api) -> None:
        self.api = api
        self.containers = Containers(api)
        self.images = Images(api)
        self.networks = Networks(api)
        self.volumes = Volumes(api)
        self.system = System(api)

    @classmethod
    def at(cls, host: Host, *, timeout: float | None = None) -> Client:
        """A client of the daemon at ``host``; it answers, or this raises Unavailable."""
        client = cls(Api(host, timeout=timeout))
        client.api.ping()
        return client

    def close(self) -> None:
        """Give the connection back."""
        self.api.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
