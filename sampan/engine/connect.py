"""Running containers that join and leave networks."""

from __future__ import annotations

from pathlib import Path

from sampan.engine import ports
from sampan.engine.launch import Launcher, settled, wish
from sampan.engine.state import Container
from sampan.engine.types import EndpointSettings
from sampan.network.manager import NetworkManager
from sampan.network.types import Network


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


def _namespace(container: Container) -> Path:
    return Path("/proc", str(container.pid), "ns/net")
