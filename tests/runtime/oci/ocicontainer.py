"""A bundle with this machine's busybox, and sampan-oci's command line on a root of its own."""

from __future__ import annotations

import copy
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

SCRIPT = Path(__file__).parents[3] / "scripts/sampan-oci"
APPLETS = "sh sleep cat grep mkdir stat ionice true uname touch test readlink id ls mount env chmod"


class Container:
    """A bundle with this machine's busybox, and one container of it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.name = f"spec-{os.getpid()}"
        self.command = [sys.executable, str(SCRIPT)]
        rootfs = directory / "rootfs"
        for name in ("bin", "etc", "tmp", "data", "proc", "sys", "dev", "run"):
            (rootfs / name).mkdir(parents=True)
        shutil.copy(shutil.which("busybox") or "/bin/busybox", rootfs / "bin/busybox")
        for applet in APPLETS.split():
            (rootfs / "bin" / applet).symlink_to("busybox")
        assert self("spec", "-b", str(directory)).returncode == 0
        self.config: dict[str, Any] = json.loads((directory / "config.json").read_text())
        self.config["process"]["terminal"] = False
        self.config["process"]["noNewPrivileges"] = False
        self.config["root"]["readonly"] = False

    def __call__(self, *words: str, **more: Any) -> subprocess.CompletedProcess[str]:
        base = [*self.command, "--root", str(self.directory / "root")]
        # A detached container keeps the streams open: it gets a file instead.
        more.setdefault("stdout", subprocess.PIPE)
        more.setdefault("stderr", more["stdout"])
        return subprocess.run(
            [*base, *words],
            stdin=subprocess.DEVNULL,
            text=True,
            timeout=60,
            check=False,
            **more,
        )

    def prepare(self, script: str, change: Callable[[dict[str, Any]], None] | None = None) -> None:
        config = copy.deepcopy(self.config)
        config["process"]["args"] = ["sh", "-c", script]
        if change:
            change(config)
        (self.directory / "config.json").write_text(json.dumps(config))

    def run(self, script: str, change: Callable[[dict[str, Any]], None] | None = None) -> str:
        self.prepare(script, change)
        done = self("run", "-b", str(self.directory), self.name)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def start(self, script: str, change: Callable[[dict[str, Any]], None] | None = None) -> None:
        self.prepare(script, change)
        with (self.directory / "out").open("w") as out:
            done = self("run", "-d", "-b", str(self.directory), self.name, stdout=out)
        assert done.returncode == 0, (self.directory / "out").read_text()
