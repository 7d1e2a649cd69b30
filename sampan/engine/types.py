"""The Engine API's documents, as typed values with Docker's exact JSON field names.

They are stored as they are in the metadata database and travel unchanged to the API's edge.
Python names are snake case; :func:`docker_name` derives the JSON name (``cpu_shares`` →
``CpuShares``), with Docker's own irregular spellings listed in ``_IRREGULAR``.

Docker accepts a string where a list of one string is meant (``Cmd``, ``Entrypoint``), and what
Go's decoder accepts (:mod:`sampan.engine.gojson`); :func:`decode` does the same, so that any Docker
client's request fits.
"""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from sampan.engine import gojson
from sampan.errors import InvalidParameter

_IRREGULAR = {
    "container_id_file": "ContainerIDFile",
    "uts_mode": "UTSMode",
    "blkio_device_read_iops": "BlkioDeviceReadIOps",
    "blkio_device_write_iops": "BlkioDeviceWriteIOps",
    "io_maximum_iops": "IOMaximumIOps",
    "io_maximum_bandwidth": "IOMaximumBandwidth",
    "kernel_memory_tcp": "KernelMemoryTCP",
    "device_ids": "DeviceIDs",
    "ipam_config": "IPAMConfig",
    "ipv4_address": "IPv4Address",
    "ipv6_address": "IPv6Address",
    "link_local_ips": "LinkLocalIPs",
    "global_ipv6_address": "GlobalIPv6Address",
    "global_ipv6_prefix_len": "GlobalIPv6PrefixLen",
    "ipv6_gateway": "IPv6Gateway",
    "ip_address": "IPAddress",
    "ip_prefix_len": "IPPrefixLen",
    "network_id": "NetworkID",
    "endpoint_id": "EndpointID",
    "dns_names": "DNSNames",
    "host_ip": "HostIp",
    "id": "ID",
}


def docker_name(name: str) -> str:
    """Docker's JSON name of a field."""
    irregular = _IRREGULAR.get(name)
    if irregular is not None:
        return irregular
    return "".join(word.capitalize() for word in name.rstrip("_").split("_"))


class Document(msgspec.Struct, frozen=True, rename=docker_name):
    """Base of all documents: immutable; ``msgspec.structs.replace`` makes a changed one."""


class Healthcheck(Document, frozen=True):
    """A health check; durations in nanoseconds, 0 means inherit."""

    test: list[str] | None = None
    interval: int = 0
    timeout: int = 0
    start_period: int = 0
    start_interval: int = 0
    retries: int = 0


class ContainerConfig(Document, frozen=True):
    """What a container is, independent of the host: ``Config`` of inspect and create."""

    hostname: str = ""
    domainname: str = ""
    user: str = ""
    attach_stdin: bool = False
    attach_stdout: bool = False
    attach_stderr: bool = False
    exposed_ports: dict[str, dict[str, Any]] | None = None
    tty: bool = False
    open_stdin: bool = False
    stdin_once: bool = False
    env: list[str] | None = None
    cmd: list[str] | None = None
    healthcheck: Healthcheck | None = None
    args_escaped: bool = False
    image: str = ""
    volumes: dict[str, dict[str, Any]] | None = None
    working_dir: str = ""
    entrypoint: list[str] | None = None
    network_disabled: bool = False
    mac_address: str = ""
    on_build: list[str] | None = None
    labels: dict[str, str] | None = None
    stop_signal: str = ""
    stop_timeout: int | None = None
    shell: list[str] | None = None


class LogConfig(Document, frozen=True):
    type: str = ""
    config: dict[str, str] = {}


class PortBinding(Document, frozen=True):
    """One host address of a container's port; an empty port means: choose one."""

    host_ip: str = ""
    host_port: str = ""


class RestartPolicy(Document, frozen=True):
    name: str = ""
    maximum_retry_count: int = 0


class WeightDevice(Document, frozen=True):
    path: str
    weight: int = 0


class ThrottleDevice(Document, frozen=True):
    path: str
    rate: int = 0


class DeviceMapping(Document, frozen=True):
    path_on_host: str = ""
    path_in_container: str = ""
    cgroup_permissions: str = ""


class DeviceRequest(Document, frozen=True):
    driver: str = ""
    count: int = 0
    device_ids: list[str] | None = None
    capabilities: list[list[str]] | None = None
    options: dict[str, str] | None = None


class Ulimit(Document, frozen=True):
    name: str
    soft: int = 0
    hard: int = 0


class BindOptions(Document, frozen=True):
    propagation: str = ""
    non_recursive: bool = False
    create_mountpoint: bool = False
    read_only_non_recursive: bool = False
    read_only_force_recursive: bool = False


class VolumeDriverConfig(Document, frozen=True):
    name: str = ""
    options: dict[str, str] | None = None


class VolumeOptions(Document, frozen=True):
    no_copy: bool = False
    labels: dict[str, str] | None = None
    subpath: str = ""
    driver_config: VolumeDriverConfig | None = None


class ImageOptions(Document, frozen=True):
    subpath: str = ""


class TmpfsOptions(Document, frozen=True):
    size_bytes: int = 0
    mode: int = 0
    options: list[list[str]] | None = None


class MountRequest(Document, frozen=True):
    """One ``--mount``: ``type`` is bind, volume, tmpfs, image, npipe or cluster."""

    type: str = ""
    source: str = ""
    target: str = ""
    read_only: bool = False
    consistency: str = ""
    bind_options: BindOptions | None = None
    volume_options: VolumeOptions | None = None
    image_options: ImageOptions | None = None
    tmpfs_options: TmpfsOptions | None = None


class MountPoint(Document, frozen=True):
    """One mount of a container as it was resolved: ``Mounts`` of inspect."""

    type: str
    name: str = ""
    source: str = ""
    destination: str = ""
    driver: str = ""
    mode: str = ""
    rw: bool = msgspec.field(default=True, name="RW")
    propagation: str = ""


class HostConfig(Document, frozen=True):
    """What a container asks of its host.  Sizes in bytes, CPU periods in µs, shares as cgroups."""

    binds: list[str] | None = None
    container_id_file: str = ""
    log_config: LogConfig = LogConfig()
    network_mode: str = ""
    port_bindings: dict[str, list[PortBinding] | None] = {}
    restart_policy: RestartPolicy = RestartPolicy()
    auto_remove: bool = False
    volume_driver: str = ""
    volumes_from: list[str] | None = None
    console_size: tuple[int, int] = (0, 0)
    annotations: dict[str, str] | None = None
    cap_add: list[str] | None = None
    cap_drop: list[str] | None = None
    cgroupns_mode: str = ""
    dns: list[str] = []
    dns_options: list[str] = []
    dns_search: list[str] = []
    extra_hosts: list[str] | None = None
    group_add: list[str] | None = None
    ipc_mode: str = ""
    cgroup: str = ""
    links: list[str] | None = None
    oom_score_adj: int = 0
    pid_mode: str = ""
    privileged: bool = False
    publish_all_ports: bool = False
    readonly_rootfs: bool = False
    security_opt: list[str] | None = None
    storage_opt: dict[str, str] | None = None
    tmpfs: dict[str, str] | None = None
    uts_mode: str = ""
    userns_mode: str = ""
    shm_size: int = 0
    sysctls: dict[str, str] | None = None
    runtime: str = ""
    isolation: str = ""
    cpu_shares: int = 0
    memory: int = 0
    nano_cpus: int = 0
    cgroup_parent: str = ""
    blkio_weight: int = 0
    blkio_weight_device: list[WeightDevice] | None = None
    blkio_device_read_bps: list[ThrottleDevice] | None = None
    blkio_device_write_bps: list[ThrottleDevice] | None = None
    blkio_device_read_iops: list[ThrottleDevice] | None = None
    blkio_device_write_iops: list[ThrottleDevice] | None = None
    cpu_period: int = 0
    cpu_quota: int = 0
    cpu_realtime_period: int = 0
    cpu_realtime_runtime: int = 0
    cpuset_cpus: str = ""
    cpuset_mems: str = ""
    devices: list[DeviceMapping] | None = None
    device_cgroup_rules: list[str] | None = None
    device_requests: list[DeviceRequest] | None = None
    kernel_memory: int = 0
    kernel_memory_tcp: int = 0
    memory_reservation: int = 0
    memory_swap: int = 0
    memory_swappiness: int | None = None
    oom_kill_disable: bool | None = None
    pids_limit: int | None = None
    ulimits: list[Ulimit] | None = None
    cpu_count: int = 0
    cpu_percent: int = 0
    io_maximum_iops: int = 0
    io_maximum_bandwidth: int = 0
    mounts: list[MountRequest] | None = None
    masked_paths: list[str] | None = None
    readonly_paths: list[str] | None = None
    init: bool | None = None


class EndpointIPAMConfig(Document, frozen=True):
    ipv4_address: str = ""
    ipv6_address: str = ""
    link_local_ips: list[str] | None = None


class EndpointSettings(Document, frozen=True):
    """A container's place in one network: the wish (create, connect) and the result (inspect)."""

    ipam_config: EndpointIPAMConfig | None = None
    links: list[str] | None = None
    aliases: list[str] | None = None
    mac_address: str = ""
    driver_opts: dict[str, str] | None = None
    gw_priority: int = 0
    network_id: str = ""
    endpoint_id: str = ""
    gateway: str = ""
    ip_address: str = ""
    ip_prefix_len: int = 0
    ipv6_gateway: str = ""
    global_ipv6_address: str = ""
    global_ipv6_prefix_len: int = 0
    dns_names: list[str] | None = None


class NetworkingConfig(Document, frozen=True):
    endpoints_config: dict[str, EndpointSettings] = {}


class CreateRequest(ContainerConfig, frozen=True):
    """Body of ``POST /containers/create``: a container's configuration with two sub-documents."""

    host_config: HostConfig = HostConfig()
    networking_config: NetworkingConfig = NetworkingConfig()

    def config(self) -> ContainerConfig:
        """The part that is the container's own configuration."""
        return ContainerConfig(
            **{name: getattr(self, name) for name in ContainerConfig.__struct_fields__}
        )


T = TypeVar("T")

_STRING_LISTS = ("Cmd", "Entrypoint", "Shell")


def decode(body: bytes, kind: type[T]) -> T:
    """A request's JSON body as ``kind``.

    :raises InvalidParameter: malformed JSON, a member of a wrong type (named by its path), or a
        null byte in a text.
    """
    try:
        raw = msgspec.json.decode(body or b"{}")
    except msgspec.DecodeError as error:
        raise InvalidParameter(f"invalid JSON: {error}") from None
    # Most texts end as arguments of system calls, where a name would end at the byte.
    if b"\\u0000" in body and gojson.has_null_byte(raw):
        raise InvalidParameter("invalid request body: a text in it has a null byte")
    return convert(raw, kind)


def convert(raw: Any, kind: type[T]) -> T:
    """Like :func:`decode`, for JSON that is parsed already."""
    raw = gojson.conform(raw, kind)
    if type(raw) is dict:
        for name in _STRING_LISTS:
            if isinstance(raw.get(name), str):
                raw[name] = [raw[name]]
    try:
        return msgspec.convert(raw, kind)
    except msgspec.ValidationError as error:
        raise InvalidParameter(f"invalid request body: {error}") from None
