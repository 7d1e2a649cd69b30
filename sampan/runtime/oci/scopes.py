"""``--systemd-cgroup``: the container's control group is a scope that systemd makes.

``linux.cgroupsPath`` is then ``SLICE:PREFIX:NAME``, as for the other runtimes, and annotations named
``org.systemd.property.NAME`` are further properties of the unit: their values are texts of GVariant,
of which numbers, booleans and strings are understood.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sampan.runtime import cgroups
from sampan.runtime.cgroups import systemd

_ANNOTATION = "org.systemd.property."
_INTEGERS = {
    "byte": ("y", 0, 2**8),
    "int16": ("n", -(2**15), 2**15),
    "uint16": ("q", 0, 2**16),
    "int32": ("i", -(2**31), 2**31),
    "uint32": ("u", 0, 2**32),
    "int64": ("x", -(2**63), 2**63),
    "uint64": ("t", 0, 2**64),
}
_OWN = frozenset(["Slice", "Delegate", "PIDs", "CollectMode", "DefaultDependencies"])


def group(linux: Mapping[str, Any], identity: str, annotations: Mapping[str, str]) -> cgroups.Group:
    """The scope of a container.  Raises ValueError for what cannot be asked of systemd."""
    path = str(linux.get("cgroupsPath") or f":sampan-oci:{identity}")
    if path.count(":") != 2:
        raise ValueError(
            f"linux.cgroupsPath {path!r} is not SLICE:PREFIX:NAME, which --systemd-cgroup wants"
        )
    if not systemd.is_running():
        raise ValueError("--systemd-cgroup: systemd does not run on this host")
    if cgroups.version() != 2:
        raise ValueError(
            "--systemd-cgroup needs control groups version 2: on version 1 systemd writes the "
            "device lists of its units anew whenever it is reloaded"
        )
    return systemd.GroupSystemd(path, cgroups.group, properties(annotations))


def properties(annotations: Mapping[str, str]) -> list[systemd.Property]:
    """The properties that annotations ask for.  Raises ValueError."""
    found: list[systemd.Property] = []
    for key, text in annotations.items():
        if not key.startswith(_ANNOTATION):
            continue
        name = key.removeprefix(_ANNOTATION)
        if not (name.isascii() and name.isalpha()) or name in _OWN:
            raise ValueError(f"annotation {key}: no property that can be set")
        kind, value = _parse(key, text.strip())
        if name.endswith("Sec") and not name.endswith("USec"):
            # systemd's own spelling for its users; over D-Bus it takes microseconds.
            if kind not in "ynqiuxt" or value < 0:
                raise ValueError(f"annotation {key}: {text!r} is no number of seconds")
            name, kind, value = f"{name[:-3]}USec", "t", value * 1_000_000
        found.append((name, (kind, value)))
    return found


def _parse(key: str, text: str) -> tuple[str, Any]:
    if text in ("true", "false"):
        return "b", text == "true"
    mark, inner = text[:1], text[1:-1]
    if text == f"{mark}{inner}{mark}" and mark in ("'", '"') and not {mark, "\\"} & set(inner):
        return "s", inner
    word, _, digits = text.rpartition(" ")
    signature, least, beyond = _INTEGERS.get(word or "int32", ("", 0, 0))
    if signature:
        try:
            number = int(digits, 0)
        except ValueError:
            number = beyond
        if least <= number < beyond:
            return signature, number
    raise ValueError(f"annotation {key}: {text!r} is no number, boolean or string of GVariant")
