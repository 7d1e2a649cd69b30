"""Images of Debian packages, made once a week and kept beside the tests."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time
from pathlib import Path

from harness import Daemon

CACHE = Path("/var/cache/sampan/tests")
REPOSITORY = Path(__file__).parents[2]


def load_bookworm(daemon: Daemon) -> None:
    """Give the daemon ``debian:bookworm``, which ``sampan image bootstrap`` has made."""
    CACHE.mkdir(parents=True, exist_ok=True)
    archive = CACHE / f"bookworm-{time.strftime('%G-%V')}.tar"
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not archive.exists():
            for old in CACHE.glob("bookworm-*.tar*"):
                old.unlink()
            sampan(daemon, "image", "bootstrap", "debian:bookworm")
            partial = archive.with_suffix(".tar.new")
            with partial.open("wb") as output:
                for chunk in daemon.client.api.get_image("debian:bookworm"):
                    output.write(chunk)
            partial.rename(archive)
    with archive.open("rb") as data:
        daemon.client.images.load(data)


def sampan(daemon: Daemon, *arguments: str, timeout: float = 300) -> str:
    """The standard output of a command of our own command line."""
    done = subprocess.run(
        [sys.executable, REPOSITORY / "scripts/sampan", "-H", daemon.url, *arguments],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
