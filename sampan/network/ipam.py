"""Addresses: which subnet a network gets, and which address an endpoint.

Nothing here is stored.  A subnet is taken exactly as long as a network's record has it, and an
address exactly as long as an endpoint's record has it: an :class:`Allocator` is filled from the
records when the daemon starts, so that no crash can make an address free or lost.
"""

from __future__ import annotations

import heapq
import ipaddress
import time
from collections import deque
from collections.abc import Iterable, Sequence

from sampan.errors import Forbidden, InvalidParameter
from sampan.network.types import Pool

IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network
IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

# (base, prefix length of one network): Docker's defaults.
DEFAULT_POOLS: tuple[tuple[str, int], ...] = (
    ("172.17.0.0/16", 16),
    ("172.18.0.0/16", 16),
    ("172.19.0.0/16", 16),
    ("172.20.0.0/14", 16),
    ("172.24.0.0/14", 16),
    ("172.28.0.0/14", 16),
    ("192.168.0.0/16", 20),
)

# Of the addresses that :func:`mac_of` makes.
MAC_PREFIX = "02:42:"

REST_SECONDS = 2.0


class Allocator:
    """The addresses of one pool; hands out the lowest free one.

    An address that a container had is handed out again only after some seconds, if there is
    another: until then the kernel may still be deleting the interface that had it, and neighbours
    may still be sending to it.
    The network's own address, the broadcast address, the gateway and the auxiliary addresses are
    never handed out.
    """

    def __init__(self, pool: Pool, *, reserve_gateway: bool = True) -> None:
        self.subnet = ipaddress.ip_network(pool.subnet)
        window = ipaddress.ip_network(pool.ip_range) if pool.ip_range else self.subnet
        self._cursor = int(window.network_address)
        self._first = self._cursor
        self._last = int(window.broadcast_address)
        self._free: list[int] = []
        self._resting: deque[tuple[float, int]] = deque()
        self._used = {int(ipaddress.ip_address(a)) for a in pool.aux_addresses.values()}
        if self.subnet.num_addresses > 2:
            self._used.add(int(self.subnet.network_address))
            if self.subnet.version == 4:
                self._used.add(int(self.subnet.broadcast_address))
        if pool.gateway and reserve_gateway:
            self._used.add(int(ipaddress.ip_address(pool.gateway)))

    def take(self) -> str:
        """The lowest free address.  Raises :class:`Forbidden` when there is none."""
        now = time.monotonic()
        while self._resting and self._resting[0][0] <= now:
            heapq.heappush(self._free, self._resting.popleft()[1])
        while self._free:
            number = heapq.heappop(self._free)
            if number not in self._used:
                return self._use(number)
        while self._cursor <= self._last:
            number = self._cursor
            self._cursor += 1
            if number not in self._used:
                return self._use(number)
        while self._resting:
            number = self._resting.popleft()[1]
            if number not in self._used:
                return self._use(number)
        raise Forbidden(f"no available addresses in the pool {self.subnet} of this network")

    def take_this(self, address: str) -> str:
        """This address.  Raises :class:`Forbidden` if it is taken, :class:`InvalidParameter` if it
        is not in the subnet."""
        parsed = parse_address(address)
        if parsed not in self.subnet:
            raise InvalidParameter(f"the address {address} is not in the subnet {self.subnet}")
        if int(parsed) in self._used:
            raise Forbidden("Address already in use")
        return self._use(int(parsed))

    def restore(self, address: str) -> None:
        """Mark an address as taken, as a record says."""
        self._used.add(int(ipaddress.ip_address(address)))

    def free(self, address: str, *, used: bool) -> None:
        """``used``: a container had it, so that it has to rest."""
        number = int(ipaddress.ip_address(address))
        self._used.discard(number)
        if number >= self._cursor or not self._first <= number <= self._last:
            return
        if used:
            self._resting.append((time.monotonic() + REST_SECONDS, number))
        else:
            heapq.heappush(self._free, number)

    def _use(self, number: int) -> str:
        self._used.add(number)
        if self.subnet.version == 4:
            return str(ipaddress.IPv4Address(number))
        return str(ipaddress.IPv6Address(number))


def parse_address(text: str) -> IPAddress:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        raise InvalidParameter(f"invalid IP address: {text}") from None


def parse_subnet(text: str) -> IPNetwork:
    """A subnet; bits of the host part are cleared, as Docker does."""
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise InvalidParameter(f"invalid CIDR address: {text}") from None


def complete_pool(pool: Pool) -> Pool:
    """A pool with a subnet, checked and in canonical form, with a gateway: the first address if
    none was asked for."""
    subnet = parse_subnet(pool.subnet)
    if pool.ip_range:
        window = parse_subnet(pool.ip_range)
        if window.version != subnet.version or not _within(window, subnet):
            raise InvalidParameter(f"the IP range {pool.ip_range} is not in the subnet {subnet}")
    for what, address in [("gateway", pool.gateway), *pool.aux_addresses.items()]:
        if address and parse_address(address) not in subnet:
            raise InvalidParameter(f"the address {address} ({what}) is not in the subnet {subnet}")
    limit = 30 if subnet.version == 4 else 126
    if subnet.prefixlen > limit and not pool.gateway:
        raise InvalidParameter(f"the subnet {subnet} is too small: it has no room for a container")
    gateway = str(parse_address(pool.gateway)) if pool.gateway else ""
    if not gateway:
        taken = {str(parse_address(a)) for a in pool.aux_addresses.values()}
        window = parse_subnet(pool.ip_range) if pool.ip_range else subnet
        first = int(window.network_address)
        first += 0 if int(subnet.network_address) != first else 1
        gateway = next(
            text
            for number in range(first, int(window.broadcast_address) + 1)
            if (text := str(type(subnet.network_address)(number))) not in taken
        )
    return Pool(
        subnet=str(subnet),
        ip_range=str(parse_subnet(pool.ip_range)) if pool.ip_range else "",
        gateway=gateway,
        aux_addresses={name: str(parse_address(a)) for name, a in pool.aux_addresses.items()},
    )


def _within(inner: IPNetwork, outer: IPNetwork) -> bool:
    return outer.network_address in inner.supernet(new_prefix=0) and (
        outer.prefixlen <= inner.prefixlen and inner.network_address in outer
    )


def free_subnet(bases: Sequence[tuple[str, int]], taken: Iterable[IPNetwork]) -> str:
    """The first subnet of the bases that overlaps none of ``taken``.

    Raises :class:`Forbidden` when all are taken.
    """
    occupied = list(taken)
    for base_text, length in bases:
        base = ipaddress.ip_network(base_text)
        relevant = [network for network in occupied if network.overlaps(base)]
        if len(relevant) == 1 and relevant[0].prefixlen <= base.prefixlen:
            continue
        for subnet in base.subnets(new_prefix=length):
            if not any(subnet.overlaps(network) for network in relevant):
                return str(subnet)
    raise Forbidden(
        "could not find an available, non-overlapping address pool among the defaults to assign"
        " to the network; pass --subnet, or configure default-address-pools"
    )


def overlapping(subnet: str, taken: Iterable[IPNetwork]) -> IPNetwork | None:
    """The first of ``taken`` that overlaps the subnet."""
    network = ipaddress.ip_network(subnet)
    for other in taken:
        if other.version == network.version and other.overlaps(network):
            return other
    return None


def mac_of(address: str) -> str:
    """A locally administered MAC address made of an IPv4 address (``02:42:`` and its bytes), or of
    the last four bytes of an IPv6 address.

    The same address always has the same MAC, so that neighbours' caches stay right when an
    address goes to another container.
    """
    return MAC_PREFIX + ipaddress.ip_address(address).packed[-4:].hex(":")
