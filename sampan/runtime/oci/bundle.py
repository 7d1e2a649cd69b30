"""Bundles: read ``config.json`` and refuse what cannot be done."""

from __future__ import annotations

import json
import os
from typing import Any, NamedTuple

from sampan.linux import lsm
from sampan.runtime import supported
from sampan.runtime.oci import hooks, listeners, manner, remapping
from sampan.runtime.oci.errors import OciError

_MANNERS = ("scheduler", "ioPriority", "execCPUAffinity")


class Bundle(NamedTuple):
    """A bundle that has been read: its directory, root file system, and configuration."""

    directory: str
    rootfs: str
    config: dict[str, Any]
    raw: bytes


def load(directory: str, name: str = "config.json") -> Bundle:
    """Read and check the configuration of that name.  Raises OciError."""
    directory = os.path.realpath(directory or ".")
    path = os.path.join(directory, name)
    try:
        with open(path, "rb") as file:
            raw = file.read()
    except OSError as failure:
        raise OciError(f"open {path}: {(failure.strerror or '').lower()}") from None
    try:
        config = json.loads(raw)
        check(config)
    except ValueError as failure:
        raise OciError(f"{path}: {failure}") from None
    rootfs = os.path.join(directory, str(config["root"]["path"]))
    if not os.path.isdir(rootfs):
        raise OciError(f"the root file system {rootfs} is not a directory")
    return Bundle(directory, os.path.realpath(rootfs), config, raw)


def check(config: Any) -> None:
    """Raises ValueError that names the first field which is wrong or not supported."""
    if not isinstance(config, dict):
        raise ValueError("it is not an object")
    version = str(config.get("ociVersion") or "")
    if not version.startswith("1."):
        raise ValueError(f"ociVersion {version!r} is not supported: 1.x is")
    if not isinstance(config.get("root"), dict) or not config["root"].get("path"):
        raise ValueError("root.path is missing")
    if not isinstance(config.get("process"), dict):
        raise ValueError("process is missing")
    check_process(config["process"])
    linux = dict(config.get("linux") or {})
    check_resources(linux.get("resources") or {})
    _check_time_offsets(linux.pop("timeOffsets", None) or {}, linux.get("namespaces") or ())
    _check_label(linux.pop("mountLabel", None), "linux.mountLabel")
    if remapping.by_path(linux):
        # They are compared with what the namespace has.
        linux |= {"uidMappings": None, "gidMappings": None}
    supported.check(
        {
            **config,
            "hooks": None,
            "linux": linux,
            "process": {**config["process"], **dict.fromkeys(_MANNERS)},
            "mounts": [
                {**entry, "uidMappings": None, "gidMappings": None}
                for entry in config.get("mounts") or ()
            ],
        }
    )
    hooks.check(config.get("hooks") or {})
    listeners.check(linux.get("seccomp") or {})
    for entry in config.get("mounts") or ():
        _check_mount(entry, remapping.wanted(linux))


def check_resources(resources: Any) -> None:
    """Raises ValueError for a limit that no control group of ours takes."""
    if not isinstance(resources, dict):
        raise ValueError("linux.resources is not an object")
    if resources.get("rdma"):
        raise ValueError("linux.resources.rdma is not supported")
    block = resources.get("blockIO") or {}
    leaves = [block, *(block.get("weightDevice") or ())]
    if any(part.get("leafWeight") is not None for part in leaves):
        raise ValueError(
            "linux.resources.blockIO: leafWeight is not supported: Linux has none since 5.0"
        )


def _check_mount(entry: dict[str, Any], has_users: bool) -> None:
    if not entry.get("destination"):
        raise ValueError("a mount has no destination")
    options = entry.get("options") or ()
    if "tmpcopyup" in options:
        raise ValueError("the mount option tmpcopyup is not supported")
    mapped = [bool(entry.get(name)) for name in ("uidMappings", "gidMappings")]
    if any(mapped) != all(mapped):
        raise ValueError(
            f"mounts[{entry['destination']}]: uidMappings and gidMappings are wanted both or neither"
        )
    if ("idmap" in options or "ridmap" in options) and not (all(mapped) or has_users):
        raise ValueError(
            f"mounts[{entry['destination']}]: idmap without mappings of its own needs a user "
            "namespace"
        )


def _check_label(label: Any, field: str) -> None:
    if label and not lsm.has_selinux():
        raise ValueError(f"{field} is set, but SELinux is not enabled on this host")


def _check_time_offsets(offsets: dict[str, Any], kinds: Any) -> None:
    if set(offsets) - {"monotonic", "boottime"}:
        raise ValueError(f"linux.timeOffsets has an unknown clock: {', '.join(offsets)}")
    if offsets and not any(entry.get("type") == "time" for entry in kinds):
        raise ValueError("linux.timeOffsets needs a time namespace")


def check_process(process: Any) -> None:
    """Raises ValueError for a process that cannot be run."""
    if not isinstance(process, dict):
        raise ValueError("the process is not an object")
    if not process.get("args"):
        raise ValueError("process.args must not be empty")
    if not str(process.get("cwd") or "").startswith("/"):
        raise ValueError("process.cwd must be an absolute path")
    manner.check(process)
    _check_label(process.get("selinuxLabel"), "process.selinuxLabel")
    profile = process.get("apparmorProfile")
    if profile and profile != "unconfined" and not lsm.has_apparmor():
        raise ValueError(
            f"process.apparmorProfile is {profile!r}, but AppArmor is not enabled on this host"
        )
