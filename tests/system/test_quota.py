"""``--storage-opt size=``: an upper limit of what a container writes, by project quotas."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import docker
import pytest
from harness import Daemon, running

MB = 1 << 20


@pytest.fixture(params=["erofs", "overlay"])
def daemon_with_quotas(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Daemon]:
    """A daemon whose state is on an ext4 with project quotas."""
    image = tmp_path / "disk"
    with image.open("wb") as out:
        out.truncate(200 * MB)
    made = subprocess.run(
        ["mkfs.ext4", "-q", "-O", "quota,project", "-E", "quotatype=prjquota", image], check=False
    )
    if made.returncode:
        pytest.skip("mkfs.ext4 cannot make project quotas")
    with tempfile.TemporaryDirectory(prefix="smq") as folder:
        command = ["mount", "-o", "loop,prjquota", image, folder]
        if subprocess.run(command, check=False, capture_output=True).returncode:
            pytest.skip("this kernel has no project quotas on ext4")
        try:
            for daemon in running("--state-dir", folder, "--storage-driver", request.param):
                daemon.state = Path(folder)
                yield daemon
        finally:
            subprocess.run(["umount", "-l", folder], check=True)


def write(container: Any, megabytes: int) -> str:
    """Write a file in a container; what dd says when it cannot, else nothing."""
    dd = ["dd", "if=/dev/zero", f"of=/f{megabytes}", "bs=1M", f"count={megabytes}"]
    done = container.exec_run(dd)
    return "" if done.exit_code == 0 else done.output.decode().lower()


def limits_hold(client: Callable[[], docker.DockerClient], restart: Callable[[], None]) -> None:
    """A container has no more than its size; ``restart`` restarts the daemon."""

    def limited(name: str) -> Any:
        return client().containers.run(
            "busybox", ["sleep", "1000"], name=name, detach=True, storage_opt={"size": "20m"}
        )

    one, two = limited("one"), limited("two")
    assert write(one, 15) == ""
    assert "quota" in (said := write(one, 10)) or "no space" in said
    assert write(two, 16) == ""  # it has a limit of its own
    plain = client().containers.run("busybox", ["sleep", "1000"], detach=True)
    assert write(plain, 40) == ""
    df = one.exec_run(["df", "-m", "/"]).output.decode().split()
    assert 19 <= int(df[df.index("/") - 4]) <= 21

    # The limit stays over a restart, also of the daemon; and goes with the container.
    one.exec_run(["rm", "/f15", "/f10"])
    one.restart(timeout=0)
    restart()
    one = client().containers.get("one")
    assert write(one, 15) == "" and write(one, 10) != ""
    one.remove(force=True)
    assert write(limited("one"), 15) == ""
    for value, text in (("much", "invalid size"), ("0x", "invalid size")):
        with pytest.raises(docker.errors.APIError, match=text):
            client().containers.create("busybox", ["true"], storage_opt={"size": value})
    for container in client().containers.list(all=True):
        container.remove(force=True)


def test_a_container_has_no_more_than_its_size(daemon_with_quotas: Daemon) -> None:
    daemon = daemon_with_quotas

    def restart() -> None:
        daemon.stop()
        daemon.start()

    limits_hold(lambda: daemon.client, restart)
