"""The devcontainer CLI brings up a workspace: an editor's way to work inside a container."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from debian import REPOSITORY
from harness import Daemon, running

pytestmark = [pytest.mark.network, pytest.mark.timeout(300)]

CONFIGURATION = {
    "name": "workspace",
    "build": {"dockerfile": "Dockerfile", "args": {"WHO": "developer"}},
    "containerEnv": {"INSIDE": "yes"},
    "remoteEnv": {"REMOTE": "too"},
    "mounts": ["source=devcontainer-cache,target=/cache,type=volume"],
    "postCreateCommand": "echo created >> commands",
    "postStartCommand": "echo started >> commands",
}
DOCKERFILE = "FROM busybox\nARG WHO\nRUN echo $WHO > /who\n"


@dataclass(frozen=True)
class Workspace:
    """A folder with a devcontainer configuration, and the program for it."""

    program: str
    folder: Path
    environment: dict[str, str]

    def run(self, command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.program, command, "--workspace-folder", str(self.folder), *arguments],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
        )

    def outcome(self, command: str, *arguments: str) -> dict[str, Any]:
        """What a command that succeeds says in the last line of its output."""
        done = self.run(command, *arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        document: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        assert document["outcome"] == "success"
        return document


@pytest.fixture(scope="module")
def workshop() -> Iterator[Daemon]:
    yield from running()


@pytest.fixture
def workspace(workshop: Daemon, tmp_path: Path) -> Iterator[Workspace]:
    # It runs the docker CLI; where there is none, this skips.
    workshop.docker("version")
    found = subprocess.run(
        [REPOSITORY / "scripts/devcontainer-cli"], capture_output=True, text=True
    )
    if found.returncode:
        pytest.skip(f"no devcontainer CLI: {found.stderr.strip()}")
    folder = tmp_path / "project"
    (folder / ".devcontainer").mkdir(parents=True)
    (folder / ".devcontainer/devcontainer.json").write_text(json.dumps(CONFIGURATION))
    (folder / ".devcontainer/Dockerfile").write_text(DOCKERFILE)
    (folder / "source").write_text("mine\n")
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "TMPDIR": str(tmp_path),
        "DOCKER_HOST": workshop.url,
    }
    yield Workspace(found.stdout.strip(), folder, environment)
    workshop.remove_containers()


@pytest.mark.proves("devcontainer up", "devcontainer exec", "devcontainer build")
def test_workspace(workshop: Daemon, workspace: Workspace) -> None:
    up = workspace.outcome("up")
    assert up["remoteWorkspaceFolder"] == "/workspaces/project"
    container = workshop.client.containers.get(up["containerId"])
    assert container.status == "running"

    script = "cat /who source; echo $INSIDE $REMOTE; pwd; test -d /cache && exit 7"
    done = workspace.run("exec", "sh", "-c", script)
    assert done.returncode == 7, done.stderr
    assert done.stdout.split() == ["developer", "mine", "yes", "too", "/workspaces/project"]
    assert (workspace.folder / "commands").read_text() == "created\nstarted\n"

    # Up again is the same container; after a stop it is started, not made anew.
    assert workspace.outcome("up")["containerId"] == container.id
    container.stop(timeout=0)
    assert workspace.outcome("up")["containerId"] == container.id
    assert (workspace.folder / "commands").read_text() == "created\nstarted\nstarted\n"
    again = workspace.outcome("up", "--remove-existing-container")
    assert again["containerId"] != container.id

    built = workspace.outcome("build", "--image-name", "devcontainer:built")
    assert built["imageName"] == ["devcontainer:built"]
    labels = workshop.client.images.get("devcontainer:built").labels
    assert "devcontainer.metadata" in labels
