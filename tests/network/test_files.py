"""hosts, resolv.conf, names: pure logic."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sampan.errors import InvalidParameter
from sampan.network import dnswire, files, sandbox
from sampan.network.names import NamesDirectory, parse_links
from sampan.network.types import Endpoint, SandboxRequest
from sampan.runtime.interfaces import Interface


def test_hosts_as_docker_writes_it() -> None:
    content = files.hosts([("172.17.0.2", "web", "example.org")], [("10.0.0.1", ["db", "x"])])
    assert content == (
        b"127.0.0.1\tlocalhost\n"
        b"::1\tlocalhost ip6-localhost ip6-loopback\n"
        b"fe00::\tip6-localnet\n"
        b"ff00::\tip6-mcastprefix\n"
        b"ff02::1\tip6-allnodes\n"
        b"ff02::2\tip6-allrouters\n"
        b"10.0.0.1\tdb x\n"
        b"172.17.0.2\tweb.example.org web\n"
    )


def test_extra_hosts() -> None:
    assert sandbox.extra_host("a:1.2.3.4", []) == [("1.2.3.4", ["a"])]
    assert sandbox.extra_host("a=::1", []) == [("::1", ["a"])]
    assert sandbox.extra_host("a:[fd00::1]", []) == [("fd00::1", ["a"])]
    assert sandbox.extra_host("h:host-gateway", ["172.17.0.1"]) == [("172.17.0.1", ["h"])]
    for bad in ("a", "a:", ":1.2.3.4", "a:nonsense"):
        with pytest.raises(InvalidParameter):
            sandbox.extra_host(bad, [])


def request(**fields: object) -> SandboxRequest:
    return SandboxRequest(container_id="c", container_name="c", hostname="c", **fields)  # type: ignore[arg-type]


def endpoint(network: str, **fields: object) -> Endpoint:
    return Endpoint(
        id="e",
        container_id="c",
        container_name="c",
        network_id="n",
        network_name=network,
        ip="10.0.0.2",
        interface=Interface(name="eth0", host_name="v"),
        **fields,  # type: ignore[arg-type]
    )


@pytest.fixture
def resolution(tmp_path: Path) -> sandbox.Resolution:
    return _resolution(tmp_path, "nameserver 127.0.0.53\nnameserver 9.9.9.9\nnameserver fd00::1\n")


def _resolution(tmp_path: Path, text: str) -> sandbox.Resolution:
    path = tmp_path / "resolv.conf"
    path.write_text(text)
    names = NamesDirectory(tmp_path / "names")
    return sandbox.Resolution(path, names, dns=[], search=[], options=[])


def test_default_network_gets_the_reachable_servers(resolution: sandbox.Resolution) -> None:
    content, services = resolution.compose(request(), [endpoint("bridge")])
    assert (content, services) == (b"nameserver 9.9.9.9\n", [])


def test_explicit_servers_win(resolution: sandbox.Resolution) -> None:
    content, services = resolution.compose(
        request(dns=["1.1.1.1"], dns_search=["a.test"], dns_options=["ndots:2"]),
        [endpoint("bridge")],
    )
    assert content == b"nameserver 1.1.1.1\nsearch a.test\noptions ndots:2\n"
    assert not services
    content, services = resolution.compose(request(dns=["1.1.1.1"]), [endpoint("mine")])
    assert content == b"nameserver 127.0.0.11\noptions ndots:0\n"
    assert services[0].config["servers"] == ["1.1.1.1"]


def test_a_resolver_on_the_host_loopback_is_reached_by_the_keeper(tmp_path: Path) -> None:
    resolution = _resolution(tmp_path, "nameserver 127.0.0.53\n")
    content, services = resolution.compose(request(), [endpoint("bridge")])
    assert content == b"nameserver 127.0.0.11\noptions ndots:0\n"
    assert [service.name for service in services] == [sandbox.RESOLVER_SERVICE]


def test_host_mode_sees_what_the_host_sees(resolution: sandbox.Resolution) -> None:
    content, services = resolution.compose(request(mode="host"), [])
    assert content.startswith(b"nameserver 127.0.0.53\nnameserver 9.9.9.9\n")
    assert not services


def test_bad_server(resolution: sandbox.Resolution) -> None:
    with pytest.raises(InvalidParameter):
        resolution.compose(request(dns=["nonsense"]), [endpoint("bridge")])


@settings(deadline=None)
@given(st.text(max_size=300))
def test_any_resolv_conf_is_read(text: str) -> None:
    config = files.parse_resolv_conf(text)
    assert all(" " not in server for server in config.servers)


def test_resolv_conf_directives() -> None:
    config = files.parse_resolv_conf(
        "# c\nnameserver 1.1.1.1 # x\ndomain old.test\nsearch a.test b.test\noptions a\noptions b\n"
    )
    assert config == files.ResolverConfig(
        servers=["1.1.1.1"], search=["a.test", "b.test"], options=["a", "b"]
    )


def test_links() -> None:
    assert parse_links(["db:Database", "cache"]) == {"database": "db", "cache": "cache"}


@settings(deadline=None)
@given(st.binary(max_size=600))
def test_no_datagram_breaks_the_parser(data: bytes) -> None:
    try:
        query = dnswire.parse(data)
    except dnswire.Malformed:
        dnswire.failure(data, dnswire.FORMAT_ERROR)
        return
    records = [(dnswire.TYPE_A, bytes(4))] * 100
    answer = dnswire.answer(query, 0, records, query.size)
    assert len(answer) <= max(query.size, 12 + len(query.question) + 11)


labels = st.text("abcdefghijklmnopqrstuvwxyz0123456789-", min_size=1, max_size=20)


@settings(deadline=None)
@given(st.lists(labels, min_size=1, max_size=5), st.integers(0, 65535))
def test_questions_are_parsed(parts: list[str], identity: int) -> None:
    name = ".".join(parts)
    data = identity.to_bytes(2, "big") + b"\1\0\0\1" + bytes(6) + dnswire.encode_name(name)
    query = dnswire.parse(data + b"\0\1\0\1")
    assert (query.identity, query.name, query.kind) == (identity, name, dnswire.TYPE_A)


@settings(deadline=None)
@given(st.ip_addresses())
def test_reverse_names(address: object) -> None:
    name = address.reverse_pointer  # type: ignore[attr-defined]
    assert dnswire.reverse_address(name) == address.packed  # type: ignore[attr-defined]


def test_what_is_no_reverse_name() -> None:
    for name in ("1.2.3.in-addr.arpa", "a.2.3.4.in-addr.arpa", "x.ip6.arpa", "300.0.0.1.x", "arpa"):
        assert dnswire.reverse_address(name) is None
