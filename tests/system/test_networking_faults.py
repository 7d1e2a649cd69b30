"""Networks through deaths of the daemon, of bridges, rules and containers; ``system check``."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests
from harness import Daemon, running, until
from test_networking import get, in_container, server

from sampan.network.settings import NetworkSettings

SAMPAN = [sys.executable, "-P", "-c", "from sampan.cli.main import entry; entry()"]


def system_check(daemon: Daemon, *flags: str) -> tuple[int, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("DOCKER_")}
    done = subprocess.run(
        [*SAMPAN, "system", "check", *flags],
        capture_output=True,
        text=True,
        timeout=60,
        env={
            **kept,
            "SAMPAN_RUN_DIR": str(daemon.run),
            "SAMPAN_STATE_DIR": str(daemon.state),
            "PYTHONPATH": str(Path(__file__).parents[2]),
        },
    )
    return done.returncode, done.stdout + done.stderr


def assert_clean(daemon: Daemon) -> None:
    assert system_check(daemon) == (0, "no problems found\n")


def names(daemon: Daemon) -> NetworkSettings:
    return NetworkSettings(run_dir=str(daemon.run))


def links() -> set[str]:
    return {link["ifname"] for link in json.loads(subprocess.check_output(["ip", "-j", "link"]))}


def ruleset(daemon: Daemon) -> str:
    return subprocess.run(
        ["nft", "list", "table", "inet", names(daemon).table], capture_output=True, text=True
    ).stdout


def sleeper(daemon: Daemon, name: str, **options: Any) -> Any:
    return daemon.client.containers.run(
        "busybox", ["sleep", "1000"], name=name, detach=True, **options
    )


def log(daemon: Daemon) -> str:
    return (daemon.root / "log").read_text()


def test_check_finds_and_repairs(own_daemon: Daemon) -> None:
    daemon = own_daemon
    web = server(daemon, "web", ports={"80/tcp": None})
    web.reload()
    port = web.attrs["NetworkSettings"]["Ports"]["80/tcp"][0]["HostPort"]
    assert_clean(daemon)
    bridge = names(daemon).bridge
    address = json.loads(subprocess.check_output(["ip", "-j", "addr", "show", bridge]))[0]
    held = next(a for a in address["addr_info"] if a["family"] == "inet")
    cidr = f"{held['local']}/{held['prefixlen']}"
    subprocess.run(["ip", "addr", "del", cidr, "dev", bridge], check=True)
    table = names(daemon).table
    element = f"{{ tcp . {port} }}"
    subprocess.run(["nft", "delete", "element", "inet", table, "any4", element], check=True)
    code, said = system_check(daemon)
    assert code == 1
    assert f"lacks its address {cidr}" in said and "any4 lacks 1 elements" in said
    code, said = system_check(daemon, "--repair")
    assert code == 0 and said.count("(repaired)") == len(said.splitlines()) >= 2, said
    assert_clean(daemon)
    assert get(f"http://127.0.0.1:{port}/")
    blob = next(path for path in (daemon.state / "blobs/sha256").iterdir() if path.is_file())
    content = blob.read_bytes()
    blob.chmod(0o600)
    blob.write_bytes(b"damaged")
    code, said = system_check(daemon)
    assert code == 1 and "store: the blob" in said and "damaged" in said
    blob.write_bytes(content)
    assert_clean(daemon)


def test_rules_come_back_after_a_flush(own_daemon: Daemon) -> None:
    """As after a reload of a firewall service, which begins with ``nft flush ruleset``.  Only our
    table is flushed here: the machine is others' too."""
    daemon = own_daemon
    web = server(daemon, "web", ports={"80/tcp": None})
    web.reload()
    port = web.attrs["NetworkSettings"]["Ports"]["80/tcp"][0]["HostPort"]
    assert get(f"http://127.0.0.1:{port}/")
    subprocess.run(["nft", "delete", "table", "inet", names(daemon).table], check=True)
    until(lambda: f"tcp . {port}" in ruleset(daemon))
    assert get(f"http://127.0.0.1:{port}/")
    assert "removed by another program: making them again" in log(daemon)
    subprocess.run(["ip", "link", "del", names(daemon).bridge], check=True)
    until(lambda: names(daemon).bridge in links())
    assert get(f"http://127.0.0.1:{port}/")
    assert "was deleted by another program" in log(daemon)
    assert_clean(daemon)


def test_an_end_while_the_daemon_is_away(own_daemon: Daemon) -> None:
    """The rule that the dead daemon left leads nowhere: only a daemon gives the address to another
    container, and before that it makes the rules anew."""
    daemon = own_daemon
    first = server(daemon, "first", ports={"80/tcp": None})
    second = sleeper(daemon, "second")
    first.reload()
    settings = first.attrs["NetworkSettings"]
    port = settings["Ports"]["80/tcp"][0]["HostPort"]
    address = settings["Networks"]["bridge"]["IPAddress"]
    get(f"http://127.0.0.1:{port}/")
    pid = first.attrs["State"]["Pid"]
    daemon.stop(signal.SIGKILL)
    os.kill(pid, signal.SIGKILL)
    until(lambda: not Path(f"/proc/{pid}").exists())
    assert f"tcp . {port} : {address}" in ruleset(daemon)
    daemon.start()
    assert f"tcp . {port} : " not in ruleset(daemon)
    assert_clean(daemon)
    third = server(daemon, "third", ports={"80/tcp": int(port)})
    assert get(f"http://127.0.0.1:{port}/") == "third"
    for container in (first, second, third):
        container.remove(force=True)


STEPS = {
    "before the address": "sampan.network.manager:NetworkManager._make_endpoint",
    "before the link": "sampan.network.live:add_interface",
    "before the record": "sampan.network.members:Members.exchange",
    "before the rules": "sampan.network.manager:NetworkManager._exchange",
    "between the rules": "sampan.network.rulekeeper:RuleKeeper.publish",
    "before the files": "sampan.engine.launch:Launcher.write_files",
    "before the keeper knows": "sampan.runtime.control:Keeper.set_network",
    "before all is recorded": "sampan.engine.containers:Containers.save",
}

MORTAL = """
import importlib, os, runpy, signal, sys
from sampan.engine.connect import Connector
place, outer = sys.argv[1], sys.argv[2]
del sys.argv[1:3]
module, _, path = place.partition(":")
owner = importlib.import_module(module)
*parents, name = path.split(".")
for parent in parents:
    owner = getattr(owner, parent)
real, whole, armed = getattr(owner, name), getattr(Connector, outer), False
def step(*args, **kwargs):
    if armed:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*args, **kwargs)
async def arming(*args, **kwargs):
    global armed
    armed = True
    return await whole(*args, **kwargs)
setattr(owner, name, step)
setattr(Connector, outer, arming)
runpy.run_module("sampan.daemon", run_name="__main__")
"""
"""A daemon that kills itself at a step of a connection."""


class MortalDaemon(Daemon):
    death: tuple[str, ...] = ()

    def command(self, *flags: str) -> list[str]:
        program, _, _, *rest = super().command(*flags)
        if not self.death:
            return [program, "-m", "sampan.daemon", *rest]
        return [program, "-c", MORTAL, *self.death, *rest]


@pytest.fixture(scope="module")
def mortal() -> Iterator[MortalDaemon]:
    for daemon in running(kind=MortalDaemon):
        assert isinstance(daemon, MortalDaemon)
        yield daemon


@pytest.mark.parametrize("operation", ["connect", "disconnect"])
@pytest.mark.parametrize("step", STEPS)
def test_death_at_any_step(mortal: MortalDaemon, operation: str, step: str) -> None:
    """The daemon dies in ``network connect``: its successor has no link, address or rule too much,
    and the container can be connected and has its ways out."""
    daemon = mortal
    server(daemon, "web", ports={"80/tcp": None})
    network = daemon.client.networks.create("aaa")
    if operation == "disconnect":
        network.connect("web")
    daemon.stop()
    daemon.death = (STEPS[step], operation)
    daemon.start()
    daemon.death = ()
    with contextlib.suppress(requests.ConnectionError):
        getattr(network, operation)("web")
        # A disconnection does not have all of the steps.
        assert operation == "disconnect"
    assert daemon.process is not None
    daemon.process.kill()
    assert daemon.process.wait(20) == -signal.SIGKILL
    daemon.start()
    assert_clean(daemon)
    web = daemon.client.containers.get("web")
    network.reload()
    members = network.attrs["Containers"]
    assert (web.id in members) == ("aaa" in web.attrs["NetworkSettings"]["Networks"])
    if web.id not in members:
        network.connect("web")
        network.reload()
        web.reload()
    shown = in_container(web, "ip", "addr")
    assert network.attrs["Containers"][web.id]["IPv4Address"] in shown
    assert shown.count("inet ") == 3, "lo, bridge, aaa"
    gateway = web.attrs["NetworkSettings"]["Networks"]["aaa"]["Gateway"]
    assert f"default via {gateway}" in in_container(web, "ip", "route")
    port = web.attrs["NetworkSettings"]["Ports"]["80/tcp"][0]["HostPort"]
    assert get(f"http://127.0.0.1:{port}/") == "web"
    network.disconnect("web")
    assert "default via" in in_container(web, "ip", "route")
    assert get(f"http://127.0.0.1:{port}/") == "web"
    assert_clean(daemon)
    web.remove(force=True)
    network.remove()


def test_two_hundred_at_once(own_daemon: Daemon) -> None:
    """200 connections at the same time: every address once, in a bounded time."""
    daemon = own_daemon
    network = daemon.client.networks.create("many")
    # One container a connection would make this a test of containers.
    holders = [sleeper(daemon, f"holder{n}", network="none") for n in range(4)]
    made = [
        daemon.client.api.create_container("busybox", ["sleep", "1000"], name=f"member{n}")["Id"]
        for n in range(200)
    ]
    begin = time.monotonic()
    with ThreadPoolExecutor(20) as pool:
        list(pool.map(network.connect, made))
        list(pool.map(daemon.client.api.start, made))
    spent = time.monotonic() - begin
    network.reload()
    members = network.attrs["Containers"]
    assert len(members) == 200
    assert len({member["IPv4Address"] for member in members.values()}) == 200
    assert spent < 60
    assert_clean(daemon)
    with ThreadPoolExecutor(20) as pool:
        list(pool.map(lambda id: network.disconnect(id), made[:100]))
    assert_clean(daemon)
    assert holders
