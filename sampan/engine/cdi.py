"""Devices by the Container Device Interface: what vendors say is needed to use a device.

A *specification* is a JSON or YAML file below one of the directories (``/etc/cdi``, ``/var/run/cdi``; those
named later count more) and describes devices of one *kind* (``vendor.com/class``).  A device's
*qualified name* is ``vendor.com/class=name``.  Its *edits* are made to the container's OCI
specification when it is started, with those of the specification as a whole.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from sampan.engine.types import DeviceRequest
from sampan.errors import InvalidParameter
from sampan.runtime.oci.hooks import KINDS as HOOK_KINDS

DIRECTORIES = ("/etc/cdi", "/var/run/cdi")
_GPU_KIND = "nvidia.com/gpu"
_NAME = re.compile(
    r"[A-Za-z](?:[\w.-]*[A-Za-z0-9])?/[A-Za-z](?:[\w-]*[A-Za-z0-9])?=[A-Za-z0-9](?:[\w.:-]*[A-Za-z0-9])?",
    re.ASCII,
)
_DEVICE_TYPES = {stat.S_IFCHR: "c", stat.S_IFBLK: "b"}


class _Edit(msgspec.Struct, frozen=True, rename="camel"):
    """Base of the format's structs: fields that a newer version has are not known here."""


class DeviceNode(_Edit, frozen=True):
    path: str
    host_path: str = ""
    type: str = ""
    major: int | None = None
    minor: int | None = None
    file_mode: int | None = None
    permissions: str = "rwm"
    uid: int | None = None
    gid: int | None = None


class MountEdit(_Edit, frozen=True):
    host_path: str
    container_path: str
    options: list[str] = []
    type: str = ""


class Hook(_Edit, frozen=True):
    hook_name: str
    path: str
    args: list[str] = []
    env: list[str] = []
    timeout: int | None = None


class Edits(_Edit, frozen=True, forbid_unknown_fields=True):
    """What a device changes.  Fields that nobody here knows are refused: a device would lack
    something."""

    env: list[str] = []
    device_nodes: list[DeviceNode] = []
    mounts: list[MountEdit] = []
    hooks: list[Hook] = []
    additional_gids: list[int] = msgspec.field(name="additionalGids", default=[])


class Device(_Edit, frozen=True):
    name: str
    container_edits: Edits = Edits()
    annotations: dict[str, str] = {}


class Specification(_Edit, frozen=True):
    """One file."""

    cdi_version: str = msgspec.field(name="cdiVersion")
    kind: str
    devices: list[Device]
    container_edits: Edits = Edits()
    annotations: dict[str, str] = {}


class Registry:
    """Finds devices by qualified name; files are read anew for each start, as vendors' tools write
    them at any time."""

    def __init__(self, directories: Sequence[str] = DIRECTORIES) -> None:
        self.directories = list(directories)

    def inject(
        self, spec: dict[str, Any], requests: Iterable[DeviceRequest], *, hooks: bool
    ) -> None:
        """Change the specification as the requests want.

        ``hooks`` tells whether the runtime runs hooks.  Raises InvalidParameter with Docker's words
        for a device or driver that there is not.
        """
        requests = list(requests)
        if not requests:
            return
        specifications, unread = self._read()
        names = [name for request in requests for name in _names(request, specifications)]
        used: list[Specification] = []
        edits: list[Edits] = []
        missing = []
        for name in dict.fromkeys(names):
            found = _find(name, specifications)
            if found is None:
                missing.append(name)
                continue
            whole, device = found
            if whole not in used:
                used.append(whole)
                edits.append(whole.container_edits)
            edits.append(device.container_edits)
        if missing:
            hint = f" (not read: {'; '.join(unread)})" if unread else ""
            raise InvalidParameter(
                f"CDI device injection failed: unresolvable CDI devices {', '.join(missing)}{hint}"
            )
        for edit in edits:
            if edit.hooks and not hooks:
                raise InvalidParameter(
                    f"the CDI devices {', '.join(names)} need hooks, which the runtime sampan does "
                    "not run: choose --runtime crun or runc"
                )
            _apply(edit, spec)

    def _read(self) -> tuple[list[Specification], list[str]]:
        """The specifications, those that count more first; and files that cannot be used."""
        found: list[Specification] = []
        unread: list[str] = []
        for directory in reversed(self.directories):
            try:
                files = sorted(Path(directory).iterdir())
            except OSError:
                continue
            for file in files:
                if file.suffix not in (".json", ".yaml"):
                    continue
                try:
                    found.append(_decode(file))
                except (OSError, msgspec.DecodeError) as failure:
                    unread.append(f"{file}: {failure}")
        return found, unread


def _decode(file: Path) -> Specification:
    data = file.read_bytes()
    if file.suffix == ".json":
        return msgspec.json.decode(data, type=Specification)
    # This imports PyYAML, in some 30 ms, and so is called only where there is such a file.
    return msgspec.yaml.decode(data, type=Specification)


def _find(
    name: str, specifications: Iterable[Specification]
) -> tuple[Specification, Device] | None:
    kind, _, wanted = name.partition("=")
    for specification in specifications:
        if specification.kind == kind:
            for device in specification.devices:
                if device.name == wanted:
                    return specification, device
    return None


def _names(request: DeviceRequest, specifications: Sequence[Specification]) -> list[str]:
    """The qualified names that a request means."""
    if request.driver == "cdi":
        for name in request.device_ids or ():
            if not _NAME.fullmatch(name):
                raise InvalidParameter(f"invalid CDI device name {name!r}: it is VENDOR/CLASS=NAME")
        return list(request.device_ids or ())
    wanted = request.capabilities or []
    known = any(specification.kind == _GPU_KIND for specification in specifications)
    gpu = any("gpu" in together for together in wanted)
    if request.driver not in ("", "nvidia") or not gpu or not known:
        shown = " ".join(f"[{' '.join(together)}]" for together in wanted)
        raise InvalidParameter(
            f'could not select device driver "{request.driver}" with capabilities: [{shown}]'
        )
    if request.device_ids:
        return [f"{_GPU_KIND}={name}" for name in request.device_ids]
    if request.count < 0:
        return [f"{_GPU_KIND}=all"]
    return [f"{_GPU_KIND}={number}" for number in range(request.count)]


# --- edits ------------------------------------------------------------------------------------


def _apply(edits: Edits, spec: dict[str, Any]) -> None:
    process, linux = spec["process"], spec["linux"]
    names = {entry.partition("=")[0] for entry in edits.env}
    kept = [entry for entry in process.get("env") or () if entry.partition("=")[0] not in names]
    process["env"] = kept + edits.env
    for node in edits.device_nodes:
        _add_node(node, linux)
    for mount in edits.mounts:
        spec["mounts"].append(
            {
                "destination": mount.container_path,
                "source": mount.host_path,
                "type": mount.type or "bind",
                "options": mount.options or ["rbind", "rprivate", "ro"],
            }
        )
    for hook in edits.hooks:
        if hook.hook_name not in HOOK_KINDS:
            raise InvalidParameter(f"a CDI specification has an unknown hook {hook.hook_name!r}")
        entry: dict[str, Any] = {"path": hook.path}
        if hook.args:
            entry["args"] = hook.args
        if hook.env:
            entry["env"] = hook.env
        if hook.timeout is not None:
            entry["timeout"] = hook.timeout
        spec.setdefault("hooks", {}).setdefault(hook.hook_name, []).append(entry)
    if edits.additional_gids:
        user = process["user"]
        gids = [*(user.get("additionalGids") or ()), *edits.additional_gids]
        user["additionalGids"] = list(dict.fromkeys(gids))


def _add_node(node: DeviceNode, linux: dict[str, Any]) -> None:
    kind, major, minor, mode = node.type, node.major, node.minor, node.file_mode
    if not kind or major is None or minor is None:
        path = node.host_path or node.path
        try:
            found = os.stat(path)
        except OSError as failure:
            raise InvalidParameter(
                f"CDI device injection failed: the device node {path}: {failure.strerror}"
            ) from None
        actual = _DEVICE_TYPES.get(stat.S_IFMT(found.st_mode))
        if actual is None or kind not in ("", actual):
            raise InvalidParameter(
                f"CDI device injection failed: {path} is not a device node"
                + (f" of type {kind}" if kind else "")
            )
        kind, major, minor = actual, os.major(found.st_rdev), os.minor(found.st_rdev)
        mode = stat.S_IMODE(found.st_mode) if mode is None else mode
    nodes = linux.setdefault("devices", [])
    nodes[:] = [other for other in nodes if other["path"] != node.path]
    entry: dict[str, Any] = {"path": node.path, "type": kind, "major": major, "minor": minor}
    for name, value in (("fileMode", mode), ("uid", node.uid), ("gid", node.gid)):
        if value is not None:
            entry[name] = value
    nodes.append(entry)
    linux["resources"].setdefault("devices", []).append(
        {
            "allow": True,
            "type": kind,
            "major": major,
            "minor": minor,
            "access": node.permissions or "rwm",
        }
    )
