"""What a container may ask of its places in networks.  Pure."""

from __future__ import annotations

import ipaddress
import re

import msgspec

from sampan.engine.types import ContainerConfig, CreateRequest, EndpointSettings, HostConfig
from sampan.errors import InvalidParameter

_MAC = re.compile(r"(?:[0-9a-fA-F]{2}([:-]))(?:[0-9a-fA-F]{2}\1){4}[0-9a-fA-F]{2}\Z")
SHARED = ("bridge", "default", "host", "none")
"""Networks that no user has made: their containers choose neither addresses nor names."""


def check_mode(config: ContainerConfig, host: HostConfig, request: CreateRequest) -> None:
    """Raises InvalidParameter for what the network mode leaves no room for."""
    mode = host.network_mode
    if mode.startswith("container:"):
        if config.hostname:
            raise InvalidParameter("conflicting options: hostname and the network mode")
        for what, given in (
            ("port publishing and the container type network mode", host.port_bindings),
            ("port exposing and the container type network mode", request.exposed_ports),
            ("custom host-to-IP mapping and the network mode", host.extra_hosts),
            ("dns and the network mode", host.dns),
            ("links and the network mode", host.links),
        ):
            if given:
                raise InvalidParameter(f"conflicting options: {what}")
    if mode == "host" and host.links:
        raise InvalidParameter("conflicting options: host type networking can't be used with links")
    if config.mac_address and mode in ("host", "none"):
        raise InvalidParameter("conflicting options: mac-address and the network mode")


def wanted(host: HostConfig, request: CreateRequest) -> dict[str, EndpointSettings]:
    """The networks that the container is to be on, the one of the network mode first."""
    asked = dict(request.networking_config.endpoints_config)
    mode = host.network_mode
    if mode.startswith("container:"):
        if asked:
            raise InvalidParameter("conflicting options: a container type network has no endpoints")
        return {}
    if "default" in asked:
        asked.setdefault(mode, asked.pop("default"))
    primary = asked.pop(mode, EndpointSettings())
    if request.mac_address and not primary.mac_address:
        primary = msgspec.structs.replace(primary, mac_address=request.mac_address)
    if mode in ("host", "none") and asked:
        raise InvalidParameter(
            f"Container cannot be connected to network endpoints: {', '.join(asked)}"
        )
    found = {mode: primary, **asked}
    for name, settings in found.items():
        check(name, settings)
    return found


def check(network: str, settings: EndpointSettings) -> None:
    """Raises InvalidParameter for an endpoint that ``network`` cannot have."""
    if settings.mac_address and not _MAC.match(settings.mac_address):
        raise InvalidParameter(
            f"invalid config for network {network}: invalid MAC address {settings.mac_address}"
        )
    wrong = [*_wrong(network, settings)]
    if wrong:
        listed = wrong[0] if len(wrong) == 1 else "\n".join(f"* {each}" for each in wrong)
        raise InvalidParameter(
            f"invalid config for network {network}: invalid endpoint settings:\n{listed}"
        )


def _wrong(network: str, settings: EndpointSettings) -> list[str]:
    found = []
    wish = settings.ipam_config
    addresses = {} if wish is None else {4: wish.ipv4_address, 6: wish.ipv6_address}
    if network in SHARED:
        if any(addresses.values()):
            found.append("user specified IP address is supported on user defined networks only")
        if settings.aliases:
            found.append(
                "network-scoped alias is supported only for containers in user defined networks"
            )
    for family, text in addresses.items():
        if text and not _is_address(text, family):
            found.append(f"invalid IPv{family} address: {text}")
    return found


def _is_address(text: str, family: int) -> bool:
    try:
        return ipaddress.ip_address(text).version == family
    except ValueError:
        return False


def check_hosts(host: HostConfig) -> None:
    """Raises InvalidParameter for a line of ``ExtraHosts`` that is not ``NAME:ADDRESS``."""
    for line in host.extra_hosts or []:
        name, _, address = line.partition(":")
        if not name or not address:
            raise InvalidParameter(f'bad format for add-host: "{line}"')
        if address == "host-gateway":
            continue
        text = address.removeprefix("[").removesuffix("]")
        if not (_is_address(text, 4) or _is_address(text, 6)):
            raise InvalidParameter(f'invalid IP address in add-host: "{address}"')
