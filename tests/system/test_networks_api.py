"""Networks through the API."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from docker.errors import APIError, NotFound
from docker.types import IPAMConfig, IPAMPool
from harness import Daemon


@pytest.fixture
def networks(daemon: Daemon) -> Iterator[Any]:
    yield daemon.client.networks
    daemon.remove_containers()
    for network in daemon.client.networks.list():
        if network.name not in ("bridge", "host", "none"):
            network.remove()


def test_predefined(networks: Any) -> None:
    assert {n.name for n in networks.list(filters={"type": "builtin"})} == {
        "bridge",
        "host",
        "none",
    }
    for name in ("bridge", "host", "none"):
        with pytest.raises(APIError) as caught:
            networks.get(name).remove()
        assert caught.value.response.status_code == 403
        assert f"{name} is a pre-defined network and cannot be removed" in caught.value.explanation


def test_life_of_a_network(networks: Any) -> None:
    pool = IPAMPool(subnet="10.231.7.0/24", iprange="10.231.7.128/25", gateway="10.231.7.254")
    made = networks.create(
        "net1", ipam=IPAMConfig(pool_configs=[pool]), labels={"a": "b"}, internal=True
    )
    made.reload()
    assert made.attrs["IPAM"]["Config"] == [
        {"Subnet": "10.231.7.0/24", "IPRange": "10.231.7.128/25", "Gateway": "10.231.7.254"}
    ]
    assert made.attrs["Internal"] and made.attrs["Labels"] == {"a": "b"}
    assert networks.get("net1").id == networks.get(made.id[:12]).id == made.id
    assert [n.id for n in networks.list(filters={"label": "a=b"})] == [made.id]
    assert [n.id for n in networks.list(names=["net1"])] == [made.id]
    assert made.id in {n.id for n in networks.list(filters={"dangling": True})}
    with pytest.raises(APIError) as caught:
        networks.create("net1")
    assert caught.value.response.status_code == 409
    made.remove()
    with pytest.raises(NotFound, match="network net1 not found"):
        networks.get("net1")


@pytest.mark.parametrize(
    ("options", "status"),
    [
        ({"driver": "nosuch"}, 404),
        ({"driver": "overlay"}, 403),
        ({"ingress": True}, 403),
        ({"ipam": IPAMConfig(pool_configs=[IPAMPool(subnet="10.0.0.0/99")])}, 400),
    ],
)
def test_refused(networks: Any, options: dict[str, Any], status: int) -> None:
    with pytest.raises(APIError) as caught:
        networks.create("refused", **options)
    assert caught.value.response.status_code == status
    assert all(n.name != "refused" for n in networks.list())


@pytest.mark.parametrize("running", [True, False])
def test_connect_and_disconnect(daemon: Daemon, networks: Any, running: bool) -> None:
    network = networks.create("net2")
    container = daemon.client.containers.create("busybox", ["sleep", "1000"], name="member")
    if running:
        container.start()
    network.connect(container, aliases=["other"])
    container.reload()
    settings = container.attrs["NetworkSettings"]["Networks"]["net2"]
    assert "other" in settings["Aliases"]
    if not running:
        container.start()
        container.reload()
        settings = container.attrs["NetworkSettings"]["Networks"]["net2"]
    network.reload()
    entry = network.attrs["Containers"][container.id]
    assert entry["Name"] == "member" and entry["IPv4Address"].startswith(settings["IPAddress"])
    assert container.exec_run(["ip", "addr", "show", "eth1"]).exit_code == 0
    with pytest.raises(APIError) as caught:
        network.connect(container)
    assert caught.value.response.status_code == 403
    with pytest.raises(APIError) as caught:
        network.remove()
    assert caught.value.response.status_code == 403 and "has active endpoints" in str(caught.value)
    network.disconnect(container)
    assert container.exec_run(["ip", "addr", "show", "eth1"]).exit_code != 0
    with pytest.raises(APIError, match="is not connected to network net2"):
        network.disconnect(container)
    with pytest.raises(NotFound):
        network.disconnect("nosuch")


def test_prune(daemon: Daemon, networks: Any) -> None:
    networks.create("net3")
    used = networks.create("net4", labels={"x": "y"})
    container = daemon.client.containers.run(
        "busybox", ["sleep", "1000"], network="net4", detach=True
    )
    assert networks.prune()["NetworksDeleted"] == ["net3"]
    container.remove(force=True)
    assert networks.prune(filters={"label": "x=z"})["NetworksDeleted"] is None
    assert networks.prune(filters={"label": "x=y"})["NetworksDeleted"] == [used.name]


def test_network_disabled(daemon: Daemon, networks: Any) -> None:
    container = daemon.client.containers.create(
        "busybox", ["ls", "/sys/class/net"], network_disabled=True
    )
    container.start()
    assert container.wait()["StatusCode"] == 0
    assert container.logs() == b"lo\n"
    container.reload()
    assert container.attrs["Config"]["NetworkDisabled"] is True
