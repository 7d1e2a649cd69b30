"""Attacks on what the whole engine does, and the switches that widen what it permits."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import Daemon, running

SAMPAN = [sys.executable, "-P", "-c", "from sampan.cli.main import entry; entry()"]
REPOSITORY = Path(__file__).parents[2]
# What looking up a name, a locale, a time zone or an encoding would open.
TRAPS = (
    "etc/nsswitch.conf",
    "etc/ld.so.preload",
    "etc/ld.so.cache",
    "etc/localtime",
    "lib/x86_64-linux-gnu/libnss_files.so.2",
    "lib/x86_64-linux-gnu/libnss_compat.so.2",
    "lib64/libnss_files.so.2",
    "usr/lib/locale/locale-archive",
    "usr/lib/python3.11/encodings/idna.py",
    "usr/lib/python3/dist-packages/sampan/__init__.py",
)


@pytest.mark.parametrize("state", ["running", "created"])
def test_cp_opens_nothing_of_the_container(daemon: Daemon, tmp_path: Path, state: str) -> None:
    """CVE-2019-14271: ``cp`` loads a library from inside, which then runs as the host's root.

    The traps are pipes that nobody writes to: a process that opened one would not come back.
    """
    daemon.client.api.import_image_from_data(with_traps(), repository="trapped", tag="latest")
    one = daemon.client.containers.create("trapped", ["/bin/busybox", "sleep", "1000"], user="user")
    try:
        if state == "running":
            one.start()
        source = tmp_path / "source"
        source.mkdir()
        (source / "file").write_text("content")
        (source / "file").chmod(0o640)
        os.chown(source / "file", 1000, 1000)
        for words in (
            ["cp", "-a", f"{source}/.", f"{one.id}:/tmp"],
            ["cp", f"{one.id}:/tmp/file", str(tmp_path / "back")],
            ["cp", "-a", f"{one.id}:/etc/passwd", str(tmp_path / "passwd")],
        ):
            done = daemon.docker(*words, timeout=30)
            assert done.returncode == 0, done.stderr
        assert (tmp_path / "back").read_text() == "content"
        assert "user:x:1000" in (tmp_path / "passwd").read_text()
    finally:
        one.remove(force=True)
        daemon.client.images.remove("trapped")


def with_traps() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name in ("bin", "etc", "tmp", "proc", "sys", "dev"):
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if name == "tmp" else 0o755
            tar.addfile(entry)
        data = Path("/bin/busybox").read_bytes()
        passwd = b"root:x:0:0::/:/bin/sh\nuser:x:1000:1000::/:/bin/sh\n"
        for name, content in (("bin/busybox", data), ("etc/passwd", passwd)):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o755
            tar.addfile(entry, io.BytesIO(content))
        for trap in TRAPS:
            entry = tarfile.TarInfo(trap)
            entry.type, entry.mode = tarfile.FIFOTYPE, 0o755
            tar.addfile(entry)
    return buffer.getvalue()


# --- privileges of builds -----------------------------------------------------------------------

DOCKERFILE = "FROM busybox\nRUN --security=insecure grep -q 'Seccomp:.0' /proc/self/status\n"


def build(daemon: Daemon, folder: Path, *flags: str) -> tuple[int, str]:
    (folder / "Dockerfile").write_text(DOCKERFILE)
    environment = {
        **os.environ,
        "SAMPAN_RUN_DIR": str(daemon.run),
        "SAMPAN_STATE_DIR": str(daemon.state),
        "DOCKER_CONFIG": str(folder / "config"),
        "PYTHONPATH": str(REPOSITORY),
    }
    done = subprocess.run(
        [*SAMPAN, "build", "--no-cache", *flags, str(folder)],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
def permissive() -> Iterator[Daemon]:
    yield from running("--allow-insecure-entitlement", "security.insecure")


def test_a_build_gets_no_privileges_that_the_daemon_does_not_grant(
    daemon: Daemon, permissive: Daemon, tmp_path: Path
) -> None:
    """CVE-2024-23653: the client's word alone is not enough."""
    code, shown = build(daemon, tmp_path)
    assert code != 0 and "security.insecure is not allowed" in shown
    code, shown = build(daemon, tmp_path, "--allow", "security.insecure")
    assert code != 0
    assert "granting entitlement security.insecure is not allowed by build daemon" in shown
    code, shown = build(permissive, tmp_path)
    assert code != 0 and "security.insecure is not allowed" in shown
    code, shown = build(permissive, tmp_path, "--allow", "security.insecure")
    assert code == 0, shown


# --- options ------------------------------------------------------------------------------------


def test_labels_and_profiles_mean_nothing_without_their_module(daemon: Daemon) -> None:
    if Path("/sys/module/apparmor").exists() or Path("/sys/fs/selinux/enforce").exists():
        pytest.skip("this host has a security module")
    options = ["apparmor=some-profile", "label=type:some_t", "label=disable"]
    done = daemon.client.containers.run(
        "busybox", ["echo", "ran"], security_opt=options, remove=True
    )
    assert done == b"ran\n"


def test_a_strange_label_is_refused(daemon: Daemon) -> None:
    done = daemon.docker("run", "--security-opt", "label=colour:red", "busybox", "true")
    assert done.returncode == 125 and b"invalid --security-opt" in done.stderr


SYSTEMD = "native.cgroupdriver=systemd"


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (["--exec-opt", SYSTEMD, "--cgroup-parent", "own.slice"], f"exec-opt {SYSTEMD}"),
        (["--exec-opt", SYSTEMD, "--cgroup-parent", "/own"], 'named as "xxx.slice"'),
        (["--exec-opt", "native.cgroupdriver=other"], "it is cgroupfs or systemd"),
        (["--exec-opt", "other=x"], "unknown exec-opt 'other'"),
    ],
)
def test_settings_that_are_refused(tmp_path: Path, flags: list[str], text: str) -> None:
    if "own.slice" in flags and Path("/run/systemd/private").exists():
        pytest.skip("this host has systemd")
    daemon = Daemon(tmp_path, *flags)
    done = subprocess.run(
        daemon.command(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )
    assert done.returncode != 0
    assert text in done.stderr


def test_the_cgroup_driver_that_there_is() -> None:
    for daemon in running("--exec-opt", "native.cgroupdriver=cgroupfs"):
        assert daemon.client.info()["CgroupDriver"] == "cgroupfs"


def test_realtime_is_shared_out_by_the_daemon() -> None:
    files = Path("/sys/fs/cgroup/cpu")
    if not (files / "cpu.rt_runtime_us").exists():
        pytest.skip("this host counts no realtime for control groups")
    for daemon in running("--cpu-rt-runtime", "3000"):
        made = daemon.docker(
            "run", "-d", "--name", "rt", "--cpu-rt-runtime", "2000", "busybox", "top"
        )
        assert made.returncode == 0, made.stderr
        group = files / daemon.cgroup_parent.strip("/")
        own = group / made.stdout.decode().strip()
        assert (group / "cpu.rt_runtime_us").read_text() == "3000\n"
        assert (own / "cpu.rt_runtime_us").read_text() == "2000\n"
        update = daemon.docker("update", "--cpu-rt-runtime", "1000", "rt")
        assert update.returncode == 0 and (own / "cpu.rt_runtime_us").read_text() == "1000\n"
        shown = daemon.docker("inspect", "-f", "{{.HostConfig.CpuRealtimeRuntime}}", "rt").stdout
        assert shown == b"1000\n"
        more = daemon.docker("run", "--rm", "--cpu-rt-runtime", "2500", "busybox", "true")
        assert more.returncode == 125 and b"give them more by the daemon's" in more.stderr
        daemon.remove_containers()


def test_a_privileged_container_has_the_devices_of_the_host(daemon: Daemon) -> None:
    listing = (
        "find /dev \\( -type b -o -type c \\) ! -path '/dev/pts/*' -exec stat -c '%n %t:%T' {} +"
    )
    said = daemon.client.containers.run(
        "busybox", ["sh", "-c", listing], privileged=True, remove=True, network_mode="none"
    )
    inside = set(said.decode().split("\n")) - {""}
    host = subprocess.run(["sh", "-c", listing], capture_output=True, text=True, check=True)
    # Each container has consoles of its own; other tests make loop devices meanwhile.
    wanted = {
        line
        for line in host.stdout.splitlines()
        if not line.startswith(("/dev/console ", "/dev/ptmx ", "/dev/loop"))
    }
    assert wanted <= inside and len(wanted) > 6
    plain = daemon.client.containers.run(
        "busybox", ["sh", "-c", listing], remove=True, network_mode="none"
    )
    assert len(plain.decode().splitlines()) == 6


def test_other_users_of_the_host_reach_nothing(daemon: Daemon) -> None:
    """As in CVE-2021-41103: who knows the paths would read what containers keep secret, and run
    the programs of images and volumes that give root's rights."""
    container = daemon.client.containers.run(
        "busybox", ["sleep", "1000"], volumes={"known": {"bind": "/v"}}, detach=True
    )
    try:
        places = [daemon.state / "meta.db", daemon.state / "volumes/known/_data"]
        places += [daemon.state / "blobs", daemon.state / "snapshots", *daemon.run.glob("mounts/*")]
        for directory in (daemon.state / "containers", daemon.run / "containers"):
            places += (directory / container.id).iterdir()
        assert len(places) > 6
        nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
        for place in places:
            tries = 'test -r "$1" || test -w "$1" || test -x "$1"'
            tried = subprocess.run([*nobody, "sh", "-c", tries, "sh", str(place)])
            assert tried.returncode == 1, place
    finally:
        container.remove(force=True)
        daemon.client.volumes.get("known").remove()
