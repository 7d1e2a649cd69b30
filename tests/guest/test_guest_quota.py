"""``--storage-opt size=`` on a file system with project quotas, which many kernels lack."""

from __future__ import annotations

from pathlib import Path

from guest import Guest
from harness import busybox_tar
from test_quota import limits_hold


def test_limits_hold_on_ext4(project: Path) -> None:
    machine = Guest(project, kernel="6.12")
    machine.boot()
    try:
        quota = ("-O", "quota,project", "-E", "quotatype=prjquota")
        for command in (
            ("truncate", "-s", "200M", "/run/quota.img"),
            ("mkfs.ext4", "-q", *quota, "/run/quota.img"),
            ("mkdir", "/quota"),
            ("modprobe", "loop"),
            ("mount", "-o", "loop,prjquota", "/run/quota.img", "/quota"),
        ):
            done = machine.run(*command)
            assert done.code == 0, (command, done)
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
