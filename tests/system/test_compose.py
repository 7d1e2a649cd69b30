"""Both generations of Compose bring up an application of four services, as examples/compose."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from debian import REPOSITORY, load_bookworm
from harness import Daemon, running, until

pytestmark = [pytest.mark.network, pytest.mark.slow, pytest.mark.timeout(600)]

PLUGIN = ["build", "up", "ps", "port", "logs", "exec", "scale", "run", "cp", "top", "images"]
PLUGIN += ["restart", "pause", "unpause", "stop", "start", "kill", "rm", "down"]
VERSION_ONE = ["up", "ps", "port", "logs", "exec", "scale", "down"]
SHOP = REPOSITORY / "examples" / "compose"


@dataclass
class Compose:
    """A compose program with a project of its own on a daemon."""

    program: str
    daemon: Daemon
    files: tuple[str, ...]
    environment: dict[str, str]

    def start(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.program, *self.files, *arguments],
            cwd=SHOP,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
        )

    def __call__(self, *arguments: str) -> str:
        done = self.start(*arguments)
        assert done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}"
        return done.stdout.strip()


@pytest.fixture(scope="module")
def shop_daemon() -> Iterator[Daemon]:
    """A daemon with the images of the shop, which the plugin has built."""
    for daemon in running():
        load_bookworm(daemon)
        yield daemon


@pytest.fixture(scope="module")
def plugin(shop_daemon: Daemon) -> Compose:
    found = subprocess.run([REPOSITORY / "scripts/compose-plugin"], capture_output=True, text=True)
    if found.returncode:
        pytest.skip(f"no Compose plugin: {found.stderr}")
    return _compose(found.stdout.strip(), shop_daemon, "v2")


@pytest.fixture(scope="module")
def version_one(shop_daemon: Daemon, tmp_path_factory: pytest.TempPathFactory) -> Compose:
    program = shutil.which("docker-compose")
    if program is None:
        pytest.skip("needs Debian's docker-compose")
    # It leaves configs to swarm mode: the file is mounted instead.
    more = tmp_path_factory.mktemp("compose") / "more.yaml"
    more.write_text('services: {web: {volumes: ["./greeting.txt:/etc/greeting:ro"]}}\n')
    files = ("--project-directory", ".", "-f", "compose.yaml", "-f", str(more))
    return _compose(program, shop_daemon, "v1", files)


def _compose(program: str, daemon: Daemon, project: str, files: tuple[str, ...] = ()) -> Compose:
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(daemon.root),
        "DOCKER_HOST": daemon.url,
        "DOCKER_BUILDKIT": "0",
        "COMPOSE_DOCKER_CLI_BUILD": "0",
        "COMPOSE_PROJECT_NAME": project,
    }
    return Compose(program, daemon, files, environment)


def order(compose: Compose, item: str) -> list[str]:
    """Place an order with the web service; what its workers have done then."""
    address = compose("port", "web", "8000")
    with urllib.request.urlopen(f"http://{address}/{item}", b"", timeout=10) as answer:
        assert json.load(answer) == {"queued": item}

    def done() -> list[str]:
        with urllib.request.urlopen(f"http://{address}/", timeout=10) as answer:
            document = json.load(answer)
        assert document["greeting"] == "Hello from Compose"
        items = [row[0] for row in document["done"]]
        return items if item in items else []

    found = until(done)
    assert isinstance(found, list)
    return found


def gone(daemon: Daemon, project: str) -> bool:
    client = daemon.client
    return not (
        client.containers.list(all=True, filters={"label": f"com.docker.compose.project={project}"})
        or [n for n in client.networks.list() if n.name.startswith(f"{project}_")]
        or [v for v in client.volumes.list() if v.name.startswith(f"{project}_")]
    )


@pytest.mark.proves(*(f"compose {command}" for command in PLUGIN))
def test_plugin(plugin: Compose) -> None:
    plugin("build")
    plugin("up", "-d", "--wait")
    states = [json.loads(line) for line in plugin("ps", "--format", "json").splitlines()]
    health = {state["Service"]: (state["State"], state["Health"]) for state in states}
    assert health == {
        "web": ("running", "healthy"),
        "cache": ("running", "healthy"),
        "database": ("running", "healthy"),
        "worker": ("running", ""),
    }
    assert order(plugin, "tea") == ["tea"]
    assert "done tea" in plugin("logs", "worker")
    # The networks and the secret are what the file says.
    assert plugin("exec", "-T", "web", "cat", "/run/secrets/password") == "not-so-secret"
    web = plugin.daemon.client.containers.get("v2-web-1")
    assert set(web.attrs["NetworkSettings"]["Networks"]) == {"v2_front", "v2_back"}
    failed = plugin.start("exec", "-T", "-e", "A=b", "-w", "/tmp", "web", "sh", "-c", "exit 3")
    assert failed.returncode == 3
    count = "exec", "-T", "database", "psql", "-Atc", "select count(*) from done"
    assert plugin(*count) == "1"

    plugin("up", "-d", "--scale", "worker=3")
    assert len(plugin("ps", "-q", "worker").splitlines()) == 3
    plugin("scale", "worker=1")
    assert len(plugin("ps", "-q", "worker").splitlines()) == 1

    # The volume outlives a new container of the database.
    before = plugin("ps", "-q", "database")
    plugin("up", "-d", "--wait", "--force-recreate", "database")
    assert plugin("ps", "-q", "database") != before
    assert plugin(*count) == "1"

    assert plugin("run", "--rm", "-T", "--no-deps", "worker", "echo", "once") == "once"
    assert "python3 worker.py" in plugin("top", "worker")
    assert "v2-app" in plugin("images") or "shop-app" in plugin("images")
    copy = plugin.daemon.root / "copied"
    plugin("cp", "web:/etc/greeting", str(copy))
    assert copy.read_text() == "Hello from Compose\n"
    plugin("restart", "-t", "1", "worker")
    plugin("pause", "cache")
    assert "Paused" in plugin("ps", "-a", "cache")
    plugin("unpause", "cache")
    plugin("stop", "-t", "1", "worker")
    plugin("start", "worker")
    plugin("kill", "worker")
    plugin("rm", "-f", "worker")
    assert plugin("ps", "-a", "-q", "worker") == ""
    plugin("down", "-t", "1", "-v", "--remove-orphans")
    assert gone(plugin.daemon, "v2")


@pytest.mark.proves(*(f"compose v1 {command}" for command in VERSION_ONE))
def test_version_one(plugin: Compose, version_one: Compose) -> None:
    images = {tag for image in plugin.daemon.client.images.list() for tag in image.tags}
    if "shop-app:latest" not in images:
        plugin("build")
    version_one("up", "-d")
    assert version_one("ps").count("(healthy)") == 3
    assert order(version_one, "coffee") == ["coffee"]
    assert version_one("exec", "-T", "web", "id", "-un") == "root"
    version_one("up", "-d", "--scale", "worker=2")
    assert len(version_one("ps", "-q", "worker").splitlines()) == 2
    assert "done coffee" in version_one("logs", "worker")
    version_one("down", "-t", "1", "-v")
    assert gone(version_one.daemon, "v1")


BUILD = """\
services:
  app:
    image: {project}-built:1
    build:
      context: .
      dockerfile: ../elsewhere.Dockerfile
      target: wanted
      args: {{VERSION: "2", OF_SHELL: }}
      cache_from: ["debian:bookworm", "127.0.0.1:1/gone:1"]
      labels: {{com.example.a: b}}
      network: none
      extra_hosts: ["extra:10.1.2.3"]
"""
BUILT = """\
FROM debian:bookworm AS base
ARG VERSION OF_SHELL
RUN echo $VERSION $OF_SHELL $(grep -c 10.1.2.3.extra /etc/hosts) \\
    $(grep -c : /proc/net/dev) > /said
FROM base AS wanted
COPY compose.yaml /
FROM base
RUN exit 1
"""


@pytest.mark.parametrize("generation", ["plugin", "version_one"])
def test_what_a_build_asks_for(
    generation: str, request: pytest.FixtureRequest, shop_daemon: Daemon, tmp_path: Path
) -> None:
    compose: Compose = request.getfixturevalue(generation)
    folder = tmp_path / "folder"
    folder.mkdir()
    file = folder / "compose.yaml"
    file.write_text(BUILD.format(project=generation))
    (tmp_path / "elsewhere.Dockerfile").write_text(BUILT)
    environment = {**compose.environment, "OF_SHELL": "shell"}
    own = replace(compose, files=("-f", str(file)), environment=environment)
    own("build")
    image = shop_daemon.client.images.get(f"{generation}-built:1")
    assert image.labels["com.example.a"] == "b"
    said = shop_daemon.client.containers.run(image, ["cat", "/said"], remove=True)
    assert said == b"2 shell 1 1\n"  # its only interface is the loopback
    assert "Using cache" in own("build")
    (tmp_path / "elsewhere.Dockerfile").write_text("FROM debian:bookworm\nCOPY --from=wantd a b\n")
    failed = own.start("build")
    assert failed.returncode and "target stage 'wanted'" in failed.stdout + failed.stderr
