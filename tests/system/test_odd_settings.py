"""Settings at the edge of what is allowed: Docker's engine's answers, recorded by hand, and ours."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from docker.errors import APIError
from harness import Daemon

from sampan.runtime import cgroups

Run = Callable[..., str]


@pytest.fixture
def run(daemon: Daemon) -> Run:
    def call(script: str, **options: object) -> str:
        command = ["sh", "-c", script]
        return daemon.client.containers.run("busybox", command, remove=True, **options).decode()

    return call


NAMES = "hostname; cat /etc/hostname; tail -n 1 /etc/hosts | cut -f 2"
LONG = "x" * 30 + "." + "y" * 33


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("a_b", "a_b"),
        ("a.", "a. a"),
        (".a", ".a "),
        ("a..b", "a..b a"),
        ("-a-", "-a-"),
        ("A.B", "A.B A"),
        ("a b", "a b"),
        ("0.0", "0.0 0"),
        ("é", "é"),
        ("x" * 64, "x" * 64),
        (LONG, f"{LONG} {'x' * 30}"),
    ],
)
def test_host_names(run: Run, name: str, line: str) -> None:
    assert run(NAMES, hostname=name) == f"{name}\n{name}\n{line}\n"


@pytest.mark.parametrize("name", ["x" * 65, "é" * 33, "a\nb", "a\tb"])
def test_host_names_that_cannot_be(run: Run, name: str) -> None:
    with pytest.raises(APIError, match="invalid hostname") as refusal:
        run("true", hostname=name)
    assert refusal.value.response.status_code == 400


def test_domain_names(run: Run) -> None:
    script = "cat /proc/sys/kernel/domainname; tail -n 1 /etc/hosts | cut -f 2"
    assert run(script, hostname="aa", domainname="b_c.d.") == "b_c.d.\naa.b_c.d. aa\n"
    long = "x" * 65
    assert run(script, hostname="aa", domainname=long) == f"{'x' * 64}\naa.{long} aa\n"


@pytest.mark.skipif(cgroups.version() != 1, reason="version 2 is tested in virtual machines")
def test_control_group_namespaces(run: Run, daemon: Daemon) -> None:
    """With version 1 the host's is the default."""
    script = (
        "grep :memory: /proc/self/cgroup; grep -c ' / /sys/fs/cgroup/' /proc/self/mountinfo; true"
    )
    container = daemon.client.containers.create("busybox")
    assert container.attrs["HostConfig"]["CgroupnsMode"] == "host"
    for options in ({}, {"cgroupns": "host"}):
        path, roots = run(script, **options).splitlines()
        assert path.rpartition("/")[0].endswith(daemon.cgroup_parent) and roots == "0"
    path, roots = run(script, cgroupns="private").splitlines()
    assert path.endswith(":memory:/") and int(roots) > 5


def test_runtime_by_dockers_name(run: Run, daemon: Daemon) -> None:
    name = "io.containerd.runc.v2"
    assert run("echo yes", runtime=name) == "yes\n"
    container = daemon.client.containers.create("busybox", runtime=name)
    assert container.attrs["HostConfig"]["Runtime"] == name
    assert name in daemon.client.info()["Runtimes"]
    with pytest.raises(APIError, match="unknown or invalid runtime name"):
        run("true", runtime="io.containerd.odd.v1")


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        (1, "the minimum allowed cpu-shares is 2"),
        (262145, "the maximum allowed cpu-shares is 262144"),
        (-1, "invalid CPU shares"),
    ],
)
def test_cpu_shares_that_cannot_be(run: Run, shares: int, message: str) -> None:
    with pytest.raises(APIError, match=message):
        run("true", cpu_shares=shares)
