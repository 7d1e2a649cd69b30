"""From which address a request comes, also behind a reverse proxy or a load balancer."""

from __future__ import annotations

import ipaddress

from aiohttp import web

from sampan.errors import InvalidParameter

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def networks(texts: tuple[str, ...]) -> tuple[Network, ...]:
    """Addresses and networks (``10.0.0.0/8``) as such.  Raises InvalidParameter."""
    try:
        return tuple(ipaddress.ip_network(text) for text in texts)
    except ValueError as exc:
        raise InvalidParameter(f"invalid address of a trusted proxy: {exc}") from None


def client_address(request: web.Request, trusted: tuple[Network, ...]) -> str:
    """The client's address.

    ``X-Forwarded-For`` is believed only as far as trusted proxies wrote it: from its end, up to
    the first address that is not one of theirs.  Anybody may write the rest.
    """
    address = request.remote or ""
    if not trusted:
        return address
    hops = ",".join(request.headers.getall("X-Forwarded-For", [])).split(",")
    while _is_in(address, trusted) and hops:
        hop = hops.pop().strip()
        try:
            address = str(ipaddress.ip_address(hop))
        except ValueError:
            break
    return address


def _is_in(address: str, trusted: tuple[Network, ...]) -> bool:
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    return any(found in network for network in trusted)
