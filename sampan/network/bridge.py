"""The host's side of networks: bridges, parent links, and what the host's addresses are.

A bridge is made as its record says and can be made again at any time: every function does only
what is missing.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from sampan.errors import SampanError
from sampan.linux import rtnetlink
from sampan.linux.netlink import Socket
from sampan.network.ipam import IPNetwork

_SYSCTL = Path("/proc/sys/net")
_DEFAULT_MTU = 1500
# The parent of a macvlan or ipvlan network without one is a link of our own.
DUMMY_PREFIX = "dm-"


def ensure_bridge(
    route: Socket,
    name: str,
    *,
    addresses: Sequence[str],
    mtu: int,
    ipv6: bool,
    proxy: bool,
) -> list[str]:
    """Make the bridge with its addresses (CIDR notation), or complete it.

    With ``proxy`` the host answers for the containers, which do not see each other: what they may send
    to each other passes the host's firewall.  Returns what had to be done, for the log.  Raises
    :class:`OSError`.
    """
    done = []
    existing = {link.name: link for link in rtnetlink.links(route)}
    link = existing.get(name)
    if link is not None and link.kind != "bridge":
        raise SampanError(
            f"cannot make the bridge {name}: a {link.kind or 'network'} interface has this name"
        )
    if link is None:
        route.request([rtnetlink.add_bridge(name, mtu=mtu, mac=_bridge_mac(name))])
        done.append(f"made the bridge {name}")
    index = rtnetlink.index_of(name)
    held = {str(a.interface) for a in rtnetlink.addresses(route) if a.ifindex == index}
    missing = [cidr for cidr in addresses if cidr not in held]
    if missing:
        route.request([rtnetlink.add_address(index, name, c, exist_ok=True) for c in missing])
        if link is not None:
            done.append(f"gave the bridge {name} its addresses {', '.join(missing)}")
    if link is not None and not link.flags & rtnetlink.IFF_UP:
        route.request([rtnetlink.set_up(index, name)])
        done.append(f"set the bridge {name} up")
    # Connections to a port published on 127.0.0.1 leave by the bridge with a loopback source until
    # they are masqueraded; the kernel routes such packets only with this switch.
    set_sysctl(f"ipv4/conf/{name}/route_localnet", "1")
    if proxy:
        set_sysctl(f"ipv4/conf/{name}/proxy_arp_pvlan", "1")
    if ipv6:
        # Without it the link-local address, which neighbours are asked from, waits for seconds.
        set_sysctl(f"ipv6/conf/{name}/accept_dad", "0")
    else:
        set_sysctl(f"ipv6/conf/{name}/disable_ipv6", "1")
    return done


def addresses_of(route: Socket, name: str) -> list[str] | None:
    """The addresses of a link in CIDR notation; None if there is no such link."""
    for link in rtnetlink.links(route):
        if link.name == name:
            held = rtnetlink.addresses(route)
            return [str(a.interface) for a in held if a.ifindex == link.ifindex]
    return None


def remove_addresses(route: Socket, name: str, addresses: Sequence[str]) -> None:
    """Take addresses from a link that is to stay."""
    if addresses and any(link.name == name for link in rtnetlink.links(route)):
        index = rtnetlink.index_of(name)
        route.request([rtnetlink.delete_address(index, name, cidr) for cidr in addresses])


def enslave_again(route: Socket, bridge: str, ports: Sequence[str]) -> None:
    """Put the host ends of running containers back on a bridge that was made anew."""
    index = rtnetlink.index_of(bridge)
    existing = {link.name: link for link in rtnetlink.links(route)}
    messages = [
        rtnetlink.set_master(existing[port].ifindex, port, index)
        for port in ports
        if port in existing and existing[port].master != index
    ]
    if messages:
        route.request(messages)


def remove_link(route: Socket, name: str) -> None:
    route.request([rtnetlink.delete_link(name, missing_ok=True)])


def ensure_parent(route: Socket, parent: str) -> bool:
    """The parent link of a macvlan or ipvlan network: ``eth0.50`` is made as VLAN 50 of ``eth0``,
    a name that begins with ``dm-`` as a dummy link; others must exist.  True when it was made."""
    if any(link.name == parent for link in rtnetlink.links(route)):
        return False
    base, dot, tag = parent.rpartition(".")
    if parent.startswith(DUMMY_PREFIX):
        _make_dummy(route, parent)
    elif dot and tag.isdigit() and 0 < int(tag) < 4095:
        route.request([rtnetlink.add_vlan(parent, rtnetlink.index_of(base), int(tag))])
    else:
        raise SampanError(f"the parent interface {parent} does not exist on this host")
    return True


def _make_dummy(route: Socket, name: str) -> None:
    try:
        route.request([rtnetlink.add_dummy(name)])
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
        # A veth pair that leads nowhere is as good a parent, where the kernel has no dummy links.
        here = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            end = "dp-" + name.removeprefix(DUMMY_PREFIX)
            pair = rtnetlink.add_veth(name, end, here, peer_mac="", mtu=_DEFAULT_MTU, master=0)
            route.request([pair])
            route.request([rtnetlink.set_up(rtnetlink.index_of(end), end)])
        finally:
            os.close(here)


def taken_subnets(route: Socket, ignoring: Sequence[str] = ()) -> list[IPNetwork]:
    """The subnets that the host is on or has routes to, default routes and link-local excepted.

    ``ignoring`` names links whose subnets do not count.
    """
    skipped = {link.ifindex for link in rtnetlink.links(route) if link.name in ignoring}
    found: list[IPNetwork] = [
        address.interface.network
        for address in rtnetlink.addresses(route)
        if address.ifindex not in skipped
    ]
    found += [
        entry.destination
        for entry in rtnetlink.routes(route)
        if entry.destination.prefixlen and entry.ifindex not in skipped
    ]
    return [network for network in found if not network.is_link_local]


def uplink_mtu(route: Socket) -> int:
    """The MTU for new networks: that of the link with the default route, at most 1500, so that a
    container's packets fit a tunnel or a cloud's network without fragmentation."""
    by_index = {link.ifindex: link for link in rtnetlink.links(route)}
    for entry in rtnetlink.routes(route):
        link = by_index.get(entry.ifindex)
        if not entry.destination.prefixlen and link is not None:
            return min(link.mtu, _DEFAULT_MTU)
    return _DEFAULT_MTU


def host_addresses(route: Socket) -> list[str]:
    """The host's global addresses, IPv4 first."""
    found = [
        address.interface.ip
        for address in rtnetlink.addresses(route)
        if not address.interface.ip.is_loopback and not address.interface.ip.is_link_local
    ]
    return [str(ip) for ip in sorted(found, key=lambda ip: ip.version)]


def enable_forwarding(*, ipv6: bool) -> list[str]:
    """Let the host route, as containers need.  Returns what was changed, for the log."""
    done = []
    if get_sysctl("ipv4/ip_forward") == "0":
        set_sysctl("ipv4/ip_forward", "1")
        done.append("enabled IPv4 forwarding (net.ipv4.ip_forward)")
    if ipv6 and get_sysctl("ipv6/conf/all/forwarding") == "0":
        # A router ignores router advertisements; links that live by them must go on doing so.
        for conf in sorted((_SYSCTL / "ipv6/conf").iterdir()):
            if get_sysctl(f"ipv6/conf/{conf.name}/accept_ra") == "1":
                set_sysctl(f"ipv6/conf/{conf.name}/accept_ra", "2")
        set_sysctl("ipv6/conf/all/forwarding", "1")
        done.append("enabled IPv6 forwarding (net.ipv6.conf.all.forwarding)")
    return done


def get_sysctl(key: str) -> str:
    """A value below /proc/sys/net, or empty when the kernel does not have it."""
    try:
        return (_SYSCTL / key).read_text().strip()
    except OSError:
        return ""


def set_sysctl(key: str, value: str) -> None:
    """Write a value below /proc/sys/net if it differs; a kernel without it is let be."""
    if get_sysctl(key) in ("", value):
        return
    try:
        (_SYSCTL / key).write_text(value)
    except OSError as error:
        if error.errno == errno.EROFS:
            raise SampanError(
                f"cannot set net.{key.replace('/', '.')} to {value}: /proc/sys is read-only here"
            ) from error
        raise


def _bridge_mac(name: str) -> str:
    return "02:42:" + hashlib.sha256(name.encode()).digest()[:4].hex(":")
