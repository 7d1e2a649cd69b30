"""Every networking flag of ``run`` and ``docker network``, by the docker CLI and by our own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import Daemon, until

SAMPAN = [sys.executable, "-P", "-c", "from sampan.cli.main import entry; entry()"]
SLEEP = ("busybox", "sleep", "1000")
LISTEN = "while :; do echo hello | busybox nc -l -p 80; done"


class Client:
    """A command line, and what it made, which is removed at the end."""

    def __init__(self, daemon: Daemon, name: str) -> None:
        self.daemon = daemon
        self.name = name

    def done(self, *words: str) -> subprocess.CompletedProcess[bytes]:
        if self.name == "docker":
            return self.daemon.docker(*words)
        kept = {key: value for key, value in os.environ.items() if not key.startswith("DOCKER_")}
        environment = {
            "SAMPAN_RUN_DIR": str(self.daemon.run),
            "SAMPAN_STATE_DIR": str(self.daemon.state),
            "PYTHONPATH": str(Path(__file__).parents[2]),
        }
        return subprocess.run(
            [*SAMPAN, *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=60,
            env={**kept, **environment},
        )

    def __call__(self, *words: str) -> str:
        done = self.done(*words)
        assert done.returncode == 0, f"{' '.join(words)}: {done.stderr.decode()}"
        return done.stdout.decode().strip()

    def fails(self, *words: str) -> str:
        done = self.done(*words)
        assert done.returncode != 0, f"{' '.join(words)}: {done.stdout.decode()}"
        return done.stderr.decode()

    def inspect(self, name: str) -> Any:
        return json.loads(self("inspect", name))[0]

    def network(self, name: str) -> Any:
        return json.loads(self("network", "inspect", name))[0]

    def endpoint(self, name: str, network: str) -> Any:
        return self.inspect(name)["NetworkSettings"]["Networks"][network]


@pytest.fixture(params=["docker", "sampan"])
def cli(daemon: Daemon, request: pytest.FixtureRequest) -> Iterator[Client]:
    yield Client(daemon, request.param)
    daemon.remove_containers()
    left = [n for n in daemon.client.networks.list() if n.name not in ("bridge", "host", "none")]
    # Those that take their configuration from another first.
    for network in sorted(left, key=lambda n: bool(n.attrs.get("ConfigOnly"))):
        network.remove()


def until_said(cli: Client, what: str, *words: str) -> str:
    """The output of a command, once it has the text in it."""

    def said() -> str:
        output = cli.done(*words).stdout.decode()
        return output if what in output else ""

    return str(until(said))


def test_static_addresses(cli: Client) -> None:
    cli("network", "create", "--ipv6", "--subnet", "10.231.8.0/24", "--subnet", "fd7e:8::/64", "n")
    cli(
        "run", "-d", "--name", "cc", "--network", "n", "--ip", "10.231.8.77", "--ip6", "fd7e:8::77",
        "--mac-address", "02:42:aa:bb:cc:dd", "--link-local-ip", "169.254.7.7",
        "--link-local-ip", "fe80::77", "--network-alias", "a1", "--network-alias", "a2", *SLEEP,
    )  # fmt: skip
    shown = cli("exec", "cc", "ip", "addr", "show", "eth0")
    for part in (
        "inet 10.231.8.77/24",
        "inet6 fd7e:8::77/64",
        "inet 169.254.7.7/16",
        "inet6 fe80::77/64",
        "02:42:aa:bb:cc:dd",
    ):
        assert part in shown
    endpoint = cli.endpoint("cc", "n")
    assert endpoint["IPAddress"] == "10.231.8.77"
    assert endpoint["GlobalIPv6Address"] == "fd7e:8::77"
    assert endpoint["MacAddress"] == "02:42:aa:bb:cc:dd"
    assert endpoint["IPAMConfig"] == {
        "IPv4Address": "10.231.8.77",
        "IPv6Address": "fd7e:8::77",
        "LinkLocalIPs": ["169.254.7.7", "fe80::77"],
    }
    assert {"a1", "a2"} <= set(endpoint["Aliases"])
    for alias in ("a1", "a2", "cc"):
        assert "10.231.8.77" in cli("run", "--rm", "--network", "n", "busybox", "nslookup", alias)
    # Kept over a restart.
    cli("restart", "-t", "0", "cc")
    assert cli.endpoint("cc", "n")["MacAddress"] == "02:42:aa:bb:cc:dd"
    assert "10.231.8.77/24" in cli("exec", "cc", "ip", "addr", "show", "eth0")
    assert "Address already in use" in cli.fails(
        "run", "--rm", "--network", "n", "--ip", "10.231.8.77", "busybox", "true"
    )
    assert "no configured subnet" in cli.fails(
        "run", "--rm", "--network", "n", "--ip", "10.1.1.1", "busybox", "true"
    )
    assert "user defined networks only" in cli.fails(
        "run", "--rm", "--ip", "10.1.1.1", "busybox", "true"
    )
    cli.fails("run", "--rm", "--mac-address", "nonsense", "busybox", "true")
    assert "MAC" in cli.fails(
        "run", "--rm", "--mac-address", "01:00:5e:00:00:01", "busybox", "true"
    )


def test_links_on_the_default_bridge(cli: Client) -> None:
    cli("run", "-d", "--name", "db", "busybox", "sh", "-c", LISTEN)
    cli("run", "-d", "--name", "app", "--link", "db:database", *SLEEP)
    address = cli.endpoint("db", "bridge")["IPAddress"]
    hosts = cli("exec", "app", "cat", "/etc/hosts")
    assert any(line.split()[:2] == [address, "database"] for line in hosts.splitlines())
    assert cli.inspect("app")["HostConfig"]["Links"] == ["/db:/app/database"]
    until_said(cli, "hello", "exec", "app", "busybox", "nc", "-w", "2", "database", "80")
    cli("stop", "-t", "0", "db")
    assert "Cannot link to a non running container" in cli.fails(
        "run", "--rm", "--link", "db", "busybox", "true"
    )
    assert "nosuch" in cli.fails("run", "--rm", "--link", "nosuch", "busybox", "true")
    cli("rm", "--link", "/app/database")
    assert not cli.inspect("app")["HostConfig"]["Links"]


def test_links_on_a_user_network(cli: Client) -> None:
    cli("network", "create", "n")
    cli("run", "-d", "--name", "db", "--network", "n", "busybox", "sh", "-c", LISTEN)
    cli("run", "-d", "--name", "app", "--network", "n", "--link", "db:database", *SLEEP)
    until_said(cli, "hello", "exec", "app", "busybox", "nc", "-w", "2", "database", "80")
    assert cli.endpoint("app", "n")["Links"] == ["db:database"]
    cli("run", "-d", "--name", "third", *SLEEP)
    cli("network", "connect", "--link", "db:linked", "--alias", "three", "n", "third")
    until_said(cli, "hello", "exec", "third", "busybox", "nc", "-w", "2", "linked", "80")
    assert "three" in cli.endpoint("third", "n")["Aliases"]


def test_resolver_settings(cli: Client) -> None:
    flags = ("--dns", "192.0.2.1", "--dns-search", "example.test", "--dns-option", "timeout:1")
    text = cli("run", "--rm", *flags, "busybox", "cat", "/etc/resolv.conf")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert lines == ["nameserver 192.0.2.1", "search example.test", "options timeout:1"]
    cli("network", "create", "n")
    text = cli("run", "--rm", "--network", "n", *flags, "busybox", "cat", "/etc/resolv.conf")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert lines == ["nameserver 127.0.0.11", "search example.test", "options timeout:1 ndots:0"]
    cli("run", "-d", "--name", "cc", *flags, *SLEEP)
    host = cli.inspect("cc")["HostConfig"]
    assert (host["Dns"], host["DnsSearch"], host["DnsOptions"]) == (
        ["192.0.2.1"],
        ["example.test"],
        ["timeout:1"],
    )
    text = cli("run", "--rm", "--dns-search", ".", "busybox", "cat", "/etc/resolv.conf")
    assert "search" not in text
    cli.fails("run", "--rm", "--dns", "nonsense", "busybox", "true")


def test_hosts(cli: Client) -> None:
    gateway = cli.network("bridge")["IPAM"]["Config"][0]["Gateway"]
    text = cli(
        "run", "--rm", "--add-host", "one:192.0.2.7", "--add-host", "two=fd00::7",
        "--add-host", "host.docker.internal:host-gateway", "-h", "me", "--domainname", "dom.test",
        "busybox", "cat", "/etc/hosts",
    )  # fmt: skip
    lines = [line.split() for line in text.splitlines()]
    assert ["192.0.2.7", "one"] in lines
    assert ["fd00::7", "two"] in lines
    assert [gateway, "host.docker.internal"] in lines
    assert any(line[1:] == ["me.dom.test", "me"] for line in lines)
    cli.fails("run", "--rm", "--add-host", "nonsense", "busybox", "true")
    cli.fails("run", "--rm", "--add-host", "a:b:c:d", "busybox", "true")


def test_ports(cli: Client) -> None:
    cli(
        "run", "-d", "--name", "cc", "-p", "127.0.0.1:21980-21982:80-82", "-p", "21983:53/udp",
        "-p", "[::1]:21984:84", "--expose", "90-91", "--expose", "92/udp", *SLEEP,
    )  # fmt: skip
    assert sorted(cli("port", "cc").splitlines()) == [
        "53/udp -> 0.0.0.0:21983",
        "53/udp -> [::]:21983",
        "80/tcp -> 127.0.0.1:21980",
        "81/tcp -> 127.0.0.1:21981",
        "82/tcp -> 127.0.0.1:21982",
        "84/tcp -> [::1]:21984",
    ]
    assert cli("port", "cc", "81/tcp") == "127.0.0.1:21981"
    assert "o public port" in cli.fails("port", "cc", "99")
    shown = cli.inspect("cc")
    assert {"90/tcp", "91/tcp", "92/udp"} <= set(shown["Config"]["ExposedPorts"])
    assert shown["NetworkSettings"]["Ports"]["92/udp"] is None
    listed = cli("ps", "--filter", "publish=21981", "--format", "{{.Names}} {{.Ports}}")
    assert "127.0.0.1:21980->80/tcp" in listed and "90-91/tcp" in listed
    assert cli("ps", "-q", "--filter", "expose=92/udp")
    taken = cli.fails("run", "--rm", "-p", "127.0.0.1:21981:1", "busybox", "true")
    assert "Bind for 127.0.0.1:21981 failed: port is already allocated" in taken
    cli("run", "-d", "--name", "range", "-p", "127.0.0.1:21980-21990:80", *SLEEP)
    # The first of the range that is free for its protocol.
    assert cli("port", "range", "80") == "127.0.0.1:21983"
    for bad in ("99999:80", "1:2:3:4", "80-82:80-81", "80:80/icmp"):
        cli.fails("run", "--rm", "-p", bad, "busybox", "true")


def test_publish_all(cli: Client) -> None:
    cli("run", "-d", "--name", "cc", "-P", "--expose", "90", "--expose", "91/udp", *SLEEP)
    bindings = cli.inspect("cc")["NetworkSettings"]["Ports"]
    assert all(int(bindings[port][0]["HostPort"]) > 1023 for port in ("90/tcp", "91/udp"))


def test_several_networks(cli: Client) -> None:
    for name, subnet in (("n1", "10.231.11.0/24"), ("n2", "10.231.12.0/24")):
        cli("network", "create", "--subnet", subnet, name)
    sysctl = "driver-opt=com.docker.network.endpoint.sysctls=net.ipv4.conf.IFNAME.log_martians=1"
    cli(
        "run", "-d", "--name", "cc", "--network", "name=n1,alias=x,ip=10.231.11.9",
        "--network", f"name=n2,gw-priority=10,mac-address=02:42:00:00:00:99,{sysctl}", *SLEEP,
    )  # fmt: skip
    assert "default via 10.231.12.1" in cli("exec", "cc", "ip", "route")
    shown = cli.inspect("cc")["NetworkSettings"]["Networks"]
    assert shown["n1"]["IPAddress"] == "10.231.11.9" and "x" in shown["n1"]["Aliases"]
    assert shown["n2"]["MacAddress"] == "02:42:00:00:00:99" and shown["n2"]["GwPriority"] == 10
    second = "eth1" if "10.231.11.9" in cli("exec", "cc", "ip", "addr", "show", "eth0") else "eth0"
    assert cli("exec", "cc", "cat", f"/proc/sys/net/ipv4/conf/{second}/log_martians") == "1"
    cli("network", "disconnect", "n2", "cc")
    assert "default via 10.231.11.1" in cli("exec", "cc", "ip", "route")
    cli("network", "connect", "--gw-priority", "5", "--ip", "10.231.12.8", "n2", "cc")
    assert "default via 10.231.12.1" in cli("exec", "cc", "ip", "route")
    assert cli.endpoint("cc", "n2")["IPAddress"] == "10.231.12.8"
    cli("network", "connect", "--link-local-ip", "169.254.3.3", "bridge", "cc")
    assert "169.254.3.3/16" in cli("exec", "cc", "ip", "addr")
    for bad in ("nosuch=1", "name=n1,nosuch=1", "name=n1,gw-priority=x"):
        cli.fails("run", "--rm", "--network", bad, "busybox", "true")
    assert "not found" in cli.fails("run", "--rm", "--network", "nosuch", "busybox", "true")
    assert "nosuch.option" in cli.fails(
        "run", "--rm", "--network", "name=n1,driver-opt=nosuch.option=1", "busybox", "true"
    )


def test_connect_while_stopped(cli: Client) -> None:
    cli("network", "create", "--subnet", "10.231.13.0/24", "n")
    cli("create", "--name", "cc", *SLEEP)
    cli("network", "connect", "--ip", "10.231.13.7", "--alias", "x", "n", "cc")
    cli("start", "cc")
    assert cli.endpoint("cc", "n")["IPAddress"] == "10.231.13.7"
    assert "10.231.13.7/24" in cli("exec", "cc", "ip", "addr", "show", "eth1")
    cli("stop", "-t", "0", "cc")
    cli("network", "disconnect", "n", "cc")
    cli("start", "cc")
    assert "n" not in cli.inspect("cc")["NetworkSettings"]["Networks"]
    assert "eth1" not in cli("exec", "cc", "ip", "link")
    assert "is not connected" in cli.fails("network", "disconnect", "n", "cc")
    cli("network", "disconnect", "bridge", "cc")
    assert "eth0" not in cli("exec", "cc", "ip", "link")
    cli("network", "connect", "n", "cc")
    assert "default via 10.231.13.1" in cli("exec", "cc", "ip", "route")


def test_from_no_network_to_one(cli: Client) -> None:
    cli("network", "create", "--subnet", "10.231.14.0/24", "n")
    cli("run", "-d", "--name", "cc", "--network", "none", *SLEEP)
    assert "private (none) mode" in cli.fails("network", "connect", "n", "cc")
    cli("network", "disconnect", "none", "cc")
    cli("network", "connect", "n", "cc")
    assert "default via 10.231.14.1" in cli("exec", "cc", "ip", "route")
    cli("restart", "-t", "0", "cc")
    assert "default via 10.231.14.1" in cli("exec", "cc", "ip", "route")
    cli("run", "-d", "--name", "hh", "--network", "host", *SLEEP)
    assert "host network" in cli.fails("network", "connect", "n", "hh")
    assert "host network" in cli.fails("network", "disconnect", "host", "hh")
    assert "host network" in cli.fails("network", "connect", "host", "cc")
    cli("run", "-d", "--name", "jj", "--network", "container:cc", *SLEEP)
    cli.fails("network", "connect", "n", "jj")
    assert cli("exec", "jj", "ip", "route") == cli("exec", "cc", "ip", "route")


def test_network_create(cli: Client) -> None:
    cli(
        "network", "create", "--subnet", "10.231.15.0/24", "--ip-range", "10.231.15.128/29",
        "--gateway", "10.231.15.200", "--aux-address", "printer=10.231.15.128",
        "--aux-address", "scanner=10.231.15.129", "--label", "a=b", "--label", "c", "--attachable",
        "-o", "com.docker.network.driver.mtu=1400", "n",
    )  # fmt: skip
    shown = cli.network("n")
    assert shown["IPAM"]["Config"] == [
        {
            "Subnet": "10.231.15.0/24",
            "IPRange": "10.231.15.128/29",
            "Gateway": "10.231.15.200",
            "AuxiliaryAddresses": {"printer": "10.231.15.128", "scanner": "10.231.15.129"},
        }
    ]
    assert shown["Labels"] == {"a": "b", "c": ""} and shown["Attachable"]
    assert shown["Options"] == {"com.docker.network.driver.mtu": "1400"}
    shown = cli("run", "--rm", "--network", "n", "busybox", "ip", "addr", "show", "eth0")
    assert "10.231.15.130/24" in shown and "mtu 1400" in shown
    for number in range(6):
        cli("run", "-d", "--name", f"c{number}", "--network", "n", *SLEEP)
    assert "no available" in cli.fails("run", "--rm", "--network", "n", "busybox", "true")
    assert len(cli.network("n")["Containers"]) == 6
    assert "already exists" in cli.fails("network", "create", "n")
    assert "overlaps" in cli.fails("network", "create", "--subnet", "10.231.15.0/25", "m")
    for bad in (
        ("--subnet", "nonsense"),
        ("--subnet", "10.231.16.0/24", "--gateway", "10.231.17.1"),
        ("--subnet", "10.231.16.0/24", "--ip-range", "10.231.17.0/28"),
        ("--gateway", "10.231.17.1"),
        ("-d", "nosuch"),
        ("-o", "nosuch.option=1"),
        ("--ipam-driver", "nosuch"),
        ("--ipam-opt", "nosuch=1"),
        ("--scope", "swarm"),
        ("--ingress",),
        ("-d", "host"),
        ("-o", "com.docker.network.driver.mtu=x"),
        ("--ipv4=false",),
    ):
        cli.fails("network", "create", *bad, "m")
    for name in ("host", "none", "default", "bad name", "a/b"):
        cli.fails("network", "create", name)


def test_internal(cli: Client) -> None:
    cli("network", "create", "--internal", "n")
    cli("run", "-d", "--name", "cc", "--network", "n", "busybox", "sh", "-c", LISTEN)
    assert cli.network("n")["Internal"]
    assert "default" not in cli("exec", "cc", "ip", "route")
    cli("run", "-d", "--name", "dd", "--network", "n", *SLEEP)
    until_said(cli, "hello", "exec", "dd", "busybox", "nc", "-w", "2", "cc", "80")


def test_ipv6_by_itself(cli: Client) -> None:
    cli("network", "create", "--ipv4=false", "--ipv6", "n")
    shown = cli.network("n")
    assert shown["EnableIPv6"] and len(shown["IPAM"]["Config"]) == 1
    assert shown["IPAM"]["Config"][0]["Subnet"].startswith("fd")
    cli("run", "-d", "--name", "cc", "--network", "n", *SLEEP)
    endpoint = cli.endpoint("cc", "n")
    assert endpoint["GlobalIPv6Address"] and not endpoint["IPAddress"]
    cli("run", "--rm", "--network", "n", "busybox", "ping", "-6", "-c", "1", "-W", "2", "cc")


def test_configuration_only(cli: Client) -> None:
    cli(
        "network", "create", "--config-only", "--subnet", "10.231.18.0/24", "--label", "a=b",
        "-o", "com.docker.network.driver.mtu=1300", "conf",
    )  # fmt: skip
    shown = cli.network("conf")
    assert shown["ConfigOnly"] and shown["Driver"] == "null"
    assert "configuration" in cli.fails("run", "--rm", "--network", "conf", "busybox", "true")
    cli("network", "create", "--config-from", "conf", "n")
    shown = cli.network("n")
    assert shown["ConfigFrom"] == {"Network": "conf"} and shown["Labels"] == {"a": "b"}
    assert shown["IPAM"]["Config"][0]["Subnet"] == "10.231.18.0/24"
    out = cli("run", "--rm", "--network", "n", "busybox", "ip", "addr", "show", "eth0")
    assert "10.231.18.2/24" in out and "mtu 1300" in out
    assert "in use" in cli.fails("network", "rm", "conf")
    cli.fails("network", "create", "--config-from", "conf", "--subnet", "10.231.19.0/24", "m")
    cli.fails("network", "create", "--config-from", "nosuch", "m")
    cli.fails("network", "create", "--config-from", "n", "m")
    cli("network", "rm", "n", "conf")


def test_listing(cli: Client) -> None:
    first = cli("network", "create", "--label", "x=1", "alpha")
    cli("network", "create", "--internal", "--label", "y=2", "beta")

    def names(*flags: str) -> set[str]:
        return set(cli("network", "ls", "--format", "{{.Name}}", *flags).splitlines())

    assert names() == {"bridge", "host", "none", "alpha", "beta"}
    assert names("-f", "type=custom") == names("-f", "dangling=true") == {"alpha", "beta"}
    assert names("-f", "driver=bridge") == {"bridge", "alpha", "beta"}
    assert names("-f", "label=x") == names("-f", "label=x=1") == {"alpha"}
    assert names("-f", "name=al") == names("-f", f"id={first[:10]}") == {"alpha"}
    assert names("-f", "scope=local", "-f", "driver=null") == {"none"}
    assert cli("network", "ls", "-q", "--no-trunc", "-f", "name=alpha") == first
    assert cli("network", "ls", "-q", "-f", "name=alpha") == first[:12]
    table = cli("network", "ls").splitlines()
    assert table[0].split() == ["NETWORK", "ID", "NAME", "DRIVER", "SCOPE"]
    assert [line.split()[1:] for line in table[1:3]] == [
        ["alpha", "bridge", "local"],
        ["beta", "bridge", "local"],
    ]
    shown = cli("network", "ls", "-f", "name=beta", "--format", "{{.Internal}} {{.Labels}}")
    assert shown == "true y=2"
    cli.fails("network", "ls", "-f", "nosuch=1")
    cli("run", "-d", "--name", "cc", "--network", "alpha", *SLEEP)
    assert cli("ps", "--filter", "network=alpha", "--format", "{{.Names}}") == "cc"
    assert cli("network", "inspect", "-f", "{{range .Containers}}{{.Name}}{{end}}", "alpha") == "cc"
    cli("network", "inspect", "-v", "alpha")
    cli.fails("network", "inspect", "nosuch")
    assert "active endpoints" in cli.fails("network", "rm", "alpha")
    assert "Deleted Networks:\nbeta" in cli("network", "prune", "-f")
    cli("rm", "-f", "cc")
    cli("network", "prune", "-f", "--filter", "label!=x", "--filter", "until=1h")
    assert "alpha" in names()
    cli("network", "rm", "-f", "alpha", "nosuch")
    assert names() == {"bridge", "host", "none"}
    cli.fails("network", "rm", "nosuch")


def test_forced_disconnect(cli: Client) -> None:
    cli("network", "create", "n")
    cli("run", "-d", "--name", "cc", "--network", "n", *SLEEP)
    cli("network", "disconnect", "-f", "n", "cc")
    assert "eth0" not in cli("exec", "cc", "ip", "link")
    cli.fails("network", "disconnect", "-f", "n", "nosuch")


def test_events(cli: Client) -> None:
    client = cli.daemon.client
    seen: list[Any] = []
    stream = client.events(decode=True, filters={"type": "network"})
    reader = threading.Thread(target=lambda: seen.extend(stream), daemon=True)
    reader.start()
    cli("network", "create", "n")
    container = cli("run", "-d", "--name", "cc", "--network", "n", *SLEEP)
    cli("network", "disconnect", "n", "cc")
    cli("network", "rm", "n")
    until(lambda: any(event["Action"] == "destroy" for event in seen))
    stream.close()
    mine = [event for event in seen if event["Actor"]["Attributes"].get("name") == "n"]
    assert [e["Action"] for e in mine] == ["create", "connect", "disconnect", "destroy"]
    assert [e["Actor"]["Attributes"].get("container") for e in mine] == [
        None,
        container,
        container,
        None,
    ]
    assert all(e["Actor"]["Attributes"]["type"] == "bridge" for e in mine)
