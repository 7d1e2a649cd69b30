"""Checkpoint and restore by CRIU: this machine's where it knows the kernel, else a newer Debian's."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ocicontainer import SCRIPT, Container

from sampan.linux import lsm
from sampan.linux.process import take_descriptor

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.network,
]

CACHE = Path("/var/cache/sampan/tests")
COUNT = "i=0; while :; do i=$((i+1)); echo $i >> /count; sleep 0.02; done"


@pytest.fixture(scope="module")
def criu() -> str:
    own = shutil.which("criu")
    if own and subprocess.run([own, "check"], capture_output=True, check=False).returncode == 0:
        return own
    if shutil.which("mmdebstrap") is None:
        pytest.skip("criu does not work here, and there is no mmdebstrap to get a newer one")
    CACHE.mkdir(parents=True, exist_ok=True)
    root = CACHE / f"criu-{time.strftime('%G-%V')}"
    program = root / "criu"
    with (CACHE / "criu.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not program.exists():
            for old in CACHE.glob("criu-*"):
                shutil.rmtree(old)
            command = ["mmdebstrap", "--variant=extract", "--include=criu", "trixie", str(root)]
            subprocess.run(command, check=True, capture_output=True)
            loader = f"{root}/usr/lib64/ld-linux-x86-64.so.2"
            library = f"{root}/usr/lib/x86_64-linux-gnu"
            program.write_text(
                f'#!/bin/sh\nexec {loader} --library-path {library} {root}/usr/sbin/criu "$@"\n'
            )
            program.chmod(0o755)
    done = subprocess.run([program, "check"], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no criu works with this kernel: {done.stderr[-300:]}")
    return str(program)


class Restorable(Container):
    """A container that counts, with one mount of each kind."""

    def __init__(self, directory: Path, criu: str) -> None:
        super().__init__(directory)
        self.criu = criu
        self.data = directory / "data"
        self.data.mkdir()
        (directory / "file").write_text("of the host\n")
        (directory / "rootfs/etc/file").touch()
        self.config["linux"]["maskedPaths"] = ["/proc/kcore", "/sys/firmware", "/proc/timer_list"]
        self.config["linux"]["readonlyPaths"] = ["/proc/sys"]
        self.config["mounts"] += [
            self._bind(self.data, "/data", "rw"),
            self._bind(directory / "file", "/etc/file", "ro"),
            {"destination": "/sys/fs/cgroup", "type": "cgroup", "options": ["ro"]},
        ]

    @staticmethod
    def _bind(source: Path, place: str, mode: str) -> dict[str, Any]:
        return {
            "destination": place,
            "type": "bind",
            "source": str(source),
            "options": ["bind", mode],
        }

    def count(self) -> int:
        file = self.directory / "rootfs/count"
        return file.read_text().count("\n") if file.exists() else 0

    def wait_for_more(self, than: int) -> int:
        deadline = time.monotonic() + 20
        while self.count() <= than:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        return self.count()

    def keep(self, *words: str) -> None:
        done = self("checkpoint", "--criu", self.criu, *words)
        assert done.returncode == 0, done.stdout

    def bring_back(self, *words: str, name: str = "") -> None:
        # Where it was a file of the host's, it must be the same one.
        with (self.directory / "out").open("a") as out:
            base = ["restore", "--criu", self.criu, "-b", str(self.directory), *words]
            done = self(*base, name or self.name, stdout=out)
        assert done.returncode == 0, (self.directory / "out").read_text()[-300:]

    def refused(self, text: str, *words: str) -> None:
        done = self(*words)
        assert done.returncode == 1
        assert text in done.stderr

    def status(self, name: str = "") -> str:
        return str(json.loads(self("state", name or self.name).stdout)["status"])


@pytest.fixture
def container(criu: str) -> Iterator[Restorable]:
    with tempfile.TemporaryDirectory(prefix="oci-criu") as directory:
        found = Restorable(Path(directory), criu)
        yield found
        for name in found("list", "-q").stdout.split():
            found("delete", "--force", name)


def test_it_goes_on_where_it_was(container: Restorable) -> None:
    images = str(container.directory / "images")
    container.start(f"{COUNT.removesuffix('done')} echo $i; done")
    reached = container.wait_for_more(5)
    container.keep("--image-path", images, container.name)
    assert container("list", "-q").stdout == ""
    stopped = container.count()
    assert stopped >= reached
    pid_file = container.directory / "pid"
    other = f"{container.name}-again"
    container.bring_back("-d", "--image-path", images, "--pid-file", str(pid_file), name=other)
    assert container.status(other) == "running"
    assert container.wait_for_more(stopped) < stopped + 1000
    said = [int(word) for word in (container.directory / "out").read_text().split()]
    assert said == list(range(1, len(said) + 1)) and len(said) > stopped
    script = "cat /proc/1/cgroup /etc/file; touch /data/by-exec; ls /sys/fs/cgroup | grep -c ."
    done = container("exec", other, "sh", "-c", script)
    assert f"/sampan-oci/{other}\n" in done.stdout and "of the host\n" in done.stdout
    assert f"/sampan-oci/{container.name}\n" not in done.stdout, done.stdout
    assert (container.data / "by-exec").exists()
    pid = int(pid_file.read_text())
    assert pid in json.loads(container("ps", "--format", "json", other).stdout)
    with pytest.raises(OSError):
        (container.directory / "rootfs/proc/kcore").read_bytes()
    # A second time, as a container that goes on.
    again = str(container.directory / "again")
    container.keep("--image-path", f"{again}-running", "--leave-running", other)
    assert container.status(other) == "running"
    container.wait_for_more(container.count())
    container.keep("--image-path", again, other)
    # In the foreground: its exit code is ours.
    base = [*container.command, "--root", str(container.directory / "root"), "restore"]
    base += ["--criu", container.criu, "-b", str(container.directory), "--image-path", again]
    before = container.count()
    with (container.directory / "out").open("a") as out:
        held = subprocess.Popen([*base, other], stdin=subprocess.DEVNULL, stdout=out, stderr=out)
    try:
        container.wait_for_more(before)
        assert container("kill", other, "KILL").returncode == 0
        assert held.wait(20) == 137
    finally:
        held.kill()
        held.wait()
    assert container("list", "-q").stdout == ""


def test_pipes_become_the_streams_of_who_restores(container: Restorable) -> None:
    images = str(container.directory / "images")
    script = "while read line; do echo got $line; done"
    container.prepare(script)
    base = [*container.command, "--root", str(container.directory / "root")]
    words = [*base, "run", "-b", str(container.directory), container.name]
    pipe = subprocess.PIPE
    with subprocess.Popen(words, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL) as first:
        assert first.stdin is not None and first.stdout is not None
        first.stdin.write(b"one\n")
        first.stdin.flush()
        assert first.stdout.readline() == b"got one\n"
        container.keep("--image-path", images, container.name)
        assert first.wait(20) != 0
    words = [*base, "restore", "--criu", container.criu, "-b", str(container.directory)]
    words += ["--image-path", images, container.name]
    with subprocess.Popen(words, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL) as second:
        assert second.stdin is not None and second.stdout is not None
        second.stdin.write(b"two\n")
        second.stdin.flush()
        assert second.stdout.readline() == b"got two\n"
        second.stdin.close()
        assert second.wait(20) == 0


def test_locks_of_files_come_back(container: Restorable) -> None:
    images, work = str(container.directory / "images"), str(container.directory / "work")
    container.start(f"exec 9> /lock; {COUNT}")
    container.wait_for_more(0)
    pid = json.loads(container("state", container.name).stdout)["pid"]
    handle = os.pidfd_open(pid)
    held = take_descriptor(handle, 9)
    os.close(handle)
    fcntl.flock(held, fcntl.LOCK_EX)  # of the open file, which is the container's
    os.close(held)
    paths = ["--image-path", images, "--work-path", work]
    dump = ["checkpoint", "--criu", container.criu, *paths]
    container.refused("criu dump failed", *dump, container.name)
    assert container.status() == "running"
    container.keep(*paths, "--file-locks", container.name)
    assert "dump.log" in os.listdir(work) and "dump.log" not in os.listdir(images)
    stopped = container.count()
    with (container.directory / "rootfs/lock").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.flock(file, fcntl.LOCK_UN)
        container.bring_back("-d", *paths, "--file-locks")
        container.wait_for_more(stopped)
        with pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert "restore.log" in os.listdir(work)


def test_what_cannot_be(container: Restorable) -> None:
    images, refused = str(container.directory / "images"), container.refused
    container.start(COUNT)
    dump = ["checkpoint", "--image-path", images]
    one = container.name
    refused("--criu /nosuch is not a program", *dump, "--criu", "/nosuch", one)
    odd = ["--manage-cgroups-mode", "odd"]
    refused("--manage-cgroups-mode 'odd' is unknown", *dump, *odd, one)
    refused("must be relative", *dump, "--parent-path", "/x", one)
    refused("there is no such directory", *dump, "--parent-path", "nosuch", one)
    for flag in ("--shell-job", "--ext-unix-sk"):
        refused(f"{flag} is not supported: ", *dump, flag, one)
    refused("--empty-ns is for network only", *dump, "--empty-ns", "pid", one)
    # CRIU's own failure; the container goes on.
    false = shutil.which("false") or "/bin/false"
    refused(f"criu dump failed (1) (see {images}/dump.log)", *dump, "--criu", false, one)
    assert container.status() == "running"
    back = ["restore", "--image-path", images, "--criu", container.criu]
    back += ["-b", str(container.directory), f"{one}-b"]
    refused("there is no checkpoint in", *back)
    (container.directory / "images/inventory.img").touch()
    refused("neither apparmor: nor selinux:", *back, "--lsm-profile", "odd:x")
    if not lsm.has_selinux():
        refused("SELinux is not enabled", *back, "--lsm-profile", "selinux:x")
        refused("SELinux is not enabled", *back, "--lsm-mount-context", "x")
    if not lsm.has_apparmor():
        refused("AppArmor is not enabled", *back, "--lsm-profile", "apparmor:x")
    refused("criu restore failed", *back)
    assert container("list", "-q").stdout.split() == [one]
    assert not list(Path("/sys/fs/cgroup").glob(f"*/sampan-oci/{one}-b"))
    assert container("pause", one).returncode == 0
    refused("cannot checkpoint a container that is paused", *dump, one)


def test_a_terminal_is_refused(container: Restorable) -> None:
    container.config["process"]["terminal"] = True
    container.prepare("true")
    words = ["restore", "--image-path", str(container.directory), "-b", str(container.directory)]
    container.refused("with a terminal cannot be checkpointed", *words, "x")


def test_without_criu_it_is_told_what_to_do(container: Restorable, tmp_path: Path) -> None:
    container.start(COUNT)
    script = "from sampan.runtime.oci import criu, seal\ncriu._DIRECTORIES = ()\nseal.entry()"
    words = ["-c", f"import sys; sys.path.append({str(SCRIPT.parents[1])!r})\n{script}"]
    root = ["--root", str(container.directory / "root")]
    base = [container.command[0], "-I", *words, *root]
    environment = {"PATH": str(tmp_path)}
    done = subprocess.run(
        [*base, "checkpoint", container.name], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 1
    assert "criu is not installed: checkpoint and restore need it" in done.stderr
    done = subprocess.run([*base, "features"], capture_output=True, text=True, env=environment)
    found = json.loads(done.stdout)
    assert found["annotations"]["io.sampan.checkpoint.enabled"] == "false"
    found = json.loads(container("--criu", container.criu, "features").stdout)
    assert found["annotations"]["io.sampan.checkpoint.enabled"] == "true"
