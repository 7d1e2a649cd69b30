"""``--storage-opt size=`` on file systems with project quotas, which many kernels lack."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from guest import Guest
from harness import busybox_tar
from test_quota import limits_hold

_MAKE = {
    "ext4": ("mkfs.ext4", "-q", "-O", "quota,project", "-E", "quotatype=prjquota"),
    "xfs": ("mkfs.xfs", "-q"),
}
_LEAST_XFS = 300 << 20


# The one has EROFS over files, the other one only overlayfs.
@pytest.mark.parametrize(("system", "kernel"), [("ext4", "6.12"), ("xfs", "6.1")])
def test_limits_hold(project: Path, tmp_path: Path, system: str, kernel: str) -> None:
    make = _MAKE[system]
    if shutil.which(make[0]) is None:
        pytest.skip(f"{make[0]} is not installed")
    image = tmp_path / "disk"
    with image.open("wb") as out:
        out.truncate(_LEAST_XFS)
    subprocess.run([*make, image], check=True)
    machine = Guest(project, kernel=kernel, disk=f"format=raw,file={image}")
    machine.boot()
    try:
        # The guest has mounted an ext4 as soon as it saw one.
        script = f"umount /disk; mkdir /quota; mount -t {system} -o prjquota /dev/vdc /quota"
        done = machine.run("sh", "-c", script)
        assert done.code == 0, done
        state = "/quota/state"
        machine.start_daemon(state=state)
        machine.client.api.import_image_from_data(busybox_tar(), repository="busybox", tag="latest")

        def restart() -> None:
            ended = f'while [ -n "$(cat /proc/{machine.daemon}/cmdline)" ]; do sleep 0.1; done'
            assert machine.run("sh", "-c", f"kill {machine.daemon}; {ended}").code == 0
            machine.start_daemon(state=state)

        limits_hold(lambda: machine.client, restart)
    finally:
        machine.cut()
