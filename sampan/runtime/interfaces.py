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

from collections.abc import Sequence

import msgspec


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
    interface that carries the default route, and empty on the others.  ``isolated`` keeps this
    port of the bridge from reaching the other isolated ones.  ``sysctls`` are written below
    ``/proc/sys/net`` (keys with slashes, ``IFNAME`` standing for the name).
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
    sysctls: dict[str, str] = {}


def create_host_side(interface: Interface, netns_fd: int) -> None:
    """Make the link with its container end inside the network namespace ``netns_fd``.

    Runs in the host's network namespace.  A stale link of the same host name is replaced.
    Raises :class:`OSError` naming the link and the step.
    """
    raise NotImplementedError


def configure_inside(interfaces: Sequence[Interface]) -> None:
    """Bring up the loopback and every interface, in the network namespace of the caller.

    Call it for a container with its own network namespace even when ``interfaces`` is empty: the
    loopback is brought up.  Raises :class:`OSError` naming the interface and the step.
    """
    raise NotImplementedError
