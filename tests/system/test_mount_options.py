"""What ``--mount``, ``-v`` and ``--tmpfs`` can say of a mount, seen from inside."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness import Daemon, until
from test_platforms import PROGRAM

Run = Callable[..., str]


@pytest.fixture
def run(daemon: Daemon) -> Iterator[Run]:
    """What a script in a container prints, with errors; the mounts' flags come before."""

    def call(script: str, *flags: str) -> str:
        done = subprocess.run(
            [sys.executable, PROGRAM, "run", "--rm", *flags, "busybox", "sh", "-c", script],
            env={**os.environ, "SAMPAN_HOST": daemon.url},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
        )
        return done.stdout

    yield call
    for volume in daemon.client.volumes.list():
        volume.remove(force=True)


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Path]:
    """A shared mount with another one below it."""
    top = tmp_path / "top"
    top.mkdir()
    mount = ["mount", "-t", "tmpfs", "tmpfs"]
    subprocess.run([*mount, top], check=True)
    try:
        subprocess.run(["mount", "--make-shared", top], check=True)
        (top / "below").mkdir()
        subprocess.run([*mount, top / "below"], check=True)
        (top / "below" / "f").write_text("deep\n")
        yield top
    finally:
        subprocess.run(["umount", "-R", "-l", top], check=True)


WRITE = "touch /m/a && echo top; touch /m/below/b && echo below; cat /m/below/f"


@pytest.mark.parametrize(
    ("options", "top", "below", "seen"),
    [
        ("", True, True, True),
        (",readonly", False, False, True),
        (",bind-recursive=enabled,readonly", False, False, True),
        (",bind-recursive=disabled", True, True, False),
        (",bind-recursive=disabled,readonly", False, False, False),
        (",bind-recursive=writable,readonly", False, True, True),
        (",bind-recursive=readonly,readonly,bind-propagation=rprivate", False, False, True),
    ],
)
def test_recursion(run: Run, tree: Path, options: str, top: bool, below: bool, seen: bool) -> None:
    said = run(WRITE, "--mount", f"type=bind,source={tree},target=/m{options}")
    assert ("top\n" in said, "below\n" in said, "deep\n" in said) == (top, below, seen), said
    assert (tree / "a").exists() == top and (tree / "below" / "b").exists() == (seen and below)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("bind-recursive=readonly", "requires 'readonly'"),
        ("bind-recursive=writable", "readonly"),
        ("bind-recursive=readonly,readonly", "rprivate"),
        ("bind-recursive=sometimes", "bind-recursive"),
    ],
)
def test_recursion_refused(run: Run, tree: Path, options: str, message: str) -> None:
    said = run("true", "--mount", f"type=bind,source={tree},target=/m,{options}")
    assert message in said


@pytest.mark.parametrize(
    ("propagation", "arrives"), [("rprivate", False), ("rslave", True), ("rshared", True)]
)
def test_propagation(daemon: Daemon, tree: Path, propagation: str, arrives: bool) -> None:
    """Whether a later mount of the host's is seen inside."""
    (tree / "later").mkdir()
    container = daemon.client.containers.run(
        "busybox", ["sleep", "1000"], detach=True, volumes=[f"{tree}:/m:{propagation}"]
    )
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", tree / "later"], check=True)
    (tree / "later" / "f").write_text("x")

    def there() -> bool:
        return bool(container.exec_run(["test", "-e", "/m/later/f"]).exit_code == 0)

    if arrives:
        until(there)
    else:
        assert not there()
    container.remove(force=True)


@pytest.mark.parametrize(
    ("propagation", "kind"), [("rslave", "shared or slave"), ("shared", "shared")]
)
def test_propagation_from_a_private_mount(
    run: Run, tree: Path, propagation: str, kind: str
) -> None:
    subprocess.run(["mount", "--make-private", tree], check=True)
    said = run("true", "-v", f"{tree}/later:/m:{propagation}")
    assert f"path {tree}/later is mounted on {tree} but it is not a {kind} mount" in said


def test_tmpfs(run: Run) -> None:
    said = run("df -m /t | tail -1; stat -c %a /t", "--tmpfs", "/t:size=3m,mode=750")
    assert said.split()[1] == "3" and said.endswith("750\n")
    flags = "type=tmpfs,target=/t,tmpfs-size=2m,tmpfs-mode=1770"
    said = run("df -m /t | tail -1; stat -c %a /t", "--mount", flags)
    assert said.split()[1] == "2" and said.endswith("1770\n")
    said = run("grep ' /t ' /proc/mounts; cp /bin/busybox /t/; /t/busybox true", "--tmpfs", "/t")
    assert "nosuid" in said and "noexec" in said and "ermission denied" in said
    assert "Read-only" in run("touch /t/x", "--tmpfs", "/t:ro")
    # A directory of the image keeps its mode; where there is none, everybody may write.
    said = run("stat -c %a /bin /t; touch /t/x", "-u", "1000", "--tmpfs", "/t", "--tmpfs", "/bin/t")
    assert said == "755\n1777\n"


def test_files_of_the_network_in_a_tmpfs(run: Run) -> None:
    said = run(
        "ls /etc; hostname -f; tail -n 1 /etc/hosts | cut -f 2", "--tmpfs", "/etc", "-h", "a.b"
    )
    assert said.split() == ["hostname", "hosts", "resolv.conf", "a.b", "a.b", "a"]


def test_volume_options(run: Run, daemon: Daemon) -> None:
    """Copy-up and its absence, labels and a driver's options, a part of a volume."""
    assert "passwd" in run("ls /etc", "--mount", "type=volume,source=full,target=/etc")
    assert "passwd" in run("ls /v", "-v", "full:/v:ro")
    bare = "type=volume,source=bare,target=/etc,volume-nocopy"
    assert "passwd" not in run("ls /etc", "--mount", bare)
    said = run(
        "df -m /v | tail -1",
        "--mount",
        "type=volume,source=memory,target=/v,volume-label=a=b,volume-driver=local,"
        'volume-opt=type=tmpfs,volume-opt=device=tmpfs,"volume-opt=o=size=4m,mode=700"',
    )
    assert said.split()[1] == "4", said
    memory = daemon.client.volumes.get("memory").attrs
    assert memory["Labels"] == {"a": "b"} and memory["Options"]["o"] == "size=4m,mode=700"
    part = "type=volume,source=full,target=/p,volume-subpath=passwd"
    assert run("head -c 4 /p", "--mount", part) == "root"
    image = "type=image,source=busybox,target=/i,image-subpath=etc"
    assert "passwd" in run("ls /i; touch /i/x", "--mount", image)


def test_options_of_network_file_systems_go_to_the_kernel(run: Run, daemon: Daemon) -> None:
    """There is no server here: the kernel, or its lack of the file system, says so."""
    daemon.client.volumes.create(
        "far",
        driver_opts={
            "type": "nfs",
            "o": "addr=127.0.0.1,nfsvers=4,soft,timeo=1,retrans=0",
            "device": ":/x",
        },
    )
    said = run("true", "-v", "far:/v")
    assert "failed to mount local volume: mount :/x:" in said
    assert "addr=127.0.0.1,nfsvers=4" in said
