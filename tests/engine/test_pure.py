"""The engine's pure parts: names, merging, ports, limits, times, keys, environment."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan.durations import human_duration
from sampan.engine import merge, names, ports, resources, timestamps, validate
from sampan.engine.attach import detach_keys
from sampan.engine.types import (
    ContainerConfig,
    CreateRequest,
    HostConfig,
    PortBinding,
    RestartPolicy,
    Ulimit,
    decode,
    docker_name,
)
from sampan.errors import InvalidParameter, SampanError, Unsupported
from sampan.image.config import RunConfig

# -- documents ------------------------------------------------------------------------------


def test_irregular_names() -> None:
    found = [docker_name(name) for name in ("cpu_shares", "uts_mode", "blkio_device_read_iops")]
    assert found == ["CpuShares", "UTSMode", "BlkioDeviceReadIOps"]


def test_null_is_zero_and_a_string_is_a_list() -> None:
    body = b'{"Image": "x", "Cmd": "run", "Env": null, "HostConfig": {"Binds": null, "Memory": 1}}'
    request = decode(body, CreateRequest)
    assert request.cmd == ["run"]
    assert request.env is None
    assert request.host_config.memory == 1


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"Image": 1}', b'{"HostConfig": {"Memory": "x"}}'])
def test_malformed_body(body: bytes) -> None:
    with pytest.raises(InvalidParameter):
        decode(body, CreateRequest)


# -- names ----------------------------------------------------------------------------------


def test_generated_names_are_valid_and_free() -> None:
    taken: set[str] = set()
    for _ in range(3000):
        name = names.generate(taken)
        assert name not in taken and names.check(name) == name
        taken.add(name)


@pytest.mark.parametrize("name", ["", "/", "-x", "a b", "ä", "x"])
def test_invalid_name(name: str) -> None:
    with pytest.raises(InvalidParameter, match="Invalid container name"):
        names.check(name)


# -- merging --------------------------------------------------------------------------------

IMAGE = RunConfig(entrypoint=["entry"], cmd=["default"], env=["A=image", "B=image"], user="u")


@pytest.mark.parametrize(
    ("entrypoint", "cmd", "whole"),
    [
        (None, None, ["entry", "default"]),
        (None, ["mine"], ["entry", "mine"]),
        (["other"], None, ["other"]),
        (["other"], ["mine"], ["other", "mine"]),
        ([""], ["mine"], ["mine"]),
        ([], None, ["default"]),
    ],
)
def test_command(entrypoint: list[str] | None, cmd: list[str] | None, whole: list[str]) -> None:
    found = merge.merge(ContainerConfig(entrypoint=entrypoint, cmd=cmd), IMAGE)
    assert [*(found.entrypoint or []), *(found.cmd or [])] == whole


def test_environment_of_the_client_wins() -> None:
    found = merge.merge(ContainerConfig(env=["A=mine", "C=mine"]), IMAGE)
    assert found.env == ["A=mine", "C=mine", "B=image"]
    assert found.user == "u"


def test_no_command() -> None:
    with pytest.raises(InvalidParameter, match="no command specified"):
        merge.merge(ContainerConfig(), RunConfig())


# -- ports ----------------------------------------------------------------------------------


def test_ports() -> None:
    host = HostConfig(
        port_bindings={"80": [PortBinding("127.0.0.1", "8080")], "53/udp": [PortBinding()]}
    )
    config = ports.exposed_and_bound(ContainerConfig(exposed_ports={"90": {}}), host)
    assert set(config.exposed_ports or {}) == {"80/tcp", "53/udp", "90/tcp"}
    found = ports.requested(config, host)
    assert [(b.container_port, b.protocol, b.host_port) for b in found] == [
        (80, "tcp", 8080),
        (53, "udp", 0),
    ]
    shown = ports.published(config.exposed_ports, found)
    assert shown["90/tcp"] is None
    assert shown["80/tcp"] == [PortBinding("127.0.0.1", "8080")]


@given(st.text(max_size=12))
def test_any_port_text_is_normal_or_refused(text: str) -> None:
    try:
        found = ports.normal(text)
    except InvalidParameter:
        return
    assert ports.normal(found) == found


# -- checks ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "text"),
    [
        (HostConfig(memory=1 << 20), "Minimum memory limit"),
        (HostConfig(memory=64 << 20, memory_swap=32 << 20), "memoryswap limit should be larger"),
        (HostConfig(memory_swap=64 << 20), "always set the Memory limit"),
        (HostConfig(nano_cpus=10**9, cpu_quota=5000), "Nano CPUs and CPU Quota"),
        (HostConfig(cpuset_cpus="x"), "Invalid value x"),
        (HostConfig(cpuset_cpus="4096"), "not available"),
        (HostConfig(pid_mode="container:"), "invalid PID mode"),
        (HostConfig(sysctls={"kernel.panic": "1"}), "not in a separate kernel namespace"),
        (HostConfig(restart_policy=RestartPolicy("always", 3)), "maximum retry count"),
        (HostConfig(auto_remove=True, restart_policy=RestartPolicy("always")), "AutoRemove"),
        (HostConfig(security_opt=["what"]), "invalid --security-opt"),
        (HostConfig(oom_score_adj=5000), "oom score adj"),
        (HostConfig(storage_opt={"inodes": "1"}), "only size is known"),
        (HostConfig(storage_opt={"size": "much"}), "invalid size"),
        (HostConfig(ulimits=[Ulimit("nosuch")]), "invalid ulimit type"),
        (HostConfig(ulimits=[Ulimit("nofile", 9, 5)]), "less than or equal to hard limit"),
        (HostConfig(userns_mode="remap"), "invalid USER mode: remap"),
    ],
)
def test_impossible_hosts(host: HostConfig, text: str) -> None:
    with pytest.raises(InvalidParameter, match=text):
        validate.check(ContainerConfig(), host)


@pytest.mark.parametrize(
    "host",
    [
        HostConfig(cgroup="x"),
    ],
)
def test_unsupported_is_refused(host: HostConfig) -> None:
    with pytest.raises(Unsupported):
        validate.check(ContainerConfig(), host)


@pytest.mark.parametrize(
    ("text", "number"), [("9", 9), ("KILL", 9), ("sigterm", 15), ("RTMIN+1", 35), ("RTMAX", 64)]
)
def test_signals(text: str, number: int) -> None:
    assert validate.signal_number(text) == number


@given(st.text(max_size=10))
def test_any_signal_text_is_a_signal_or_refused(text: str) -> None:
    try:
        assert 1 <= validate.signal_number(text) <= 64
    except InvalidParameter as error:
        assert str(error).startswith("invalid signal")


def test_resources() -> None:
    found = resources.to_spec(
        HostConfig(memory=64 << 20, nano_cpus=500_000_000, pids_limit=9, cpu_shares=2)
    )
    assert found["memory"] == {"limit": 64 << 20, "swap": 128 << 20}
    assert found["cpu"] == {"shares": 2, "period": 100_000, "quota": 50_000}
    assert found["pids"] == {"limit": 9}
    assert resources.to_spec(HostConfig()) == {}


# -- times ----------------------------------------------------------------------------------


@given(st.integers(min_value=1, max_value=2**62))
def test_times_round_trip(nanoseconds: int) -> None:
    assert timestamps.parse_time(timestamps.format_time(nanoseconds)) == nanoseconds


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1.5", 1_500_000_000),
        ("1700000000", 1_700_000_000 * 10**9),
        ("1970-01-01T00:00:01Z", 10**9),
        ("1970-01-01T01:00:00+01:00", 0),
        ("1970-01-02", 86400 * 10**9),
        ("", None),
        ("0", None),
    ],
)
def test_time_forms(text: str, value: int | None) -> None:
    assert timestamps.parse_time(text) == value


@pytest.mark.parametrize("text", ["yesterday", "1h2", "2020-13-01"])
def test_bad_times(text: str) -> None:
    with pytest.raises(SampanError):
        timestamps.parse_time(text)


def test_durations() -> None:
    assert timestamps.duration("1h30m") == 5400 * 10**9
    assert timestamps.duration("1.5s") == 1_500_000_000
    assert timestamps.duration("5") is None


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.5, "Less than a second"),
        (1, "1 second"),
        (59, "59 seconds"),
        (61, "About a minute"),
        (3600, "About an hour"),
        (3 * 3600, "3 hours"),
        (49 * 3600, "2 days"),
        (15 * 86400, "2 weeks"),
        (70 * 86400, "2 months"),
        (800 * 86400, "2 years"),
    ],
)
def test_durations_in_words(seconds: float, words: str) -> None:
    assert human_duration(seconds) == words


# -- keys -----------------------------------------------------------------------------------


def test_detach_keys() -> None:
    assert detach_keys("", True) == b"\x10\x11"
    assert detach_keys("a,ctrl-@,ctrl-[", True) == b"a\x00\x1b"
    assert detach_keys("", False) == b""
    with pytest.raises(InvalidParameter, match="Invalid detach keys"):
        detach_keys("ctrl-1", True)
