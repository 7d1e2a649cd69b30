"""Tables, sizes, times, keys."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan.cli import table, terminal, times, units
from sampan.cli.copying import base_of, split, wants_contents
from sampan.cli.failure import Failure
from sampan.cli.networks import natural
from sampan.cli.ps import ports_text
from sampan.cli.references import canonical, familiar, registry_of, tagged
from sampan.durations import human_duration

CELLS = st.lists(
    st.lists(st.text(alphabet="ab é", max_size=14), min_size=3, max_size=3), min_size=1
)


@given(CELLS)
def test_both_tables_agree(rows):
    text = "".join("\t".join(row) + "\n" for row in rows)
    assert table.aligned(text) == table.simple(rows)


def test_a_column_is_what_consecutive_lines_share():
    assert table.aligned("a\tb\nlonger than ten\tb\n\nx\ty\n") == (
        "a                 b\nlonger than ten   b\n\nx         y\n"
    )


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0B"), (999, "999B"), (1982286, "1.982MB"), (1000, "1kB"), (238 * 10**6, "238MB")],
)
def test_sizes(size, text):
    assert units.human_size(size) == text


def test_binary_sizes():
    assert units.binary_size(312 << 10) == "312KiB"
    assert units.binary_size(25276514304) == "23.54GiB"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.5, "Less than a second"),
        (1, "1 second"),
        (59, "59 seconds"),
        (60, "About a minute"),
        (130, "2 minutes"),
        (3600, "About an hour"),
        (3 * 3600, "3 hours"),
        (48 * 3600, "2 days"),
        (15 * 86400, "2 weeks"),
        (90 * 86400, "3 months"),
        (800 * 86400, "2 years"),
    ],
)
def test_durations(seconds, text):
    assert human_duration(seconds) == text


def test_moments():
    assert units.parse_rfc3339("1970-01-02T00:00:00.5Z") == 86400.5
    assert units.parse_rfc3339("1970-01-02T02:00:00+02:00") == 86400
    assert units.parse_rfc3339("0001-01-01T00:00:00Z") == 0
    assert times.timestamp("1970-01-02T00:00:00Z") == "86400.000000000"
    assert times.timestamp("1970-01-02T01:00:00.25+01:00") == "86400.250000000"
    assert times.timestamp("1700000000.5") == "1700000000.5"
    assert abs(float(times.timestamp("10m")) - (time.time() - 600)) < 5
    for text in ("yesterday", "2020-13-01", "10x"):
        with pytest.raises(Failure):
            times.timestamp(text)


@given(st.text(max_size=20))
def test_any_time_is_understood_or_refused(text):
    try:
        times.timestamp(text)
    except Failure:
        pass


def port(private, public=None, ip="", protocol="tcp"):
    found = {"PrivatePort": private, "Type": protocol}
    return {**found, "PublicPort": public, "IP": ip} if public else found


@pytest.mark.parametrize(
    ("ports", "text"),
    [
        ([], ""),
        ([port(80)], "80/tcp"),
        ([port(80), port(81), port(83)], "80-81/tcp, 83/tcp"),
        ([port(80, 8080, "0.0.0.0")], "0.0.0.0:8080->80/tcp"),
        ([port(80, 8080, "::")], "[::]:8080->80/tcp"),
        ([port(80, 80, "0.0.0.0"), port(81, 81, "0.0.0.0")], "0.0.0.0:80-81->80-81/tcp"),
        ([port(53, protocol="udp"), port(53)], "53/tcp, 53/udp"),
    ],
)
def test_ports(ports, text):
    assert ports_text(ports) == text


def test_detach_keys():
    assert terminal.detach_keys("ctrl-p,ctrl-q") == b"\x10\x11"
    assert terminal.detach_keys("a,ctrl-@,ctrl-[") == b"a\x00\x1b"
    for text in ("ctrl-", "ctrl-1", "ab", ""):
        with pytest.raises(terminal.NotKeys):
            terminal.detach_keys(text)


@given(st.binary(), st.lists(st.integers(1, 5), min_size=1))
def test_what_is_typed_passes_until_the_keys(data, sizes):
    watch = terminal.KeyWatch(b"\x10\x11")
    passed, detached, position, turn = b"", False, 0, 0
    while position < len(data) and not detached:
        size = sizes[turn % len(sizes)]
        more, detached = watch.feed(data[position : position + size])
        passed += more
        position, turn = position + size, turn + 1
    before, keys, _ = data.partition(b"\x10\x11")
    assert detached == bool(keys)
    if keys:
        assert passed == before
    else:
        assert passed == (data[:-1] if data.endswith(b"\x10") else data)


@given(st.lists(st.integers(0, 10**6), min_size=1))
def test_natural_order(numbers):
    names = [f"net{number}" for number in numbers]
    assert sorted(names, key=natural) == [f"net{number}" for number in sorted(numbers)]


def test_names_of_images():
    assert familiar("busybox") == "busybox:latest"
    assert familiar("docker.io/library/busybox:1") == "busybox:1"
    assert canonical("busybox") == "docker.io/library/busybox:latest"
    assert canonical("me/x:1") == "docker.io/me/x:1"
    assert canonical("127.0.0.1:5000/x") == "127.0.0.1:5000/x:latest"
    assert tagged("127.0.0.1:5000/x") == ("127.0.0.1:5000/x", "")
    assert tagged("a/b:c@sha256:d") == ("a/b", "sha256:d")
    assert registry_of("127.0.0.1:5000/x") == "127.0.0.1:5000"
    assert registry_of("a/b") == registry_of("docker.io/a/b")


def test_paths_of_cp():
    assert split("web:/a:b") == ("web", "/a:b")
    assert split("./web:x") == ("", "./web:x") and split("/web:x") == ("", "/web:x")
    assert base_of("/a/b/") == "b" and base_of("/") == "/"
    assert wants_contents("a/.") and not wants_contents("a/..") and wants_contents(".")
