"""Which of the API's JSON values are structs, maps and slices in Go: they print differently.

``inspect -f '{{.NetworkSettings.Ports}}'`` is ``map[80/tcp:[{0.0.0.0 8080}]]``: a map of slices of
structs.  JSON does not tell a struct from a map, nor the kind of what is null; the names do.
"""

from __future__ import annotations

from sampan.gotemplate.show import Map, Struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_MAPS = frozenset(
    {
        "Annotations",
        "AuxiliaryAddresses",
        "Containers",
        "Data",
        "DriverOpts",
        "ExposedPorts",
        "Labels",
        "Networks",
        "Options",
        "PortBindings",
        "Ports",
        "Status",
        "StorageOpt",
        "Sysctls",
        "Tmpfs",
        "Volumes",
    }
)
_POINTERS = frozenset(
    {
        "Health",
        "Healthcheck",
        "IPAMConfig",
        "Init",
        "MemorySwappiness",
        "OomKillDisable",
        "PidsLimit",
        "StopTimeout",
        "UsageData",
    }
)
_ABSENT: dict[str, dict[str, Any]] = {
    "State": {"Health": None},
    "Config": {
        "ExposedPorts": None,
        "Healthcheck": None,
        "MacAddress": "",
        "NetworkDisabled": False,
        "Shell": None,
        "StopSignal": "",
        "StopTimeout": None,
    },
    "HostConfig": {
        "Annotations": None,
        "Init": None,
        "Mounts": None,
        "StorageOpt": None,
        "Sysctls": None,
        "Tmpfs": None,
    },
}
"""What the engine leaves out of its JSON where it is empty, by the member that it belongs to."""


def shaped(value: Any, name: str = "", within: str = "") -> Any:
    """``value``, the member ``name`` of ``within``, with its structs marked as such."""
    if isinstance(value, dict):
        if name in _MAPS or (within, name) == ("LogConfig", "Config"):
            return Map({key: shaped(member) for key, member in value.items()})
        members = {key: shaped(member, key, name) for key, member in value.items()}
        return Struct(members, nothing, _ABSENT.get(name, {}))
    if isinstance(value, list):
        return [shaped(item) for item in value]
    return value


def nothing(name: str) -> str:
    """How the member ``name`` prints where it is null."""
    if name in _MAPS:
        return "map[]"
    return "<nil>" if name in _POINTERS else "[]"
