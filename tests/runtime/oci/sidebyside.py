"""Runtimes beside each other: their command lines, and a bundle that all of them run."""

from __future__ import annotations

import copy
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from ocicontainer import SCRIPT

PEERS = [name for name in ("crun", "runc") if shutil.which(name)]
APPLETS = "sh true false ls cat sleep id mount env hostname grep mkdir touch test kill ulimit stat"
CAPABILITIES = ["CAP_CHOWN", "CAP_KILL", "CAP_NET_BIND_SERVICE", "CAP_SETUID", "CAP_SETGID"]
KINDS = ("pid", "ipc", "uts", "mount", "network")


# crun refuses a host that has both versions of control groups mounted, so it gets to see one.
HYBRID = Path("/sys/fs/cgroup/unified/cgroup.procs").exists()
CRUN = 'umount /sys/fs/cgroup/unified; exec crun "$@"'


def command(name: str) -> list[str]:
    if name == "crun" and HYBRID:
        return ["unshare", "--mount", "sh", "-c", CRUN, "crun"]
    return [sys.executable, str(SCRIPT)] if name == "sampan-oci" else [name]


class Runtime:
    """One runtime's command line on a root of its own."""

    def __init__(self, name: str, root: Path) -> None:
        self.name = name
        self.base = [*command(name), "--root", str(root)]

    def __call__(self, *words: str, **more: Any) -> subprocess.CompletedProcess[str]:
        # Not the null device: the peers would give the host's to the container's user.
        return subprocess.run(
            [*self.base, *words],
            input="",
            capture_output=True,
            text=True,
            timeout=60,
            **more,
        )

    def status(self, identity: str) -> str:
        return str(json.loads(self("state", identity).stdout)["status"])

    def wait_for(self, identity: str, status: str) -> None:
        deadline = time.monotonic() + 10
        while self.status(identity) != status:
            assert time.monotonic() < deadline, self.status(identity)
            time.sleep(0.01)


class Bundle:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.rootfs = directory / "rootfs"
        for name in ("bin", "etc", "tmp", "data/deep", "proc", "sys", "dev", "run"):
            (self.rootfs / name).mkdir(parents=True)
        shutil.copy(shutil.which("busybox") or "/bin/busybox", self.rootfs / "bin/busybox")
        for applet in APPLETS.split():
            (self.rootfs / "bin" / applet).symlink_to("busybox")
        (self.rootfs / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\nu:x:7:8::/home/u:\n")
        safe = ["nosuid", "noexec", "nodev"]
        self.config: dict[str, Any] = {
            "ociVersion": "1.0.2",
            "process": {
                "user": {"uid": 0, "gid": 0},
                "args": ["true"],
                "env": ["PATH=/bin", "A=b"],
                "cwd": "/",
                "capabilities": {
                    kind: CAPABILITIES for kind in ("bounding", "effective", "permitted")
                },
            },
            "root": {"path": "rootfs"},
            "hostname": "side",
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {
                    "destination": "/dev",
                    "type": "tmpfs",
                    "source": "tmpfs",
                    "options": ["nosuid", "strictatime", "mode=755", "size=65536k"],
                },
                {
                    "destination": "/dev/pts",
                    "type": "devpts",
                    "source": "devpts",
                    "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"],
                },
                {
                    "destination": "/dev/shm",
                    "type": "tmpfs",
                    "source": "shm",
                    "options": [*safe, "mode=1777", "size=64k"],
                },
                {
                    "destination": "/sys",
                    "type": "sysfs",
                    "source": "sysfs",
                    "options": [*safe, "ro"],
                },
            ],
            "linux": {
                "namespaces": [{"type": kind} for kind in KINDS],
                "resources": {"devices": [{"allow": False, "access": "rwm"}]},
            },
        }

    def write(self, config: dict[str, Any]) -> None:
        (self.directory / "config.json").write_text(json.dumps(config))

    def script(self, text: str) -> dict[str, Any]:
        config = copy.deepcopy(self.config)
        config["process"]["args"] = ["sh", "-c", text]
        return config


def name(suffix: str) -> str:
    return f"side-{os.getpid()}-{suffix}"
