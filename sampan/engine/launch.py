"""Everything between a container's record and its running process: network, files, request.

:class:`Launcher` gathers what one start needs, hands it to the spawner, and gives it all back when
the start fails or the container has ended.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from sampan.engine import links, logconfig, ports, specs
from sampan.engine.apparmor import NONE, Profiles
from sampan.engine.attachments import Attachments
from sampan.engine.cdi import Registry
from sampan.engine.logoptions import JOURNAL_SOCKET
from sampan.engine.mounts import ContainerMount
from sampan.engine.remap import Remap
from sampan.engine.runtimes import Runtimes
from sampan.engine.state import Container, ContainerRecord
from sampan.engine.types import EndpointIPAMConfig, EndpointSettings, Healthcheck
from sampan.errors import Conflict, NotFound
from sampan.network.manager import NetworkManager
from sampan.network.types import Endpoint, EndpointConfig, Sandbox, SandboxRequest
from sampan.runtime import cgroups
from sampan.runtime.cgroups.naming import PLAIN, SYSTEMD, GroupNames
from sampan.runtime.cgroups.realtime import Realtime, grant
from sampan.runtime.control import Keeper
from sampan.runtime.spawner import Spawner
from sampan.runtime.types import (
    HealthCheck,
    KeeperEvent,
    KeeperRequest,
    LogConfig,
    RestartPolicy,
    ServiceRequest,
)
from sampan.store.snapshots import Snapshotter

log = logging.getLogger("sampan.engine")

FILES = ("hostname", "hosts", "resolv.conf")
SECOND = 10**9

Find = Callable[[str], Container]


@dataclass(frozen=True, slots=True)
class Places:
    """Directories and defaults that every start uses."""

    state_dir: Path
    run_dir: Path
    groups: GroupNames = PLAIN
    apparmor: Profiles = NONE
    journal_socket: str = JOURNAL_SOCKET
    runtimes: Runtimes = field(default_factory=Runtimes)
    remap: Remap | None = None
    cdi: Registry = field(default_factory=Registry)
    realtime: Realtime | None = None

    def state_of(self, container_id: str) -> Path:
        return self.state_dir / "containers" / container_id

    def run_of(self, container_id: str) -> Path:
        return self.run_dir / "containers" / container_id


class Launcher:
    """Starts containers' processes and cleans up after them."""

    def __init__(
        self,
        places: Places,
        spawner: Spawner,
        snapshotter: Snapshotter,
        networks: NetworkManager,
        volumes: Attachments,
        find: Find,
    ) -> None:
        self._places = places
        self._spawner = spawner
        self._snapshotter = snapshotter
        self._networks = networks
        self._volumes = volumes
        self._find = find

    async def launch(self, container: Container, on_event: Callable[[KeeperEvent], None]) -> Keeper:
        """Start the process and return its keeper; nothing is left behind on failure.

        Raises StartError; Conflict (a port in use, a joined container that does not run);
        NotFound (a mount's source).
        """
        record = container.record
        try:
            sandbox = await self._sandbox(record)
            fds = list(sandbox.hold_fds) if sandbox else []
            try:
                request = await self._request(container, sandbox)
                attach_fds = [fd for _, fd in container.parked]
                keeper = await self._spawner.spawn(
                    request, attach_fds=attach_fds, hold_fds=fds, on_event=on_event
                )
            finally:
                for fd in fds:
                    os.close(fd)
        except BaseException:
            await self.clean(container)
            raise
        container.drop_parked()
        for text in keeper.state.warnings:
            log.warning("container %s: %s", container.id[:12], text)
        return keeper

    async def clean(self, container: Container) -> None:
        """Give back what a start took: network, mounts of volumes, parked clients."""
        await self._networks.release(container.id)
        await self._volumes.detach(container.id)
        container.drop_parked()
        _forget_endpoints(container.record)

    def log_config(self, record: ContainerRecord) -> LogConfig:
        """Where the container's output goes."""
        directory = self._places.state_of(record.id)
        return logconfig.log_config(record, directory, self._places.journal_socket)

    # -- network ---------------------------------------------------------------------------

    async def _sandbox(self, record: ContainerRecord) -> Sandbox | None:
        """Allocate the container's place on its networks; None if it joins another container."""
        if record.host.network_mode.startswith("container:"):
            return None
        sandbox = await self._networks.prepare(self.sandbox_request(record))
        for endpoint in sandbox.endpoints:
            name = endpoint.network_name
            mine = record.networks.get(name) or EndpointSettings()
            record.networks[name] = settled(mine, endpoint)
        record.ports = ports.published(record.config.exposed_ports, sandbox.ports)
        return sandbox

    def sandbox_request(self, record: ContainerRecord) -> SandboxRequest:
        """What the network needs to know of the container."""
        host = record.host
        on_host = host.network_mode == "host"
        wanted = [] if on_host else [item for item in record.networks.items() if item[0] != "none"]
        return SandboxRequest(
            container_id=record.id,
            container_name=record.name,
            hostname=specs.hostname(record),
            domainname=record.config.domainname,
            mode="host" if on_host else "endpoints",
            endpoints=[wish(name, own, record.macs.get(name, "")) for name, own in wanted],
            ports=[] if on_host else ports.requested(record.config, host),
            dns=host.dns,
            dns_search=host.dns_search,
            dns_options=host.dns_options,
            extra_hosts=host.extra_hosts or [],
            links=links.resolve(record, self._find),
        )

    def renamed(self, container: Container) -> None:
        """Let the networks answer to the container's new name."""
        self._networks.rename(container.id, container.name)

    def links_changed(self, containers: Iterable[Container]) -> None:
        """Write the running containers' hosts files again: what they link to was started or has
        another name, or a link is gone."""
        for container in containers:
            try:
                request = self.sandbox_request(container.record)
            except (Conflict, NotFound):
                # Another link of it leads to a container that does not run: its turn will come.
                continue
            self.write_files(container.record, self._networks.relink(request))

    # -- the request -----------------------------------------------------------------------

    async def _request(self, container: Container, sandbox: Sandbox | None) -> KeeperRequest:
        record = container.record
        self._places.state_of(record.id).mkdir(mode=0o710, parents=True, exist_ok=True)
        files = self._files(record, sandbox)
        mounts = await self._volumes.attach(record.id, record.mounts)
        if self._places.remap and self._places.remap.applies(record.host):
            mounts = _idmapped(mounts, record.mounts)
        environment = specs.Environment(
            mounts=[*self._shared_shm(record), *mounts],
            files=files,
            namespaces=self._namespaces(record),
            groups=self._places.groups,
            links=links.environment(record, self._find),
            remap=self._places.remap,
            apparmor=self._places.apparmor.of(record.host),
        )
        spec = specs.build(record, environment)
        runtime = self._places.runtimes.command(record.host.runtime)
        if runtime and self._places.groups.driver == SYSTEMD:
            runtime.append("--systemd-cgroup")
        self._places.cdi.inject(spec, record.host.device_requests or (), hooks=bool(runtime))
        if self._places.realtime:
            grant(cgroups.layout(), spec["linux"]["cgroupsPath"], self._places.realtime)
        run_dir = self._places.run_of(record.id)
        run_dir.mkdir(parents=True, exist_ok=True)
        policy = record.host.restart_policy
        return KeeperRequest(
            id=record.id,
            run_dir=str(run_dir),
            spec=spec,
            rootfs=self._snapshotter.mounts(record.id, volatile=record.host.auto_remove),
            log=self.log_config(record),
            open_stdin=record.config.open_stdin,
            stdin_once=record.config.stdin_once,
            init=bool(record.host.init),
            interfaces=list(sandbox.interfaces) if sandbox else [],
            attaches=[request for request, _ in container.parked],
            hold_count=len(sandbox.hold_fds) if sandbox else 0,
            services=[
                ServiceRequest(service.name, service.config)
                for service in (sandbox.services if sandbox else [])
            ],
            restart=RestartPolicy(policy.name or "no", policy.maximum_retry_count),  # type: ignore[arg-type]
            healthcheck=_probe(record, spec["process"]),
            runtime=runtime,
        )

    def _files(self, record: ContainerRecord, sandbox: Sandbox | None) -> dict[str, str]:
        """Write the container's own hostname, hosts and resolv.conf; return where they are."""
        if sandbox is None:
            other = self._find(record.host.network_mode.removeprefix("container:"))
            directory = self._places.state_of(other.id)
            return {name: str(directory / name) for name in FILES}
        self.write_files(record, sandbox)
        directory = self._places.state_of(record.id)
        return {name: str(directory / name) for name in FILES}

    def write_files(self, record: ContainerRecord, sandbox: Sandbox) -> None:
        """Write hostname, hosts and resolv.conf as the network wants them."""
        directory = self._places.state_of(record.id)
        contents = (f"{specs.hostname(record)}\n".encode(), sandbox.hosts, sandbox.resolv_conf)
        for name, content in zip(FILES, contents, strict=True):
            # In place: a running container's bind mount must go on seeing the file.
            (directory / name).write_bytes(content)

    def _namespaces(self, record: ContainerRecord) -> dict[str, str]:
        """Namespaces that are not the container's own: a path to join, "" for the host's."""
        host = record.host
        found: dict[str, str] = {}
        for kind, oci, mode in (
            ("net", "network", host.network_mode),
            ("ipc", "ipc", host.ipc_mode),
            ("pid", "pid", host.pid_mode),
            ("uts", "uts", host.uts_mode),
            ("cgroup", "cgroup", host.cgroupns_mode),
        ):
            if mode == "host":
                found[oci] = ""
            elif mode.startswith("container:"):
                found[oci] = f"/proc/{self._joined(mode, kind).pid}/ns/{kind}"
        return found

    def _joined(self, mode: str, kind: str) -> Container:
        other = self._find(mode.removeprefix("container:"))
        if not other.pid:
            raise Conflict(
                f"cannot join {kind} namespace of a non running container: "
                f"container /{other.name} is {other.record.state.status}"
            )
        if kind == "ipc" and other.record.host.ipc_mode not in ("shareable", "host"):
            raise Conflict(
                f"failed to join IPC namespace: container {other.id}: non-shareable IPC "
                "(hint: use IpcMode:shareable for the donor container)"
            )
        return other

    def _shared_shm(self, record: ContainerRecord) -> list[dict[str, Any]]:
        mode = record.host.ipc_mode
        if not mode.startswith("container:"):
            return []
        other = self._joined(mode, "ipc")
        return [
            {
                "destination": "/dev/shm",
                "type": "bind",
                "source": f"/proc/{other.pid}/root/dev/shm",
                "options": ["rbind", "rprivate", "nosuid", "nodev", "noexec"],
            }
        ]


def _idmapped(
    mounts: Iterable[dict[str, Any]], wanted: Iterable[ContainerMount]
) -> list[dict[str, Any]]:
    """Volumes and images have the container's numbers on disk; what else is bound is the host's."""
    ours = {mount.destination for mount in wanted if mount.point.type in ("volume", "image")}
    return [
        {**mount, "options": [*mount["options"], "idmap"]}
        if mount["destination"] in ours
        else mount
        for mount in mounts
    ]


def wish(network: str, settings: EndpointSettings, mac: str = "") -> EndpointConfig:
    """What the container wants on one network; ``mac`` is the address that was asked for."""
    ipam = settings.ipam_config or EndpointIPAMConfig()
    return EndpointConfig(
        network=network,
        ip=ipam.ipv4_address,
        ip6=ipam.ipv6_address,
        link_local_ips=ipam.link_local_ips or [],
        mac=mac,
        aliases=settings.aliases or [],
        links=settings.links or [],
        driver_options=settings.driver_opts or {},
        gateway_priority=settings.gw_priority,
    )


def settled(wanted: EndpointSettings, endpoint: Endpoint) -> EndpointSettings:
    """The wish with the endpoint's results, as inspect shows it."""
    return msgspec.structs.replace(
        wanted,
        network_id=endpoint.network_id,
        endpoint_id=endpoint.id,
        gateway=endpoint.gateway,
        ip_address=endpoint.ip,
        ip_prefix_len=endpoint.prefix_len,
        ipv6_gateway=endpoint.gateway6,
        global_ipv6_address=endpoint.ip6,
        global_ipv6_prefix_len=endpoint.prefix_len6,
        mac_address=endpoint.mac,
        dns_names=endpoint.dns_names or None,
    )


def _forget_endpoints(record: ContainerRecord) -> None:
    """A stopped container has no addresses, but its wishes stay."""
    record.ports = {}
    for name, settings in record.networks.items():
        if settings.endpoint_id:
            record.networks[name] = unsettled(settings)


def unsettled(settings: EndpointSettings) -> EndpointSettings:
    """The wish alone.  A MAC address that was chosen by us is forgotten with the rest."""
    ipam = settings.ipam_config
    return EndpointSettings(
        ipam_config=ipam,
        links=settings.links,
        aliases=settings.aliases,
        driver_opts=settings.driver_opts,
        gw_priority=settings.gw_priority,
        network_id=settings.network_id,
        dns_names=settings.dns_names,
    )


def _probe(record: ContainerRecord, process: dict[str, Any]) -> HealthCheck | None:
    """The health check of the keeper, or None."""
    check: Healthcheck | None = record.config.healthcheck
    if check is None or not check.test or check.test[0] == "NONE":
        return None
    if check.test[0] == "CMD-SHELL":
        shell = record.config.shell or ["/bin/sh", "-c"]
        args = [*shell, check.test[1]]
    else:
        args = check.test[1:]
    probe = {**process, "args": args, "terminal": False}
    probe.pop("consoleSize", None)
    return HealthCheck(
        process=probe,
        interval=check.interval or 30 * SECOND,
        timeout=check.timeout or 30 * SECOND,
        start_period=check.start_period,
        start_interval=check.start_interval,
        retries=check.retries or 3,
    )
