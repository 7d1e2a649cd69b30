"""The other drivers, large networks, and daemons that die in the middle."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest

from sampan.errors import Conflict, InvalidParameter, SampanError
from sampan.linux.netlink import Socket
from sampan.network.manager import NetworkManager
from sampan.network.types import (
    EndpointConfig,
    NetworkConfig,
    Pool,
    PortBinding,
    SandboxRequest,
)

from .conftest import World, ask, needs_root, run, unreachable

pytestmark = needs_root


def request(name: str, network: str, **fields: object) -> SandboxRequest:
    return SandboxRequest(
        container_id=name.encode().hex().ljust(64, "0"),
        container_name=name,
        hostname=name,
        endpoints=[EndpointConfig(network=network)],
        **fields,  # type: ignore[arg-type]
    )


def kernel_has(kind: str) -> bool:
    more = ["id", "7"] if kind == "vlan" else []
    command = ["ip", "link", "add", "link", "eth0", "name", "probe0", "type", kind, *more]
    made = subprocess.run(command, capture_output=True, check=False).returncode == 0
    if made:
        run("ip", "link", "del", "probe0")
    return made


@pytest.mark.parametrize(
    ("driver", "options"),
    [
        ("macvlan", {}),
        ("macvlan", {"parent": "eth0", "macvlan_mode": "bridge"}),
        ("macvlan", {"parent": "eth0.50"}),
        ("ipvlan", {"parent": "eth0", "ipvlan_mode": "l2"}),
    ],
)
async def test_containers_straight_on_a_link(
    world: World, driver: str, options: dict[str, str]
) -> None:
    manager = world.manager()
    await manager.start(set())
    for kind in (driver, "vlan" if "." in options.get("parent", "") else driver):
        if not kernel_has(kind):
            pytest.skip(f"the kernel has no {kind} links")
    network = await manager.create(
        NetworkConfig(
            name="lan",
            driver=driver,
            options=options,
            pools=[
                Pool(subnet="198.51.100.0/24", ip_range="198.51.100.64/26", gateway="198.51.100.2")
            ],
        )
    )
    a = await manager.prepare(request("a", "lan"))
    b = await manager.prepare(request("b", "lan"))
    inside_a, inside_b = world.plug(a), world.plug(b)
    world.serve(inside_b, 80)
    with inside_a.entered():
        assert ask(b.endpoints[0].ip, 80) == a.endpoints[0].ip
        assert "default via 198.51.100.2" in run("ip", "route")
    if options.get("parent") == "eth0":
        with world.lan.entered():
            assert ask(b.endpoints[0].ip, 80) == "198.51.100.2"
    for one in (a, b):
        await manager.release(one.endpoints[0].container_id)
    await manager.remove(network.id)
    if not options:
        assert "dm-" not in run("ip", "-o", "link")
    await manager.close(remove_all=True)


async def test_a_missing_parent(world: World) -> None:
    manager = world.manager()
    await manager.start(set())
    with pytest.raises(Exception, match="parent interface nosuch0 does not exist"):
        await manager.create(
            NetworkConfig(name="x", driver="macvlan", options={"parent": "nosuch0"})
        )
    with pytest.raises(InvalidParameter, match="macvlan_mode"):
        await manager.create(
            NetworkConfig(name="x", driver="macvlan", options={"macvlan_mode": "odd"})
        )
    assert len(manager.list()) == 3
    await manager.close(remove_all=True)


async def test_ipv6_only_network(world: World) -> None:
    manager = world.manager()
    await manager.start(set())
    await manager.create(NetworkConfig(name="six", enable_ipv4=False, enable_ipv6=True))
    a = await manager.prepare(request("a", "six"))
    b = await manager.prepare(
        request("b", "six", ports=[PortBinding(container_port=80, host_port=8080)])
    )
    assert a.endpoints[0].ip == "" and a.endpoints[0].ip6
    inside_a, inside_b = world.plug(a), world.plug(b)
    world.serve(inside_b, 80, "::")
    with inside_a.entered():
        assert ask(b.endpoints[0].ip6, 80) == a.endpoints[0].ip6
    with world.lan.entered():
        assert ask("2001:db8:1::1", 8080) == "2001:db8:1::2"
        run("ip", "-6", "route", "add", "fd00::/8", "via", "2001:db8:1::1")
        assert unreachable(b.endpoints[0].ip6, 80)
    for fd in b.hold_fds:
        os.close(fd)
    await manager.close(remove_all=True)


async def test_two_hundred_containers_and_a_thousand_ports(world: World) -> None:
    """Starting costs the same on a full network as on an empty one; nothing is left."""
    manager = world.manager()
    await manager.start(set())
    await manager.create(NetworkConfig(name="many"))
    taken: list[float] = []
    addresses = set()
    for number in range(200):
        ports = [
            PortBinding(container_port=port, host_port=20000 + number * 5 + port)
            for port in range(1, 6)
        ]
        begun = time.process_time()
        sandbox = await manager.prepare(request(f"c{number}", "many", ports=ports))
        taken.append(time.process_time() - begun)
        addresses.add(sandbox.endpoints[0].ip)
        for fd in sandbox.hold_fds:
            os.close(fd)
    assert len(addresses) == 200
    first, last = sorted(taken[:50])[25], sorted(taken[-50:])[25]
    assert last < 3 * first + 0.001
    begun = time.process_time()
    for number in range(200):
        await manager.release(request(f"c{number}", "many").container_id)
    await manager.remove("many")
    assert time.process_time() - begun < 2
    assert "dport" not in run("nft", "list", "map", "inet", _table(manager), "any4").replace(
        "inet_service", ""
    )
    await manager.close(remove_all=True)


def _table(manager: NetworkManager) -> str:
    del manager
    line = next(line for line in run("nft", "list", "tables").splitlines() if "sampan" in line)
    return line.split()[-1]


class Dying(Exception):
    """Stands for kill -9."""


@pytest.mark.parametrize("survived", range(4))
async def test_death_at_any_step_of_a_start_leaves_nothing(
    world: World, survived: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process ends at the n-th record or transaction: a new daemon cleans up."""
    manager = world.manager()
    await manager.start(set())
    before = run("nft", "list", "ruleset")
    steps = 0

    def step() -> None:
        nonlocal steps
        if steps == survived:
            raise Dying
        steps += 1

    put, transaction = world.members.put, Socket.transaction

    def dying_put(obj: object) -> None:
        step()
        put(obj)

    def dying_transaction(self: Socket, *arguments: object) -> None:
        step()
        transaction(self, *arguments)  # type: ignore[arg-type]
        step()

    world.members.put = dying_put  # type: ignore[method-assign]
    monkeypatch.setattr(Socket, "transaction", dying_transaction)
    ports = [PortBinding(container_port=80, host_port=8080)]
    try:
        sandbox = await manager.prepare(request("a", "bridge", ports=ports))
        for fd in sandbox.hold_fds:
            os.close(fd)
    except Dying:
        pass
    monkeypatch.undo()
    world.members.put = put  # type: ignore[method-assign]
    # No clean-up of the old one: it is dead.
    again = world.manager()
    await again.start(set())
    assert run("nft", "list", "ruleset") == before
    assert world.members.rows == {}
    assert again.check() == []
    assert not list((world.tmp_path / "run/networks/containers").iterdir())
    sandbox = await again.prepare(request("b", "bridge", ports=ports))
    assert sandbox.endpoints[0].ip.endswith(".2")
    for fd in sandbox.hold_fds:
        os.close(fd)
    await manager.close()
    await again.close(remove_all=True)


async def test_network_settings(world: World) -> None:
    manager = world.manager(
        bip="10.9.0.1/24",
        bridge_name="mine0",
        table_name="mine",
        mtu=1280,
        address_pools=[("10.10.0.0/16", 24)],
    )
    await manager.start(set())
    pool = manager.get("bridge").pools[0]
    assert (pool.subnet, pool.gateway) == ("10.9.0.0/24", "10.9.0.1")
    assert "10.9.0.1/24" in run("ip", "addr", "show", "mine0")
    assert (await manager.create(NetworkConfig(name="n"))).pools[0].subnet == "10.10.0.0/24"
    sandbox = await manager.prepare(request("a", "n"))
    assert sandbox.interfaces[0].mtu == 1280
    with pytest.raises(Conflict):
        await manager.prepare(
            SandboxRequest(
                container_id="b" * 64,
                container_name="b",
                hostname="b",
                endpoints=[EndpointConfig(network="n"), EndpointConfig(network="host")],
            )
        )
    await manager.close(remove_all=True)
    assert "mine" not in run("nft", "list", "tables")
    # Other settings at the next start.
    again = world.manager(bridge_name="other0", bip="10.8.0.1/24")
    await again.start(set())
    assert "mine0" not in run("ip", "-o", "link")
    assert again.get("bridge").pools[0].subnet == "10.8.0.0/24"
    await again.close(remove_all=True)


async def test_files_of_the_host_mode(world: World, tmp_path: Path) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text("127.0.0.1 localhost\n10.0.0.9 printer")
    manager = world.manager(hosts_file=str(hosts))
    await manager.start(set())
    sandbox = await manager.prepare(
        SandboxRequest(
            container_id="a" * 64,
            container_name="a",
            hostname="a",
            mode="host",
            extra_hosts=["db:10.0.0.1"],
        )
    )
    assert sandbox.hosts == b"127.0.0.1 localhost\n10.0.0.9 printer\n10.0.0.1\tdb\n"
    assert sandbox.endpoints[0].network_name == "host"
    assert not sandbox.interfaces and not sandbox.services
    none = await manager.prepare(
        SandboxRequest(container_id="b" * 64, container_name="b", hostname="b")
    )
    assert none.endpoints[0].network_name == "none"
    await manager.close(remove_all=True)


async def test_a_bridge_that_was_there_before_stays(world: World) -> None:
    run("ip", "link", "add", "old0", "type", "bridge")
    run("ip", "addr", "add", "10.20.0.9/24", "dev", "old0")
    manager = world.manager()
    await manager.start(set())
    await manager.create(
        NetworkConfig(
            name="old",
            options={"com.docker.network.bridge.name": "old0"},
            pools=[Pool(subnet="10.20.0.0/24", gateway="10.20.0.1")],
        )
    )
    assert "10.20.0.1/24" in run("ip", "addr", "show", "old0")
    with pytest.raises(Conflict, match="belongs to another network"):
        await manager.create(
            NetworkConfig(name="two", options={"com.docker.network.bridge.name": "old0"})
        )
    await manager.remove("old")
    shown = run("ip", "addr", "show", "old0")
    assert "10.20.0.9/24" in shown and "10.20.0.1/24" not in shown
    run("ip", "link", "add", "old1", "type", "veth", "peer", "name", "old2")
    with pytest.raises(SampanError, match="a veth interface has this name"):
        await manager.create(
            NetworkConfig(name="x", options={"com.docker.network.bridge.name": "old1"})
        )
    assert "old1" in run("ip", "-o", "link"), "and is not deleted"
    await manager.close(remove_all=True)


async def test_part_of_the_default_subnet(world: World) -> None:
    """``--fixed-cidr`` with and without ``--bip``, and taken back."""
    for settings, subnet, gateway, first in (
        ({"fixed_cidr": "10.9.8.64/26"}, "10.9.8.64/26", "10.9.8.65", "10.9.8.66"),
        (
            {"bip": "10.9.7.1/24", "fixed_cidr": "10.9.7.128/25"},
            "10.9.7.0/24",
            "10.9.7.1",
            "10.9.7.128",
        ),
        ({"bip": "10.9.7.1/24"}, "10.9.7.0/24", "10.9.7.1", "10.9.7.2"),
    ):
        manager = world.manager(**settings)
        await manager.start(set())
        (pool,) = manager.get("bridge").pools
        assert (pool.subnet, pool.gateway) == (subnet, gateway)
        container = request("a", "bridge")
        sandbox = await manager.prepare(container)
        assert sandbox.endpoints[0].ip == first
        await manager.release(container.container_id)
        assert manager.check() == []
        await manager.close(remove_all=True)
    with pytest.raises(InvalidParameter, match="is not in the subnet"):
        await world.manager(bip="10.9.7.1/24", fixed_cidr="10.9.6.0/25").start(set())
