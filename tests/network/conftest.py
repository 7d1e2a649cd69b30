"""Network namespaces for tests: the test's thread is in one of its own, which plays the host.

Nothing a test does is seen by the machine.  A "container" or a host on the LAN is a further
namespace, entered for as long as a ``with`` block; sockets made inside stay there.
"""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from sampan.linux import rtnetlink
from sampan.linux.namespaces import CLONE_NEWNET, setns, unshare
from sampan.network.manager import NetworkManager, NetworkSettings
from sampan.network.types import Sandbox
from sampan.runtime.interfaces import configure_inside, create_host_side

LEGACY = "iptables-legacy"
LEGACY_PROGRAM = Path("/usr/sbin/xtables-legacy-multi")


def _legacy_works() -> bool:
    command = ["unshare", "--net", str(LEGACY_PROGRAM), "iptables", "-t", "nat", "-S"]
    done = LEGACY_PROGRAM.exists() and subprocess.run(command, capture_output=True, check=False)
    return bool(done) and done.returncode == 0


backends = pytest.mark.parametrize(
    "backend",
    [
        "nftables",
        "iptables",
        pytest.param(
            LEGACY,
            marks=pytest.mark.skipif(not _legacy_works(), reason="the kernel has no ip_tables"),
        ),
    ],
)
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


class Namespace:
    """A network namespace held by a descriptor."""

    def __init__(self) -> None:
        home = current()
        unshare(CLONE_NEWNET)
        self.fd = current()
        self.path = Path(f"/proc/self/fd/{self.fd}")
        setns(home, CLONE_NEWNET)
        os.close(home)

    @contextmanager
    def entered(self) -> Iterator[None]:
        home = current()
        setns(self.fd, CLONE_NEWNET)
        try:
            yield
        finally:
            setns(home, CLONE_NEWNET)
            os.close(home)

    def close(self) -> None:
        """Let go of it: with its last socket the kernel deletes it and its interfaces."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def current() -> int:
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


class Memory:
    """A collection of the metadata store, in memory."""

    def __init__(self) -> None:
        self.rows: dict[str, Any] = {}

    def get(self, id: str) -> Any:
        return self.rows.get(id)

    def put(self, obj: Any) -> None:
        self.rows[obj.id] = obj

    def delete(self, id: str) -> None:
        self.rows.pop(id, None)

    def all(self) -> list[Any]:
        return list(self.rows.values())


class World:
    """A host in its own namespace, on a LAN with one neighbour, with a manager."""

    def __init__(self, tmp_path: Path) -> None:
        self.tmp_path = tmp_path
        self.networks: Memory = Memory()
        self.members: Memory = Memory()
        self.path = os.environ["PATH"]
        self.opened: list[Namespace] = []
        self.sockets: list[socket.socket] = []
        self.lan = self.namespace()
        run("ip", "link", "set", "lo", "up")
        with rtnetlink.open_socket() as route:
            route.request(
                [rtnetlink.add_veth("eth0", "lan0", self.lan.fd, peer_mac="", mtu=1500, master=0)]
            )
            index = rtnetlink.index_of("eth0")
            route.request(
                [
                    rtnetlink.add_address(index, "eth0", "198.51.100.1/24"),
                    rtnetlink.add_address(index, "eth0", "2001:db8:1::1/64"),
                    rtnetlink.add_route("0.0.0.0/0", "198.51.100.2", index, "eth0"),
                ]
            )
        with self.lan.entered(), rtnetlink.open_socket() as route:
            index = rtnetlink.index_of("lan0")
            route.request(
                [
                    rtnetlink.set_up(1, "lo"),
                    rtnetlink.add_address(index, "lan0", "198.51.100.2/24"),
                    rtnetlink.add_address(index, "lan0", "2001:db8:1::2/64"),
                    rtnetlink.set_up(index, "lan0"),
                ]
            )

    def namespace(self) -> Namespace:
        made = Namespace()
        self.opened.append(made)
        return made

    def manager(self, **settings: Any) -> NetworkManager:
        if settings.get("firewall") == LEGACY:
            settings["firewall"] = "iptables"
            self._prefer_legacy()
        return NetworkManager(
            self.networks,
            self.members,
            NetworkSettings(run_dir=str(self.tmp_path / "run"), **settings),
        )

    def _prefer_legacy(self) -> None:
        """Let the programs of the legacy kind be found first, as on a host without nf_tables."""
        programs = self.tmp_path / "legacy"
        if programs.exists():
            return
        programs.mkdir()
        for name in ("iptables", "ip6tables"):
            for program in (name, f"{name}-restore"):
                (programs / program).symlink_to(LEGACY_PROGRAM)
        os.environ["PATH"] = f"{programs}:{self.path}"

    def plug(
        self, sandbox: Sandbox, services: Callable[[Namespace], None] | None = None
    ) -> Namespace:
        """What keeper and init do with a sandbox, in this order."""
        inside = self.namespace()
        for interface in sandbox.interfaces:
            create_host_side(interface, inside.fd)
        if services is not None:
            services(inside)
        with inside.entered():
            configure_inside(sandbox.interfaces)
        return inside

    def serve(self, inside: Namespace, port: int, address: str = "0.0.0.0") -> None:
        """A TCP server that answers each connection with its peer's address."""
        with inside.entered():
            self.serve_here(port, address)

    def serve_here(self, port: int, address: str = "0.0.0.0") -> None:
        """As :meth:`serve`, on the host."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        listener = socket.socket(family)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind((address, port))
        listener.listen()
        self.sockets.append(listener)
        threading.Thread(target=_answer, args=(listener,), daemon=True).start()

    def close(self) -> None:
        os.environ["PATH"] = self.path
        for held in self.sockets:
            held.shutdown(socket.SHUT_RDWR)
            held.close()
        for namespace in self.opened:
            namespace.close()


def _answer(listener: socket.socket) -> None:
    while True:
        try:
            connection, peer = listener.accept()
        except OSError:
            return
        with connection:
            connection.sendall(peer[0].encode())


def ask(address: str, port: int, timeout: float = 3.0) -> str:
    """The answer of a :meth:`World.serve` server.  OSError when it cannot be reached."""
    with socket.create_connection((address, port), timeout=timeout) as connection:
        return connection.recv(100).decode()


def unreachable(address: str, port: int) -> bool:
    try:
        ask(address, port, timeout=0.3)
    except OSError:
        return True
    return False


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    home = current()
    unshare(CLONE_NEWNET)
    made = World(tmp_path)
    try:
        yield made
    finally:
        made.close()
        setns(home, CLONE_NEWNET)
        os.close(home)
