"""AppArmor, which Debian's kernels have: the default profile, others, none."""

from __future__ import annotations

import json
from typing import Any

import docker
import pytest
from guest import Guest
from harness import until

DEFAULT = "sampan-default (enforce)"
CURRENT = "cat /proc/self/attr/current"


def run(guest: Guest, command: Any, **settings: Any) -> str:
    settings = {"network_mode": "none", "remove": True, "stderr": True, **settings}
    if isinstance(command, str):
        command = ["sh", "-c", command]
    said = guest.client.containers.run("busybox", command, **settings)
    return bytes(said).decode().strip()


def test_the_default_profile(systemd_guest: Guest) -> None:
    guest, api = systemd_guest, systemd_guest.client.api
    assert "name=apparmor" in guest.client.info()["SecurityOptions"]
    assert run(guest, CURRENT) == DEFAULT
    container = guest.client.containers.run(
        "busybox",
        "sleep 1000",
        network_mode="none",
        detach=True,
        healthcheck={"test": ["CMD", "cat", "/proc/self/attr/current"], "interval": 10**9},
    )
    assert api.inspect_container(container.id)["AppArmorProfile"] == "sampan-default"
    for privileged in (False, True):
        code, said = container.exec_run(CURRENT, privileged=privileged)
        assert code == 0 and said.decode().strip() == DEFAULT
    health = until(
        lambda: (api.inspect_container(container.id)["State"]["Health"]["Log"] or [None])[0]
    )
    assert health["Output"].strip() == DEFAULT
    # The engine may signal it, and its processes each other.
    assert container.exec_run("sh -c 'sleep 100 & kill $!'")[0] == 0
    container.stop(timeout=0)
    container.remove()


def test_what_the_default_profile_denies(systemd_guest: Guest) -> None:
    """With all capabilities, no filter and nothing masked or read-only, so that only it is left."""
    guest = systemd_guest
    open_settings = {
        "cap_add": ["ALL"],
        "security_opt": ["seccomp=unconfined", "systempaths=unconfined"],
        "volumes": ["/sys:/sys:rw"],
    }
    denied = {
        "mount": "mount -t tmpfs none /mnt",
        "bind": "mount -o bind /etc /mnt",
        "sysrq": "echo h > /proc/sysrq-trigger",
        "kcore": "head -c 1 /proc/kcore",
        "panic": "echo 0 > /proc/sys/kernel/panic",
        "pid_max": "echo 32768 > /proc/sys/kernel/pid_max",
        "vm": "echo 0 > /proc/sys/vm/overcommit_memory",
        "irq": "echo 1 > /proc/irq/default_smp_affinity",
        "firmware": "head -c 1 /sys/firmware/acpi/tables/DSDT",
        "security": "cat /sys/kernel/security/lsm",
        "block": "echo 128 > /sys/block/vda/queue/nr_requests",
        "uevent": "echo x > /sys/kernel/uevent_helper",
    }
    lines = ["mkdir -p /mnt"]
    lines += [
        f"({command}) > /dev/null 2> /err && echo {name} works || {{ echo {name}; cat /err; }}"
        for name, command in denied.items()
    ]
    said = run(guest, "; ".join(lines), **open_settings)
    assert "works" not in said, said
    assert said.count("Permission denied") == len(denied), said
    allowed = (
        "echo 4000 > /proc/sys/kernel/shmmni && umount /dev/mqueue && echo x > /proc/self/comm"
        " && echo 0 > /proc/self/oom_score_adj && ls /sys/class > /dev/null && echo works"
    )
    assert run(guest, allowed, **open_settings) == "works"
    unconfined = {
        **open_settings,
        "security_opt": [*open_settings["security_opt"], "apparmor=unconfined"],
    }
    assert (
        run(guest, "mkdir -p /mnt && mount -t tmpfs none /mnt && echo works", **unconfined)
        == "works"
    )


def test_other_profiles(systemd_guest: Guest) -> None:
    guest = systemd_guest
    assert run(guest, CURRENT, security_opt=["apparmor=unconfined"]) == "unconfined"
    assert run(guest, CURRENT, security_opt=["apparmor:unconfined"]) == "unconfined"
    assert run(guest, CURRENT, privileged=True) == "unconfined"
    profile = "profile no-passwd flags=(attach_disconnected) { file, deny /etc/passwd r, }"
    said = guest.run("apparmor_parser", "--replace", "--skip-cache", input=profile.encode())
    assert said.code == 0, said.err
    ran = guest.sampan(
        *("run", "--rm", "--network", "none", "--security-opt", "apparmor=no-passwd", "busybox"),
        *("sh", "-c", f"{CURRENT}; cat /etc/passwd"),
    )
    assert ran.code == 1 and "no-passwd (enforce)" in ran.out
    assert "can't open '/etc/passwd': Permission denied" in ran.err
    with pytest.raises(docker.errors.APIError, match="apparmor failed to apply profile 'absent'"):
        run(guest, "true", security_opt=["apparmor=absent"])
    for leftover in guest.client.containers.list(all=True):
        leftover.remove(force=True)
    document = json.loads(guest.sampan("info", "--format", "{{json .SecurityOptions}}").out)
    assert document == ["name=apparmor", "name=seccomp,profile=builtin", "name=cgroupns"]


def test_commands_of_builds_are_confined(systemd_guest: Guest) -> None:
    guest = systemd_guest
    guest.run("mkdir", "-p", "/tmp/context")
    guest.write("/tmp/context/Dockerfile", f"FROM busybox\nRUN {CURRENT} > /label\n".encode())
    built = guest.sampan("build", "-t", "labelled", "--network", "none", "/tmp/context")
    assert built.code == 0, built.err
    label = guest.client.containers.run("labelled", "cat /label", remove=True, network_mode="none")
    assert label.decode().strip() == DEFAULT
    guest.client.images.remove("labelled")
