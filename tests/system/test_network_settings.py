"""The daemon's own settings of networks, as flags and in its configuration file."""

from __future__ import annotations

import ipaddress
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import Daemon, running
from test_networking import SERVER, in_container, server

from sampan.daemon import config
from sampan.errors import InvalidParameter

NUMBER = os.getpid()
BRIDGE = f"10.{200 + NUMBER % 25}.{NUMBER // 25 % 250}"
POOL = f"10.{230 + NUMBER % 25}.{NUMBER // 25 % 250}.0/24"


@pytest.fixture(scope="module")
def chosen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    file = tmp_path_factory.mktemp("settings") / "daemon.json"
    pools = {"default-address-pools": [{"base": POOL, "size": 28}], "dns-opts": ["ndots:3"]}
    file.write_text(json.dumps(pools))
    yield from running(
        *("--config-file", str(file), "--bip", f"{BRIDGE}.1/24"),
        *("--fixed-cidr", f"{BRIDGE}.128/25", "--icc", "false", "--mtu", "1400"),
        *("--ip", "127.0.0.1", "--dns", "192.0.2.53", "--dns-search", "corp.test"),
        *("--bridge-shortcuts", "false", "--ip-forward", "true"),
    )


def test_settings_of_the_default_network(chosen: Daemon) -> None:
    first = server(chosen, "first", ports={"80/tcp": None})
    second = server(chosen, "second")
    first.reload()
    endpoint = first.attrs["NetworkSettings"]["Networks"]["bridge"]
    assert endpoint["Gateway"] == f"{BRIDGE}.1" and endpoint["IPPrefixLen"] == 24
    assert endpoint["IPAddress"] == f"{BRIDGE}.128"
    (binding,) = first.attrs["NetworkSettings"]["Ports"]["80/tcp"]
    assert binding["HostIp"] == "127.0.0.1"
    assert "mtu 1400" in in_container(first, "busybox", "ip", "link", "show", "eth0")
    resolv_conf = in_container(first, "busybox", "cat", "/etc/resolv.conf").splitlines()
    wanted = ["nameserver 192.0.2.53", "search corp.test", "options ndots:3"]
    assert sorted(resolv_conf) == sorted(wanted)
    code, _ = second.exec_run(["busybox", "wget", "-T", "1", "-qO-", f"http://{BRIDGE}.128/"])
    assert code != 0, "without --icc"
    network = chosen.client.networks.get("bridge").attrs
    assert network["IPAM"]["Config"][0]["IPRange"] == f"{BRIDGE}.128/25"
    assert network["Options"]["com.docker.network.bridge.enable_icc"] == "false"
    assert network["Options"]["com.docker.network.driver.mtu"] == "1400"


def test_pools_of_user_made_networks(chosen: Daemon) -> None:
    made = chosen.client.networks.create("pooled")
    subnet = ipaddress.ip_network(
        chosen.client.networks.get("pooled").attrs["IPAM"]["Config"][0]["Subnet"]
    )
    assert subnet.prefixlen == 28 and subnet.subnet_of(ipaddress.ip_network(POOL))
    container = chosen.client.containers.run(
        "busybox", ["sh", "-c", SERVER], detach=True, network="pooled"
    )
    assert "mtu 1400" in in_container(container, "busybox", "ip", "link", "show", "eth0")
    container.remove(force=True)
    made.remove()


def test_pools_by_flag(tmp_path: Path) -> None:
    none = tmp_path / "daemon.json"
    none.write_text("{}")
    words = ["--config-file", str(none), "--firewall-backend", "iptables"]
    words += ["--default-address-pool", "base=10.1.0.0/16,size=24"]
    words += ["--default-address-pool", "size=20,base=10.2.0.0/16"]
    settings, _ = config.load(words, {})
    assert [(p.base, p.size) for p in settings.default_address_pools] == [
        ("10.1.0.0/16", 24),
        ("10.2.0.0/16", 20),
    ]
    assert settings.firewall_backend == "iptables"


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--default-address-pool", "10.0.0.0/8"], "it is base=CIDR,size=BITS"),
        (["--default-address-pool", "base=10.0.0.0/8,size=x"], "it is base=CIDR,size=BITS"),
        (["--default-address-pool", "base=10.0.0.1/8,size=16"], "has host bits set"),
        (["--default-address-pool", "base=10.0.0.0/16,size=8"], "networks of size 8"),
        (["--default-address-pool", "base=10.0.0.0/16,size=31"], "networks of size 31"),
        (["--mtu", "12"], "invalid mtu 12"),
    ],
)
def test_settings_that_cannot_be(words: list[str], complaint: str, tmp_path: Path) -> None:
    none = tmp_path / "daemon.json"
    none.write_text("{}")
    with pytest.raises(InvalidParameter, match=complaint):
        config.load(["--config-file", str(none), *words], {})


def test_a_firewall_that_is_none_in_the_file(tmp_path: Path) -> None:
    file = tmp_path / "daemon.json"
    file.write_text(json.dumps({"firewall-backend": "pf"}))
    with pytest.raises(InvalidParameter, match="unknown firewall-backend 'pf'"):
        config.load(["--config-file", str(file)], {})
