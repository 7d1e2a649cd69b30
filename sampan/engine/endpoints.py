"""What a container may ask of its places in networks.  Pure."""

from __future__ import annotations

import ipaddress
import re

from sampan.engine.types import EndpointSettings, HostConfig
from sampan.errors import InvalidParameter

_MAC = re.compile(r"(?:[0-9a-fA-F]{2}([:-]))(?:[0-9a-fA-F]{2}\1){4}[0-9a-fA-F]{2}\Z")
SHARED = ("bridge", "default", "host", "none")
"""Networks that no user has made: their containers choose neither addresses nor names."""


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
