"""Flags of limits and devices, shared by ``run``, ``create``, ``update`` and ``build``."""

from __future__ import annotations

import os
import sys

from sampan.cli.flags import size
from sampan.cli.values import bad_flag, csv, refuse
from sampan.ulimits import NAMES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from sampan.cli.flags import Options

# What the API calls a flag whose value goes there as it is.
SIMPLE = {
    "blkio-weight": "BlkioWeight",
    "cgroup-parent": "CgroupParent",
    "cpu-period": "CpuPeriod",
    "cpu-quota": "CpuQuota",
    "cpu-rt-period": "CpuRealtimePeriod",
    "cpu-rt-runtime": "CpuRealtimeRuntime",
    "cpu-shares": "CpuShares",
    "cpus": "NanoCpus",
    "cpuset-cpus": "CpusetCpus",
    "cpuset-mems": "CpusetMems",
    "device-cgroup-rule": "DeviceCgroupRules",
    "memory": "Memory",
    "memory-reservation": "MemoryReservation",
    "memory-swap": "MemorySwap",
    "memory-swappiness": "MemorySwappiness",
    "oom-kill-disable": "OomKillDisable",
    "pids-limit": "PidsLimit",
}


def limits(options: Options) -> dict[str, Any]:
    """The resources that were given on the command line."""
    if options.has("kernel-memory") and options.given("kernel-memory"):
        sys.stderr.write("WARNING: --kernel-memory has no effect: kernels have no such limit\n")
    found: dict[str, Any] = {
        key: options[flag]
        for flag, key in SIMPLE.items()
        if options.has(flag) and options.given(flag)
    }
    if not options.has("device"):
        return found
    if options["blkio-weight-device"]:
        found["BlkioWeightDevice"] = [_weight(text) for text in options["blkio-weight-device"]]
    for flag, key in (
        ("device-read-bps", "BlkioDeviceReadBps"),
        ("device-write-bps", "BlkioDeviceWriteBps"),
        ("device-read-iops", "BlkioDeviceReadIOps"),
        ("device-write-iops", "BlkioDeviceWriteIOps"),
    ):
        if options[flag]:
            found[key] = [_rate(f"--{flag}", text) for text in options[flag]]
    if options["ulimit"]:
        found["Ulimits"] = ulimits(options["ulimit"])
    _devices(options, found)
    return found


def _devices(options: Options, found: dict[str, Any]) -> None:
    devices = [text for text in options["device"] if not _is_cdi(text)]
    if devices:
        found["Devices"] = [_device(text) for text in devices]
    requests: list[dict[str, Any]] = []
    named = [text for text in options["device"] if _is_cdi(text)]
    if named:
        requests.append({"Driver": "cdi", "DeviceIDs": named})
    requests += [_gpus(text) for text in options["gpus"]]
    if requests:
        found["DeviceRequests"] = requests


def _is_cdi(text: str) -> bool:
    """Whether a device is named as ``vendor.com/class=name`` rather than by its path."""
    return not text.startswith("/") and "/" in text and "=" in text


def _device(text: str) -> dict[str, str]:
    parts = text.split(":")
    inside, rights = parts[0], "rwm"
    if len(parts) == 2 and _are_rights(parts[1]):
        rights = parts[1]
    elif len(parts) == 2:
        inside = parts[1]
    elif len(parts) == 3:
        inside, rights = parts[1], parts[2]
    if len(parts) > 3 or not parts[0] or not _are_rights(rights):
        raise bad_flag("--device", text, f"invalid device specification: {text}")
    return {"PathOnHost": parts[0], "PathInContainer": inside, "CgroupPermissions": rights}


def _are_rights(text: str) -> bool:
    return bool(text) and len(set(text)) == len(text) and set(text) <= set("rwm")


def _weight(text: str) -> dict[str, Any]:
    path, _, weight = text.rpartition(":")
    if not path.startswith("/dev/"):
        raise bad_flag("--blkio-weight-device", text, f"bad format for device path: {text}")
    if not weight.isdecimal() or not (int(weight) == 0 or 10 <= int(weight) <= 1000):
        raise bad_flag("--blkio-weight-device", text, f"invalid weight for device: {text}")
    return {"Path": path, "Weight": int(weight)}


def _rate(flag: str, text: str) -> dict[str, Any]:
    path, _, rate = text.rpartition(":")
    if not path.startswith("/dev/"):
        raise bad_flag(flag, text, f"bad format for device path: {text}")
    try:
        value = size(rate) if flag.endswith("bps") else int(rate)
        if value < 0:
            raise ValueError
    except ValueError:
        raise bad_flag(
            flag,
            text,
            f"invalid rate for device: {text}. The correct format is <device-path>:<number>",
        ) from None
    return {"Path": path, "Rate": value}


def ulimits(given: Iterable[str]) -> list[dict[str, Any]]:
    """``nofile=1024:2048`` options as the API's Ulimit objects."""
    found: dict[str, dict[str, Any]] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals:
            raise bad_flag("--ulimit", text, f"invalid ulimit argument: {text}")
        if name not in NAMES:
            raise bad_flag("--ulimit", text, f"invalid ulimit type: {name}")
        soft_text, colon, hard_text = value.partition(":")
        try:
            soft = int(soft_text)
            hard = int(hard_text) if colon else soft
        except ValueError:
            raise bad_flag("--ulimit", text, f"invalid ulimit value: {value}") from None
        if hard != -1 and (soft > hard or soft == -1):
            raise bad_flag(
                "--ulimit",
                text,
                f"ulimit soft limit must be less than or equal to hard limit: {soft} > {hard}",
            )
        found[name] = {"Name": name, "Hard": hard, "Soft": soft}
    return [found[name] for name in sorted(found)]


def _gpus(text: str) -> dict[str, Any]:
    request: dict[str, Any] = {"Driver": "", "Count": 0, "DeviceIDs": None, "Options": {}}
    capabilities = ["gpu"]
    try:
        fields = csv(text)
    except ValueError as error:
        raise bad_flag("--gpus", text, str(error)) from None
    for field in fields:
        key, equals, value = field.partition("=")
        if not equals:
            key, value = "count", field
        if key == "count":
            if value != "all" and not value.lstrip("-").isdecimal():
                raise bad_flag(
                    "--gpus", text, f'invalid count ({value}): value must be "all" or an integer'
                )
            request["Count"] = -1 if value == "all" else int(value)
        elif key == "driver":
            request["Driver"] = value
        elif key == "device":
            request["DeviceIDs"] = value.split(",")
        elif key == "capabilities":
            capabilities = [*value.split(","), "gpu"]
        elif key == "options":
            request["Options"] = dict(
                option.partition("=")[::2] for option in value.split(",") if option
            )
        else:
            raise bad_flag("--gpus", text, f"unexpected key '{key}' in '{field}'")
    if not request["Count"] and not request["DeviceIDs"]:
        request["Count"] = 1
    request["Capabilities"] = [capabilities]
    return request


def security(given: Iterable[str]) -> tuple[list[str], bool]:
    """``--security-opt``: the options with profiles read, and whether system paths are open."""
    found: list[str] = []
    unconfined = False
    for text in given:
        separator = "=" if "=" in text else ":"
        key, has_value, value = text.partition(separator)
        if not has_value and key != "no-new-privileges":
            raise refuse(f'invalid --security-opt: "{text}"')
        if key == "systempaths" and value == "unconfined":
            unconfined = True
            continue
        if key == "seccomp" and value not in ("unconfined", "builtin"):
            text = f"seccomp={_profile(value)}"
        found.append(text)
    return found, unconfined


def _profile(path: str) -> str:
    from sampan import wirejson

    try:
        with open(os.path.expanduser(path), "rb") as file:
            return wirejson.dumps(wirejson.loads(file.read()))
    except OSError as error:
        raise refuse(
            f"opening seccomp profile ({path}) failed: {(error.strerror or '').lower()}"
        ) from None
    except ValueError as error:
        raise refuse(f"compacting json for seccomp profile ({path}) failed: {error}") from None
