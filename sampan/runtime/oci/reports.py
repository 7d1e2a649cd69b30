"""Commands that only tell: state, list, ps, events, features, spec."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from sampan.runtime.oci import records
from sampan.runtime.oci.errors import OciError
from sampan.runtime.oci.lifecycle import only
from sampan.runtime.oci.options import Options

_ACTIONS = [
    f"SCMP_ACT_{name}"
    for name in (
        "ALLOW",
        "ERRNO",
        "KILL",
        "KILL_PROCESS",
        "KILL_THREAD",
        "LOG",
        "NOTIFY",
        "TRACE",
        "TRAP",
    )
]
_UNITS = {"h": 3_600_000, "m": 60_000, "s": 1000, "ms": 1, "us": 0.001, "µs": 0.001}
_DIGITS, _LETTERS = "0123456789.", "hmsuµ"
_FLAGS = [
    f"SECCOMP_FILTER_FLAG_{name}" for name in ("LOG", "SPEC_ALLOW", "TSYNC", "WAIT_KILLABLE_RECV")
]
_OPERATORS = [f"SCMP_CMP_{name}" for name in ("EQ", "GE", "GT", "LE", "LT", "MASKED_EQ", "NE")]


def _show(document: Any) -> int:
    print(json.dumps(document, indent=2))
    return 0


def state(root: str, options: Options) -> int:
    """``state``: the runtime specification's state."""
    return _show(records.read(root, only(options)).document())


def list_(root: str, options: Options) -> int:
    """``list``: a table, JSON, or the names only."""
    form = _format(options)
    found = [records.read(root, name) for name in records.names(root)]
    if options.flag("quiet"):
        for record in found:
            print(record.id)
        return 0
    documents = [record.document() for record in found]
    if form == "json":
        print(json.dumps([{**document, "owner": "root"} for document in documents]))
        return 0
    rows = [("ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER")]
    rows += [
        (d["id"], str(d["pid"]), d["status"], d["bundle"], d["created"], "root") for d in documents
    ]
    widths = [max(len(row[column]) for row in rows) + 4 for column in range(5)] + [0]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print("".join(cells).rstrip())
    return 0


def _format(options: Options) -> str:
    form = options.text("format", "table")
    if form not in ("table", "json"):
        raise OciError(f"invalid format option: {form!r} (table or json)")
    return form


def ps(root: str, options: Options) -> int:
    """``ps``: the processes of a container, by the host's ``ps`` or as a list of numbers."""
    from sampan.runtime import cgroups

    if not options.arguments:
        raise OciError("the container's ID is missing")
    record = records.read(root, options.arguments[0])
    pids = cgroups.group(record.cgroup).pids()
    if _format(options) == "json":
        print(json.dumps(pids))
        return 0
    import subprocess

    try:
        shown = subprocess.run(
            ["ps", *(options.arguments[1:] or ["-ef"])], capture_output=True, text=True, check=True
        ).stdout.splitlines()
    except (OSError, subprocess.CalledProcessError) as failure:
        raise OciError(f"ps: {failure}") from None
    column = shown[0].split().index("PID") if "PID" in shown[0].split() else -1
    if column < 0:
        raise OciError("ps does not show the PID: choose options that do")
    wanted = {str(pid) for pid in pids}
    print(shown[0])
    for line in shown[1:]:
        if line.split()[column] in wanted:
            print(line)
    return 0


def events(root: str, options: Options) -> int:
    """``events``: statistics every interval and kills for want of memory, a JSON object a line."""
    import select

    from sampan.runtime import cgroups

    record = records.read(root, only(options))
    group = cgroups.group(record.cgroup)
    if record.status() == "stopped":
        raise OciError(f"container with id {record.id} is not running")

    def tell(kind: str, data: Any = None) -> None:
        print(json.dumps({"type": kind, "id": record.id, "data": data}), flush=True)

    if options.flag("stats"):
        tell("stats", statistics(group.stats()))
        return 0
    period = milliseconds(options.text("interval", "5s"))
    if period <= 0:
        raise OciError("duration interval must be greater than 0")
    handle = os.pidfd_open(record.pid)
    poll = select.poll()
    poll.register(handle, select.POLLIN)
    watch = group.watch_oom()
    if watch is not None:
        poll.register(watch.fd, select.POLLPRI if watch.urgent else select.POLLIN)
    while True:
        ready = [fd for fd, _ in poll.poll(period)]
        if watch is not None and watch.fd in ready and watch.read():
            tell("oom")
        if handle in ready:
            return 0
        if not ready:
            tell("stats", statistics(group.stats()))


def milliseconds(duration: str) -> int:
    """A time as Go writes it (``1m30s``, ``500ms``), or in seconds.  Raises OciError."""
    total, rest = 0.0, duration
    try:
        while rest:
            unit = rest.lstrip(_DIGITS)
            value, rest = rest[: len(rest) - len(unit)], unit.lstrip(_LETTERS)
            total += float(value) * _UNITS[unit[: len(unit) - len(rest)] or "s"]
    except (KeyError, ValueError):
        raise OciError(f"{duration!r} is no duration like 500ms, 5s or 1m30s") from None
    return int(total)


def statistics(stats: Any) -> dict[str, Any]:
    """runc's form of a sample."""
    blkio = {
        name: [
            {"major": entry.major, "minor": entry.minor, "op": entry.op, "value": entry.value}
            for entry in entries
        ]
        for name, entries in (
            ("ioServiceBytesRecursive", stats.blkio_bytes),
            ("ioServicedRecursive", stats.blkio_ops),
        )
    }
    return {
        "cpu": {
            "usage": {
                "total": stats.cpu_total,
                "percpu": stats.cpu_per,
                "kernel": stats.cpu_kernel,
                "user": stats.cpu_user,
            },
            "throttling": {
                "periods": stats.throttled_periods,
                "throttledPeriods": stats.throttled_count,
                "throttledTime": stats.throttled_time,
            },
        },
        "memory": {
            "usage": {
                "limit": stats.memory_limit,
                "usage": stats.memory_usage,
                "max": stats.memory_max_usage,
                "failcnt": stats.memory_failcnt,
            },
            "raw": stats.memory_stats,
        },
        "pids": {"current": stats.pids, "limit": stats.pids_limit},
        "blkio": blkio,
    }


def features(_: str, options: Options) -> int:
    """``features``: what this runtime does, in the runtime specification's form."""
    from sampan.linux.capabilities import NAMES
    from sampan.linux.mount import option_names
    from sampan.linux.namespaces import TYPES
    from sampan.runtime.oci import criu, hooks

    return _show(
        {
            "ociVersionMin": "1.0.0",
            "ociVersionMax": "1.2.1",
            "hooks": hooks.KINDS,
            "mountOptions": option_names(),
            "linux": {
                "namespaces": sorted(TYPES),
                "capabilities": NAMES,
                "cgroup": {
                    "v1": True,
                    "v2": True,
                    "systemd": True,
                    "systemdUser": False,
                    "rdma": False,
                },
                "seccomp": {
                    "enabled": True,
                    "actions": _ACTIONS,
                    "operators": _OPERATORS,
                    "archs": ["SCMP_ARCH_AARCH64", "SCMP_ARCH_X86", "SCMP_ARCH_X86_64"],
                    "knownFlags": _FLAGS,
                    "supportedFlags": _FLAGS,
                },
                "apparmor": {"enabled": True},
                "selinux": {"enabled": True},
                "intelRdt": {"enabled": False},
                "mountExtensions": {"idmap": {"enabled": True}},
            },
            "annotations": {
                "io.sampan.checkpoint.enabled": str(criu.works(options.text("criu"))).lower()
            },
        }
    )


def spec(_: str, options: Options) -> int:
    """``spec``: write a ``config.json`` to begin with."""
    from sampan.runtime.spec import default_spec

    path = os.path.join(options.text("bundle", "."), options.text("file", "config.json"))
    config = default_spec(args=["sh"], hostname="sampan", terminal=True, read_only=True)
    config["linux"]["seccomp"] = None
    config["process"]["user"] = {"uid": 0, "gid": 0}
    config["linux"]["sysctl"] = {}
    config["linux"]["resources"] = {"devices": [{"allow": False, "access": "rwm"}]}
    config["process"]["noNewPrivileges"] = True
    if options.flag("rootless"):
        _one_user(config)
    try:
        with open(path, "x", encoding="utf-8") as file:
            file.write(json.dumps(_filled(config), indent=2) + "\n")
    except FileExistsError:
        raise OciError(f"file {path} exists. Remove it first") from None
    except OSError as failure:
        raise OciError(f"{path}: {failure.strerror}") from None
    return 0


def _one_user(config: dict[str, Any]) -> None:
    """As runc's: the caller alone is mapped, the network is the host's, nothing is limited."""
    linux = config["linux"]
    linux["namespaces"] = [e for e in linux["namespaces"] if e["type"] != "network"]
    linux["namespaces"].append({"type": "user"})
    linux["uidMappings"] = [{"containerID": 0, "hostID": os.geteuid(), "size": 1}]
    linux["gidMappings"] = [{"containerID": 0, "hostID": os.getegid(), "size": 1}]
    linux["resources"] = None
    mounts = []
    for entry in config["mounts"]:
        if entry["type"] == "sysfs":
            flags = ["rbind", "nosuid", "noexec", "nodev", "ro"]
            entry = {"destination": "/sys", "type": "none", "source": "/sys", "options": flags}
        elif entry["type"] == "cgroup":
            continue
        owned = [o for o in entry.get("options") or () if o.partition("=")[0] not in ("uid", "gid")]
        mounts.append({**entry, "options": owned})
    config["mounts"] = mounts


def _filled(config: dict[str, Any]) -> dict[str, Any]:
    config["linux"] = {name: value for name, value in config["linux"].items() if value}
    return config


def version() -> int:
    """``--version``."""
    from sampan import __version__

    sys.stdout.write(f"sampan-oci version {__version__}\nspec: 1.2.1\n")
    return 0
