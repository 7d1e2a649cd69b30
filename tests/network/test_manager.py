"""The manager against the kernel: connectivity, isolation, ports, restarts, cleaning up."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket

import pytest

from sampan.errors import Conflict, Forbidden, InvalidParameter, NotFound
from sampan.network.manager import NetworkManager
from sampan.network.types import (
    EndpointConfig,
    NetworkConfig,
    Pool,
    PortBinding,
    Sandbox,
    SandboxRequest,
)

from .conftest import World, ask, backends, needs_root, run, unreachable

pytestmark = needs_root


def request(name: str, *networks: str, **fields: object) -> SandboxRequest:
    return SandboxRequest(
        container_id=(name.encode().hex() * 64)[:64],
        container_name=name,
        hostname=name,
        endpoints=[EndpointConfig(network=network) for network in networks or ("bridge",)],
        **fields,  # type: ignore[arg-type]
    )


def close_fds(sandbox: Sandbox) -> None:
    for fd in sandbox.hold_fds:
        os.close(fd)


@backends
async def test_two_containers_reach_each_other_and_the_lan(world: World, backend: str) -> None:
    manager = world.manager(firewall=backend)
    await manager.start(set())
    a = await manager.prepare(request("a"))
    b = await manager.prepare(request("b"))
    inside_a, inside_b = world.plug(a), world.plug(b)
    world.serve(inside_b, 80)
    world.serve(world.lan, 80)
    with inside_a.entered():
        assert ask(b.endpoints[0].ip, 80) == a.endpoints[0].ip
        # The LAN sees the host's address.
        assert ask("198.51.100.2", 80) == "198.51.100.1"
    await manager.close(remove_all=True)
    assert "sampan" not in run("nft", "list", "ruleset").lower()
    for table in ("filter", "nat", "raw"):
        assert "SAMPAN" not in run("iptables", "-t", table, "-S").upper()
    assert "sampan" not in run("ip", "-o", "link")


@backends
async def test_published_port_everywhere_but_nothing_else(world: World, backend: str) -> None:
    manager = world.manager(firewall=backend)
    await manager.start(set())
    web = await manager.prepare(
        request(
            "web",
            ports=[
                PortBinding(container_port=80, host_port=8080),
                PortBinding(container_port=81, host_port=8081, host_ip="127.0.0.1"),
                PortBinding(container_port=82),
            ],
        )
    )
    inside = world.plug(web)
    for port in (80, 81, 82, 83):
        world.serve(inside, port)
    address = web.endpoints[0].ip
    ephemeral = web.ports[-1].host_port
    assert [(p.host_ip, p.host_port) for p in web.ports[:3]] == [
        ("0.0.0.0", 8080),
        ("::", 8080),
        ("127.0.0.1", 8081),
    ]
    assert ask("127.0.0.1", 8080) == web.endpoints[0].gateway
    assert ask("198.51.100.1", 8080)
    assert ask("127.0.0.1", 8081)
    assert ask("127.0.0.1", ephemeral)
    with inside.entered():
        assert ask("198.51.100.1", 8080), "hairpin"
    with world.lan.entered():
        assert ask("198.51.100.1", 8080) == "198.51.100.2", "the source address is kept"
        assert ask("198.51.100.1", ephemeral)
        assert unreachable("198.51.100.1", 8081), "published on the loopback only"
        run("ip", "route", "add", "172.16.0.0/12", "via", "198.51.100.1")
        assert unreachable(address, 80), "routed straight to the bridge"
        assert unreachable(address, 83)
        # Packets to the host's loopback, straight on the wire.
        run("ip", "addr", "del", "127.0.0.1/8", "dev", "lo")
        run("ip", "route", "add", "127.0.0.0/8", "via", "198.51.100.1", "src", "198.51.100.2")
        run("sysctl", "-qw", "net.ipv4.conf.all.route_localnet=1")
        assert unreachable("127.0.0.1", 8081)
    close_fds(web)
    await manager.release(request("web").container_id)
    assert unreachable("127.0.0.1", 8080)
    await manager.close(remove_all=True)


@backends
async def test_the_host_loopback_is_not_reachable_from_a_container(
    world: World, backend: str
) -> None:
    manager = world.manager(firewall=backend)
    await manager.start(set())
    a = await manager.prepare(request("a"))
    inside = world.plug(a)
    with inside.entered():
        run("ip", "addr", "del", "127.0.0.1/8", "dev", "lo")
        run("sysctl", "-qw", "net.ipv4.conf.all.route_localnet=1")
        gateway = a.endpoints[0].gateway
        run("ip", "route", "add", "127.0.0.0/8", "via", gateway, "src", a.endpoints[0].ip)
    world.serve_here(9999, "127.0.0.1")
    assert ask("127.0.0.1", 9999)
    with inside.entered():
        assert unreachable("127.0.0.1", 9999)
    await manager.close(remove_all=True)


@backends
async def test_bridges_are_isolated_from_each_other(world: World, backend: str) -> None:
    manager = world.manager(firewall=backend)
    await manager.start(set())
    await manager.create(NetworkConfig(name="front"))
    await manager.create(NetworkConfig(name="back"))
    a = world.plug(await manager.prepare(request("a", "front")))
    sandbox_b = await manager.prepare(
        request("b", "back", ports=[PortBinding(container_port=80, host_port=8080)])
    )
    b = world.plug(sandbox_b)
    world.serve(b, 80)
    world.serve(b, 81)
    with a.entered():
        assert unreachable(sandbox_b.endpoints[0].ip, 80)
        assert unreachable(sandbox_b.endpoints[0].ip, 81)
        assert ask("198.51.100.1", 8080), "a published port is for all"
    close_fds(sandbox_b)
    await manager.close(remove_all=True)


@backends
async def test_internal_network(world: World, backend: str) -> None:
    manager = world.manager(firewall=backend)
    await manager.start(set())
    await manager.create(NetworkConfig(name="inner", internal=True))
    sandbox_a = await manager.prepare(request("a", "inner"))
    sandbox_b = await manager.prepare(request("b", "inner"))
    a, b = world.plug(sandbox_a), world.plug(sandbox_b)
    world.serve(b, 80)
    world.serve(world.lan, 80)
    assert sandbox_a.endpoints[0].gateway == ""
    with a.entered():
        assert ask(sandbox_b.endpoints[0].ip, 80)
        assert unreachable("198.51.100.2", 80)
        bridge = manager.get("inner").pools[0].gateway
        run("ip", "route", "add", "default", "via", bridge)
        assert unreachable("198.51.100.2", 80)
    await manager.close(remove_all=True)


@backends
async def test_without_icc_containers_do_not_reach_each_other(world: World, backend: str) -> None:
    manager = world.manager(firewall=backend)
    await manager.start(set())
    await manager.create(
        NetworkConfig(name="apart", options={"com.docker.network.bridge.enable_icc": "false"})
    )
    sandbox_b = await manager.prepare(request("b", "apart"))
    a, b = world.plug(await manager.prepare(request("a", "apart"))), world.plug(sandbox_b)
    world.serve(b, 80)
    world.serve(world.lan, 80)
    with a.entered():
        assert unreachable(sandbox_b.endpoints[0].ip, 80)
        assert ask("198.51.100.2", 80)
    await manager.close(remove_all=True)


async def test_a_taken_port_is_refused_and_nothing_is_left(world: World) -> None:
    manager = world.manager()
    await manager.start(set())
    first = await manager.prepare(
        request("a", ports=[PortBinding(container_port=80, host_port=8080)])
    )
    with pytest.raises(
        Conflict, match=r"Bind for 0\.0\.0\.0:8080 failed: port is already allocated"
    ):
        await manager.prepare(request("b", ports=[PortBinding(container_port=80, host_port=8080)]))
    assert [e.container_name for e in manager.endpoints(manager.get("bridge").id)] == ["a"]
    third = await manager.prepare(request("c"))
    assert third.endpoints[0].ip.endswith(".3"), "the address was given back"
    close_fds(first)
    await manager.close(remove_all=True)


async def test_restart_keeps_what_runs_and_removes_the_rest(world: World) -> None:
    manager = world.manager()
    await manager.start(set())
    kept = await manager.prepare(
        request("kept", ports=[PortBinding(container_port=80, host_port=8080)])
    )
    gone = await manager.prepare(
        request("gone", ports=[PortBinding(container_port=80, host_port=8081)])
    )
    inside = world.plug(kept)
    world.plug(gone)
    world.serve(inside, 80)
    subnet = manager.get("bridge").pools[0].subnet
    await manager.close()

    again = world.manager()
    await again.start({request("kept").container_id})
    assert again.get("bridge").pools[0].subnet == subnet
    assert ask("127.0.0.1", 8080)
    assert [e.container_name for e in again.endpoints(again.get("bridge").id)] == ["kept"]
    assert again.check() == []
    rules = run("nft", "list", "ruleset")
    assert "8080" in rules and "8081" not in rules
    assert run("ip", "-o", "link").count("veth") == 1, "the veth of the one that is gone"
    assert (await again.prepare(request("new"))).endpoints[0].ip.endswith(".3")
    for sandbox in (kept, gone):
        close_fds(sandbox)
    await again.close(remove_all=True)


async def test_flushed_rules_and_a_deleted_bridge_come_back(world: World) -> None:
    manager = world.manager()
    await manager.start(set())
    web = await manager.prepare(
        request("web", ports=[PortBinding(container_port=80, host_port=8080)])
    )
    inside = world.plug(web)
    world.serve(inside, 80)
    assert ask("127.0.0.1", 8080)
    assert manager.check() == []
    run("nft", "flush", "ruleset")
    assert manager.check() != []
    run("ip", "link", "del", manager.get("bridge").bridge)
    for _ in range(300):
        await asyncio.sleep(0.01)
        attached = f"master {manager.get('bridge').bridge}" in run("ip", "-o", "link")
        if attached and "8080" in run("nft", "list", "ruleset"):
            break
    assert manager.check() == []
    assert ask("127.0.0.1", 8080)
    close_fds(web)
    await manager.close(remove_all=True)


@backends
async def test_connect_and_disconnect_a_running_container(world: World, backend: str) -> None:
    manager = world.manager(firewall=backend)
    await manager.start(set())
    await manager.create(NetworkConfig(name="back"))
    web = request("web", ports=[PortBinding(container_port=80, host_port=8080)])
    sandbox = await manager.prepare(web)
    db = await manager.prepare(request("db", "back"))
    inside, db_inside = world.plug(sandbox), world.plug(db)
    world.serve(db_inside, 5432)
    world.serve(inside, 80)
    after = await manager.connect(web, EndpointConfig(network="back"), inside.path)
    assert [i.name for i in after.interfaces] == ["eth1", "eth0"]
    with inside.entered():
        assert ask(db.endpoints[0].ip, 5432)
    assert ask("127.0.0.1", 8080)
    with pytest.raises(Forbidden, match="already exists in network back"):
        await manager.connect(web, EndpointConfig(network="back"), inside.path)
    await manager.disconnect(web.container_id, "back", inside.path)
    with inside.entered():
        assert unreachable(db.endpoints[0].ip, 5432)
    assert ask("127.0.0.1", 8080)
    await manager.disconnect(web.container_id, "bridge", inside.path)
    assert unreachable("127.0.0.1", 8080)
    with pytest.raises(NotFound):
        await manager.disconnect(web.container_id, "bridge", inside.path)
    close_fds(sandbox)
    await manager.close(remove_all=True)


async def test_user_network_with_everything(world: World) -> None:
    manager = world.manager()
    await manager.start(set())
    network = await manager.create(
        NetworkConfig(
            name="full",
            enable_ipv6=True,
            pools=[
                Pool(
                    subnet="10.77.0.0/16",
                    ip_range="10.77.5.0/24",
                    gateway="10.77.0.254",
                    aux_addresses={"printer": "10.77.5.0"},
                ),
                Pool(subnet="fd77::/64"),
            ],
            options={
                "com.docker.network.bridge.name": "full0",
                "com.docker.network.driver.mtu": "1400",
            },
        )
    )
    sandbox = await manager.prepare(
        SandboxRequest(
            container_id="a" * 64,
            container_name="a",
            hostname="a",
            endpoints=[EndpointConfig(network="full", mac="02:00:00:00:00:99")],
        )
    )
    endpoint = sandbox.endpoints[0]
    assert (endpoint.ip, endpoint.gateway) == ("10.77.5.1", "10.77.0.254")
    assert (endpoint.ip6, endpoint.gateway6) == ("fd77::2", "fd77::1")
    inside = world.plug(sandbox)
    with inside.entered():
        shown = run("ip", "addr", "show", "eth0")
        assert "02:00:00:00:00:99" in shown and "mtu 1400" in shown
        assert "default via fd77::1" in run("ip", "-6", "route")
    world.serve(world.lan, 80, "::")
    with inside.entered():
        assert ask("2001:db8:1::2", 80) == "2001:db8:1::1", "masqueraded"
    static = await manager.prepare(
        SandboxRequest(
            container_id="b" * 64,
            container_name="b",
            hostname="b",
            endpoints=[EndpointConfig(network="full", ip="10.77.9.9", ip6="fd77::99")],
        )
    )
    assert (static.endpoints[0].ip, static.endpoints[0].ip6) == ("10.77.9.9", "fd77::99")
    with pytest.raises(Forbidden, match="Address already in use"):
        await manager.prepare(
            SandboxRequest(
                container_id="c" * 64,
                container_name="c",
                hostname="c",
                endpoints=[EndpointConfig(network="full", ip="10.77.9.9")],
            )
        )
    with pytest.raises(Forbidden, match="has active endpoints"):
        await manager.remove(network.id)
    for one in ("a", "b"):
        await manager.release(one * 64)
    await manager.remove("full")
    assert "full0" not in run("ip", "-o", "link")
    await manager.close(remove_all=True)


async def test_refusals(world: World) -> None:
    manager = world.manager()
    await manager.start(set())
    await manager.create(NetworkConfig(name="one", pools=[Pool(subnet="10.1.0.0/16")]))
    for config, error, text in (
        (NetworkConfig(name="one"), Conflict, "network with name one already exists"),
        (
            NetworkConfig(name="two", pools=[Pool(subnet="10.1.2.0/24")]),
            Forbidden,
            "Pool overlaps",
        ),
        (NetworkConfig(name="two", driver="nosuch"), NotFound, '"nosuch" not found'),
        (NetworkConfig(name="bridge"), Forbidden, "predefined bridge network"),
        (NetworkConfig(name="two", options={"colour": "red"}), InvalidParameter, "'colour'"),
        (NetworkConfig(name="two", pools=[Pool(subnet="10.2.0.0/33")]), InvalidParameter, "10.2"),
    ):
        with pytest.raises(error, match=text):
            await manager.create(config)
    for name in ("bridge", "host", "none"):
        with pytest.raises(Forbidden, match="is a pre-defined network and cannot be removed"):
            await manager.remove(name)
    with pytest.raises(InvalidParameter, match="invalid MAC address"):
        await manager.prepare(
            SandboxRequest(
                container_id="a" * 64,
                container_name="a",
                hostname="a",
                endpoints=[EndpointConfig(network="one", mac="nonsense")],
            )
        )
    assert len(manager.list()) == 4
    await manager.close(remove_all=True)


async def test_two_daemons_on_one_host(world: World) -> None:
    first = world.manager()
    await first.start(set())
    other = World.__new__(World)
    other.__dict__ = {**world.__dict__}
    from .conftest import Memory

    other.networks, other.members = Memory(), Memory()
    other.tmp_path = world.tmp_path / "other"
    second: NetworkManager = other.manager()
    await second.start(set())
    assert first.get("bridge").bridge != second.get("bridge").bridge
    assert first.get("bridge").pools[0].subnet != second.get("bridge").pools[0].subnet
    sandbox = await second.prepare(request("b"))
    b = world.plug(sandbox)
    a = world.plug(await first.prepare(request("a")))
    world.serve(b, 80)
    with a.entered():
        assert unreachable(sandbox.endpoints[0].ip, 80)
    await second.close(remove_all=True)
    assert "sampan" in run("nft", "list", "ruleset")
    await first.close(remove_all=True)


@pytest.mark.parametrize("chain", ["DOCKER-USER", "FORWARD"])
async def test_beside_a_firewall_that_drops_forwarded_packets(world: World, chain: str) -> None:
    """As Docker sets it up, and as ufw does; at the start or later."""
    if chain == "DOCKER-USER":
        run("iptables", "-N", "DOCKER-USER")
        run("iptables", "-A", "DOCKER-USER", "-j", "RETURN")
        run("iptables", "-I", "FORWARD", "-j", "DOCKER-USER")
        run("iptables", "-P", "FORWARD", "DROP")
    before = run("iptables", "-S")
    manager = world.manager()
    await manager.start(set())
    if chain == "FORWARD":
        run("iptables", "-P", "FORWARD", "DROP")
        await asyncio.sleep(1)
        before = run("iptables", "-S", "INPUT")
    web = await manager.prepare(
        request("web", ports=[PortBinding(container_port=80, host_port=8080)])
    )
    inside = world.plug(web)
    world.serve(inside, 80)
    world.serve(world.lan, 80)
    with inside.entered():
        assert ask("198.51.100.2", 80)
    with world.lan.entered():
        assert ask("198.51.100.1", 8080)
        run("ip", "route", "add", "172.16.0.0/12", "via", "198.51.100.1")
        assert unreachable(web.endpoints[0].ip, 80)
    await manager.create(NetworkConfig(name="more"))
    more = world.plug(await manager.prepare(request("c", "more")))
    with more.entered():
        assert ask("198.51.100.2", 80)
    assert f"-A {chain} -j SAMPAN" in run("iptables", "-S")
    close_fds(web)
    await manager.close(remove_all=True)
    if chain == "DOCKER-USER":
        assert run("iptables", "-S") == before, "as we found it"
    else:
        assert "SAMPAN" not in run("iptables", "-S")


async def test_a_udp_flow_that_was_there_before_finds_the_new_container(world: World) -> None:
    manager = world.manager()
    await manager.start(set())
    with world.lan.entered():
        client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        client.connect(("198.51.100.1", 5353))
        client.settimeout(2)
        client.send(b"nobody is there")
    for name in ("a", "b"):
        ports = [PortBinding(container_port=53, host_port=5353, protocol="udp")]
        sandbox = await manager.prepare(request(name, ports=ports))
        inside = world.plug(sandbox)
        with inside.entered():
            served = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            served.bind(("0.0.0.0", 53))
            served.settimeout(2)
        for _ in range(3):
            # The error of an earlier datagram is reported by a later call.
            with contextlib.suppress(ConnectionRefusedError):
                client.send(name.encode())
        assert served.recv(100) == name.encode()
        close_fds(sandbox)
        await manager.release(request(name).container_id)
        served.close()
        inside.close()
    client.close()
    await manager.close(remove_all=True)


@backends
async def test_check_finds_what_is_wrong(world: World, backend: str) -> None:
    manager = world.manager(firewall=backend)
    await manager.start(set())
    ports = [PortBinding(container_port=80, host_port=8080)]
    web = await manager.prepare(request("web", ports=ports))
    inside = world.plug(web)
    assert manager.check() == []
    bridge = manager.get("bridge").bridge
    run("ip", "link", "add", "veth1234567", "type", "veth", "peer", "name", "other0")
    run("ip", "link", "set", "veth1234567", "master", bridge)
    if backend == "nftables":
        table = next(iter(run("nft", "list", "tables").split()[2:]))
        run("nft", "delete", "element", "inet", table, "any4", "{ tcp . 8080 }")
        rule = "the nftables set any4 lacks 1 elements"
    else:
        chain = next(w for w in run("iptables", "-t", "nat", "-S").split() if "-PORTS" in w)
        run("iptables", "-t", "nat", "-F", chain)
        rule = "there are 0 port rules of IPv4 instead of 1"
    assert manager.check() == ["the interface veth1234567 belongs to no container", rule]
    close_fds(web)
    inside.close()
    await manager.close(remove_all=True)
