"""The networks of one daemon, and the containers on them.

Example::

    manager = NetworkManager(networks, endpoints, settings=NetworkSettings(run_dir=run))
    await manager.start(running={"4f1c…"})            # kernel state made equal to the records
    network = await manager.create(NetworkConfig(name="back"))
    sandbox = await manager.prepare(SandboxRequest(container_id=…, endpoints=[…], ports=[…]))
    …spawn with sandbox.interfaces, sandbox.hold_fds, sandbox.services…
    await manager.release(container_id)               # after its exit, or when the spawn failed

Every change is made without waiting, so that changes never interleave, and in the order records,
names, rules: after a crash between two steps ``start`` finds a record and makes the rest, or finds
that the container does not run and takes everything back.
"""

from __future__ import annotations

import asyncio
import builtins
import logging
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path

import msgspec

from sampan.errors import Conflict, Forbidden, SampanError
from sampan.linux import rtnetlink
from sampan.network import bridge, definition, endpoints, live, ports, sandbox
from sampan.network.composer import Composer
from sampan.network.firewall import Rules
from sampan.network.firewalld import WATCHED_CHAIN, Firewalld
from sampan.network.members import Members
from sampan.network.names import NamesDirectory
from sampan.network.registry import Networks
from sampan.network.rulekeeper import WATCHED_CHAINS, RuleKeeper
from sampan.network.settings import NetworkSettings
from sampan.network.shortcut import Candidate, Shortcuts
from sampan.network.types import (
    Collection,
    Endpoint,
    EndpointConfig,
    Network,
    NetworkConfig,
    NetworkEvent,
    PortBinding,
    Sandbox,
    SandboxRequest,
)
from sampan.network.watch import Watch

__all__ = ["NetworkManager", "NetworkSettings"]

log = logging.getLogger(__name__)


class NetworkManager:
    """Create, list and remove networks; attach containers to them.

    Raises :class:`~sampan.errors.NotFound`, :class:`~sampan.errors.Conflict`,
    :class:`~sampan.errors.InvalidParameter`, :class:`~sampan.errors.Forbidden` with Docker's
    wording.
    """

    def __init__(
        self,
        networks: Collection[Network],
        endpoints: Collection[Endpoint],
        settings: NetworkSettings,
        on_event: Callable[[NetworkEvent], None] | None = None,
    ) -> None:
        self._settings = settings
        self._on_event = on_event or (lambda event: None)
        self._names = NamesDirectory(Path(settings.run_dir) / "networks")
        self._networks = Networks(networks, settings)
        self._members = Members(endpoints, self._names)
        self._composer = Composer(settings, self._networks, self._members, self._names)
        self.found_stale = False
        """Whether the start met an interface that a predecessor had not recorded."""
        self._rules = RuleKeeper(settings.table, settings.firewall, self._wanted_rules)
        self._shortcuts = Shortcuts(self._shortcut_candidates)
        self._firewalld = Firewalld(settings.system_bus, self._bridges)
        self._watch = Watch(
            rules_gone=self._rules.repair,
            policy_changed=self._policy_changed,
            chains=(*WATCHED_CHAINS, WATCHED_CHAIN),
            link_gone=self._link_gone,
            link_changed=self._shortcuts.changed,
            overflow=self._shortcuts.look,
        )

    # The daemon's life

    async def start(self, running: AbstractSet[str]) -> None:
        """Make the kernel agree with the records, idempotently.

        ``running`` are the ids of the containers that are still running; what other containers
        left behind (endpoints, ports, rules) is removed.  Makes the default networks ``bridge``,
        ``host`` and ``none``.
        """
        for done in bridge.enable_forwarding(ipv6=False) if self._settings.ip_forward else []:
            log.info(done)
        self._networks.load()
        self._members.load(self._networks.all(), running)
        for network in self._networks.all():
            try:
                self._make_links(network)
            except (OSError, SampanError) as error:
                log.error("the network %s cannot be made: %s", network.name, error)
        self.found_stale = self._networks.remove_stale_ports(self._members.host_names())
        self._rules.start()
        self._watch.start(asyncio.get_running_loop())
        self._shortcuts.start(wanted=self._settings.shortcuts)
        self._firewalld.refresh()
        await self._firewalld.settled()

    async def close(self, remove_all: bool = False) -> None:
        """Stop watching.  With ``remove_all`` also delete our bridges and rules from the kernel."""
        self._watch.stop()
        self._shortcuts.close()
        self._firewalld.close()
        self._rules.stop(remove_all=remove_all)
        if remove_all:
            for network in self._networks.all():
                self._networks.remove_links(network)
        self._networks.close()

    def check(self) -> Sequence[str]:
        """Whether the kernel agrees with the records: each disagreement in words.

        Containers that are just being started have no interface yet, and are named too.
        """
        return [*self._networks.differences(self._members.host_names()), *self._rules.differences()]

    def repair(self) -> None:
        """Make the kernel agree with the records, while containers run."""
        for network in self._networks.all():
            try:
                self._make_links(network)
            except (OSError, SampanError) as error:
                log.error("the network %s cannot be made: %s", network.name, error)
            if network.bridge:
                self._enslave(network)
        self._networks.remove_stale_ports(self._members.host_names())
        self._rules.rebuild()

    # Networks

    async def create(self, config: NetworkConfig) -> Network:
        """Make a network; Conflict if the name is taken, Forbidden if the subnet overlaps."""
        try:
            network = self._networks.define(config)
        except OSError as error:
            raise SampanError(f"the network {config.name} cannot be made: {error}") from error
        self._enable_ipv6(network)
        self._members.add_network(network)
        if network.driver == "bridge":
            self._rules.add_bridge(self._networks.rules(network))
            self._firewalld.refresh()
            await self._firewalld.settled()
        self.emit("create", network)
        return network

    def get(self, reference: str) -> Network:
        """The network of this id, name or unique id prefix; NotFound "network X not found"."""
        return self._networks.get(reference)

    def list(self) -> Sequence[Network]:
        """All networks, predefined ones included, oldest first."""
        return self._networks.all()

    async def remove(self, reference: str) -> Network:
        """Delete a network; Forbidden if predefined or with active endpoints (Docker's text)."""
        network = self._networks.get(reference)
        if network.name in definition.PREDEFINED:
            raise Forbidden(f"{network.name} is a pre-defined network and cannot be removed")
        if self._members.on(network.id):
            raise Forbidden(
                f"error while removing network: network {network.name} id {network.id} has active"
                " endpoints"
            )
        if self._networks.is_used(network):
            raise Forbidden(f'configuration network "{network.name}" is in use')
        self._networks.forget(network)
        self._members.remove_network(network)
        if network.driver == "bridge":
            self._rules.remove_bridge(self._networks.rules(network))
        self._networks.remove_links(network)
        self._shortcuts.forget(network.id)
        self._firewalld.refresh()
        self.emit("destroy", network)
        return network

    # Containers

    def endpoints(self, network_id: str) -> Sequence[Endpoint]:
        """The running containers on a network."""
        return self._members.on(network_id)

    def container_endpoints(self, container_id: str) -> Sequence[Endpoint]:
        """The networks that a running container is on, the one with the default route first."""
        return self._members.of(container_id)

    def published(self, container_id: str) -> Sequence[PortBinding]:
        """The resolved published ports of a running container."""
        return [b for endpoint in self._members.of(container_id) for b in endpoint.ports]

    async def prepare(self, request: SandboxRequest) -> Sandbox:
        """Allocate addresses, reserve and publish ports, compose the files.  All or nothing.

        Needs no network namespace.  Conflict "Bind for 0.0.0.0:8080 failed: port is already
        allocated".
        """
        if self._members.of(request.container_id):
            # Of a start that failed before: the caller starts again, so it does not run.
            await self.release(request.container_id)
        made: builtins.list[Endpoint] = []
        reserved: builtins.list[ports.Reservation] = []
        try:
            for wish in request.endpoints:
                made.append(self._make_endpoint(wish, request, made))
            made = endpoints.with_routes(made)
            if not made:
                network = self._networks.get("host" if request.mode == "host" else "none")
                made = [endpoints.without_interface(network, request)]
            if made[0].interface is not None:
                reserved = self._composer.reserve(made[0], request.ports)
                made[0] = endpoints.with_ports(made[0], [r.binding for r in reserved])
            answer = self._composer.compose(request, made, reserved)
            self._members.record(request.container_id, made)
        except BaseException:
            ports.release(reserved)
            self._members.give_back(made)
            raise
        try:
            self._rules.publish([rule for e in made for rule in sandbox.port_rules(e)])
        except BaseException as error:
            ports.release(reserved)
            self._members.drop(request.container_id)
            if isinstance(error, OSError):
                raise SampanError(f"the ports cannot be published: {error}") from error
            raise
        for endpoint in made:
            self.emit("connect", self._networks.by_id(endpoint.network_id), endpoint.container_id)
        return msgspec.structs.replace(answer, hold_fds=ports.hand_over(reserved))

    async def release(self, container_id: str) -> None:
        """Free what a container held: addresses, ports, names.  Idempotent."""
        held = self._members.drop(container_id)
        for endpoint in held:
            self._rules.unpublish(sandbox.port_rules(endpoint))
        for endpoint in held:
            network = self._networks.find(endpoint.network_id)
            if network is not None:
                self.emit("disconnect", network, endpoint.container_id)

    async def connect(
        self,
        request: SandboxRequest,
        config: EndpointConfig,
        netns: Path,
    ) -> Sandbox:
        """Put a running container on one more network.

        ``request`` describes the container as at its start (its ``endpoints`` are ignored: the
        recorded ones count), ``netns`` is ``/proc/PID/ns/net``.  The returned files are the new
        contents of hosts and resolv.conf; ``interfaces`` and ``services`` are complete lists, for a
        restart by the keeper.
        """
        network = self._networks.get(config.network)
        before = [e for e in self._members.of(request.container_id) if e.interface is not None]
        if any(endpoint.network_id == network.id for endpoint in before):
            raise Forbidden(
                f"endpoint with name {request.container_name} already exists in network"
                f" {network.name}"
            )
        added = self._make_endpoint(config, request, before)
        after = endpoints.moved_ports(before, endpoints.with_routes([*before, added]))
        added = next(endpoint for endpoint in after if endpoint.id == added.id)
        try:
            assert added.interface is not None
            live.add_interface(netns, added.interface)
            answer = self._composer.compose(request, after, [])
            self._exchange(request.container_id, before, after)
        except OSError as error:
            self._members.give_back([added])
            raise SampanError(
                f"the container cannot be connected to {network.name}: {error}"
            ) from error
        except BaseException:
            self._members.give_back([added])
            if added.interface is not None:
                live.remove_interface(netns, added.interface)
            raise
        self.emit("connect", network, added.container_id)
        return answer

    async def disconnect(self, container_id: str, reference: str, netns: Path | None) -> None:
        """Take a running container off a network; without ``netns``, one that is gone.

        NotFound when it is not on it.
        """
        network = self._networks.get(reference)
        before = self._members.of(container_id)
        leaving = endpoints.find(before, network)
        after = endpoints.moved_ports(
            before, endpoints.with_routes([e for e in before if e.id != leaving.id])
        )
        self._exchange(container_id, before, after)
        if netns is not None and leaving.interface is not None:
            try:
                live.remove_interface(netns, leaving.interface)
                live.set_default_routes(netns, [e.interface for e in after if e.interface])
            except OSError as error:
                log.warning("disconnecting from %s: %s", network.name, error)
        self.emit("disconnect", network, leaving.container_id)

    def restore_routes(self, container_id: str, netns: Path) -> None:
        """Point a running container's default routes where its endpoints say.  Raises OSError."""
        held = [e.interface for e in self._members.of(container_id) if e.interface is not None]
        live.set_default_routes(netns, held)

    def describe(self, request: SandboxRequest) -> Sandbox:
        """A running container's sandbox as it is now: files and interfaces after a change.

        ``request`` as for :meth:`connect`; no sockets are handed out.
        """
        return self._composer.compose(request, self._members.of(request.container_id), [])

    def relink(self, request: SandboxRequest) -> Sandbox:
        """As :meth:`describe`, after a change of the containers that ``request`` links to."""
        before = self._members.of(request.container_id)
        after = []
        for endpoint in before:
            network = self._networks.by_id(endpoint.network_id)
            openings = self._composer.openings(network, endpoint.ip, request)
            after.append(msgspec.structs.replace(endpoint, openings=openings))
        self._exchange(request.container_id, before, after)
        return self.describe(request)

    def rename(self, container_id: str, new_name: str) -> None:
        """Answer to the new name from now on."""
        self._members.rename(container_id, new_name)

    # Steps

    def _make_links(self, network: Network) -> None:
        for done in self._networks.make_links(network):
            log.info(done)
        self._enable_ipv6(network)

    def _enable_ipv6(self, network: Network) -> None:
        if network.enable_ipv6 and self._settings.ip_forward:
            for done in bridge.enable_forwarding(ipv6=True):
                log.info(done)

    def _make_endpoint(
        self, wish: EndpointConfig, request: SandboxRequest, made: Sequence[Endpoint]
    ) -> Endpoint:
        network = self._networks.get(wish.network)
        if network.config_only:
            raise Forbidden("cannot create endpoint on configuration-only network")
        if network.name in ("host", "none"):
            raise Conflict(
                f"a container cannot be on {network.name} and on other networks: use --network"
                f" {network.name} alone"
            )
        prefix = network.options.get(definition.OPTION_IFACE_PREFIX, "eth")
        used = {endpoint.interface.name for endpoint in made if endpoint.interface}
        number = next(n for n in range(len(used) + 1) if f"{prefix}{n}" not in used)
        endpoint = endpoints.make(
            network,
            wish,
            request,
            self._members.addresses(network.id),
            mtu=self._networks.mtu(network),
            name=f"{prefix}{number}",
            ipv6_kernel=self._networks.ipv6_kernel,
        )
        if network.name == "bridge":
            # Docker's default network has no names.
            openings = self._composer.openings(network, endpoint.ip, request)
            endpoint = msgspec.structs.replace(endpoint, dns_names=[], openings=openings)
        return endpoint

    def _exchange(
        self, container_id: str, before: Sequence[Endpoint], after: Sequence[Endpoint]
    ) -> None:
        self._members.exchange(container_id, after)
        old = [t for endpoint in before for t in sandbox.port_rules(endpoint)]
        new = [t for endpoint in after for t in sandbox.port_rules(endpoint)]
        self._rules.unpublish([rule for rule in old if rule not in new])
        self._rules.publish([rule for rule in new if rule not in old])

    def _wanted_rules(self) -> Rules:
        return Rules(
            bridges=[self._networks.rules(n) for n in self._networks.all() if n.bridge],
            ports=[
                port
                for endpoint in self._members.everyone()
                for port in sandbox.port_rules(endpoint)
            ],
        )

    def _shortcut_candidates(self) -> dict[str, Candidate]:
        joined = {
            network.id: network.bridge
            for network in self._networks.all()
            if network.bridge and definition.bridge_options(network.options).shortcut
        }
        return {
            endpoint.interface.host_name: Candidate(endpoint, joined[endpoint.network_id])
            for endpoint in self._members.everyone()
            if endpoint.interface is not None and endpoint.network_id in joined
        }

    def _bridges(self) -> builtins.list[str]:
        return [network.bridge for network in self._networks.all() if network.bridge]

    def _policy_changed(self) -> None:
        self._rules.policy_changed()
        self._firewalld.refresh()

    def _link_gone(self, link: rtnetlink.Link) -> None:
        self._shortcuts.gone(link.ifindex)
        self._repair_bridge(link.name)

    def _repair_bridge(self, name: str) -> None:
        network = self._networks.by_bridge(name)
        if network is None:
            return
        log.warning("the bridge %s was deleted by another program: making it again", name)
        self._make_links(network)
        self._enslave(network)

    def _enslave(self, network: Network) -> None:
        held = [e.interface.host_name for e in self._members.on(network.id) if e.interface]
        with rtnetlink.open_socket() as route:
            bridge.enslave_again(route, network.bridge, held)

    def emit(self, action: str, network: Network, container_id: str = "") -> None:
        """Tell what has become of a network, or of a container on it."""
        self._on_event(
            NetworkEvent(
                action=action,
                network_id=network.id,
                network_name=network.name,
                driver=network.driver,
                container_id=container_id,
            )
        )
