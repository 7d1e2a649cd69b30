"""Docker's default container as an OCI runtime specification."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sampan.errors import InvalidParameter
from sampan.linux.capabilities import NAMES
from sampan.runtime import cgroups
from sampan.runtime.devices import device_rules
from sampan.runtime.seccomp_profile import default_profile

OCI_VERSION = "1.2.0"

DEFAULT_CAPABILITIES = (
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
)
DEFAULT_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

MASKED_PATHS = (
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
)
READ_ONLY_PATHS = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")


def default_spec(
    *,
    args: Sequence[str],
    env: Sequence[str] = (),
    cwd: str = "/",
    user: str = "",
    groups: Sequence[str] = (),
    hostname: str = "",
    terminal: bool = False,
    cgroups_path: str = "",
    read_only: bool = False,
    network: bool = True,
    shm_size: int = 64 << 20,
) -> dict[str, Any]:
    """The specification of a default container, for the caller to change further.

    ``user`` is ``name|uid[:group|gid]`` and ``groups`` are names or numbers, both resolved inside
    the root file system.  ``network`` asks for a network namespace of its own.  PATH, HOSTNAME and
    TERM are put before ``env``, as Docker does.
    """
    kinds = ["mount", "pid", "ipc", "uts", "cgroup", *(["network"] if network else [])]
    if cgroups.version() == 1:
        # As Docker: the control group namespace is the host's with version 1.
        kinds.remove("cgroup")
    return {
        "ociVersion": OCI_VERSION,
        "process": {
            "terminal": terminal,
            "user": {"uid": 0, "gid": 0, "username": user, "additionalGroupNames": list(groups)},
            "args": list(args),
            "env": default_environment(hostname, terminal) + list(env),
            "cwd": cwd or "/",
            "capabilities": capability_sets(list(DEFAULT_CAPABILITIES)),
            "noNewPrivileges": False,
            "rlimits": [],
            "oomScoreAdj": 0,
        },
        "root": {"path": "rootfs", "readonly": read_only},
        "hostname": hostname,
        "mounts": default_mounts(shm_size),
        "linux": {
            "namespaces": [{"type": kind} for kind in kinds],
            "cgroupsPath": cgroups_path,
            "maskedPaths": list(MASKED_PATHS),
            "readonlyPaths": list(READ_ONLY_PATHS),
            "devices": [],
            "sysctl": default_sysctls(network),
            "resources": {"devices": device_rules()},
            "seccomp": default_profile(),
        },
    }


def default_environment(hostname: str, terminal: bool) -> list[str]:
    """What Docker sets before the image's and the user's variables."""
    variables = [DEFAULT_PATH]
    if hostname:
        variables.append(f"HOSTNAME={hostname}")
    if terminal:
        variables.append("TERM=xterm")
    return variables


def default_sysctls(network: bool) -> dict[str, str]:
    """Docker's for a network namespace of its own: low ports and ping for everyone in it."""
    if not network:
        return {}
    return {
        "net.ipv4.ip_unprivileged_port_start": "0",
        "net.ipv4.ping_group_range": "0 2147483647",
    }


def default_mounts(shm_size: int) -> list[dict[str, Any]]:
    """proc, dev, pts, sysfs, control groups, mqueue and shm."""
    safe = ["nosuid", "noexec", "nodev"]
    return [
        _mount("/proc", "proc", safe),
        _mount("/dev", "tmpfs", ["nosuid", "strictatime", "mode=755", "size=65536k"]),
        _mount(
            "/dev/pts",
            "devpts",
            ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        _mount("/sys", "sysfs", [*safe, "ro"]),
        _mount("/sys/fs/cgroup", "cgroup", [*safe, "relatime", "ro"]),
        _mount("/dev/mqueue", "mqueue", safe),
        {**_mount("/dev/shm", "tmpfs", [*safe, "mode=1777", f"size={shm_size}"]), "source": "shm"},
    ]


def _mount(destination: str, kind: str, options: list[str]) -> dict[str, Any]:
    return {"destination": destination, "type": kind, "source": kind, "options": options}


def capability_sets(names: Sequence[str]) -> dict[str, list[str]]:
    """The runtime specification's five sets for a container with these capabilities."""
    return {
        "bounding": list(names),
        "effective": list(names),
        "permitted": list(names),
        "inheritable": [],
        "ambient": [],
    }


def capabilities(add: Sequence[str] = (), drop: Sequence[str] = ()) -> list[str]:
    """The default set changed as ``--cap-add`` and ``--cap-drop`` say; names without ``CAP_`` and
    ``ALL`` are understood.  Raises InvalidParameter for an unknown name."""
    added, dropped = _names("CapAdd", add), _names("CapDrop", drop)
    if "ALL" in added:
        chosen = list(NAMES)
    elif "ALL" in dropped:
        chosen = []
    else:
        chosen = list(DEFAULT_CAPABILITIES)
    chosen = [name for name in chosen if name not in dropped]
    chosen += [name for name in added if name != "ALL" and name not in chosen]
    return chosen


def _names(field: str, given: Sequence[str]) -> list[str]:
    names = []
    for name in given:
        full = name.upper()
        if full != "ALL" and not full.startswith("CAP_"):
            full = "CAP_" + full
        if full != "ALL" and full not in NAMES:
            raise InvalidParameter(f'invalid {field}: unknown capability: "{full}"')
        names.append(full)
    return names


def make_privileged(spec: dict[str, Any]) -> None:
    """Turn ``spec`` into that of a privileged container: all capabilities and devices, nothing
    hidden, system file systems writable, no filter.  The host's device nodes are the caller's."""
    spec["process"]["capabilities"] = capability_sets(NAMES)
    spec["process"].pop("apparmorProfile", None)
    linux = spec["linux"]
    linux["maskedPaths"] = []
    linux["readonlyPaths"] = []
    linux["seccomp"] = None
    linux["resources"]["devices"] = [{"allow": True, "access": "rwm"}]
    for mount in spec["mounts"]:
        if mount["type"] in ("sysfs", "cgroup", "cgroup2"):
            mount["options"] = [option for option in mount["options"] if option != "ro"]
