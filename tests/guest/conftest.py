"""Fixtures: the disk with this source tree and the machines, each made once a process."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "system"))  # images and tars are shared

from guest import PUBLISHED, Guest, project_disk, why_not
from harness import busybox_tar


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A machine that emulates another one may be slow, and busy with other tests."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.timeout(900))


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    reason = why_not()
    if reason:
        pytest.skip(reason)
    return project_disk(tmp_path_factory.mktemp("guest"))


@pytest.fixture(scope="session")
def guest(project: Path) -> Iterator[Guest]:
    """Linux 6.1 with control groups version 2, and a daemon with the image busybox."""
    machine = Guest(project, published=[PUBLISHED])
    try:
        machine.boot()
        _start(machine)
        yield machine
        assert machine.client.containers.list(all=True) == []
        assert machine.read("/sys/fs/cgroup/sampan/*/cgroup.procs") == {}
    finally:
        machine.cut()


@pytest.fixture(scope="session")
def bare_guest(project: Path) -> Iterator[Guest]:
    """The same without overlayfs and EROFS, where nobody may trace a process."""
    machine = Guest(project, arguments="modprobe.blacklist=overlay,erofs")
    try:
        machine.boot()
        machine.write("/proc/sys/kernel/yama/ptrace_scope", b"3")
        _start(machine)
        yield machine
    finally:
        machine.cut()


@pytest.fixture(scope="session")
def systemd_guest(project: Path) -> Iterator[Guest]:
    """The same with systemd as the first process, which makes the control groups; and AppArmor."""
    machine = Guest(project, arguments="guest.systemd apparmor=1")
    try:
        machine.boot()
        _start(machine, "--exec-opt", "native.cgroupdriver=systemd")
        yield machine
        assert machine.client.containers.list(all=True) == []
        assert machine.read("/sys/fs/cgroup/*/sampan-*/cgroup.procs") == {}
    finally:
        machine.cut()


def _start(machine: Guest, *flags: str) -> None:
    machine.start_daemon(*flags)
    machine.client.api.import_image_from_data(
        busybox_tar(), repository="busybox", tag="latest", changes=['CMD ["sh"]']
    )
