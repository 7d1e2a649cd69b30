"""Podman with sampan-oci as its runtime."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not all(map(shutil.which, ("podman", "conmon", "busybox"))),
    reason="needs root, podman and conmon",
)


class Podman:
    def __init__(self, directory: Path, storage: Path) -> None:
        runtime = directory / "sampan-oci"
        script = Path(__file__).parents[3] / "scripts/sampan-oci"
        runtime.write_text(f"#!{sys.executable}\n" + script.read_text().partition("\n")[2])
        runtime.chmod(0o755)
        self.base = [
            "podman",
            f"--root={storage}/root",
            f"--runroot={storage}/run",
            "--cgroup-manager=cgroupfs",
            "--events-backend=none",
            "--storage-driver=vfs",
            f"--runtime={runtime}",
        ]

    def __call__(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self.base, *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )


@pytest.fixture
def podman(tmp_path: Path) -> Iterator[Podman]:
    root = tmp_path / "rootfs"
    (root / "bin").mkdir(parents=True)
    shutil.copy(shutil.which("busybox") or "", root / "bin/busybox")
    for applet in ("sh", "sleep", "id", "test", "true"):
        (root / "bin" / applet).symlink_to("busybox")
    subprocess.run(["tar", "-C", str(root), "-cf", str(tmp_path / "r.tar"), "."], check=True)
    # Podman limits the length of its directories' names.
    with tempfile.TemporaryDirectory(prefix="pod") as short:
        found = Podman(tmp_path, Path(short))
        imported = found("import", "-q", str(tmp_path / "r.tar"), "localhost/box")
        assert imported.returncode == 0, imported.stderr
        yield found


def test_run_exec_kill_and_remove(podman: Podman) -> None:
    quick = ("run", "--rm", "--network", "none", "localhost/box")
    done = podman(*quick, "sh", "-c", "id -u; exit 5")
    assert (done.returncode, done.stdout) == (5, "0\n"), done.stderr
    assert podman(*quick, "nosuch").returncode == 127
    one = f"oci-{os.getpid()}"
    done = podman("run", "-d", "--network", "none", "--name", one, "localhost/box", "sleep", "60")
    assert done.returncode == 0, done.stderr
    try:
        done = podman("exec", one, "sh", "-c", "echo in; exit 6")
        assert (done.returncode, done.stdout) == (6, "in\n"), done.stderr
        done = podman("exec", "-t", one, "sh", "-c", "test -t 0 && echo terminal")
        assert done.stdout == "terminal\n", done.stderr
        assert podman("kill", one).returncode == 0
        assert podman("wait", one).stdout == "137\n"
    finally:
        assert podman("rm", "-f", one).returncode == 0
    assert podman("ps", "-aq").stdout == ""
