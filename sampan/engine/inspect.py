"""A container as Docker's ``inspect`` shows it: every field, with Docker's names and types."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from sampan.engine import links
from sampan.engine.execs import Execs
from sampan.engine.launch import FILES, Launcher, Places
from sampan.engine.mounts import ContainerMount
from sampan.engine.state import Container, ContainerRecord, State
from sampan.engine.timestamps import format_time
from sampan.engine.types import EndpointSettings
from sampan.runtime.spec import MASKED_PATHS, READ_ONLY_PATHS
from sampan.store.images import ImageStore


class Inspector:
    """Makes the documents of ``GET /containers/{id}/json``."""

    def __init__(
        self, images: ImageStore, execs: Execs, launcher: Launcher, places: Places
    ) -> None:
        self._images = images
        self._execs = execs
        self._launcher = launcher
        self._places = places

    def _apparmor(self, record: ContainerRecord) -> str:
        """Docker calls privileged containers unconfined on hosts without AppArmor too."""
        profile = self._places.apparmor.of(record.host)
        return profile or ("unconfined" if record.host.privileged else "")

    def document(self, container: Container, *, size: bool = False) -> dict[str, Any]:
        """The whole document; with ``size`` the bytes that the container's files take."""
        record = container.record
        directory = self._places.state_of(record.id)
        files = {name: str(directory / name) for name in FILES}
        command = record.command
        document = {
            "Id": record.id,
            "Created": format_time(record.created),
            "Path": command[0],
            "Args": command[1:],
            "State": state_document(record.state),
            "Image": record.image_id,
            "ResolvConfPath": files["resolv.conf"] if record.state.started_at else "",
            "HostnamePath": files["hostname"] if record.state.started_at else "",
            "HostsPath": files["hosts"] if record.state.started_at else "",
            "LogPath": self._log_path(record),
            "Name": f"/{record.name}",
            "RestartCount": record.state.restart_count,
            "Driver": record.driver,
            "Platform": record.platform,
            "MountLabel": "",
            "ProcessLabel": "",
            "AppArmorProfile": self._apparmor(record),
            "ExecIDs": self._execs.of(container),
            "HostConfig": host_document(record),
            "GraphDriver": self._graph_driver(record),
            "Mounts": [mount_document(mount) for mount in record.mounts if mount.shown],
            "Config": config_document(record),
            "NetworkSettings": network_document(container),
        }
        if size:
            document.update(self.sizes(record))
        return document

    def sizes(self, record: ContainerRecord) -> dict[str, int]:
        """Bytes that the container itself has written, and those with its image.  Walks files."""
        own = self._images.snapshotter.usage(record.id).size
        try:
            below = self._images.get(record.image_id).size
        except Exception:
            below = 0
        return {"SizeRw": own, "SizeRootFs": own + below}

    def _log_path(self, record: ContainerRecord) -> str:
        if record.host.log_config.type != "json-file" or not record.state.started_at:
            return ""
        return self._launcher.log_config(record).path

    def _graph_driver(self, record: ContainerRecord) -> dict[str, Any]:
        data: dict[str, str] = {"ID": record.id}
        if record.driver == "overlay":
            try:
                upper = self._images.snapshotter.upper(record.id)
            except Exception:
                return {"Name": record.driver, "Data": data}
            data["UpperDir"] = str(upper)
            data["WorkDir"] = str(Path(upper).with_name("work"))
        return {"Name": record.driver, "Data": data}


def state_document(state: State) -> dict[str, Any]:
    """Docker's ``State``."""
    document: dict[str, Any] = {
        "Status": state.status,
        "Running": state.running,
        "Paused": state.status == "paused",
        "Restarting": state.status == "restarting",
        "OOMKilled": state.oom_killed,
        "Dead": state.status == "dead",
        "Pid": state.pid,
        "ExitCode": state.exit_code,
        "Error": state.error,
        "StartedAt": format_time(state.started_at),
        "FinishedAt": format_time(state.finished_at),
    }
    if state.health is not None:
        document["Health"] = {
            "Status": state.health.status,
            "FailingStreak": state.health.failing_streak,
            "Log": [
                {
                    "Start": format_time(probe.start),
                    "End": format_time(probe.end),
                    "ExitCode": probe.exit_code,
                    "Output": probe.output,
                }
                for probe in state.health.log
            ],
        }
    return document


def config_document(record: ContainerRecord) -> dict[str, Any]:
    """``Config``: Docker leaves out some members where they are empty."""
    document: dict[str, Any] = msgspec.to_builtins(record.config)
    document["Hostname"] = record.config.hostname or record.id[:12]
    document["Labels"] = record.labels
    for name in (
        "ExposedPorts",
        "Healthcheck",
        "ArgsEscaped",
        "NetworkDisabled",
        "MacAddress",
        "StopSignal",
        "StopTimeout",
        "Shell",
    ):
        if not document[name]:
            del document[name]
    if "Healthcheck" in document:
        document["Healthcheck"] = _given(document["Healthcheck"])
    endpoint = record.networks.get(record.host.network_mode)
    wished = record.macs.get(record.host.network_mode)
    if endpoint is not None and wished:
        document["MacAddress"] = wished
    return document


def _given(document: dict[str, Any]) -> dict[str, Any]:
    """What of a document is set, as Docker writes those with optional members."""
    return {
        name: _given(value) if isinstance(value, dict) and name != "Labels" else value
        for name, value in document.items()
        if value not in (None, "", 0, False, [])
    }


def host_document(record: ContainerRecord) -> dict[str, Any]:
    """``HostConfig``, with the paths that are masked unless the container is privileged."""
    host = record.host
    document: dict[str, Any] = msgspec.to_builtins(host)
    document["Links"] = links.shown(record)
    for name in ("Annotations", "StorageOpt", "Tmpfs", "Sysctls", "Mounts", "Init"):
        if document[name] is None:
            del document[name]
    if "Mounts" in document:
        document["Mounts"] = [_given(mount) for mount in document["Mounts"]]
    for name in ("KernelMemory", "KernelMemoryTCP"):
        del document[name]
    free = host.privileged or "systempaths=unconfined" in (host.security_opt or [])
    if host.masked_paths is None:
        document["MaskedPaths"] = None if free else list(MASKED_PATHS)
    if host.readonly_paths is None:
        document["ReadonlyPaths"] = None if free else list(READ_ONLY_PATHS)
    return document


def mount_document(mount: ContainerMount) -> dict[str, Any]:
    """One entry of ``Mounts``."""
    point = mount.point
    document: dict[str, Any] = {"Type": point.type}
    if point.name:
        document["Name"] = point.name
    document["Source"] = point.source
    document["Destination"] = point.destination
    if point.driver:
        document["Driver"] = point.driver
    document.update({"Mode": point.mode, "RW": point.rw, "Propagation": point.propagation})
    return document


def endpoint_document(settings: EndpointSettings) -> dict[str, Any]:
    """One entry of ``Networks``."""
    document: dict[str, Any] = msgspec.to_builtins(settings)
    if settings.ipam_config is not None:
        ipam = {name: value for name, value in document["IPAMConfig"].items() if value}
        document["IPAMConfig"] = ipam
    return document


def network_document(container: Container) -> dict[str, Any]:
    """``NetworkSettings``, whose older members repeat the default network's endpoint."""
    record = container.record
    bridge = record.networks.get("bridge") or EndpointSettings()
    running = container.running
    return {
        "Bridge": "",
        "SandboxID": record.id if running else "",
        "SandboxKey": f"/proc/{record.state.pid}/ns/net" if running and record.state.pid else "",
        "Ports": {
            port: None
            if bindings is None
            else [{"HostIp": b.host_ip, "HostPort": b.host_port} for b in bindings]
            for port, bindings in record.ports.items()
        },
        "HairpinMode": False,
        "LinkLocalIPv6Address": "",
        "LinkLocalIPv6PrefixLen": 0,
        "SecondaryIPAddresses": None,
        "SecondaryIPv6Addresses": None,
        "EndpointID": bridge.endpoint_id,
        "Gateway": bridge.gateway,
        "GlobalIPv6Address": bridge.global_ipv6_address,
        "GlobalIPv6PrefixLen": bridge.global_ipv6_prefix_len,
        "IPAddress": bridge.ip_address,
        "IPPrefixLen": bridge.ip_prefix_len,
        "IPv6Gateway": bridge.ipv6_gateway,
        "MacAddress": bridge.mac_address,
        "Networks": {
            name: endpoint_document(settings) for name, settings in record.networks.items()
        },
    }
