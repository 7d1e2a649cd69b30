"""``--volume``, ``--mount`` and ``--tmpfs``."""

from __future__ import annotations

import os

from sampan.cli.flags import size
from sampan.cli.values import bad_flag, csv

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

FLAG = "--mount"
TYPES = ("bind", "volume", "tmpfs", "image", "npipe", "cluster")
_TRUE = ("1", "t", "T", "true", "TRUE", "True")
_FALSE = ("0", "f", "F", "false", "FALSE", "False")


def volumes(given: Iterable[str]) -> tuple[list[str], list[str]]:
    """``--volume`` options: the binds (``source:target[:options]``), and the anonymous volumes'
    paths."""
    binds: list[str] = []
    anonymous: list[str] = []
    for text in given:
        source, colon, rest = text.partition(":")
        if not colon:
            anonymous.append(text)
            continue
        if not source or not rest:
            raise bad_flag("-v, --volume", text, "empty section between colons")
        # Only what begins with a dot is a path of the client; a bare word names a volume.
        if source.startswith("."):
            source = os.path.abspath(source)
        binds.append(f"{source}:{rest}")
    return binds, anonymous


def tmpfs(given: Iterable[str]) -> dict[str, str]:
    """``/run:size=64m`` as ``{"/run": "size=64m"}``."""
    found: dict[str, str] = {}
    for text in given:
        path, _, options = text.partition(":")
        found[path] = options
    return found


def mount(text: str) -> dict[str, Any]:
    """One ``--mount`` option as the API's Mount object."""
    try:
        fields = csv(text.strip())
    except ValueError as error:
        raise bad_flag(FLAG, text, str(error)) from None
    found: dict[str, Any] = {"Type": "volume"}
    for field in fields:
        key, equals, value = field.partition("=")
        key = key.strip().lower()
        if not equals:
            if key not in _SWITCHES:
                raise bad_flag(FLAG, text, f"invalid field '{field}' must be a key=value pair")
            value = "true"
        setter = _KEYS.get(key)
        if setter is None:
            raise bad_flag(FLAG, text, f"unknown option '{key}' in '{field}'")
        try:
            setter(found, value)
        except ValueError as error:
            raise bad_flag(FLAG, text, f"invalid value for '{key}': {error}") from None
    _check(found, text)
    return found


def _check(found: dict[str, Any], text: str) -> None:
    kind = found["Type"]
    if kind not in TYPES:
        raise bad_flag(FLAG, text, f"unknown mount type '{kind}'")
    if not found.get("Target"):
        raise bad_flag(FLAG, text, "target is required")
    for name, owner in (
        ("BindOptions", "bind"),
        ("VolumeOptions", "volume"),
        ("TmpfsOptions", "tmpfs"),
        ("ImageOptions", "image"),
    ):
        if name in found and kind != owner:
            raise bad_flag(FLAG, text, f"cannot mix '{owner}-*' options with mount type '{kind}'")
    if kind == "bind":
        _check_recursion(found.get("BindOptions", {}), bool(found.get("ReadOnly")), text)


def _check_recursion(options: dict[str, Any], read_only: bool, text: str) -> None:
    needs = "option 'bind-recursive={}' requires '{}' to be specified in conjunction"
    if options.get("ReadOnlyNonRecursive") and not read_only:
        raise bad_flag(FLAG, text, needs.format("writable", "readonly"))
    if options.get("ReadOnlyForceRecursive"):
        if not read_only:
            raise bad_flag(FLAG, text, needs.format("readonly", "readonly"))
        if options.get("Propagation") != "rprivate":
            raise bad_flag(FLAG, text, needs.format("readonly", "bind-propagation=rprivate"))


def _boolean(value: str) -> bool:
    if value not in _TRUE + _FALSE:
        raise ValueError(value)
    return value in _TRUE


def _source(found: dict[str, Any], value: str) -> None:
    found["Source"] = os.path.abspath(value) if value.startswith(".") else value


def _recursive(found: dict[str, Any], value: str) -> None:
    options = found.setdefault("BindOptions", {})
    if value == "disabled":
        options["NonRecursive"] = True
    elif value == "writable":
        options["ReadOnlyNonRecursive"] = True
    elif value == "readonly":
        options["ReadOnlyForceRecursive"] = True
    elif value != "enabled":
        raise ValueError(f"{value!r} (must be enabled, disabled, writable or readonly)")


def _driver(found: dict[str, Any]) -> dict[str, Any]:
    options: dict[str, Any] = found.setdefault("VolumeOptions", {})
    driver: dict[str, Any] = options.setdefault("DriverConfig", {})
    return driver


def _labelled(found: dict[str, Any], value: str) -> None:
    key, _, text = value.partition("=")
    found.setdefault("VolumeOptions", {}).setdefault("Labels", {})[key] = text


def _driver_option(found: dict[str, Any], value: str) -> None:
    key, _, text = value.partition("=")
    _driver(found).setdefault("Options", {})[key] = text


def _in(group: str, name: str, read: Callable[[str], Any]) -> Callable[[dict[str, Any], str], None]:
    def put(found: dict[str, Any], value: str) -> None:
        found.setdefault(group, {})[name] = read(value)

    return put


def _at(name: str, read: Callable[[str], Any]) -> Callable[[dict[str, Any], str], None]:
    def put(found: dict[str, Any], value: str) -> None:
        found[name] = read(value)

    return put


_KEYS: dict[str, Callable[[dict[str, Any], str], None]] = {
    "type": _at("Type", str.lower),
    "source": _source,
    "src": _source,
    "target": _at("Target", str),
    "dst": _at("Target", str),
    "destination": _at("Target", str),
    "readonly": _at("ReadOnly", _boolean),
    "ro": _at("ReadOnly", _boolean),
    "consistency": _at("Consistency", str.lower),
    "bind-propagation": _in("BindOptions", "Propagation", str.lower),
    "bind-nonrecursive": _in("BindOptions", "NonRecursive", _boolean),
    "bind-recursive": _recursive,
    "bind-create-src": _in("BindOptions", "CreateMountpoint", _boolean),
    "volume-subpath": _in("VolumeOptions", "Subpath", str),
    "volume-nocopy": _in("VolumeOptions", "NoCopy", _boolean),
    "volume-label": _labelled,
    "volume-driver": lambda found, value: _driver(found).__setitem__("Name", value),
    "volume-opt": _driver_option,
    "image-subpath": _in("ImageOptions", "Subpath", str),
    "tmpfs-size": _in("TmpfsOptions", "SizeBytes", size),
    "tmpfs-mode": _in("TmpfsOptions", "Mode", lambda value: int(value, 8)),
}
_SWITCHES = frozenset({"readonly", "ro", "volume-nocopy", "bind-nonrecursive", "bind-create-src"})
