"""A container's network interfaces: what the keeper and the init do to make one.

An :class:`Interface` is decided by the daemon (addresses, gateway, MAC address, host-side name) and
travels to the keeper inside the start request, so that a restart by the keeper needs no daemon.
Making one takes two steps:

* the keeper, in the host's network namespace, calls :func:`create_host_side` with a descriptor of
  the container's new network namespace: one netlink message makes the veth pair with its peer
  already inside, named, addressed at the link layer, enslaved to the bridge and up;
* the container's init, inside its network namespace and before it enters the root file system,
  calls :func:`configure_inside`: addresses, link up and routes in one message.

The pair dies with the container's namespace, so that nothing is left however the processes end.
Neither function imports anything or looks a name up.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence

import msgspec

from sampan.linux import rtnetlink
from sampan.linux.netlink import Message, Socket

LOOPBACK_INDEX = 1


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """A route inside the container: ``destination`` in CIDR notation, ``gateway`` empty for one
    that is on the link."""

    destination: str
    gateway: str = ""


class Interface(msgspec.Struct, frozen=True, kw_only=True):
    """One end of the container's network.

    ``kind`` is ``veth``, ``macvlan`` or ``ipvlan``; for a veth ``bridge`` names the bridge that the
    host end joins, for the others ``parent`` names the host's link and ``mode`` the driver's mode.
    ``addresses`` are in CIDR notation, both families.  ``gateway`` and ``gateway6`` are set on the
    interface that carries the default route, and empty on the others.  ``isolated`` keeps this port
    of the bridge from reaching the other isolated ones; ``hairpin`` lets the container reach its
    own published ports where bridged packets are translated (br_netfilter).  ``sysctls`` are
    written below ``/proc/sys/net`` (keys with slashes, ``IFNAME`` standing for the name).
    """

    name: str
    host_name: str
    kind: str = "veth"
    bridge: str = ""
    parent: str = ""
    mode: str = ""
    mac: str = ""
    addresses: list[str] = []
    gateway: str = ""
    gateway6: str = ""
    mtu: int = 1500
    routes: list[Route] = []
    isolated: bool = False
    hairpin: bool = False
    sysctls: dict[str, str] = {}


def create_host_side(interface: Interface, netns_fd: int) -> None:
    """Make the link with its container end inside the network namespace ``netns_fd``.

    Runs in the host's network namespace.  A stale link of the same host name is replaced.
    Raises :class:`OSError` naming the link and the step.
    """
    with rtnetlink.open_socket() as route:
        messages = [_creation(interface, netns_fd)]
        if interface.kind == "veth" and (interface.isolated or interface.hairpin):
            messages.append(
                rtnetlink.set_bridge_port(
                    interface.host_name, isolated=interface.isolated, hairpin=interface.hairpin
                )
            )
        try:
            route.request(messages)
        except OSError as error:
            if error.errno != errno.EEXIST or interface.kind != "veth":
                raise
            stale = rtnetlink.delete_link(interface.host_name, missing_ok=True)
            route.request([stale])
            route.request(messages)


def _creation(interface: Interface, netns_fd: int) -> Message:
    if interface.kind == "veth":
        return rtnetlink.add_veth(
            interface.host_name,
            interface.name,
            netns_fd,
            peer_mac=interface.mac,
            mtu=interface.mtu,
            master=rtnetlink.index_of(interface.bridge) if interface.bridge else 0,
        )
    parent = rtnetlink.index_of(interface.parent)
    if interface.kind == "macvlan":
        return rtnetlink.add_macvlan(
            interface.name, parent, interface.mode, netns_fd, mac=interface.mac, mtu=interface.mtu
        )
    mode, _, flag = interface.mode.partition(",")
    return rtnetlink.add_ipvlan(
        interface.name, parent, mode, flag or "bridge", netns_fd, mtu=interface.mtu
    )


def configure_inside(interfaces: Sequence[Interface]) -> None:
    """Bring up the loopback and every interface, in the network namespace of the caller.

    Call it for a container with its own network namespace even when ``interfaces`` is empty: the
    loopback is brought up.  Raises :class:`OSError` naming the interface and the step.
    """
    with rtnetlink.open_socket() as route:
        configure(route, interfaces, loopback=True)


def configure(route: Socket, interfaces: Sequence[Interface], *, loopback: bool) -> None:
    """As :func:`configure_inside`, in the namespace of the rtnetlink socket ``route``, which must
    also be the caller's."""
    messages = [rtnetlink.set_up(LOOPBACK_INDEX, "lo")] if loopback else []
    for interface in interfaces:
        index = rtnetlink.index_of(interface.name)
        _write_sysctls(interface)
        messages += [
            rtnetlink.add_address(index, interface.name, address) for address in interface.addresses
        ]
        messages.append(rtnetlink.set_up(index, interface.name))
        messages += default_routes(interface, index)
        messages += [
            rtnetlink.add_route(entry.destination, entry.gateway, index, interface.name)
            for entry in interface.routes
        ]
    if messages:
        route.request(messages)


def default_routes(interface: Interface, index: int) -> list[Message]:
    """The default routes that this interface carries."""
    return [
        rtnetlink.replace_route(destination, gateway, index, interface.name)
        for destination, gateway in (
            ("0.0.0.0/0", interface.gateway),
            ("::/0", interface.gateway6),
        )
        if gateway
    ]


def _write_sysctls(interface: Interface) -> None:
    for key, value in interface.sysctls.items():
        path = "/proc/sys/net/" + key.replace("IFNAME", interface.name)
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, value.encode("ascii"))
        finally:
            os.close(fd)
