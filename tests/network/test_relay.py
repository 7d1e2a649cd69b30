"""The relay of published ports, in the host's namespace of a test."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import threading
from collections.abc import Iterator

from sampan.network import relay
from sampan.network.types import (
    EndpointConfig,
    NetworkConfig,
    PortBinding,
    Sandbox,
    SandboxRequest,
)

from .conftest import Namespace, World, ask, needs_root

pytestmark = needs_root


@contextlib.contextmanager
def relaying(sandbox: Sandbox) -> Iterator[None]:
    """What the keeper does with the service."""
    (service,) = (s for s in sandbox.services if s.name == "sampan.network.relay:start")
    loop = asyncio.get_running_loop()
    made = relay.start(
        {**service.config, "hold_fds": sandbox.hold_fds},
        None,
        lambda fd, call: loop.add_reader(fd, call),
    )
    try:
        yield
    finally:
        loop.remove_reader(made.fileno())
        made.close()
        for fd in sandbox.hold_fds:
            os.close(fd)


def published(network: str = "bridge") -> SandboxRequest:
    return SandboxRequest(
        container_id="a" * 64,
        container_name="a",
        hostname="a",
        endpoints=[EndpointConfig(network=network)],
        ports=[
            PortBinding(container_port=80, host_port=8080),
            PortBinding(container_port=53, host_port=5353, protocol="udp"),
        ],
    )


async def test_ipv6_of_the_host_to_an_ipv4_container(world: World) -> None:
    manager = world.manager()
    await manager.start(set())
    sandbox = await manager.prepare(published())
    inside = world.plug(sandbox)
    world.serve(inside, 80)
    _echo_datagrams(inside)
    with relaying(sandbox):
        for address in ("::1", "2001:db8:1::1"):
            assert await asyncio.to_thread(ask, address, 8080)
            assert await asyncio.to_thread(_datagram, address) == b"question"
        assert await asyncio.to_thread(_in, world.lan, ask, "2001:db8:1::1", 8080)
        assert await asyncio.to_thread(_datagram, "127.0.0.1") == b"question", "by the firewall"
    await manager.close(remove_all=True)


async def test_dual_stack(world: World) -> None:
    manager = world.manager()
    await manager.start(set())
    await manager.create(NetworkConfig(name="six", enable_ipv6=True))
    sandbox = await manager.prepare(published("six"))
    inside = world.plug(sandbox)
    world.serve(inside, 80)
    world.serve(inside, 80, "::")
    with relaying(sandbox):
        assert await asyncio.to_thread(ask, "::1", 8080)
        assert await asyncio.to_thread(ask, "127.0.0.1", 8080)
        seen = await asyncio.to_thread(_in, world.lan, ask, "2001:db8:1::1", 8080)
        assert seen == "2001:db8:1::2", "translated: the source address is kept"
        assert await asyncio.to_thread(_in, inside, ask, "2001:db8:1::1", 8080), "hairpin"
    await manager.close(remove_all=True)


async def test_ipv4_of_the_host_to_an_ipv6_container(world: World) -> None:
    manager = world.manager()
    await manager.start(set())
    await manager.create(NetworkConfig(name="six", enable_ipv4=False, enable_ipv6=True))
    sandbox = await manager.prepare(published("six"))
    inside = world.plug(sandbox)
    world.serve(inside, 80, "::")
    with relaying(sandbox):
        for address in ("127.0.0.1", "198.51.100.1", "::1", "2001:db8:1::1"):
            assert await asyncio.to_thread(ask, address, 8080)
        assert await asyncio.to_thread(_in, world.lan, ask, "198.51.100.1", 8080)
    await manager.close(remove_all=True)


async def test_bytes_both_ways_with_half_closes(world: World) -> None:
    manager = world.manager()
    await manager.start(set())
    sandbox = await manager.prepare(published())
    inside = world.plug(sandbox)
    with inside.entered():
        listener = socket.create_server(("0.0.0.0", 80))
    amount = 8_000_000

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            total = 0
            while data := connection.recv(65536):
                total += len(data)
            connection.sendall(total.to_bytes(8, "big") + bytes(amount))

    threading.Thread(target=serve, daemon=True).start()

    def talk() -> tuple[int, int]:
        with socket.create_connection(("::1", 8080), timeout=10) as client:
            client.sendall(bytes(amount))
            client.shutdown(socket.SHUT_WR)
            received = bytearray()
            while data := client.recv(65536):
                received += data
        return int.from_bytes(received[:8], "big"), len(received) - 8

    with relaying(sandbox):
        assert await asyncio.to_thread(talk) == (amount, amount)
        listener.close()
        refused = socket.create_connection(("::1", 8080), timeout=3)
        assert await asyncio.to_thread(refused.recv, 10) == b""
        refused.close()
    await manager.close(remove_all=True)


def _in(namespace: Namespace, call: object, *arguments: object) -> object:
    with namespace.entered():
        return call(*arguments)  # type: ignore[operator]


def _echo_datagrams(inside: Namespace) -> None:
    with inside.entered():
        served = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        served.bind(("0.0.0.0", 53))

    def echo() -> None:
        while True:
            data, peer = served.recvfrom(2048)
            served.sendto(data, peer)

    threading.Thread(target=echo, daemon=True).start()


def _datagram(address: str) -> bytes:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as client:
        client.settimeout(3)
        client.connect((address, 5353))
        client.send(b"question")
        return client.recv(2048)
