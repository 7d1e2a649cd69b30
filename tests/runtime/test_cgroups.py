"""Control groups: the host's layout, limits in a real container, device programs."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan.runtime import cgroups
from sampan.runtime.cgroups.devices import compile_rules
from sampan.runtime.cgroups.layout import find_layout
from sampan.runtime.cgroups.v2 import weight_of_shares
from sampan.runtime.spawner import Spawner
from sampan.runtime.spec import device_rules
from sampan.runtime.types import KeeperRequest

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="control groups need root")
MakeRequest = Callable[..., KeeperRequest]

V1 = b"""\
30 20 0:25 / /sys/fs/cgroup ro,nosuid - tmpfs tmpfs ro,mode=755
31 30 0:26 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct
32 30 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
33 30 0:28 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
34 30 0:29 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd
35 30 0:27 /sampan/x /tmp/bind rw - cgroup cgroup rw,memory
"""
V2 = b"30 20 0:25 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"


def test_layouts() -> None:
    found = find_layout(V1)
    assert found.version == 1
    assert found.points["cpu"] == found.points["cpuacct"] == "/sys/fs/cgroup/cpu,cpuacct"
    assert found.points["memory"] == "/sys/fs/cgroup/memory"
    assert found.points["name=systemd"] == "/sys/fs/cgroup/systemd"
    assert find_layout(V2) == (2, {}, "/sys/fs/cgroup")
    with pytest.raises(OSError, match="no control group hierarchy"):
        find_layout(b"20 1 8:1 / / rw - ext4 /dev/sda1 rw\n")


@pytest.mark.parametrize("path", ["", "/", "/a/../../b"])
def test_paths_stay_in_the_hierarchy(path: str) -> None:
    with pytest.raises(ValueError, match="does not name a group"):
        cgroups.group(path)


def test_shares_to_weight() -> None:
    assert [weight_of_shares(shares) for shares in (2, 1024, 262144)] == [1, 39, 10000]


async def started(
    spawner: Spawner, request: KeeperRequest, resources: dict[str, Any]
) -> tuple[Any, cgroups.Group]:
    request.spec["linux"]["resources"].update(resources)
    keeper = await spawner.spawn(request)
    return keeper, cgroups.group(keeper.state.cgroup)


@needs_root
async def test_limits_stats_and_update(spawner: Spawner, request_for: MakeRequest) -> None:
    keeper, group = await started(
        spawner,
        request_for("sh", "-c", "x=$(head -c 3000000 /dev/urandom | base64); sleep 1000"),
        {
            "memory": {"limit": 64 << 20, "reservation": 32 << 20},
            "cpu": {"shares": 512, "quota": 50000, "period": 100000, "cpus": "0"},
            "pids": {"limit": 33},
        },
    )
    try:
        stats = group.stats()
        assert (stats.memory_limit, stats.pids_limit) == (64 << 20, 33)
        assert 0 < stats.memory_usage < 64 << 20
        assert stats.pids >= 1
        assert stats.cpu_total > 0
        assert keeper.pid in group.pids()
        assert group.oom_kills() == 0
        await keeper.update({"memory": {"limit": 128 << 20}, "pids": {"limit": -1}})
        stats = group.stats()
        assert (stats.memory_limit, stats.pids_limit) == (128 << 20, 0)
        if cgroups.version() == 1:
            directory = f"/sys/fs/cgroup/cpu{keeper.state.cgroup}"
            assert Path(f"{directory}/cpu.cfs_quota_us").read_text() == "50000\n"
            assert Path(f"{directory}/cpu.shares").read_text() == "512\n"
    finally:
        await keeper.signal(9)
        await keeper.wait_closed()
    assert group.pids() == []
    assert not list(Path("/sys/fs/cgroup").glob(f"*{keeper.state.cgroup}"))


@needs_root
async def test_a_fork_bomb_is_held(spawner: Spawner, request_for: MakeRequest) -> None:
    keeper, group = await started(
        spawner,
        request_for("sh", "-c", "f() { f | f & }; f; sleep 1000"),
        {"pids": {"limit": 20}},
    )
    try:
        assert group.stats().pids <= 20
    finally:
        await keeper.signal(9)
        await keeper.wait_closed()
    assert group.pids() == []


@needs_root
async def test_impossible_limits(spawner: Spawner, request_for: MakeRequest) -> None:
    request = request_for("true")
    request.spec["linux"]["resources"]["cpu"] = {"cpus": "4000"}
    with pytest.raises(Exception, match=r"cpuset\.cpus"):
        await spawner.spawn(request)


@needs_root
@pytest.mark.skipif(cgroups.version() != 1, reason="needs version 1 of control groups")
def test_a_parent_that_another_process_has_just_made() -> None:
    """It is there, but its set of processors is still empty."""
    above = Path(cgroups.layout().points["cpuset"], f"sampan-new-{os.getpid()}")
    above.mkdir()
    try:
        group = cgroups.group(f"/{above.name}/inside/child")
        (above / "inside").mkdir()
        try:
            group.create({})
            assert (above / "inside/child/cpuset.cpus").read_text().strip()
        finally:
            group.delete()
    finally:
        for point in cgroups.layout().points.values():
            for name in (f"{above.name}/inside", above.name):
                if Path(point, name).exists():
                    Path(point, name).rmdir()


def ask(program: bytes, kind: str, access: str, major: int, minor: int) -> bool:
    """Interpret the device program."""
    code = list(struct.iter_unpack("<BBhi", program))
    bits = sum({"m": 1, "r": 2, "w": 4}[letter] for letter in access)
    context = [bits << 16 | {"b": 1, "c": 2}[kind], major, minor]
    registers = [0] * 11
    at = 0
    while True:
        operation, both, offset, value = code[at]
        to, source = both & 15, both >> 4
        at += 1
        match operation:
            case 0x61:
                registers[to] = context[offset // 4]
            case 0xB7:
                registers[to] = value
            case 0xBF:
                registers[to] = registers[source]
            case 0x57:
                registers[to] &= value
            case 0x77:
                registers[to] >>= value
            case 0x55:
                at += offset if registers[to] != value else 0
            case 0x5D:
                at += offset if registers[to] != registers[source] else 0
            case 0x95:
                return bool(registers[0])
            case _:
                raise AssertionError(f"unknown instruction {operation:#x}")


def test_default_devices() -> None:
    program = compile_rules(device_rules())
    assert ask(program, "c", "rw", 1, 3)
    assert ask(program, "c", "m", 250, 1)
    assert ask(program, "b", "m", 8, 0)
    assert not ask(program, "b", "r", 8, 0)
    assert not ask(program, "c", "rw", 1, 1)
    assert ask(program, "c", "rw", 136, 77)


RULE = st.fixed_dictionaries(
    {
        "allow": st.booleans(),
        "type": st.sampled_from(["a", "b", "c"]),
        "major": st.one_of(st.none(), st.integers(0, 2)),
        "minor": st.one_of(st.none(), st.integers(0, 2)),
        "access": st.sampled_from(["r", "w", "m", "rw", "rm", "rwm"]),
    }
)


@given(
    st.lists(RULE, max_size=6),
    st.sampled_from("bc"),
    st.sampled_from(["r", "w", "rw", "m"]),
    st.integers(0, 2),
    st.integers(0, 2),
)
def test_the_last_matching_rule_decides(
    rules: list[dict[str, Any]], kind: str, access: str, major: int, minor: int
) -> None:
    expected = False
    for rule in rules:
        if (
            rule["type"] in ("a", kind)
            and rule["major"] in (None, major)
            and rule["minor"] in (None, minor)
            and set(access) <= set(rule["access"])
        ):
            expected = rule["allow"]
    assert ask(compile_rules(rules), kind, access, major, minor) == expected


@needs_root
def test_the_kernel_accepts_the_program() -> None:
    from sampan.linux import bpf

    os.close(bpf.load_cgroup_device(compile_rules(device_rules())))
