"""``--network`` with its options, and the flags that belong to the first network."""

from __future__ import annotations

from sampan.cli.values import bad_flag, csv, refuse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from sampan.cli.flags import Options

FLAG = "--network"
_BUILT_IN = ("bridge", "host", "none", "default", "")


def networks(options: Options) -> tuple[str, dict[str, Any]]:
    """The network mode, and the endpoints' settings by network."""
    given = [_parse(text) for text in options["network"]]
    if not given:
        given = [("default", {})]
    first_name, first = given[0]
    _merge(options, first, first_name)
    endpoints: dict[str, Any] = {}
    for number, (name, endpoint) in enumerate(given):
        if name in endpoints:
            raise refuse(f'network "{name}" is specified multiple times')
        if len(given) > 1 and (_special(name) or name in ("host", "none")):
            raise refuse(
                "conflicting options: cannot attach both user-defined and "
                "non-user-defined network-modes"
            )
        if endpoint or len(given) > 1 or (number == 0 and not _plain(name)):
            endpoints[name] = endpoint
    return first_name, endpoints


def _special(name: str) -> bool:
    return name.startswith("container:")


def _plain(name: str) -> bool:
    """Whether a network without options needs no endpoint settings."""
    return name in _BUILT_IN or _special(name)


def _merge(options: Options, endpoint: dict[str, Any], name: str) -> None:
    """Give the first network what stands in flags of its own."""
    ipam: dict[str, Any] = {}
    if options["ip"]:
        ipam["IPv4Address"] = options["ip"]
    if options["ip6"]:
        ipam["IPv6Address"] = options["ip6"]
    if options["link-local-ip"]:
        ipam["LinkLocalIPs"] = options["link-local-ip"]
    if ipam and endpoint.get("IPAMConfig"):
        raise refuse("conflicting options: cannot specify both --ip and per-network IP address")
    if ipam:
        endpoint["IPAMConfig"] = ipam
    if options["network-alias"]:
        if endpoint.get("Aliases"):
            raise refuse(
                "conflicting options: cannot specify both --network-alias and per-network alias"
            )
        endpoint["Aliases"] = options["network-alias"]
    if options["link"] and name not in _BUILT_IN:
        endpoint["Links"] = options["link"]
    if options["mac-address"]:
        if endpoint.get("MacAddress"):
            raise refuse(
                "conflicting options: cannot specify both --mac-address and per-network MAC address"
            )
        endpoint["MacAddress"] = options["mac-address"]


def _parse(text: str) -> tuple[str, dict[str, Any]]:
    if "=" not in text:
        return text, {}
    name = ""
    endpoint: dict[str, Any] = {}
    try:
        fields = csv(text)
    except ValueError as error:
        raise bad_flag(FLAG, text, str(error)) from None
    for field in fields:
        key, equals, value = field.partition("=")
        key = key.strip().lower()
        value = value.strip()
        if not equals or not key:
            raise bad_flag(FLAG, text, f'invalid key/value pair "{field}" in "{text}"')
        if key == "name":
            name = value
        else:
            _set(endpoint, key, value, text)
    if not name:
        raise bad_flag(FLAG, text, "network name/id is not specified")
    return name, endpoint


def _set(endpoint: dict[str, Any], key: str, value: str, text: str) -> None:
    if key == "alias":
        endpoint.setdefault("Aliases", []).append(value)
    elif key == "ip":
        endpoint.setdefault("IPAMConfig", {})["IPv4Address"] = value
    elif key == "ip6":
        endpoint.setdefault("IPAMConfig", {})["IPv6Address"] = value
    elif key == "link-local-ip":
        endpoint.setdefault("IPAMConfig", {}).setdefault("LinkLocalIPs", []).append(value)
    elif key == "mac-address":
        endpoint["MacAddress"] = value
    elif key == "driver-opt":
        name, equals, option = value.partition("=")
        if not equals:
            raise bad_flag(FLAG, text, f'invalid key/value pair in driver options "{value}"')
        endpoint.setdefault("DriverOpts", {})[name.strip().lower()] = option.strip()
    elif key == "gw-priority":
        try:
            endpoint["GwPriority"] = int(value)
        except ValueError:
            raise bad_flag(FLAG, text, f"invalid gw-priority: {value}") from None
    else:
        raise bad_flag(FLAG, text, f"invalid field key {key}")
