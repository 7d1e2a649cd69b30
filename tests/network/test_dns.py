"""The embedded resolver: in its container's namespace, against upstream servers on the LAN."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sampan.network import dns, dnswire
from sampan.network.types import EndpointConfig, NetworkConfig, Sandbox, SandboxRequest

from .conftest import Namespace, World, needs_root

pytestmark = needs_root


def question(name: str, kind: int = dnswire.TYPE_A, identity: int = 7) -> bytes:
    header = struct.pack(">HHHHHH", identity, 0x0100, 1, 0, 0, 0)
    return header + dnswire.encode_name(name) + struct.pack(">HH", kind, 1)


def parse_answer(data: bytes) -> tuple[int, list[bytes]]:
    """(code, record data) of a response whose names are pointers to the question."""
    flags, questions, count = struct.unpack_from(">HHH", data, 2)
    assert flags & 0x8000 and questions == 1
    offset = 12
    while data[offset]:
        offset += 1 + data[offset]
    offset += 5
    found = []
    for _ in range(count):
        (length,) = struct.unpack_from(">H", data, offset + 10)
        found.append(data[offset + 12 : offset + 12 + length])
        offset += 12 + length
    return flags & 0xF, found


class Upstream:
    """A server on port 53 of a namespace that answers everything with one address."""

    def __init__(self, where: Namespace, address: str, *, answer: str = "203.0.113.9") -> None:
        self.queries: list[str] = []
        self._answer = socket.inet_aton(answer)
        with where.entered():
            self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            self.udp.bind((address, 53))
            self.tcp = socket.create_server((address, 53))
        for serve in (self._serve_udp, self._serve_tcp):
            threading.Thread(target=serve, daemon=True).start()

    def _respond(self, data: bytes) -> bytes:
        query = dnswire.parse(data)
        self.queries.append(query.name)
        return dnswire.answer(query, 0, [(dnswire.TYPE_A, self._answer)], 512)

    def _serve_udp(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                data, peer = self.udp.recvfrom(4096)
                if not data:
                    return
                self.udp.sendto(self._respond(data), peer)

    def _serve_tcp(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self.tcp.accept()
                with connection:
                    data = connection.recv(4096)
                    answer = self._respond(data[2:])
                    connection.sendall(len(answer).to_bytes(2, "big") + answer)

    def close(self) -> None:
        for held in (self.udp, self.tcp):
            with contextlib.suppress(OSError):
                held.shutdown(socket.SHUT_RDWR)
            held.close()


def ask_udp(inside: Namespace, data: bytes, timeout: float = 3) -> bytes:
    with inside.entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(timeout)
        client.connect(("127.0.0.11", 53))
        client.send(data)
        return client.recv(65536)


def ask_tcp(inside: Namespace, data: bytes) -> bytes:
    with inside.entered(), socket.socket() as client:
        client.settimeout(3)
        client.connect(("127.0.0.11", 53))
        client.sendall(len(data).to_bytes(2, "big") + data)
        received = client.recv(65536)
        return received[2:]


@contextlib.contextmanager
def resolver(world: World, sandbox: Sandbox) -> Iterator[tuple[Namespace, dns.Resolver]]:
    """A container with its resolver, as the keeper starts it."""
    (service,) = sandbox.services
    loop = asyncio.get_running_loop()
    made: list[dns.Resolver] = []

    def services(inside: Namespace) -> None:
        made.append(
            dns.start(dict(service.config), inside.fd, lambda fd, call: loop.add_reader(fd, call))
        )

    inside = world.plug(sandbox, services)
    try:
        yield inside, made[0]
    finally:
        loop.remove_reader(made[0].fileno())
        made[0].close()


def on_back(name: str, **fields: object) -> SandboxRequest:
    return SandboxRequest(
        container_id=(name.encode().hex() * 64)[:64],
        container_name=name,
        hostname=name + "-host",
        endpoints=[EndpointConfig(network="back", **fields)],  # type: ignore[arg-type]
    )


@pytest.fixture
def resolv_conf(tmp_path: Path) -> Path:
    path = tmp_path / "resolv.conf"
    path.write_text("nameserver 198.51.100.2\nsearch example.test\noptions timeout:1\n")
    return path


async def test_names_of_containers(world: World, resolv_conf: Path) -> None:
    upstream = Upstream(world.lan, "198.51.100.2")
    manager = world.manager(resolv_conf=str(resolv_conf))
    await manager.start(set())
    await manager.create(NetworkConfig(name="back", enable_ipv6=True))
    a = await manager.prepare(on_back("a", links=["b:linked"]))
    b = await manager.prepare(on_back("b", aliases=["db", "pool"]))
    c = await manager.prepare(on_back("c", aliases=["pool"]))
    assert a.resolv_conf == (
        b"nameserver 127.0.0.11\nsearch example.test\noptions timeout:1 ndots:0\n"
    )
    address_b = socket.inet_aton(b.endpoints[0].ip)

    async def udp(name: str, kind: int = dnswire.TYPE_A) -> tuple[int, list[bytes]]:
        return parse_answer(await asyncio.to_thread(ask_udp, inside, question(name, kind)))

    with resolver(world, a) as (inside, _):
        short = on_back("b").container_id[:12]
        for name in ("b", "B", "db", "b-host", short, "b.back", "linked"):
            assert await udp(name) == (0, [address_b]), name
        assert await udp("b", dnswire.TYPE_AAAA) == (
            0,
            [socket.inet_pton(socket.AF_INET6, b.endpoints[0].ip6)],
        )
        assert await udp("b", 15) == (0, []), "no such record, and not forwarded"
        seen = [(await udp("pool"))[1] for _ in range(4)]
        assert {tuple(addresses) for addresses in map(sorted, seen)} == {
            tuple(sorted([address_b, socket.inet_aton(c.endpoints[0].ip)]))
        }
        assert len({addresses[0] for addresses in seen}) == 2, "round robin"
        reverse = ".".join(reversed(b.endpoints[0].ip.split("."))) + ".in-addr.arpa"
        assert await udp(reverse, dnswire.TYPE_PTR) == (0, [dnswire.encode_name("b.back")])
        free = ".".join(reversed([*b.endpoints[0].ip.split(".")[:3], "200"])) + ".in-addr.arpa"
        assert (await udp(free, dnswire.TYPE_PTR))[0] == dnswire.NAME_ERROR
        tcp = await asyncio.to_thread(ask_tcp, inside, question("b"))
        assert parse_answer(tcp) == (0, [address_b])
        assert upstream.queries == [], "nothing about our names has left"

        world_address = socket.inet_aton("203.0.113.9")
        assert await udp("www.example.test") == (0, [world_address])
        tcp = await asyncio.to_thread(ask_tcp, inside, question("www.example.test"))
        assert parse_answer(tcp) == (0, [world_address])

        # The daemon ends; names that it wrote last stay.
        manager.rename(on_back("b").container_id, "new")
        await manager.close()
        assert await udp("new") == (0, [address_b])
        assert (await udp("b"))[1] == [world_address], "not our name any more"

        with inside.entered():
            own = socket.create_server(("0.0.0.0", 53))
            own.close()
            datagram = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            datagram.bind(("0.0.0.0", 53))
            datagram.close()
    upstream.close()


async def test_dead_upstreams(world: World, tmp_path: Path) -> None:
    upstream = Upstream(world.lan, "198.51.100.2")
    path = tmp_path / "resolv.conf"
    path.write_text("nameserver 127.0.0.7\nnameserver 198.51.100.2\n")
    manager = world.manager(resolv_conf=str(path))
    await manager.start(set())
    await manager.create(NetworkConfig(name="back"))
    a = await manager.prepare(on_back("a"))
    with resolver(world, a) as (inside, _):
        answer = await asyncio.to_thread(ask_udp, inside, question("x.test"))
        assert parse_answer(answer)[0] == 0, "the first server refuses, the second answers"
        upstream.close()
        answer = await asyncio.to_thread(ask_udp, inside, question("y.test"))
        assert parse_answer(answer) == (dnswire.SERVER_FAILURE, [])
        path.write_text("")
        answer = await asyncio.to_thread(ask_udp, inside, question("z.test"))
        assert parse_answer(answer) == (dnswire.SERVER_FAILURE, [])
        for nonsense in (b"", b"x", bytes(12), bytes([1, 2, 1, 0, 0, 1]) + bytes(6) + b"\xff"):
            with contextlib.suppress(TimeoutError):
                await asyncio.to_thread(ask_udp, inside, nonsense, 0.2)
        answer = await asyncio.to_thread(ask_udp, inside, question("a"))
        assert parse_answer(answer)[0] == 0
    await manager.close(remove_all=True)


async def test_internal_networks_do_not_forward(world: World, resolv_conf: Path) -> None:
    upstream = Upstream(world.lan, "198.51.100.2")
    manager = world.manager(resolv_conf=str(resolv_conf))
    await manager.start(set())
    await manager.create(NetworkConfig(name="back", internal=True))
    a = await manager.prepare(on_back("a"))
    with resolver(world, a) as (inside, _):
        answer = await asyncio.to_thread(ask_udp, inside, question("www.test"))
        assert parse_answer(answer)[0] == dnswire.SERVER_FAILURE
    assert upstream.queries == []
    upstream.close()
    await manager.close(remove_all=True)


async def test_five_thousand_queries_a_second(world: World, resolv_conf: Path) -> None:
    """The work of one query must stay below 200 microseconds."""
    manager = world.manager(resolv_conf=str(resolv_conf))
    await manager.start(set())
    await manager.create(NetworkConfig(name="back"))
    a = await manager.prepare(on_back("a"))
    with resolver(world, a) as (inside, made):
        with inside.entered():
            client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            client.connect(("127.0.0.11", 53))
        spent = 0.0
        rounds = 50
        for _ in range(rounds):
            for identity in range(20):
                client.send(question("a", identity=identity))
            begun = time.process_time()
            made.turn()
            spent += time.process_time() - begun
            for _ in range(20):
                client.recv(512)
        client.close()
        assert spent / (rounds * 20) < 200e-6
    await manager.close(remove_all=True)
