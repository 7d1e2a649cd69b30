"""Frames from container to container that do not pass the bridge."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import threading

import pytest

from sampan.linux import bpf
from sampan.network.manager import NetworkManager
from sampan.network.shortcut import assemble, counts_frames
from sampan.network.types import EndpointConfig, NetworkConfig, Sandbox, SandboxRequest

from .conftest import Namespace, World, ask, needs_root, run, unreachable
from .test_manager import request

# Broadcasts and multicasts of neighbour discovery, which go by the bridge as ever.
FEW = 8
MOST = 14


def _kernel_has_it() -> bool:
    if not counts_frames(os.uname().release):
        return False
    try:
        bpf.load_classifier(assemble(bpf.create_link_map(1)))
    except OSError:
        return False
    return True


pytestmark = [
    needs_root,
    pytest.mark.skipif(not _kernel_has_it(), reason="needs bpf_redirect_peer (Linux 6.7)"),
]


def counters(link: str) -> dict[str, dict[str, int]]:
    (found,) = json.loads(run("ip", "-j", "-s", "link", "show", "dev", link))
    return found["stats64"]  # type: ignore[no-any-return]


def host_end(sandbox: Sandbox) -> str:
    return sandbox.interfaces[-1].host_name


async def until_attached(*sandboxes: Sandbox, attached: bool = True) -> None:
    for _ in range(500):
        shown = [run("tc", "filter", "show", "dev", host_end(s), "ingress") for s in sandboxes]
        if all(("sampan-shortcut" in text) == attached for text in shown):
            return
        await asyncio.sleep(0.01)
    raise AssertionError(shown)


def bridged(client: Namespace, server: Sandbox, address: str = "") -> int:
    """How many frames of a few exchanges the bridge has brought to the server's link."""
    target = address or server.endpoints[-1].ip
    before = counters(host_end(server))["tx"]["packets"]
    with client.entered():
        for _ in range(5):
            assert ask(target, 80)
    return counters(host_end(server))["tx"]["packets"] - before


async def pair(
    world: World, manager: NetworkManager, network: str = "bridge"
) -> tuple[Sandbox, Sandbox, Namespace, Namespace]:
    a = await manager.prepare(request("a", network))
    b = await manager.prepare(request("b", network))
    inside_a, inside_b = world.plug(a), world.plug(b)
    world.serve(inside_b, 80)
    return a, b, inside_a, inside_b


async def test_frames_do_not_pass_the_bridge(world: World) -> None:
    """All but the neighbours' question, which is a broadcast, goes straight; the receiver counts
    it as ever, the sender is seen as it is, and large segments and datagrams pass."""
    manager = world.manager()
    await manager.start(set())
    await manager.create(NetworkConfig(name="dual", enable_ipv6=True))
    a, b, inside_a, inside_b = await pair(world, manager, "dual")
    assert bridged(inside_a, b) > MOST
    await until_attached(a, b)
    with inside_b.entered():
        received = counters("eth0")["rx"]["packets"]
    assert bridged(inside_a, b) < FEW
    with inside_b.entered():
        assert counters("eth0")["rx"]["packets"] - received > MOST
    with inside_a.entered():
        assert ask(b.endpoints[0].ip, 80) == a.endpoints[0].ip
    world.serve(inside_b, 81, "::")
    with inside_a.entered():
        assert ask(b.endpoints[0].ip6, 81) == a.endpoints[0].ip6
    assert _transferred(inside_a, inside_b, b.endpoints[0].ip) == 10_000_000
    assert _datagram(inside_a, inside_b, b.endpoints[0].ip) == bytes(4000)
    assert manager.check() == []
    await manager.close(remove_all=True)


def _transferred(client: Namespace, server: Namespace, address: str) -> int:
    with server.entered():
        listener = socket.create_server((address, 90))

    def send() -> None:
        with client.entered(), socket.create_connection((address, 90)) as connection:
            connection.sendall(bytes(10_000_000))

    sender = threading.Thread(target=send)
    sender.start()
    with listener, listener.accept()[0] as connection:
        total = 0
        while data := connection.recv(1 << 20):
            total += len(data)
    sender.join()
    return total


def _datagram(client: Namespace, server: Namespace, address: str) -> bytes:
    with server.entered():
        receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with client.entered():
        sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with receiver, sender:
        receiver.settimeout(5)
        receiver.bind((address, 91))
        sender.sendto(bytes(4000), (address, 91))
        return receiver.recv(8000)


async def test_only_where_containers_reach_each_other(world: World) -> None:
    manager = world.manager()
    await manager.start(set())
    apart = {"com.docker.network.bridge.enable_icc": "false"}
    await manager.create(NetworkConfig(name="apart", options=apart))
    await manager.create(NetworkConfig(name="slow", options={"sampan.bridge.shortcut": "false"}))
    await manager.create(NetworkConfig(name="last"))
    a, b, inside_a, _ = await pair(world, manager, "apart")
    c = await manager.prepare(request("c", "slow"))
    d = await manager.prepare(request("d", "slow"))
    inside_c, inside_d = world.plug(c), world.plug(d)
    world.serve(inside_d, 80)
    e = await manager.prepare(request("e", "last"))
    inside_e = world.plug(e)
    await until_attached(e)
    await until_attached(a, b, c, d, attached=False)
    with inside_a.entered():
        assert unreachable(b.endpoints[0].ip, 80)
    assert bridged(inside_c, d) > MOST
    with inside_e.entered():
        assert unreachable(b.endpoints[0].ip, 80)
        assert unreachable(d.endpoints[0].ip, 80)
    await manager.close(remove_all=True)


async def test_a_link_that_is_taken_off_its_bridge(world: World) -> None:
    """What an administrator cuts is cut."""
    manager = world.manager()
    await manager.start(set())
    a, b, inside_a, _ = await pair(world, manager)
    await until_attached(a, b)
    run("ip", "link", "set", host_end(b), "nomaster")
    await until_attached(b, attached=False)
    with inside_a.entered():
        assert unreachable(b.endpoints[0].ip, 80)
    run("ip", "link", "set", host_end(b), "master", manager.get("bridge").bridge)
    await until_attached(b)
    assert bridged(inside_a, b) < FEW
    run("ip", "link", "set", host_end(b), "down")
    await until_attached(b, attached=False)
    with inside_a.entered():
        assert unreachable(b.endpoints[0].ip, 80)
    await manager.close(remove_all=True)


async def test_a_container_that_begins_again_without_the_daemon(world: World) -> None:
    """The keeper makes the interface anew, under the same addresses: they are reached at once,
    with the daemon away and by the bridge, and straight again when it is back."""
    manager = world.manager()
    await manager.start(set())
    a, b, inside_a, _ = await pair(world, manager)
    await until_attached(a, b)
    assert bridged(inside_a, b) < FEW
    await manager.close()
    run("ip", "link", "del", host_end(b))
    again = world.plug(b)
    world.serve(again, 80)
    with inside_a.entered():
        run("ip", "neigh", "flush", "all")
    assert bridged(inside_a, b) > MOST
    successor = world.manager()
    await successor.start({request("a").container_id, request("b").container_id})
    await until_attached(b)
    assert bridged(inside_a, b) < FEW
    await successor.close()

    plain = world.manager(shortcuts=False)
    await plain.start({request("a").container_id, request("b").container_id})
    await until_attached(a, b, attached=False)
    assert bridged(inside_a, b) > MOST
    await plain.close(remove_all=True)


async def test_own_addresses_and_moves_between_networks(world: World) -> None:
    """A MAC address of the user's goes by the bridge; a container that joins later is reached."""
    manager = world.manager()
    await manager.start(set())
    await manager.create(NetworkConfig(name="back"))
    named = SandboxRequest(
        container_id="9" * 64,
        container_name="named",
        hostname="named",
        endpoints=[EndpointConfig(network="back", mac="0a:00:00:00:00:07")],
    )
    server = await manager.prepare(named)
    world.serve(world.plug(server), 80)
    client = request("client")
    inside = world.plug(await manager.prepare(client))
    joined = await manager.connect(client, EndpointConfig(network="back"), inside.path)
    back = next(i for i in joined.interfaces if i.name == "eth1")
    await until_attached(server)
    for _ in range(500):
        if "sampan-shortcut" in run("tc", "filter", "show", "dev", back.host_name, "ingress"):
            break
        await asyncio.sleep(0.01)
    assert bridged(inside, server) > MOST
    await manager.disconnect(client.container_id, "back", inside.path)
    with inside.entered():
        assert unreachable(server.endpoints[0].ip, 80)
    await manager.close(remove_all=True)


def test_kernels_that_count() -> None:
    counting = [
        r
        for r in ("5.10.0", "6.1.0-18", "6.6.99", "6.7-rc1", "6.18.44-x", "7.0", "?")
        if counts_frames(r)
    ]
    assert counting == ["6.7-rc1", "6.18.44-x", "7.0"]


def test_a_program_that_the_kernel_refuses() -> None:
    with pytest.raises(OSError, match="load the program for a link"):
        bpf.load_classifier(bpf.instruction(0x95))


async def test_one_link_that_fails_costs_no_other_its_shortcut(world: World) -> None:
    """What has worked before is not given up for a link that is about to go."""
    manager = world.manager()
    await manager.start(set())
    a, b, inside_a, _ = await pair(world, manager)
    await until_attached(a, b)
    c = await manager.prepare(request("c"))
    world.plug(c)
    for _ in range(500):
        if "clsact" in run("tc", "qdisc", "show", "dev", host_end(c)):
            break
        await asyncio.sleep(0.005)
    run("tc", "qdisc", "del", "dev", host_end(c), "clsact")
    d = await manager.prepare(request("d"))
    inside_d = world.plug(d)
    world.serve(inside_d, 80)
    await until_attached(d)
    await until_attached(c, attached=False)
    assert bridged(inside_a, d) < FEW
    await manager.close(remove_all=True)
