"""From a container's record to the OCI specification that the runtime executes.

:func:`build` takes what was decided elsewhere (mounts, namespaces to join, files) as an
:class:`Environment`, and changes the runtime's default specification as the host configuration
says.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from sampan.engine import resources
from sampan.engine.remap import Remap
from sampan.engine.state import ContainerRecord
from sampan.engine.types import DeviceMapping, HostConfig
from sampan.errors import InvalidParameter
from sampan.runtime.cgroups.naming import PLAIN, GroupNames
from sampan.runtime.spec import capabilities, default_spec, make_privileged

PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
NEW = "new"
"""In place of a namespace's path: one of the container's own."""
DOMAIN_LENGTH = 64
"""Bytes that the kernel keeps of a domain name; Docker's engine leaves out the rest as well."""
CAPABILITY_SETS = ("bounding", "effective", "permitted")
_PORTS_FOR_ALL = {
    "net.ipv4.ip_unprivileged_port_start": "0",
    "net.ipv4.ping_group_range": "0 2147483647",
}
_OWN_DEVICES = frozenset(("pts", "shm", "fd", "mqueue", "console", "ptmx"))
_DEVICE_TYPES = {stat.S_IFCHR: "c", stat.S_IFBLK: "b"}


@dataclass(frozen=True, slots=True)
class Environment:
    """What the host provides for one start of a container.

    ``mounts`` are OCI mounts (volumes, binds, tmpfs); ``files`` maps ``hostname``, ``hosts`` and
    ``resolv.conf`` to host paths; ``namespaces`` maps an OCI namespace type to a path to join, or
    to "" for the host's own; ``links`` are the variables that tell of linked containers, and
    ``apparmor`` is the profile, if any.
    """

    mounts: list[dict[str, Any]] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)
    namespaces: dict[str, str] = field(default_factory=dict)
    shm_size: int = 64 << 20
    groups: GroupNames = PLAIN
    links: list[str] = field(default_factory=list)
    remap: Remap | None = None
    apparmor: str = ""


def hostname(record: ContainerRecord) -> str:
    """The host name that the container sees."""
    if record.host.uts_mode == "host" or record.host.network_mode == "host":
        return record.config.hostname or os.uname().nodename
    return record.config.hostname or record.id[:12]


def build(record: ContainerRecord, environment: Environment) -> dict[str, Any]:
    """The specification.  Raises InvalidParameter for a device or capability that is unknown."""
    config, host = record.config, record.host
    spec = default_spec(
        args=record.command,
        env=environment_variables(record, environment.links),
        cwd=config.working_dir or "/",
        user=config.user,
        groups=host.group_add or [],
        hostname=hostname(record),
        terminal=config.tty,
        cgroups_path=environment.groups.path(record.id, host.cgroup_parent),
        read_only=host.readonly_rootfs,
        network="network" not in environment.namespaces,
        shm_size=host.shm_size or environment.shm_size,
    )
    if config.domainname:
        kept = config.domainname.encode()[:DOMAIN_LENGTH]
        spec["domainname"] = kept.decode(errors="ignore")
    _process(spec, record)
    wanted = environment.namespaces
    if host.cgroupns_mode == "private":
        wanted = {**wanted, "cgroup": NEW}
    _namespaces(spec, wanted)
    _security(spec, host)
    if environment.apparmor:
        spec["process"]["apparmorProfile"] = environment.apparmor
    _limits(spec, host)
    remapped = environment.remap is not None and environment.remap.applies(host)
    _mounts(spec, host, environment, remapped)
    _devices(spec, host)
    if remapped and environment.remap:
        environment.remap.apply(spec)
    if host.annotations:
        spec["annotations"] = {**spec.get("annotations", {}), **host.annotations}
    return spec


def environment_variables(record: ContainerRecord, linked: Iterable[str] = ()) -> list[str]:
    """Docker's defaults, those of links, then the configuration's; the last of a name counts."""
    found = {"PATH": PATH, "HOSTNAME": f"HOSTNAME={hostname(record)}"}
    if record.config.tty:
        found["TERM"] = "TERM=xterm"
    for item in [*linked, *(record.config.env or [])]:
        name, separator, _ = item.partition("=")
        if separator:
            found[name] = item
        else:
            # A bare name asks for the variable to be unset.
            found.pop(name, None)
    return list(found.values())


def _process(spec: dict[str, Any], record: ContainerRecord) -> None:
    process, host = spec["process"], record.host
    rows, columns = host.console_size
    if record.config.tty and rows and columns:
        process["consoleSize"] = {"height": rows, "width": columns}
    if host.oom_score_adj:
        process["oomScoreAdj"] = host.oom_score_adj
    limit(process, host)


def limit(process: dict[str, Any], host: HostConfig) -> None:
    """Give the process the container's ulimits; -1 means no limit."""
    kept = {item["type"]: item for item in process.get("rlimits", [])}
    for wish in host.ulimits or []:
        kind = f"RLIMIT_{wish.name.upper()}"
        soft, hard = (2**64 - 1 if value == -1 else value for value in (wish.soft, wish.hard))
        kept[kind] = {"type": kind, "soft": soft, "hard": hard}
    if kept:
        process["rlimits"] = list(kept.values())


def _namespaces(spec: dict[str, Any], wanted: dict[str, str]) -> None:
    linux = spec["linux"]
    kept = [item for item in linux["namespaces"] if item["type"] not in wanted]
    for kind, path in wanted.items():
        if path == NEW:
            kept.append({"type": kind})
        elif path:
            kept.append({"type": kind, "path": path})
    linux["namespaces"] = kept
    if wanted.get("uts") == "":
        spec.pop("hostname", None)


def _security(spec: dict[str, Any], host: HostConfig) -> None:
    process, linux = spec["process"], spec["linux"]
    if host.privileged:
        make_privileged(spec)
    elif host.cap_add or host.cap_drop:
        confine(spec, host)
    for option in host.security_opt or []:
        name, separator, value = option.partition("=")
        if not separator:
            name, _, value = option.partition(":")
        if name == "no-new-privileges":
            process["noNewPrivileges"] = value in ("", "true")
        elif name == "seccomp":
            _seccomp(linux, value)
        elif name == "systempaths":
            linux["maskedPaths"], linux["readonlyPaths"] = [], []
        elif name == "writable-cgroups" and value in ("", "true"):
            for mount in spec["mounts"]:
                if mount["destination"] == "/sys/fs/cgroup":
                    mount["options"] = [o for o in mount["options"] if o != "ro"] + ["rw"]
    if host.masked_paths is not None:
        linux["maskedPaths"] = list(host.masked_paths)
    if host.readonly_paths is not None:
        linux["readonlyPaths"] = list(host.readonly_paths)


def confine(spec: dict[str, Any], host: HostConfig) -> None:
    """Give the process the capabilities that ``--cap-add`` and ``--cap-drop`` leave."""
    allowed = capabilities(host.cap_add or [], host.cap_drop or [])
    sets = spec["process"].setdefault("capabilities", {})
    for name in list(sets) or CAPABILITY_SETS:
        sets[name] = [] if name in ("inheritable", "ambient") else list(allowed)


def _seccomp(linux: dict[str, Any], value: str) -> None:
    """``unconfined``, ``builtin``, or a profile in JSON (clients send the file's content)."""
    if value == "unconfined":
        linux.pop("seccomp", None)
    elif value != "builtin":
        try:
            profile = msgspec.json.decode(value)
        except msgspec.DecodeError as error:
            raise InvalidParameter(f"invalid seccomp profile: {error}") from None
        if not isinstance(profile, dict) or "defaultAction" not in profile:
            raise InvalidParameter("invalid seccomp profile: it has no defaultAction")
        linux["seccomp"] = profile


def _limits(spec: dict[str, Any], host: HostConfig) -> None:
    linux = spec["linux"]
    limits = linux.setdefault("resources", {})
    limits.update(resources.to_spec(host))
    sysctls = dict(host.sysctls or {})
    own_network = any(
        item["type"] == "network" and not item.get("path") for item in linux["namespaces"]
    )
    if own_network:
        sysctls = {**_PORTS_FOR_ALL, **sysctls}
    if sysctls:
        linux["sysctl"] = {**linux.get("sysctl", {}), **sysctls}


def _mounts(
    spec: dict[str, Any], host: HostConfig, environment: Environment, remapped: bool
) -> None:
    own = {mount["destination"] for mount in environment.mounts}
    mounts = [mount for mount in spec["mounts"] if mount["destination"] not in own]
    if host.ipc_mode == "none":
        mounts = [m for m in mounts if m["destination"] not in ("/dev/shm", "/dev/mqueue")]
    if host.ipc_mode == "host":
        # A new mqueue shows the host's queues already: it belongs to the IPC namespace.
        mounts = [m for m in mounts if m["destination"] != "/dev/shm"]
        if "/dev/shm" not in own:
            options = ["rbind", "rprivate", "nosuid", "nodev", "noexec"]
            mounts.append(_bind("/dev/shm", "/dev/shm", options))
    # What is to be written into below is mounted first, or it would hide these files.
    below = [
        m for m in environment.mounts if m["destination"] == "/etc" and "ro" not in m["options"]
    ]
    mounts += below
    for name, path in environment.files.items():
        destination = f"/etc/{name}"
        if destination not in own:
            writable = "ro" if host.readonly_rootfs else "rw"
            options = ["bind", "idmap"] if remapped else ["rbind"]
            mounts.append(_bind(path, destination, [*options, "rprivate", writable]))
    spec["mounts"] = mounts + [mount for mount in environment.mounts if mount not in below]
    wanted = {option for mount in environment.mounts for option in mount["options"]}
    if wanted & {"shared", "rshared"}:
        spec["linux"]["rootfsPropagation"] = "shared"
    elif wanted & {"slave", "rslave"}:
        spec["linux"]["rootfsPropagation"] = "rslave"


def _bind(source: str, destination: str, options: list[str]) -> dict[str, Any]:
    return {"destination": destination, "type": "bind", "source": source, "options": options}


def _devices(spec: dict[str, Any], host: HostConfig) -> None:
    linux = spec["linux"]
    rules = linux["resources"].setdefault("devices", [])
    nodes = linux.setdefault("devices", [])
    if host.privileged:
        known = {item["path"] for item in nodes}
        nodes += [node for node in _host_devices(Path("/dev")) if node["path"] not in known]
    for mapping in host.devices or []:
        for node in _nodes(mapping):
            nodes[:] = [item for item in nodes if item["path"] != node["path"]]
            nodes.append(node)
            rules.append(
                {
                    "allow": True,
                    "type": node["type"],
                    "major": node["major"],
                    "minor": node["minor"],
                    "access": mapping.cgroup_permissions or "rwm",
                }
            )
    for text in host.device_cgroup_rules or []:
        rules.append(_rule(text))


def _host_devices(place: Path) -> Iterator[dict[str, Any]]:
    """All device nodes of the host, but for those that each container has of its own."""
    for entry in sorted(os.scandir(place), key=lambda entry: entry.name):
        path = Path(entry.path)
        try:
            if entry.is_dir(follow_symlinks=False):
                if entry.name not in _OWN_DEVICES:
                    yield from _host_devices(path)
            elif entry.name not in _OWN_DEVICES and not entry.is_symlink() and _is_device(path):
                yield _node(path, entry.path)
        except FileNotFoundError:
            continue  # Unplugged meanwhile.


def _nodes(mapping: DeviceMapping) -> list[dict[str, Any]]:
    """The device nodes that one mapping means: a device, or all devices below a directory."""
    source = Path(mapping.path_on_host)
    inside = mapping.path_in_container or mapping.path_on_host
    access = mapping.cgroup_permissions or "rwm"
    if not set(access) <= set("rwm"):
        raise InvalidParameter(f"invalid device mode: {access}")
    try:
        if source.is_dir():
            found = [path for path in sorted(source.rglob("*")) if _is_device(path)]
            return [_node(path, f"{inside}/{path.relative_to(source)}") for path in found]
        if not _is_device(source):
            raise InvalidParameter(
                f'error gathering device information while adding custom device "{source}": '
                "not a device node"
            )
        return [_node(source, inside)]
    except OSError:
        raise InvalidParameter(
            f'error gathering device information while adding custom device "{source}": '
            "no such file or directory"
        ) from None


def _is_device(path: Path) -> bool:
    return stat.S_IFMT(path.stat().st_mode) in _DEVICE_TYPES


def _node(source: Path, inside: str) -> dict[str, Any]:
    found = source.stat()
    return {
        "path": inside,
        "type": _DEVICE_TYPES[stat.S_IFMT(found.st_mode)],
        "major": os.major(found.st_rdev),
        "minor": os.minor(found.st_rdev),
        "fileMode": stat.S_IMODE(found.st_mode),
        "uid": found.st_uid,
        "gid": found.st_gid,
    }


def _rule(text: str) -> dict[str, Any]:
    """One ``--device-cgroup-rule``: ``c 1:3 mr``, with ``*`` for any number."""
    wrong = InvalidParameter(f"invalid device cgroup rule format: '{text}'")
    parts = text.split()
    if len(parts) != 3 or parts[0] not in ("a", "b", "c") or not set(parts[2]) <= set("rwm"):
        raise wrong
    rule: dict[str, Any] = {"allow": True, "type": parts[0], "access": parts[2]}
    major, separator, minor = parts[1].partition(":")
    if not separator:
        raise wrong
    for name, number in (("major", major), ("minor", minor)):
        if number == "*":
            rule[name] = -1
        elif number.isdecimal():
            rule[name] = int(number)
        else:
            raise wrong
    return rule
