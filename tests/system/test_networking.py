"""Containers that find and reach each other and are reached, with a real daemon."""

from __future__ import annotations

import json
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from docker.errors import APIError
from harness import Daemon

SERVER = "mkdir -p /www; hostname > /www/index.html; exec busybox httpd -f -p 80 -h /www"


def get(url: str) -> str:
    """The page; tried until the server in the container listens."""
    deadline = time.monotonic() + 10
    while True:
        try:
            with urllib.request.urlopen(url, timeout=3) as answer:
                return answer.read().decode().strip()  # type: ignore[no-any-return]
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


@pytest.fixture
def back(daemon: Daemon) -> Iterator[Any]:
    network = daemon.client.networks.create("back")
    yield network
    daemon.remove_containers()
    network.remove()


def server(daemon: Daemon, name: str, **options: Any) -> Any:
    return daemon.client.containers.run(
        "busybox", ["sh", "-c", SERVER], name=name, hostname=name, detach=True, **options
    )


def in_container(container: Any, *command: str) -> str:
    code, output = container.exec_run(list(command))
    text: str = output.decode()
    assert code == 0, text
    return text


def fetch(container: Any, url: str) -> str:
    """The page as another container gets it, once the server listens."""
    script = f"for i in $(seq 200); do busybox wget -qO- {url} && exit; busybox sleep 0.02; done"
    return in_container(container, "sh", "-c", script).strip()


def test_a_published_port_is_reached_from_everywhere(daemon: Daemon) -> None:
    web = server(daemon, "web", ports={"80/tcp": None})
    web.reload()
    bindings = web.attrs["NetworkSettings"]["Ports"]["80/tcp"]
    port = bindings[0]["HostPort"]
    assert {binding["HostIp"] for binding in bindings} == {"0.0.0.0", "::"}
    for host in (
        "127.0.0.1",
        "[::1]",
        web.attrs["NetworkSettings"]["Networks"]["bridge"]["Gateway"],
    ):
        assert get(f"http://{host}:{port}/") == "web"
    gateway = web.attrs["NetworkSettings"]["Networks"]["bridge"]["Gateway"]
    assert fetch(web, f"http://{gateway}:{port}/") == "web", "by the host from the container itself"
    with pytest.raises(APIError, match="port is already allocated"):
        server(daemon, "second", ports={"80/tcp": port})


def test_names(daemon: Daemon, back: Any) -> None:
    web = server(daemon, "web", network="back")
    other = daemon.client.containers.run(
        "busybox", ["sleep", "1000"], name="other", detach=True, network="back"
    )
    for name in ("web", web.short_id, "web.back"):
        assert fetch(other, f"http://{name}/") == "web"
    web.rename("renamed")
    assert fetch(other, "http://renamed/") == "web"
    assert "nameserver 127.0.0.11" in in_container(other, "cat", "/etc/resolv.conf")


def test_a_running_container_joins_a_network(daemon: Daemon, back: Any) -> None:
    server(daemon, "web", network="back")
    other = daemon.client.containers.run(
        "busybox", ["sleep", "1000"], name="other", hostname="other", detach=True
    )
    assert "127.0.0.11" not in in_container(other, "cat", "/etc/resolv.conf")
    back.connect(other, aliases=["alias"])
    assert fetch(other, "http://web/") == "web"
    assert "alias" not in in_container(other, "cat", "/etc/hosts")
    lines = in_container(other, "cat", "/etc/hosts").count("\tother\n")
    back.disconnect(other)
    assert in_container(other, "cat", "/etc/hosts").count("\tother\n") == lines - 1
    code, _ = other.exec_run(["sh", "-c", "busybox wget -T 1 -qO- http://web/"])
    assert code != 0


def test_what_other_networks_reach(daemon: Daemon, back: Any) -> None:
    web = server(daemon, "web", network="back")
    web.reload()
    address = web.attrs["NetworkSettings"]["Networks"]["back"]["IPAddress"]
    assert get(f"http://{address}/") == "web", "the host reaches its containers"
    other = daemon.client.containers.run("busybox", ["sleep", "1000"], name="other", detach=True)
    code, _ = other.exec_run(["sh", "-c", f"busybox wget -T 1 -qO- http://{address}/"])
    assert code != 0


def test_modes(daemon: Daemon) -> None:
    def links(mode: str) -> list[str]:
        done = daemon.docker("run", "--rm", "--network", mode, "busybox", "ip", "-o", "link")
        assert done.returncode == 0, done.stderr
        return [line.split(": ")[1].split("@")[0] for line in done.stdout.decode().splitlines()]

    assert links("none") == ["lo"]
    assert links("bridge") == ["lo", "eth0"]
    host = json.loads(subprocess.check_output(["ip", "-j", "link"]))
    assert {"lo"} <= set(links("host")) <= {link["ifname"] for link in host} | {"lo"}
    first = daemon.client.containers.run("busybox", ["sleep", "1000"], name="first", detach=True)
    assert links("container:first") == ["lo", "eth0"]
    assert first.status


def test_names_and_ports_without_the_daemon(own_daemon: Daemon) -> None:
    """The daemon is killed: containers keep their ports and names; a new one takes over."""
    daemon = own_daemon
    daemon.client.networks.create("back")
    web = server(daemon, "web", network="back", ports={"80/tcp": None})
    other = daemon.client.containers.run(
        "busybox",
        ["sh", "-c", "while busybox wget -qO- http://web/ > /got; do busybox sleep 0.05; done"],
        name="other",
        detach=True,
        network="back",
    )
    web.reload()
    port = web.attrs["NetworkSettings"]["Ports"]["80/tcp"][0]["HostPort"]
    assert get(f"http://127.0.0.1:{port}/") == "web"
    daemon.stop(signal.SIGKILL)
    assert get(f"http://127.0.0.1:{port}/") == "web"
    assert get(f"http://[::1]:{port}/") == "web"
    daemon.start()
    other.reload()
    assert other.status == "running", "it has found the server's name all along"
    assert get(f"http://127.0.0.1:{port}/") == "web"
    with pytest.raises(APIError, match="port is already allocated"):
        server(daemon, "second", ports={"80/tcp": port})
    web.remove(force=True)
    other.remove(force=True)
    daemon.client.networks.get("back").remove()


def test_a_restarted_container_has_its_network_again(daemon: Daemon, back: Any) -> None:
    web = server(
        daemon,
        "web",
        network="back",
        ports={"80/tcp": None},
        restart_policy={"Name": "always", "MaximumRetryCount": 0},
    )
    other = daemon.client.containers.run(
        "busybox", ["sleep", "1000"], name="other", detach=True, network="back"
    )
    web.reload()
    port = web.attrs["NetworkSettings"]["Ports"]["80/tcp"][0]["HostPort"]
    before = web.attrs["State"]["Pid"]
    assert get(f"http://[::1]:{port}/") == "web"
    subprocess.run(["kill", "-9", str(before)], check=True)
    deadline = time.monotonic() + 10
    while web.attrs["State"]["Pid"] in (0, before) and time.monotonic() < deadline:
        time.sleep(0.02)
        web.reload()
    for url in (f"http://127.0.0.1:{port}/", f"http://[::1]:{port}/"):
        assert get(url) == "web"
    assert fetch(other, "http://web/") == "web"
    assert fetch(web, "http://web/") == "web", "its own resolver"
