"""Subnets and addresses: pure logic."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from sampan.errors import Forbidden, InvalidParameter
from sampan.network import ipam
from sampan.network.types import Pool


def test_the_lowest_free_address_is_taken() -> None:
    allocator = ipam.Allocator(Pool(subnet="10.0.0.0/29", gateway="10.0.0.1"))
    assert [allocator.take() for _ in range(5)] == [f"10.0.0.{n}" for n in range(2, 7)]
    with pytest.raises(Forbidden, match="no available addresses"):
        allocator.take()
    allocator.free("10.0.0.4", used=False)
    assert allocator.take() == "10.0.0.4"


def test_a_used_address_rests_unless_there_is_no_other() -> None:
    allocator = ipam.Allocator(Pool(subnet="10.0.0.0/29", gateway="10.0.0.1"))
    assert allocator.take() == "10.0.0.2"
    allocator.free("10.0.0.2", used=True)
    assert [allocator.take() for _ in range(5)] == [
        "10.0.0.3",
        "10.0.0.4",
        "10.0.0.5",
        "10.0.0.6",
        "10.0.0.2",
    ]


class Allocation(RuleBasedStateMachine):
    """No address is ever out twice, and all are in the range."""

    held = Bundle("held")

    def __init__(self) -> None:
        super().__init__()
        self.allocator = ipam.Allocator(
            Pool(
                subnet="10.0.0.0/24",
                ip_range="10.0.0.16/28",
                gateway="10.0.0.17",
                aux_addresses={"one": "10.0.0.20"},
            )
        )
        self.out: set[str] = set()

    @rule(target=held)
    def take(self) -> str:
        try:
            address = self.allocator.take()
        except Forbidden:
            assert len(self.out & {f"10.0.0.{n}" for n in range(16, 32)}) == 14
            return ""
        assert address not in self.out
        assert ipaddress.ip_address(address) in ipaddress.ip_network("10.0.0.16/28")
        self.out.add(address)
        return address

    @rule(target=held, last=st.integers(0, 255))
    def take_this(self, last: int) -> str:
        address = f"10.0.0.{last}"
        taken = self.out | {"10.0.0.0", "10.0.0.255", "10.0.0.17", "10.0.0.20"}
        if address in taken:
            with pytest.raises(Forbidden, match="Address already in use"):
                self.allocator.take_this(address)
            return ""
        self.out.add(self.allocator.take_this(address))
        return address

    @rule(address=consumes(held), used=st.booleans())
    def free(self, address: str, used: bool) -> None:
        if address:
            self.out.discard(address)
            self.allocator.free(address, used=used)

    @invariant()
    def reserved_are_never_out(self) -> None:
        assert not self.out & {"10.0.0.17", "10.0.0.20"}


TestAllocation = Allocation.TestCase


@settings(deadline=None)
@given(st.lists(st.integers(0, 40), max_size=30))
def test_chosen_subnets_never_overlap(noise: list[int]) -> None:
    taken: list[ipam.IPNetwork] = [
        ipaddress.ip_network(f"172.{17 + n % 15}.{n}.0/24") for n in noise
    ]
    for _ in range(10):
        subnet = ipam.free_subnet(ipam.DEFAULT_POOLS, taken)
        assert ipam.overlapping(subnet, taken) is None
        taken.append(ipaddress.ip_network(subnet))


def test_pools_used_up() -> None:
    with pytest.raises(Forbidden, match="non-overlapping address pool"):
        ipam.free_subnet([("10.0.0.0/24", 24)], [ipaddress.ip_network("10.0.0.0/8")])


def test_a_pool_is_completed() -> None:
    assert ipam.complete_pool(Pool(subnet="10.0.0.9/24")) == Pool(
        subnet="10.0.0.0/24", gateway="10.0.0.1"
    )
    assert ipam.complete_pool(Pool(subnet="fd00::/64")).gateway == "fd00::1"
    ranged = ipam.complete_pool(Pool(subnet="10.0.0.0/16", ip_range="10.0.5.0/24"))
    assert ranged.gateway == "10.0.5.0"


@pytest.mark.parametrize(
    "pool",
    [
        Pool(subnet="nonsense"),
        Pool(subnet="10.0.0.0/24", gateway="10.0.1.1"),
        Pool(subnet="10.0.0.0/24", ip_range="10.0.1.0/25"),
        Pool(subnet="10.0.0.0/24", ip_range="10.0.0.0/16"),
        Pool(subnet="10.0.0.0/24", aux_addresses={"a": "10.0.9.9"}),
        Pool(subnet="10.0.0.0/32"),
        Pool(subnet="10.0.0.0/24", gateway="x"),
    ],
)
def test_impossible_pools(pool: Pool) -> None:
    with pytest.raises(InvalidParameter):
        ipam.complete_pool(pool)


def test_mac_addresses() -> None:
    assert ipam.mac_of("172.17.0.2") == "02:42:ac:11:00:02"
