"""systemd as the first process: containers in scopes that it makes, below slices."""

from __future__ import annotations

import signal
from typing import Any

import docker
import pytest
from guest import Guest
from harness import until
from test_store_kills import context

MB = 1 << 20


def shown(guest: Guest, unit: str) -> dict[str, str]:
    """What systemd says of a unit."""
    lines = guest.run("systemctl", "show", unit).out.splitlines()
    return dict(line.split("=", 1) for line in lines)


def scopes(guest: Guest) -> list[str]:
    """The scopes of containers that systemd knows."""
    said = guest.run("systemctl", "list-units", "--all", "--plain", "--no-legend", "sampan-*")
    return [line.split()[0] for line in said.out.splitlines()]


def start(guest: Guest, command: str = "sleep 1000", **settings: Any) -> Any:
    settings = {"network_mode": "none", **settings}
    return guest.client.containers.run("busybox", command, detach=True, **settings)


def group_of(guest: Guest, pid: int) -> str:
    """The path of a process's group."""
    lines = guest.read(f"/proc/{pid}/cgroup").popitem()[1].splitlines()
    return next(line for line in lines if line.startswith("0::")).removeprefix("0::")


def files(guest: Guest, group: str) -> dict[str, str]:
    found = guest.read(f"/sys/fs/cgroup{group}/*")
    return {path.rpartition("/")[2]: text.strip() for path, text in found.items()}


def pid_of(container: Any) -> int:
    container.reload()
    return int(container.attrs["State"]["Pid"])


def test_a_container_is_a_scope(systemd_guest: Guest) -> None:
    guest = systemd_guest
    info = guest.client.info()
    assert info["CgroupDriver"] == "systemd" and info["CgroupVersion"] == "2"
    container = start(
        guest,
        mem_limit=64 * MB,
        memswap_limit=96 * MB,
        mem_reservation=32 * MB,
        nano_cpus=500_000_000,
        cpu_shares=2048,
        cpuset_cpus="0",
        pids_limit=50,
        device_write_bps=[{"Path": "/dev/vda", "Rate": 10 * MB}],
    )
    unit = f"sampan-{container.id}.scope"
    group = group_of(guest, pid_of(container))
    assert group == f"/system.slice/{unit}"
    said = shown(guest, unit)
    assert said["Slice"] == "system.slice" and said["Delegate"] == "yes"
    assert said["Description"] == f"sampan container {container.id}"
    assert (said["MemoryMax"], said["MemorySwapMax"]) == (str(64 * MB), str(32 * MB))
    assert said["MemoryLow"] == str(32 * MB) and said["TasksMax"] == "50"
    assert said["CPUQuotaPerSecUSec"] == "500ms" and said["CPUWeight"] == "79"
    assert said["AllowedCPUs"] == "0"

    def check_files() -> None:
        found = files(guest, group)
        assert found["memory.max"] == str(64 * MB)
        assert found["memory.swap.max"] == str(32 * MB)
        assert found["cpu.max"] == "50000 100000" and found["cpu.weight"] == "79"
        assert found["cpuset.cpus"] == "0" and found["pids.max"] == "50"
        # systemd has no property for these that takes a device by its numbers.
        assert f"wbps={10 * MB}" in found["io.max"]

    check_files()
    # It writes its own view of all units then.
    assert guest.run("systemctl", "daemon-reload").code == 0
    check_files()
    code, said_inside = container.exec_run("sh -c 'mknod /d b 254 0; cat /d'")
    assert code == 1 and b"Operation not permitted" in said_inside
    container.remove(force=True)
    assert scopes(guest) == []
    assert guest.read(f"/sys/fs/cgroup{group}/cgroup.procs") == {}


def test_what_runs_is_changed_joined_paused_and_counted(systemd_guest: Guest) -> None:
    guest, api = systemd_guest, systemd_guest.client.api
    container = start(guest)
    group = group_of(guest, pid_of(container))
    api.update_container(
        container.id, mem_limit=128 * MB, memswap_limit=128 * MB, cpu_quota=20000, cpu_period=50000
    )
    api.update_container(container.id, cpuset_cpus="0")
    assert guest.run("systemctl", "daemon-reload").code == 0
    found, said = files(guest, group), shown(guest, group.rpartition("/")[2])
    assert found["memory.max"] == said["MemoryMax"] == str(128 * MB)
    assert found["cpu.max"] == "20000 50000" and said["CPUQuotaPerSecUSec"] == "400ms"
    started = api.exec_create(container.id, "sleep 1000")["Id"]
    api.exec_start(started, detach=True)
    pid = until(lambda: api.exec_inspect(started)["Pid"])
    assert group_of(guest, pid) == group
    assert len(container.top()["Processes"]) == 2
    container.pause()
    assert files(guest, group)["cgroup.freeze"] == "1"
    container.unpause()
    figures = container.stats(stream=False)
    assert figures["pids_stats"]["current"] == 2
    assert figures["memory_stats"]["limit"] == 128 * MB
    # The same name again, and again by its own policy.
    container.restart(timeout=0)
    assert group_of(guest, pid_of(container)) == group
    api.update_container(container.id, restart_policy={"Name": "always"})
    first = pid_of(container)
    guest.run("kill", "-9", str(first))
    second = until(lambda: pid_of(container) not in (0, first) and pid_of(container))
    assert group_of(guest, second) == group
    container.remove(force=True)
    assert scopes(guest) == []


def test_want_of_memory(systemd_guest: Guest) -> None:
    # The end of the first process is not needed: systemd removes an empty group, with its counters.
    script = "sh -c 'tail /dev/zero; exit 3'"
    container = start(systemd_guest, script, mem_limit=16 * MB, memswap_limit=16 * MB)
    assert container.wait()["StatusCode"] == 3
    container.reload()
    assert container.attrs["State"]["OOMKilled"] is True
    container.remove()


def test_parents_are_slices(systemd_guest: Guest) -> None:
    guest = systemd_guest
    container = start(guest, cgroup_parent="mine-own.slice")
    group = group_of(guest, pid_of(container))
    assert group == f"/mine.slice/mine-own.slice/sampan-{container.id}.scope"
    assert container.attrs["HostConfig"]["CgroupParent"] == "mine-own.slice"
    container.remove(force=True)
    for parent in ("/mine", "mine", ".slice"):
        with pytest.raises(docker.errors.APIError, match='named as "xxx') as caught:
            start(guest, cgroup_parent=parent)
        assert caught.value.status_code == 400
    with pytest.raises(docker.errors.APIError, match="invalid slice name: a--b"):
        start(guest, cgroup_parent="a--b.slice")
    said = guest.run(
        *("python3", "-m", "sampan.daemon", "--exec-opt", "native.cgroupdriver=systemd"),
        *("--state-dir", "/tmp/other", "--run-dir", "/tmp/other", "--cgroup-parent", "/mine"),
    )
    assert said.code == 1 and 'named as "xxx.slice"' in said.err


def test_commands_of_builds_have_scopes_too(systemd_guest: Guest) -> None:
    api = systemd_guest.client.api
    output = list(
        api.build(fileobj=context(2), custom_context=True, tag="built", rm=True, decode=True)
    )
    assert "error" not in output[-1], output[-1]
    assert scopes(systemd_guest) == []


def test_nothing_stays_of_a_killed_keeper(systemd_guest: Guest) -> None:
    """Nor of a container that goes on while the daemon is away."""
    guest = systemd_guest
    container, other = start(guest), start(guest)
    pid = pid_of(container)
    status = guest.read(f"/proc/{pid}/status").popitem()[1]
    keeper = next(line.split()[1] for line in status.splitlines() if line.startswith("PPid:"))
    guest.run("kill", "-9", str(keeper))
    until(lambda: scopes(guest) == [f"sampan-{other.id}.scope"])
    assert container.wait()["StatusCode"] == 255  # what became of it nobody saw
    guest.run("kill", "-9", str(guest.daemon))
    guest.start_daemon("--exec-opt", "native.cgroupdriver=systemd")
    again = guest.client.containers.get(other.id)
    assert again.status == "running"
    again.kill(signal.SIGKILL)
    assert again.wait()["StatusCode"] == 137
    until(lambda: scopes(guest) == [])
    again.remove()
    guest.client.containers.get(container.id).remove()
