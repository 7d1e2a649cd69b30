"""What containers may ask of their places in networks, and hosts that they are to know."""

from __future__ import annotations

import pytest

from sampan.engine import endpoints
from sampan.engine.types import (
    CreateRequest,
    EndpointIPAMConfig,
    EndpointSettings,
    HostConfig,
    NetworkingConfig,
)
from sampan.errors import InvalidParameter


@pytest.mark.parametrize(
    ("network", "settings", "words"),
    [
        ("bridge", EndpointSettings(aliases=["a"]), "alias is supported only"),
        (
            "bridge",
            EndpointSettings(ipam_config=EndpointIPAMConfig(ipv4_address="10.0.0.9")),
            "user specified IP address is supported on user defined networks only",
        ),
        (
            "own",
            EndpointSettings(ipam_config=EndpointIPAMConfig(ipv4_address="fd00::1")),
            "invalid IPv4 address: fd00::1",
        ),
        (
            "own",
            EndpointSettings(ipam_config=EndpointIPAMConfig(ipv6_address="10.0.0.9")),
            "invalid IPv6 address: 10.0.0.9",
        ),
        ("own", EndpointSettings(mac_address="02:42:ac"), "invalid MAC address 02:42:ac"),
        ("own", EndpointSettings(mac_address="02:42-ac:11:00:09"), "invalid MAC address"),
    ],
)
def test_refused(network: str, settings: EndpointSettings, words: str) -> None:
    with pytest.raises(InvalidParameter, match=words) as caught:
        endpoints.check(network, settings)
    assert str(caught.value).startswith(f"invalid config for network {network}: ")


def test_taken() -> None:
    wish = EndpointIPAMConfig(ipv4_address="10.0.0.9", ipv6_address="fd00::9")
    for mac in ("02:42:ac:11:00:09", "02-42-AC-11-00-09"):
        endpoints.check("own", EndpointSettings(ipam_config=wish, aliases=["a"], mac_address=mac))


def test_the_network_of_the_mode_comes_first() -> None:
    other, own = EndpointSettings(), EndpointSettings(aliases=["a"])
    request = CreateRequest(
        mac_address="02:42:ac:11:00:09",
        networking_config=NetworkingConfig(endpoints_config={"other": other, "own": own}),
    )
    found = endpoints.wanted(HostConfig(network_mode="own"), request)
    assert list(found) == ["own", "other"]
    assert found["own"].mac_address == "02:42:ac:11:00:09" and found["own"].aliases == ["a"]


@pytest.mark.parametrize("line", ["a:10.0.0.1", "a:fd00::1", "a:[fd00::1]", "a:host-gateway"])
def test_hosts(line: str) -> None:
    endpoints.check_hosts(HostConfig(extra_hosts=[line]))


@pytest.mark.parametrize("line", ["", "a", "a:", ":10.0.0.1", "a:b", "a:10.0.0"])
def test_hosts_refused(line: str) -> None:
    with pytest.raises(InvalidParameter, match="add-host"):
        endpoints.check_hosts(HostConfig(extra_hosts=[line]))
