"""The options of bridge networks by Docker's names, each by what it does to packets."""

from __future__ import annotations

import json
import subprocess

import msgspec
import pytest

from sampan.errors import Forbidden, InvalidParameter, NotFound
from sampan.network.types import EndpointConfig, Link, NetworkConfig, Pool, PortBinding

from .conftest import World, ask, backends, needs_root, run, unreachable
from .test_manager import close_fds, request

pytestmark = needs_root
BRIDGE = "com.docker.network.bridge."
SUBNET4, SUBNET6 = "10.9.0.0/24", "fd00:9::/64"


def config(internal: bool = False, **options: str) -> NetworkConfig:
    return NetworkConfig(
        name="n",
        enable_ipv6=True,
        internal=internal,
        pools=[Pool(subnet=SUBNET4), Pool(subnet=SUBNET6)],
        options={
            (BRIDGE if not name.startswith("host_ipv4") else "com.docker.network.") + name: value
            for name, value in options.items()
        },
    )


def pings(address: str) -> bool:
    command = ["busybox", "ping", "-c", "1", "-W", "1", address]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def addresses(link: str) -> set[str]:
    shown = json.loads(run("ip", "-j", "addr", "show", link))[0]["addr_info"]
    return {f"{entry['local']}/{entry['prefixlen']}" for entry in shown}


def route_to_the_subnets() -> None:
    run("ip", "route", "add", SUBNET4, "via", "198.51.100.1")
    run("ip", "route", "add", SUBNET6, "via", "2001:db8:1::1")


@backends
async def test_routed(world: World, backend: str) -> None:
    """Published ports, and pings, reach the container at its own address; its own packets keep
    it; nothing of the host is translated."""
    manager = world.manager(firewall=backend)
    await manager.start(set())
    await manager.create(config(gateway_mode_ipv4="routed", gateway_mode_ipv6="routed"))
    ports = [PortBinding(container_port=80, host_port=8080), PortBinding(container_port=81)]
    sandbox = await manager.prepare(request("web", "n", ports=ports))
    assert [(p.host_ip, p.host_port, p.container_port) for p in sandbox.ports] == [
        ("0.0.0.0", 0, 80),
        ("::", 0, 80),
        ("0.0.0.0", 0, 81),
        ("::", 0, 81),
    ]
    assert sandbox.hold_fds == [] and sandbox.services[1:] == []
    inside = world.plug(sandbox)
    own = (sandbox.endpoints[0].ip, sandbox.endpoints[0].ip6)
    for address in ("0.0.0.0", "::"):
        for port in (80, 81, 82):
            world.serve(inside, port, address)
        world.serve(world.lan, 80, address)
    other = world.plug(await manager.prepare(request("other")))
    with world.lan.entered():
        route_to_the_subnets()
        for address in own:
            assert ask(address, 80) and ask(address, 81)
            assert unreachable(address, 82), "not published"
        assert pings(own[0])
        assert unreachable("198.51.100.1", 8080)
    with inside.entered():
        assert (ask("198.51.100.2", 80), ask("2001:db8:1::2", 80)) == own
    with other.entered():
        assert ask(own[0], 80) and unreachable(own[0], 82), "another bridge is outside too"
    assert unreachable("127.0.0.1", 8080)
    assert manager.check() == []
    await manager.release(request("web").container_id)
    with world.lan.entered():
        assert unreachable(own[0], 80)
    await manager.close(remove_all=True)
    assert "sampan" not in run("nft", "list", "ruleset").lower()


@backends
async def test_unprotected_in_one_family(world: World, backend: str) -> None:
    manager = world.manager(firewall=backend)
    await manager.start(set())
    await manager.create(config(gateway_mode_ipv4="nat-unprotected"))
    sandbox = await manager.prepare(request("web", "n"))
    inside = world.plug(sandbox)
    world.serve(inside, 82)
    world.serve(inside, 82, "::")
    with world.lan.entered():
        route_to_the_subnets()
        assert ask(sandbox.endpoints[0].ip, 82)
        assert unreachable(sandbox.endpoints[0].ip6, 82)
    await manager.close(remove_all=True)


@backends
async def test_trusted_interfaces(world: World, backend: str) -> None:
    manager = world.manager(firewall=backend)
    await manager.start(set())
    await manager.create(config(trusted_host_interfaces="nosuch0:eth0"))
    sandbox = await manager.prepare(request("web", "n"))
    world.serve(world.plug(sandbox), 82)
    with world.lan.entered():
        route_to_the_subnets()
        assert ask(sandbox.endpoints[0].ip, 82)
    await manager.close(remove_all=True)


async def test_isolated(world: World) -> None:
    """The host has no address on the bridge: nobody but the containers themselves is reached."""
    manager = world.manager()
    await manager.start(set())
    modes = {"gateway_mode_ipv4": "isolated", "gateway_mode_ipv6": "isolated"}
    with pytest.raises(InvalidParameter, match="only be used for an internal network"):
        await manager.create(config(**modes))
    network = await manager.create(config(internal=True, **modes))
    assert not {a for a in addresses(network.bridge) if not a.startswith("fe80")}
    a, b = [await manager.prepare(request(name, "n")) for name in ("a", "b")]
    inside_a, inside_b = world.plug(a), world.plug(b)
    world.serve(inside_b, 80)
    with inside_a.entered():
        assert ask(b.endpoints[0].ip, 80)
    assert unreachable(b.endpoints[0].ip, 80)
    assert [line for line in manager.check() if "bridge" in line] == []
    await manager.close(remove_all=True)


async def test_a_bridge_without_an_ipv4_address(world: World) -> None:
    manager = world.manager()
    await manager.start(set())
    network = await manager.create(config(inhibit_ipv4="true"))
    assert {a for a in addresses(network.bridge) if ":" not in a} == set()
    assert "fd00:9::1/64" in addresses(network.bridge)
    sandbox = await manager.prepare(request("a", "n"))
    assert sandbox.endpoints[0].gateway == "10.9.0.1", "another machine's, on the borrowed bridge"
    await manager.close(remove_all=True)


@backends
async def test_source_address(world: World, backend: str) -> None:
    manager = world.manager(firewall=backend)
    await manager.start(set())
    run("ip", "addr", "add", "198.51.100.77/24", "dev", "eth0")
    await manager.create(config(host_ipv4="198.51.100.77"))
    inside = world.plug(await manager.prepare(request("a", "n")))
    world.serve(world.lan, 80)
    with inside.entered():
        assert ask("198.51.100.2", 80) == "198.51.100.77"
    await manager.close(remove_all=True)


@backends
async def test_without_masquerading(world: World, backend: str) -> None:
    manager = world.manager(firewall=backend)
    await manager.start(set())
    await manager.create(config(enable_ip_masquerade="false"))
    sandbox = await manager.prepare(request("a", "n"))
    inside = world.plug(sandbox)
    world.serve(world.lan, 80)
    with world.lan.entered():
        route_to_the_subnets()
    with inside.entered():
        assert ask("198.51.100.2", 80) == sandbox.endpoints[0].ip
    await manager.close(remove_all=True)


async def test_host_binding_and_name(world: World) -> None:
    manager = world.manager()
    await manager.start(set())
    network = await manager.create(config(name="mybr0", host_binding_ipv4="127.0.0.1"))
    assert network.bridge == "mybr0" and "10.9.0.1/24" in addresses("mybr0")
    ports = [PortBinding(container_port=80, host_port=8080)]
    sandbox = await manager.prepare(request("web", "n", ports=ports))
    assert [(p.host_ip, p.host_port) for p in sandbox.ports] == [("127.0.0.1", 8080)]
    close_fds(sandbox)
    await manager.close(remove_all=True)


@backends
async def test_links_without_icc(world: World, backend: str) -> None:
    """A link lets the linking container reach the exposed ports, and those alone."""
    manager = world.manager(firewall=backend, icc=False)
    await manager.start(set())
    db = await manager.prepare(request("db"))
    link = Link(
        container_id=request("db").container_id, name="db", alias="database", ports=["80/tcp"]
    )
    app = await manager.prepare(request("app", links=[link]))
    third = await manager.prepare(request("third"))
    inside_db, inside_app, inside_third = (world.plug(s) for s in (db, app, third))
    for port in (80, 81):
        world.serve(inside_db, port)
    world.serve(inside_app, 80)
    address = db.endpoints[0].ip
    assert f"{address}\tdatabase" in app.hosts.decode()
    with inside_app.entered():
        assert ask(address, 80)
        assert unreachable(address, 81)
    with inside_third.entered():
        assert unreachable(address, 80)
    with inside_db.entered():
        assert unreachable(app.endpoints[0].ip, 80), "a link has a direction"
    await manager.release(request("app").container_id)
    with inside_app.entered():
        assert unreachable(address, 80)
    await manager.close(remove_all=True)


@pytest.mark.parametrize(
    "options",
    [
        {"gateway_mode_ipv4": "nosuch"},
        {"host_binding_ipv4x": "1"},
        {"enable_icc": "perhaps"},
        {"inhibit_ipv4": "perhaps"},
        {"trusted_host_interfaces": "a/b"},
        {"host_ipv4": "fd00::1"},
        {"host_ipv4": "nonsense"},
        {"name": "a-name-that-is-too-long"},
    ],
)
async def test_bad_options(world: World, options: dict[str, str]) -> None:
    manager = world.manager()
    await manager.start(set())
    with pytest.raises(InvalidParameter):
        await manager.create(config(**options))
    assert [n.name for n in manager.list() if n.name == "n"] == []
    await manager.close(remove_all=True)


async def test_configuration_networks(world: World) -> None:
    manager = world.manager()
    await manager.start(set())
    pool = Pool(subnet=SUBNET4)
    await manager.create(NetworkConfig(name="conf", config_only=True, pools=[pool]))
    network = await manager.create(NetworkConfig(name="n", config_from="conf"))
    assert network.pools[0].subnet == SUBNET4 and network.config_from == "conf"
    with pytest.raises(Forbidden, match="is in use"):
        await manager.remove("conf")
    with pytest.raises(Forbidden, match="configuration-only"):
        await manager.prepare(request("a", "conf"))
    for bad in (
        NetworkConfig(name="m", config_from="n"),
        NetworkConfig(name="m", config_from="conf", labels={"a": "b"}),
        NetworkConfig(name="m", config_only=True, config_from="conf"),
        NetworkConfig(name="m", config_only=True, internal=True),
    ):
        with pytest.raises(Forbidden):
            await manager.create(bad)
    with pytest.raises(NotFound):
        await manager.create(NetworkConfig(name="m", config_from="nosuch"))
    again = world.manager()
    await again.start(set())
    await again.remove("n")
    await again.remove("conf")
    assert again.check() == []
    await again.close(remove_all=True)
    await manager.close()


async def test_endpoint_sysctls_in_the_case_of_a_client(world: World) -> None:
    manager = world.manager()
    await manager.start(set())
    await manager.create(config())
    key = "com.docker.network.endpoint.sysctls"
    wish = EndpointConfig(network="n", driver_options={key: "net.ipv4.conf.ifname.log_martians=1"})
    sandbox = await manager.prepare(msgspec.structs.replace(request("a"), endpoints=[wish]))
    assert sandbox.interfaces[0].sysctls["ipv4/conf/IFNAME/log_martians"] == "1"
    await manager.close(remove_all=True)
