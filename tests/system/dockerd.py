"""Docker's own engine, from the root directory that ``scripts/peers`` makes.

It is for ``scripts/golden``, which runs the tests in a network namespace of their own: dockerd
changes the rules of the network that it finds.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from pathlib import Path

from harness import Daemon, until

PEERS = Path(os.environ.get("SAMPAN_PEERS", "/var/cache/sampan/peers"))


def program() -> str | None:
    """The docker CLI of the peers' root, which is of the same version everywhere."""
    path = PEERS / "usr/bin/docker"
    return str(path) if path.exists() else None


class Dockerd(Daemon):
    """A real dockerd in place of ours."""

    @property
    def url(self) -> str:
        return f"unix://{PEERS}{self.root}/docker.sock"

    def start(self) -> None:
        place = PEERS / str(self.root).lstrip("/")
        place.mkdir(parents=True)
        log = (place / "log").open("wb")
        flags = [f"--data-root={self.root}/data", f"--exec-root={self.root}/exec"]
        flags += [f"--pidfile={self.root}/pid", f"--host=unix://{self.root}/docker.sock"]
        self.process = subprocess.Popen(
            ["chroot", str(PEERS), "dockerd", *flags, "--bip=172.29.77.1/24"],
            stdout=log,
            stderr=log,
        )
        until((place / "docker.sock").exists, 60)

    def leftovers(self) -> list[str]:
        return []

    def clean(self) -> None:
        for group in (
            *Path("/sys/fs/cgroup").glob("*/docker/*/"),
            *Path("/sys/fs/cgroup").glob("*/docker"),
        ):
            with contextlib.suppress(OSError):
                group.rmdir()
        shutil.rmtree(PEERS / str(self.root).lstrip("/"), ignore_errors=True)
