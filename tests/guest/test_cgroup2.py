"""Control groups version 2 on Linux 6.1: limits, devices, memory, freezing, figures."""

from __future__ import annotations

import json
from typing import Any

import docker
from guest import Answer, Guest
from harness import until

MB = 1 << 20


class Running:
    """A container that waits, and the files of its group."""

    def __init__(self, guest: Guest, **settings: Any) -> None:
        self._guest = guest
        self.container = guest.client.containers.run(
            "busybox", "sleep 1000", detach=True, network_mode="none", **settings
        )
        self.container.reload()
        self.pid = self.container.attrs["State"]["Pid"]
        path = guest.read(f"/proc/{self.pid}/cgroup").popitem()[1]
        own = next(line for line in path.splitlines() if line.startswith("0::"))
        self.folder = "/sys/fs/cgroup" + own.removeprefix("0::")

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *_: object) -> None:
        self.container.remove(force=True)

    def files(self) -> dict[str, str]:
        found = self._guest.read(f"{self.folder}/*")
        return {path.rpartition("/")[2]: text.strip() for path, text in found.items()}


def disk_of(guest: Guest) -> str:
    """The numbers of the guest's first disk, as the kernel writes them."""
    return guest.read("/sys/block/vda/dev")["/sys/block/vda/dev"].strip()


def test_limits_are_in_the_groups_files(guest: Guest) -> None:
    disk = disk_of(guest)
    with Running(
        guest,
        mem_limit=64 * MB,
        memswap_limit=96 * MB,
        mem_reservation=32 * MB,
        nano_cpus=500_000_000,
        cpu_shares=2048,
        cpuset_cpus="0",
        cpuset_mems="0",
        pids_limit=50,
        blkio_weight=500,
        device_write_bps=[{"Path": "/dev/vda", "Rate": 10 * MB}],
        device_read_iops=[{"Path": "/dev/vda", "Rate": 1000}],
    ) as running:
        found = running.files()
        assert found["memory.max"] == str(64 * MB)
        assert found["memory.swap.max"] == str(32 * MB)
        assert found["memory.low"] == str(32 * MB)
        assert found["cpu.max"] == "50000 100000"
        assert found["cpu.weight"] == "79"
        assert found["cpuset.cpus"] == "0" and found["cpuset.mems"] == "0"
        assert found["pids.max"] == "50"
        assert found["io.max"] == f"{disk} rbps=max wbps={10 * MB} riops=1000 wiops=max"
        weight = found.get("io.bfq.weight") or found["io.weight"]
        assert weight in ("default 500", "default 4950")
        assert found["cgroup.procs"].split() == [str(running.pid)]

        # What runs is changed, and what is executed in it is limited too.
        api = guest.client.api
        api.update_container(
            running.container.id,
            mem_limit=128 * MB,
            memswap_limit=128 * MB,
            cpu_quota=20000,
            cpu_period=50000,
            cpu_shares=512,
        )
        found = running.files()
        assert found["memory.max"] == str(128 * MB) and found["memory.swap.max"] == "0"
        assert found["cpu.max"] == "20000 50000" and found["cpu.weight"] == "20"
        code, said = running.container.exec_run("cat /proc/self/cgroup")
        assert code == 0 and b"0::/\n" in said, said
        started = api.exec_create(running.container.id, "sleep 1000")["Id"]
        api.exec_start(started, detach=True)
        pid = until(lambda: api.exec_inspect(started)["Pid"])
        assert str(pid) in running.files()["cgroup.procs"].split()

        # Paused by the group's own freezer, all of it.
        running.container.pause()
        found = running.files()
        assert found["cgroup.freeze"] == "1" and "frozen 1" in found["cgroup.events"]
        running.container.unpause()
        assert "frozen 0" in running.files()["cgroup.events"]


def test_figures(guest: Guest) -> None:
    """As Docker's engine shows them, which was run on the same machine once."""
    with Running(guest, mem_limit=64 * MB, pids_limit=20, nano_cpus=200_000_000) as running:
        code, _ = running.container.exec_run(
            "sh -c 'dd if=/dev/zero of=/f bs=1M count=4 && sync && cat /f > /dev/null;"
            " dd if=/dev/zero of=/dev/null bs=1M count=500'"
        )
        assert code == 0
        figures = running.container.stats(stream=False)
        found = running.files()
        memory, cpu = figures["memory_stats"], figures["cpu_stats"]
        assert memory["limit"] == 64 * MB
        assert 4 * MB < memory["usage"] <= 64 * MB
        assert memory["stats"]["file"] >= 4 * MB and "pgfault" in memory["stats"]
        counted = dict(line.split() for line in found["memory.stat"].splitlines())
        assert memory["stats"].keys() == {*counted, "workingset_activate", "workingset_refault"}
        assert abs(memory["stats"]["inactive_file"] - int(counted["inactive_file"])) < MB
        assert memory["stats"]["workingset_refault"] == int(counted["workingset_refault_file"])
        usage = dict(line.split() for line in found["cpu.stat"].splitlines())
        assert 0 < cpu["cpu_usage"]["total_usage"] <= int(usage["usage_usec"]) * 1000
        parts = ("usage_in_kernelmode", "usage_in_usermode")
        whole = sum(cpu["cpu_usage"][part] for part in parts)
        assert abs(whole - cpu["cpu_usage"]["total_usage"]) <= 2000  # each is in microseconds
        assert cpu["online_cpus"] == 1 and cpu["system_cpu_usage"] > 0
        assert figures["precpu_stats"]["system_cpu_usage"] < cpu["system_cpu_usage"]
        throttling = cpu["throttling_data"]
        assert 0 < throttling["throttled_periods"] <= throttling["periods"]
        assert throttling["throttled_time"] == int(usage["throttled_usec"]) * 1000
        assert figures["pids_stats"] == {"current": 1, "limit": 20}
        major, _, minor = disk_of(guest).partition(":")
        written = {
            (entry["major"], entry["minor"], entry["op"].lower()): entry["value"]
            for entry in figures["blkio_stats"]["io_service_bytes_recursive"]
        }
        assert written[int(major), int(minor), "write"] >= 4 * MB
        assert "networks" not in figures
        # The page cache that can be given back is not what the command line shows as used.
        used = (memory["usage"] - memory["stats"]["inactive_file"]) / 1024
        said = guest.sampan("stats", "--no-stream", "--format", "json", running.container.id)
        shown = json.loads(said.out)
        assert shown["MemUsage"].endswith(" / 64MiB") and shown["PIDs"] == "1"
        assert abs(float(shown["MemUsage"].partition("KiB")[0]) - used) < 512
        assert shown["BlockIO"].endswith("/ 4.19MB") and shown["NetIO"] == "0B / 0B"


def test_want_of_memory_is_reported(guest: Guest) -> None:
    container = guest.client.containers.run(
        "busybox",
        "tail /dev/zero",
        detach=True,
        mem_limit=16 * MB,
        memswap_limit=16 * MB,
        network_mode="none",
    )
    assert container.wait()["StatusCode"] == 137
    container.reload()
    assert container.attrs["State"]["OOMKilled"] is True
    since = container.attrs["Created"][:19]
    events = guest.client.events(
        since=int(docker.utils.datetime_to_timestamp(_time(since))),
        until=4_000_000_000,
        decode=True,
        filters={"container": container.id},
    )
    actions = []
    for event in events:
        actions.append(event["Action"])
        if event["Action"] == "die":
            break
    assert "oom" in actions
    container.remove()


def _time(text: str) -> Any:
    from datetime import datetime

    return datetime.fromisoformat(text)


def test_processes_are_limited(guest: Guest) -> None:
    container = guest.client.containers.run(
        "busybox",
        "sh -c 'for i in 1 2 3 4 5 6 7 8; do sleep 60 & done'",
        pids_limit=5,
        network_mode="none",
        detach=True,
    )
    container.wait()
    assert b"can't fork: Resource temporarily unavailable" in container.logs()
    container.remove()


def test_devices_are_allowed_by_a_program(guest: Guest) -> None:
    major, _, minor = disk_of(guest).partition(":")
    script = (
        f"exec 2>&1; mknod /d b {major} {minor} && dd if=/d of=/dev/null bs=512 count=1; echo $?"
    )

    def run(**settings: Any) -> bytes:
        return bytes(
            guest.client.containers.run(
                "busybox",
                ["sh", "-c", script],
                stderr=True,
                remove=True,
                network_mode="none",
                **settings,
            )
        )

    assert b"can't open '/d': Operation not permitted" in run()
    assert run(device_cgroup_rules=[f"b {major}:{minor} r"]).endswith(b"\n0\n")
    named = guest.client.containers.run(
        "busybox",
        "sh -c 'dd if=/dev/own of=/dev/null bs=512 count=1 && ! dd if=/dev/zero of=/dev/own count=1'",
        devices=["/dev/vda:/dev/own:r"],
        stderr=True,
        remove=True,
        network_mode="none",
    )
    assert b"can't open '/dev/own': Operation not permitted" in named


def test_the_command_line_and_what_it_says_of_the_host(guest: Guest) -> None:
    said = guest.sampan("info", "--format", "{{json .}}")
    info = json.loads(said.out)
    assert info["CgroupVersion"] == "2" and info["CgroupDriver"] == "cgroupfs"
    assert info["MemoryLimit"] and info["CpuCfsQuota"] and info["PidsLimit"] and info["CPUSet"]
    ran = guest.sampan(
        "run", "--rm", "--network", "none", "--memory", "20m", "busybox", "sh", "-c", "exit 7"
    )
    assert ran.code == 7, ran.err


def test_a_container_sees_its_own_group(guest: Guest) -> None:
    def run(script: str, **settings: Any) -> str:
        command = ["sh", "-c", f"exec 2>&1; {script}"]
        said = guest.client.containers.run(
            "busybox", command, remove=True, network_mode="none", mem_limit=32 * MB, **settings
        )
        return bytes(said).decode()

    said = run("cat /sys/fs/cgroup/memory.max; mkdir /sys/fs/cgroup/x || cat /proc/self/cgroup")
    assert said.startswith(f"{32 * MB}\n") and "Read-only file system" in said
    assert said.endswith("0::/\n")
    assert "0::/sampan/" in run("cat /proc/self/cgroup", cgroupns="host")
    # A privileged one may make groups of its own below.
    nested = "mkdir /sys/fs/cgroup/x && cat /sys/fs/cgroup/x/cgroup.type && rmdir /sys/fs/cgroup/x"
    assert run(nested, privileged=True) == "domain\n"


def test_limits_that_only_version_1_has(guest: Guest) -> None:
    def run(*flags: str) -> Answer:
        return guest.sampan("run", "--rm", "--network", "none", *flags, "busybox", "echo", "ran")

    refused = run("--cpu-rt-runtime", "1000")
    assert refused.code == 125
    assert "realtime CPU limits need control groups version 1" in refused.err
    # These are discarded, as by Docker.
    for name, flags in (
        ("Memory swappiness", ["--memory-swappiness", "10"]),
        ("OomKillDisable", ["--memory", "32m", "--oom-kill-disable"]),
    ):
        ran = run(*flags)
        assert ran.out == "ran\n" and f"{name} discarded." in ran.err
    made = guest.client.api.create_host_config(mem_swappiness=10, oom_kill_disable=True)
    container = guest.client.api.create_container("busybox", host_config=made)["Id"]
    found = guest.client.api.inspect_container(container)["HostConfig"]
    assert found["MemorySwappiness"] is None and found["OomKillDisable"] is None
    guest.client.api.remove_container(container)


def test_a_weight_of_one_disk(guest: Guest) -> None:
    """Where the disk's scheduler has weights; elsewhere the daemon's log says that it has none."""
    with Running(guest, blkio_weight=300):
        text = "block I/O weight is not set: the host's scheduler has none"
        known = "io.weight" in guest.run("ls", "/sys/fs/cgroup/sampan").out
        assert known or text in guest.read("/var/log/sampan.log").popitem()[1]
    guest.run("modprobe", "bfq")
    scheduler = "/sys/block/vda/queue/scheduler"
    guest.write(scheduler, b"bfq")
    assert "[bfq]" in guest.read(scheduler)[scheduler]
    with Running(guest, blkio_weight_device=[{"Path": "/dev/vda", "Weight": 300}]) as running:
        assert f"{disk_of(guest)} 300" in running.files()["io.bfq.weight"]
