"""Docker with BuildKit as the builder to compare with: in this machine's network, with none of its
own, so that builds reach the registries that this machine reaches."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import until

ROOT = Path(os.environ.get("SAMPAN_PEERS", "/var/cache/sampan/peers"))


class Peer:
    """A running dockerd in the root directory that ``scripts/peers`` makes."""

    def __init__(self) -> None:
        self.work = ROOT / "tmp" / f"peer-{os.getpid()}"
        self.place = f"/tmp/{self.work.name}"
        self.work.mkdir(parents=True)
        # Mounts stay in a namespace of its own, and others' mounts do not stay there: a copy of one
        # would keep a file system busy that another test unmounts.
        setup = " && ".join(
            [
                f"mount --bind {ROOT} {ROOT}",
                *(f"mount --rbind /{name} {ROOT}/{name}" for name in ("proc", "sys", "dev")),
                f"mount --bind /etc/resolv.conf {ROOT}/etc/resolv.conf",
                f"cd {ROOT} && pivot_root . mnt && umount -l /mnt",
            ]
        )
        flags = [
            f"--data-root={self.place}/data",
            f"--exec-root={self.place}/exec",
            f"--pidfile={self.place}/pid",
            f"--host=unix://{self.place}/docker.sock",
            "--bridge=none",
            "--iptables=false",
            "--ip6tables=false",
            "--ip-forward=false",
            "--ip-masq=false",
        ]
        self.log = self.work / "log"
        with self.log.open("wb") as log:
            self.daemon = subprocess.Popen(
                [
                    *("unshare", "--mount", "--propagation=private", "sh", "-c"),
                    f'{setup} && exec dockerd "$@"',
                    *("dockerd", *flags),
                ],
                stdout=log,
                stderr=log,
            )

    def ready(self) -> None:
        def listening() -> bool:
            assert self.daemon.poll() is None, self.log.read_text()
            return (self.work / "docker.sock").exists()

        until(listening, 60)

    def docker(self, *arguments: str, timeout: float = 600) -> str:
        """The output of a command of the docker CLI; paths have to be below :attr:`work`."""
        done = subprocess.run(
            ["chroot", ROOT, "docker", "-H", f"unix://{self.place}/docker.sock", *arguments],
            env={**os.environ, "DOCKER_BUILDKIT": "1", "HOME": self.place},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        assert done.returncode == 0, f"docker {' '.join(arguments)}: {done.stderr[-4000:]}"
        return done.stdout

    def close(self) -> None:
        self.daemon.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.daemon.wait(30)
        self.daemon.kill()
        self.daemon.wait()
        deadline = time.monotonic() + 10
        while self.work.exists() and time.monotonic() < deadline:
            shutil.rmtree(self.work, ignore_errors=True)


def running() -> Iterator[Peer]:
    if not (ROOT / "usr/sbin/dockerd").exists():
        pytest.skip("needs Docker's builder to compare with: scripts/peers brings it")
    peer = Peer()
    try:
        peer.ready()
        yield peer
    finally:
        peer.close()
