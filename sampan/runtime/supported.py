"""Refuse what a specification asks for and this runtime does not do, rather than leave it out."""

from __future__ import annotations

from typing import Any

from sampan.runtime import sysctls, userns

_TOP = ("hooks", "solaris", "windows", "vm", "zos")
_PROCESS = ("scheduler", "ioPriority", "execCPUAffinity", "commandLine")
_LINUX = (
    "intelRdt",
    "mountLabel",
    "timeOffsets",
    "netDevices",
    "memoryPolicy",
)
_MOUNT = ("uidMappings", "gidMappings")
_PERSONALITIES = {"LINUX": 0x0, "LINUX32": 0x8}


def check(spec: dict[str, Any]) -> None:
    """Raises ValueError naming the first field that is set and not supported."""
    linux = spec.get("linux") or {}
    _refuse(spec, _TOP, "")
    _refuse(spec.get("process") or {}, _PROCESS, "process.")
    _refuse(linux, _LINUX, "linux.")
    for mount in spec.get("mounts") or ():
        _refuse(mount, _MOUNT, f"mounts[{mount.get('destination')}].")
    userns.of_spec(linux)
    sysctls.check(spec)
    persona = linux.get("personality")
    if persona and (persona.get("domain") not in _PERSONALITIES or persona.get("flags")):
        raise ValueError(f"unknown linux.personality {persona!r}")


def personality(spec: dict[str, Any]) -> int | None:
    """The execution domain that the specification asks for."""
    persona = (spec.get("linux") or {}).get("personality")
    return _PERSONALITIES[persona["domain"]] if persona else None


def _refuse(part: dict[str, Any], names: tuple[str, ...], prefix: str) -> None:
    for name in names:
        if part.get(name):
            raise ValueError(f"the runtime specification's {prefix}{name} is not supported")
