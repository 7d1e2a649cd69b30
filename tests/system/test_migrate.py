"""``system migrate`` from a real Docker daemon in namespaces of its own."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import Daemon, busybox_tar
from test_sampan_cli import sampan, text

from bench.engines import CommandFailed, Docker

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]


@pytest.fixture(scope="module")
def docker() -> Iterator[Docker]:
    if not Docker.installed():
        pytest.skip("no dockerd to copy from")
    with tempfile.TemporaryDirectory(prefix="mig") as work:
        peer = Docker(Path(work))
        try:
            try:
                peer.start()
            except CommandFailed as failure:
                pytest.skip(f"dockerd does not start here: {failure}")
            yield peer
        finally:
            peer.stop()


def test_images_and_volumes_are_copied_once(daemon: Daemon, docker: Docker) -> None:
    address = f"unix://{docker.work}/docker.sock"
    image = docker.call("import", "-c", "CMD sh", "-", "migrated:1", stdin=busybox_tar())
    docker.call("tag", "migrated:1", "migrated:2")
    docker.call("volume", "create", "--label", "kept=yes", "moved")
    script = "mkdir -p /v/a/b; echo x > /v/a/b/f; chown 1000:1000 /v/a; ln -s a/b/f /v/l"
    docker.call("run", "--rm", "--network=none", "-v", "moved:/v", "migrated:1", "sh", "-c", script)
    before = docker.call("images", "-aq"), docker.call("ps", "-aq")

    planned = text(daemon, "system", "migrate", "--from", address, "--dry-run")
    assert planned.splitlines() == ["image migrated:1", "image migrated:2", "volume moved"]
    done = text(daemon, "system", "migrate", "--from", address)
    assert "Loaded image: migrated:1" in done and "Copied volume: moved" in done
    assert text(daemon, "images", "-q", "--no-trunc", "migrated:1").strip() == image
    assert text(daemon, "images", "-q", "--no-trunc", "migrated:2").strip() == image
    listing = "stat -c %u:%g /v/a; cat /v/l; ls -l /v/l | wc -l"
    shown = text(daemon, "run", "--rm", "-v", "moved:/v", "migrated:1", "sh", "-c", listing)
    assert shown == "1000:1000\nx\n1\n"
    labels = json.loads(text(daemon, "volume", "inspect", "-f", "{{json .Labels}}", "moved"))
    assert labels == {"kept": "yes"}
    assert (docker.call("images", "-aq"), docker.call("ps", "-aq")) == before

    again = sampan(daemon, "system", "migrate", "--from", address)
    assert (again.returncode, again.stdout) == (0, b"")
    assert b"exists already" in again.stderr
    text(daemon, "volume", "rm", "moved")
    text(daemon, "rmi", "migrated:1", "migrated:2")


def test_nothing_to_copy_from(daemon: Daemon, tmp_path: Path) -> None:
    done: subprocess.CompletedProcess[bytes] = sampan(
        daemon, "system", "migrate", "--from", f"unix://{tmp_path}/nosuch"
    )
    assert done.returncode == 1 and b"Cannot connect" in done.stderr
    done = sampan(daemon, "system", "migrate", "--from", daemon.url)
    assert done.returncode == 125 and b"the daemon to copy to" in done.stderr
