"""Running containers that join and leave networks."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path

from sampan.engine import ports
from sampan.engine.launch import Launcher, settled, wish
from sampan.engine.state import Container
from sampan.engine.types import EndpointSettings
from sampan.errors import SampanError
from sampan.network.manager import NetworkManager
from sampan.network.types import Network
from sampan.runtime.errors import KeeperGone

log = logging.getLogger("sampan.engine")


class Connector:
    """Applies a connection to a running container; its lock is held by the caller."""

    def __init__(self, networks: NetworkManager, launcher: Launcher) -> None:
        self._networks = networks
        self._launcher = launcher

    async def connect(
        self, container: Container, network: Network, settings: EndpointSettings
    ) -> None:
        """Put the container on the network and enter the result in its record."""
        record = container.record
        if settings.mac_address:
            record.macs[network.name] = settings.mac_address
        sandbox = await self._networks.connect(
            self._launcher.sandbox_request(record),
            wish(network.name, settings, settings.mac_address),
            _namespace(container),
        )
        for endpoint in sandbox.endpoints:
            name = endpoint.network_name
            before = settings if name == network.name else record.networks.get(name)
            record.networks[name] = settled(before or EndpointSettings(), endpoint)
        self._launcher.write_files(record, sandbox)
        await container.live_keeper().set_network(sandbox.interfaces, sandbox.services)

    async def disconnect(
        self, container: Container, network: Network, settings: EndpointSettings
    ) -> None:
        """Take the container off the network."""
        record = container.record
        await self._networks.disconnect(container.id, network.id, _namespace(container))
        record.macs.pop(network.name, None)
        sandbox = self._networks.describe(self._launcher.sandbox_request(record))
        self._launcher.write_files(record, sandbox)
        await container.live_keeper().set_network(sandbox.interfaces, [])
        bindings = self._networks.published(container.id)
        record.ports = ports.published(record.config.exposed_ports, bindings)

    async def settle(self, alive: Iterable[Container]) -> None:
        """After a restart of the daemon: take back the connections that its predecessor began and
        did not record, and finish the disconnections.  One container's trouble is no other's."""
        for container in alive:
            try:
                await self._settle(container)
            except (KeeperGone, OSError, SampanError) as error:
                log.warning("the networks of %s are left as they are: %s", container.id, error)

    async def _settle(self, container: Container) -> None:
        record = container.record
        recorded = {name for name, s in record.networks.items() if s.endpoint_id}
        held = {e.network_name: e for e in self._networks.container_endpoints(container.id)}
        for name in held.keys() - recorded:
            network = self._networks.get(held[name].network_id)
            log.warning("taking %s off %s: the connection was not finished", record.name, name)
            await self.disconnect(container, network, EndpointSettings())
        for name in recorded - held.keys():
            record.networks.pop(name)
            sandbox = self._networks.describe(self._launcher.sandbox_request(record))
            self._launcher.write_files(record, sandbox)
            await container.live_keeper().set_network(sandbox.interfaces, [])
        if self._networks.found_stale or recorded != held.keys():
            self._networks.restore_routes(container.id, _namespace(container))


def _namespace(container: Container) -> Path:
    return Path("/proc", str(container.pid), "ns/net")
