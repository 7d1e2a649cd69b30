"""Networks: ``/networks``."""

from __future__ import annotations

import ipaddress
from typing import Any

import msgspec
from aiohttp import web

from sampan.api import body as bodies
from sampan.api import filters as wire_filters
from sampan.api import query, streams, versions
from sampan.engine import Engine
from sampan.engine.networks import document
from sampan.engine.timestamps import parse_time
from sampan.engine.types import Document, EndpointSettings
from sampan.errors import Forbidden, InvalidParameter, NotFound
from sampan.network.types import NetworkConfig, Pool


class IPAMConfig(Document, frozen=True):
    """One subnet of ``IPAM.Config``."""

    subnet: str = ""
    ip_range: str = msgspec.field(name="IPRange", default="")
    gateway: str = ""
    auxiliary_addresses: dict[str, str] = msgspec.field(default_factory=dict)


class IPAM(Document, frozen=True):
    """How addresses are chosen."""

    driver: str = "default"
    options: dict[str, str] | None = None
    config: list[IPAMConfig] = msgspec.field(default_factory=list)


class NetworkCreate(Document, frozen=True):
    """Body of ``POST /networks/create``."""

    name: str = ""
    check_duplicate: bool = True
    driver: str = ""
    scope: str = ""
    internal: bool = False
    attachable: bool = False
    ingress: bool = False
    config_only: bool = False
    config_from: dict[str, str] = msgspec.field(default_factory=dict)
    ipam: IPAM = msgspec.field(name="IPAM", default=IPAM())
    enable_ipv4: bool = msgspec.field(name="EnableIPv4", default=True)
    enable_ipv6: bool = msgspec.field(name="EnableIPv6", default=False)
    options: dict[str, str] = msgspec.field(default_factory=dict)
    labels: dict[str, str] = msgspec.field(default_factory=dict)

    def config(self) -> NetworkConfig:
        """The network that is asked for.

        Raises InvalidParameter, or Forbidden for what only a swarm has.
        """
        if not self.name:
            raise InvalidParameter("invalid name: ")
        if self.ingress or self.scope in ("swarm", "global") or self.driver == "overlay":
            raise Forbidden(
                "This node is not a swarm manager: swarm-scoped, ingress and overlay networks "
                "need one"
            )
        if self.scope not in ("", "local"):
            raise InvalidParameter(f"invalid network scope {self.scope!r}: it must be local")
        for pool in self.ipam.config:
            if pool.subnet:
                _check_subnet(pool.subnet)
        return NetworkConfig(
            name=self.name,
            driver=self.driver or "bridge",
            enable_ipv4=self.enable_ipv4,
            enable_ipv6=self.enable_ipv6,
            internal=self.internal,
            attachable=self.attachable,
            ipam_driver=self.ipam.driver or "default",
            ipam_options=self.ipam.options or {},
            pools=[
                Pool(
                    subnet=pool.subnet,
                    ip_range=pool.ip_range,
                    gateway=pool.gateway,
                    aux_addresses=pool.auxiliary_addresses,
                )
                for pool in self.ipam.config
            ],
            options=self.options,
            labels=self.labels,
            config_only=self.config_only,
            config_from=self.config_from.get("Network", ""),
        )


def _check_subnet(text: str) -> None:
    """Raises InvalidParameter for an address with bits beside its network's; the rest of a pool is
    the engine's to judge."""
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise InvalidParameter(
            f"invalid network config:\ninvalid subnet {text}: invalid CIDR block notation"
        ) from None
    if ipaddress.ip_interface(text).ip != network.network_address:
        raise InvalidParameter(
            f"invalid network config:\ninvalid subnet {text}: it should be {network}"
        )


class Connect(Document, frozen=True):
    """Body of ``POST /networks/{id}/connect``."""

    container: str = ""
    endpoint_config: EndpointSettings | None = None


class Disconnect(Document, frozen=True):
    """Body of ``POST /networks/{id}/disconnect``."""

    container: str = ""
    force: bool = False


def routes(engine: Engine) -> list[web.RouteDef]:
    networks = engine.networks

    async def listing(request: web.Request) -> web.Response:
        version = versions.requested(request)
        found = networks.list(wire_filters.parse(request.query.get("filters")))
        # Until API 1.28 lists had the containers too.
        with_containers = version < (1, 28)
        return streams.json(
            [
                document(n, networks.endpoints(n) if with_containers else None, version)
                for n in found
            ]
        )

    async def inspect(request: web.Request) -> web.Response:
        scope = request.query.get("scope", "")
        # Tasks of a swarm, which this engine has none of, are all that it would add.
        query.truth(request, "verbose")
        network = networks.get(request.match_info["id"])
        if scope not in ("", network.scope):
            raise NotFound(f"network {request.match_info['id']} not found")
        version = versions.requested(request)
        body: dict[str, Any] = document(network, networks.endpoints(network), version)
        return streams.json(body)

    async def create(request: web.Request) -> web.Response:
        wish = await bodies.document(request, NetworkCreate)
        network = await networks.create(wish.config())
        return streams.json({"Id": network.id, "Warning": ""}, status=201)

    async def remove(request: web.Request) -> web.Response:
        await networks.remove(request.match_info["id"])
        return web.Response(status=204)

    async def connect(request: web.Request) -> web.Response:
        wish = await bodies.document(request, Connect)
        settings = wish.endpoint_config or EndpointSettings()
        await networks.connect(request.match_info["id"], wish.container, settings)
        return web.Response(status=200)

    async def disconnect(request: web.Request) -> web.Response:
        wish = await bodies.document(request, Disconnect)
        await networks.disconnect(request.match_info["id"], wish.container, wish.force)
        return web.Response(status=200)

    async def prune(request: web.Request) -> web.Response:
        wanted = wire_filters.parse(request.query.get("filters"))
        until = parse_time(next(iter(wanted.get("until")), None))
        return streams.json({"NetworksDeleted": await networks.prune(wanted, until) or None})

    return [
        web.get("/networks", listing),
        web.get("/networks/", listing),
        web.post("/networks/create", create),
        web.post("/networks/prune", prune),
        web.get("/networks/{id}", inspect),
        web.delete("/networks/{id}", remove),
        web.post("/networks/{id}/connect", connect),
        web.post("/networks/{id}/disconnect", disconnect),
    ]
