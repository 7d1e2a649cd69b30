"""``update``: change the limits of a container."""

from __future__ import annotations

import json
import sys
from typing import Any

from sampan.runtime import cgroups
from sampan.runtime.oci import bundle, records
from sampan.runtime.oci.errors import OciError
from sampan.runtime.oci.lifecycle import only
from sampan.runtime.oci.options import Options

# The option, the specification's group and field, and whether it is a text.
_FIELDS = (
    ("memory", "memory", "limit", False),
    ("memory-reservation", "memory", "reservation", False),
    ("memory-swap", "memory", "swap", False),
    ("cpu-period", "cpu", "period", False),
    ("cpu-quota", "cpu", "quota", False),
    ("cpu-share", "cpu", "shares", False),
    ("cpu-rt-period", "cpu", "realtimePeriod", False),
    ("cpu-rt-runtime", "cpu", "realtimeRuntime", False),
    ("cpuset-cpus", "cpu", "cpus", True),
    ("cpuset-mems", "cpu", "mems", True),
    ("pids-limit", "pids", "limit", False),
    ("blkio-weight", "blockIO", "weight", False),
)
OPTIONS = " ".join(field[0] for field in _FIELDS) + " resources"
_UNITS = {"k": 10, "m": 20, "g": 30, "t": 40}


def update(root: str, options: Options) -> int:
    """Apply the given limits.  Raises OciError with what the kernel refused."""
    record = records.read(root, only(options))
    if record.status() == "stopped":
        raise OciError(f"cannot update container {record.id}: it has stopped")
    resources: dict[str, Any] = _file(options.text("resources"))
    for name, group, field, is_text in _FIELDS:
        if options.given(name):
            value = options.text(name)
            resources.setdefault(group, {})[field] = value if is_text else _size(name, value)
    try:
        bundle.check_resources(resources)
    except ValueError as failure:
        raise OciError(f"cannot update container {record.id}: {failure}") from None
    if not resources:
        raise OciError("no limit is given")
    try:
        cgroups.group(record.cgroup).update(resources)
    except OSError as failure:
        raise OciError(f"cannot update container {record.id}: {failure}") from None
    return 0


def _file(path: str) -> dict[str, Any]:
    if not path:
        return {}
    try:
        if path == "-":
            found = json.load(sys.stdin)
        else:
            with open(path, encoding="utf-8") as file:
                found = json.load(file)
    except (OSError, ValueError) as failure:
        raise OciError(f"the resources of {path}: {failure}") from None
    if not isinstance(found, dict):
        raise OciError(f"the resources of {path} are not an object")
    return found


def _size(name: str, text: str) -> int:
    digits, unit = text.lower().removesuffix("b"), 0
    if digits[-1:] in _UNITS and name.startswith("memory"):
        digits, unit = digits[:-1], _UNITS[digits[-1]]
    try:
        return int(digits) << unit
    except ValueError:
        raise OciError(f"--{name} wants a number, not {text!r}") from None
