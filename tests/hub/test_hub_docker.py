"""Docker itself logs in to the hub, pushes, pulls and searches."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from bench.engines import CommandFailed, Docker

SAMPAN = Path(sys.executable).with_name("sampan")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="dockerd needs root"),
]


@dataclass
class Setting:
    docker: Docker
    host: str
    password: str

    def call(self, *words: str, stdin: bytes | None = None) -> str:
        return self.docker.call(*words, stdin=stdin)

    def refused(self, *words: str, stdin: bytes | None = None) -> str:
        with pytest.raises(CommandFailed) as caught:
            self.docker.call(*words, stdin=stdin)
        return str(caught.value)


@pytest.fixture
def setting(tmp_path: Path) -> Iterator[Setting]:
    """A hub on the loopback interface of dockerd's own network."""
    if not Docker.installed():
        pytest.skip("no dockerd: scripts/peers brings it")
    log = tmp_path / "log"
    with tempfile.TemporaryDirectory(prefix="hub") as work:
        docker = Docker(Path(work))
        try:
            docker.environment["DOCKER_CONFIG"] = docker.path(docker.work / "config")
            try:
                docker.start()
            except CommandFailed as failure:
                pytest.skip(f"dockerd does not start here: {failure}")
            with log.open("wb") as file:
                serve = [SAMPAN, "hub", "serve", "--listen", "127.0.0.1:5000"]
                hub = subprocess.Popen(
                    ["nsenter", f"--net=/proc/{docker.holder.pid}/ns/net", *serve,
                     "--root", tmp_path / "hub"],
                    stderr=file,
                )  # fmt: skip
            try:
                deadline = time.monotonic() + 30
                while "listens on" not in log.read_text():
                    assert hub.poll() is None and time.monotonic() < deadline, log.read_text()
                    time.sleep(0.05)
                password = log.read_text().split("password ")[1].split(" ")[0]
                yield Setting(docker, "127.0.0.1:5000", password)
            finally:
                hub.terminate()
                hub.wait()
        finally:
            docker.stop()


def image_tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        entry = tarfile.TarInfo("data")
        entry.size = 3_000_000
        tar.addfile(entry, io.BytesIO(os.urandom(entry.size)))
    return buffer.getvalue()


def test_docker_logs_in_pushes_pulls_and_searches(setting: Setting) -> None:
    ref = f"{setting.host}/team/app"
    made = setting.call("import", "-", f"{ref}:1", stdin=image_tar()).strip()
    said = setting.refused("push", f"{ref}:1")
    assert "denied" in said or "unauthorized" in said or "authentication required" in said
    login = ("login", "-u", "admin", "--password-stdin", setting.host)
    assert "unauthorized" in setting.refused(*login, stdin=b"wrong password").lower()
    assert "Login Succeeded" in setting.call(*login, stdin=setting.password.encode())
    pushed = setting.call("push", f"{ref}:1")
    digest = pushed.split("digest: ")[1].split(" ")[0]
    # The same layers under another name are mounted, not sent again.
    setting.call("tag", f"{ref}:1", f"{ref}-copy:1")
    assert "Mounted from team/app" in setting.call("push", f"{ref}-copy:1")
    for name in (f"{ref}:1", f"{ref}@{digest}", f"{ref}-copy:1"):
        setting.call("rmi", "-f", made)
        assert digest in setting.call("pull", name)
        assert setting.call("image", "inspect", "-f", "{{.Id}}", name).strip() == made
    setting.call("tag", made, f"{ref}:2")
    setting.call("push", "--all-tags", ref)
    found = setting.call("search", "--format", "{{.Name}}", f"{setting.host}/app")
    assert {line.rpartition("/")[2] for line in found.split()} == {"app", "app-copy"}
    setting.call("logout", setting.host)
    setting.refused("push", f"{ref}:2")
    setting.call("pull", f"{ref}:2")
    assert "not found" in setting.refused("pull", f"{ref}:none")
