"""Real servers in containers: nginx, PostgreSQL, dnsmasq."""

from __future__ import annotations

import ast
import ipaddress
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import Daemon, running, until
from servers import load_servers
from test_networking import in_container

pytestmark = [pytest.mark.network, pytest.mark.slow]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    if shutil.which("mmdebstrap") is None:
        pytest.skip("needs mmdebstrap")
    for daemon in running():
        load_servers(daemon, tmp_path_factory.mktemp("servers"))
        yield daemon


@pytest.fixture
def daemon(shared: Daemon) -> Iterator[Daemon]:
    yield shared
    shared.remove_containers()
    shared.client.networks.prune()


class Lan:
    """A machine beside the host: a network namespace at the other end of a veth pair."""

    def __init__(self) -> None:
        number = os.getpid() % 4000
        self.name, self.link = f"smplan{number}", f"smpl{number}"
        first = int(ipaddress.ip_address("198.18.0.0")) + 4 * number
        self.host, self.own = (str(ipaddress.ip_address(first + n)) for n in (1, 2))
        _run("ip", "netns", "add", self.name)
        _run("ip", "link", "add", self.link, "type", "veth", "peer", "eth0", "netns", self.name)
        _run("ip", "addr", "add", f"{self.host}/30", "dev", self.link)
        _run("ip", "link", "set", self.link, "up")
        for command in (
            f"addr add {self.own}/30 dev eth0",
            "link set eth0 up",
            "link set lo up",
            f"route add default via {self.host}",
        ):
            _run("ip", "-n", self.name, *command.split())

    def get(self, url: str) -> str:
        """The page, or empty when it cannot be reached."""
        program = "import sys, urllib.request as u; print(u.urlopen(sys.argv[1], None, 2).read())"
        command = ["ip", "netns", "exec", self.name, sys.executable, "-c", program, url]
        done = subprocess.run(command, capture_output=True, text=True)
        return str(ast.literal_eval(done.stdout).decode().strip()) if done.stdout else ""

    def close(self) -> None:
        _run("ip", "netns", "del", self.name)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


@pytest.fixture
def lan() -> Iterator[Lan]:
    made = Lan()
    yield made
    made.close()


def nginx(daemon: Daemon, name: str, **options: Any) -> Any:
    command = ["nginx", "-c", "/etc/nginx.conf", "-g", "daemon off;"]
    return daemon.client.containers.run(
        "servers", command, name=name, hostname=name, detach=True, **options
    )


def test_nginx_from_the_lan(daemon: Daemon, lan: Lan) -> None:
    """A published port is reached with the client's own address; nothing else is."""
    web = nginx(daemon, "web", ports={"80/tcp": [None, ("127.0.0.1", None)]})
    web.reload()
    bindings = web.attrs["NetworkSettings"]["Ports"]["80/tcp"]
    wide = next(b["HostPort"] for b in bindings if b["HostIp"] == "0.0.0.0")
    loopback = next(b["HostPort"] for b in bindings if b["HostIp"] == "127.0.0.1")
    until(lambda: lan.get(f"http://{lan.host}:{wide}/"))
    assert lan.get(f"http://{lan.host}:{wide}/") == f"web {lan.own}"
    assert lan.get(f"http://{lan.host}:{loopback}/") == ""
    address = web.attrs["NetworkSettings"]["Networks"]["bridge"]["IPAddress"]
    assert lan.get(f"http://{address}/") == "", "routed straight to the bridge"


def test_postgresql_by_its_service_name(daemon: Daemon) -> None:
    """Two servers behind one name, a client that is told nothing but the name."""
    daemon.client.networks.create("back")
    command = ["postgres", "-D", "/var/lib/pg", "-c", "listen_addresses=*"]
    for number in range(2):
        made = daemon.client.api.create_container(
            "servers",
            command,
            name=f"db{number}",
            user="postgres",
            host_config=daemon.client.api.create_host_config(network_mode="back"),
            networking_config=daemon.client.api.create_networking_config(
                {"back": daemon.client.api.create_endpoint_config(aliases=["db"])}
            ),
        )
        daemon.client.api.start(made)
    client = daemon.client.containers.run(
        "servers", ["busybox", "sleep", "1000"], name="client", detach=True, network="back"
    )
    query = ["psql", "-h", "db", "-U", "postgres", "-Atc", "select inet_server_addr(), 6 * 7"]
    seen = set()

    def both() -> bool:
        code, output = client.exec_run(query)
        if code == 0:
            address, answer = output.decode().strip().split("|")
            assert answer == "42"
            seen.add(address)
        return len(seen) == 2

    until(both)
    network = daemon.client.networks.get("back")
    members = network.attrs["Containers"].values()
    assert seen == {
        m["IPv4Address"].partition("/")[0] for m in members if m["Name"].startswith("db")
    }


def test_dnsmasq_as_the_upstream(daemon: Daemon) -> None:
    """What is not a container's name is answered by the servers of ``--dns``: also when the first
    is slow or dead, when the answer does not fit a datagram, and never with our own names."""
    daemon.client.networks.create("up")
    records = [f"--host-record=many.test,192.0.2.{n}" for n in range(1, 100)]
    records += [f"--host-record=some.test,198.51.100.{n}" for n in range(1, 51)]
    command = ["dnsmasq", "-k", "-u", "root", "--no-resolv", "--no-hosts", "--log-facility=-"]
    command += ["--log-queries", "--local=/test/", "--address=/one.test/192.0.2.7", *records]
    servers = [
        daemon.client.containers.run(
            "servers", [*command, f"--txt-record=who.test,{n}"], name=n, detach=True, network="up"
        )
        for n in ("first", "second")
    ]
    network = daemon.client.networks.get("up")
    addresses = {m["Name"]: m["IPv4Address"] for m in network.attrs["Containers"].values()}
    dns = [addresses[name].partition("/")[0] for name in ("first", "second")]
    client = daemon.client.containers.run(
        "servers",
        ["busybox", "sleep", "1000"],
        name="client",
        detach=True,
        network="up",
        dns=dns,
    )

    def looked_up(name: str) -> set[str]:
        code, output = client.exec_run(["getent", "ahostsv4", name])
        return {line.split()[0] for line in output.decode().splitlines()} if code == 0 else set()

    until(lambda: looked_up("one.test"))
    assert looked_up("one.test") == {"192.0.2.7"}
    # 99 addresses do not fit: the C library asks again by TCP.
    assert looked_up("many.test") == {f"192.0.2.{n}" for n in range(1, 100)}
    plain, extended = (datagram(client, "some.test", size) for size in (0, 1232))
    assert len(plain) <= 512 and plain[2] & 2, "cut, and said so"
    assert len(extended) > 800 and not extended[2] & 2, "whole for who takes as much (EDNS)"
    assert looked_up("second") == {dns[1]}
    assert looked_up("nosuch.test") == set()
    log = servers[0].logs().decode()
    assert "one.test" in log and "nosuch.test" in log
    assert "query[A] second" not in log, "our own names are nobody else's business"
    os.kill(pid(servers[0]), signal.SIGSTOP)
    begin = time.monotonic()
    assert looked_up("one.test") == {"192.0.2.7"}, "the first one is slow"
    assert time.monotonic() - begin < 10
    servers[0].kill()
    begin = time.monotonic()
    assert looked_up("one.test") == {"192.0.2.7"}, "the first one is dead"
    assert time.monotonic() - begin < 10


def datagram(container: Any, name: str, size: int) -> bytes:
    """The answer to a question for addresses, asked by UDP inside the container; ``size`` is what
    the question says that it takes (0: nothing)."""
    labels = b"".join(bytes([len(part)]) + part.encode() for part in name.split("."))
    query = bytes([0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, bool(size)]) + labels + b"\0\0\1\0\1"
    if size:
        query += b"\0\0\x29" + size.to_bytes(2, "big") + bytes(6)
    program = (
        "import socket, sys; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(5);"
        " s.connect(('127.0.0.11', 53)); s.send(bytes.fromhex(sys.argv[1])); print(s.recv(65535).hex())"
    )
    inside = ["nsenter", f"--net=/proc/{pid(container)}/ns/net", sys.executable, "-c", program]
    answer = subprocess.run([*inside, query.hex()], capture_output=True, text=True, check=True)
    return bytes.fromhex(answer.stdout)


def pid(container: Any) -> int:
    container.reload()
    return int(container.attrs["State"]["Pid"])


def test_a_thousand_published_ports(daemon: Daemon) -> None:
    begin = time.monotonic()
    made = daemon.docker(
        "run", "-d", "--name", "ports", "-p", "127.0.0.1:23000-23999:2000-2999", "servers",
        "iperf3", "-s", "-p", "2500",
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    assert time.monotonic() - begin < 10
    ports = daemon.client.containers.get("ports")
    assert len(ports.attrs["NetworkSettings"]["Ports"]) == 1000
    taken = daemon.docker("run", "--rm", "-p", "127.0.0.1:23777:1", "servers", "true")
    assert b"port is already allocated" in taken.stderr
    client = ["iperf3", "-c", "127.0.0.1", "-p", "23500", "-n", "1M"]
    until(
        lambda: (
            daemon.docker("run", "--rm", "--network", "host", "servers", *client).returncode == 0
        )
    )
    begin = time.monotonic()
    ports.remove(force=True)
    assert time.monotonic() - begin < 10


def test_iperf_between_containers(daemon: Daemon) -> None:
    daemon.client.networks.create("fast")
    server = daemon.client.containers.run(
        "servers", ["iperf3", "-s"], name="server", detach=True, network="fast"
    )
    client = daemon.client.containers.run(
        "servers", ["busybox", "sleep", "1000"], name="client", detach=True, network="fast"
    )
    until(lambda: client.exec_run(["iperf3", "-c", "server", "-n", "1M"])[0] == 0)
    for flags in ([], ["-R"], ["-u", "-b", "50M"]):
        in_container(client, "iperf3", "-c", "server", "-t", "1", *flags)
    assert Path(f"/proc/{pid(server)}").exists()
