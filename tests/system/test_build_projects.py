"""Projects in the shapes that people use, built here and by Docker's BuildKit, and compared.

By default those that need nothing but BusyBox; ``SAMPAN_PROJECTS=all`` adds those with compilers
and package managers, which use the registries that this machine is configured for.
"""

from __future__ import annotations

import http.server
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import imagefiles
import peer
import pytest
from debian import CACHE, load_bookworm, sampan
from harness import Daemon
from projects import EARLIER, FOLDER, PROJECTS, Project

ALL = os.environ.get("SAMPAN_PROJECTS") == "all"
CHOSEN = [project for project in PROJECTS if ALL or not (project.tools or project.debian)]
BEGAN = time.time() - 1
TOOLS = ("gcc:12", "python:3.11", "node:18", "golang:1")
RECIPE = """\
FROM debian:bookworm
RUN apt-get update && apt-get install -y --no-install-recommends \\
    g++ make cmake python3 python3-pip python3-venv nodejs npm golang-go ca-certificates \\
 && rm -rf /var/lib/apt/lists/*
"""


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None: ...


@pytest.fixture(scope="module")
def docker() -> Iterator[peer.Peer]:
    yield from peer.running()


@pytest.fixture(scope="module")
def server(docker: peer.Peer) -> Iterator[str]:
    """An HTTP server of the projects' folders, on the bridge's side of nobody's network."""
    handler = partial(_Quiet, directory=str(docker.work))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{listening.server_port}"
        listening.shutdown()


def share(daemon: Daemon, docker: peer.Peer, *images: str) -> None:
    """Give Docker the images that our daemon has."""
    archive = docker.work / "base.tar"
    sampan(daemon, "save", "-o", str(archive), *images)
    docker.docker("load", "-q", "-i", f"{docker.place}/base.tar")
    archive.unlink()


@pytest.fixture(scope="module")
def bases(
    shared_daemon: Daemon, docker: peer.Peer, tmp_path_factory: pytest.TempPathFactory
) -> None:
    share(shared_daemon, docker, "busybox")
    if not ALL:
        return
    load_bookworm(shared_daemon)
    archive = CACHE / f"tools-{time.strftime('%G-%V')}.tar"
    if archive.exists():
        sampan(shared_daemon, "load", "-q", "-i", str(archive))
    else:
        for old in CACHE.glob("tools-*.tar*"):
            old.unlink()
        folder = tmp_path_factory.mktemp("tools")
        (folder / "Dockerfile").write_text(RECIPE)
        tags = [f"--tag={tag}" for tag in TOOLS]
        sampan(shared_daemon, "build", "-q", *tags, str(folder), timeout=900)
        partial_archive = archive.with_suffix(".tar.new")
        sampan(shared_daemon, "save", "-o", str(partial_archive), *TOOLS)
        partial_archive.rename(archive)
    share(shared_daemon, docker, "debian:bookworm", *TOOLS)


@pytest.fixture(scope="module")
def settings(docker: peer.Peer) -> Path:
    """What this machine's package managers are told of registries and certificates."""
    folder = docker.work / "settings"
    folder.mkdir()

    def asked(*command: str) -> str:
        if shutil.which(command[0]) is None:
            return ""
        done = subprocess.run(command, capture_output=True, text=True)
        return done.stdout.strip() if done.returncode == 0 else ""

    index = asked("pip", "config", "get", "global.index-url")
    lines = ["[global]", "cert = /run/ca.crt", *([f"index-url = {index}"] if index else [])]
    (folder / "pip.conf").write_text("\n".join(lines) + "\n")
    registry = asked("npm", "config", "get", "registry")
    lines = ["cafile=/run/ca.crt", *([f"registry={registry}"] if registry else [])]
    (folder / "npmrc").write_text("\n".join(lines) + "\n")
    certificates = os.environ.get("SSL_CERT_FILE", "/etc/ssl/certs/ca-certificates.crt")
    shutil.copyfile(certificates, folder / "ca.crt")
    return folder


def laid_out(project: Project, root: Path) -> Path:
    """A copy of the project's folder, with what git cannot hold, of a time long ago."""
    for name in (project.name, *project.others):
        place = root / name
        if place.exists():
            continue
        shutil.copytree(FOLDER / name, place, symlinks=True)
        if project.prepare is not None and name == project.name:
            project.prepare(place)
        for path in [place, *place.rglob("*")]:
            os.utime(path, (EARLIER, EARLIER), follow_symlinks=False)
    return root / project.name


def plain(project: Project, context: Path) -> list[str]:
    """Flags for a Dockerfile that Docker reads without another front end from a registry."""
    if (context / "Dockerfile.peer").exists():
        return ["-f", "{context}/Dockerfile.peer"]
    text = (context / "Dockerfile").read_text() if (context / "Dockerfile").exists() else ""
    first, _, rest = text.partition("\n")
    if not first.startswith("# syntax="):
        return []
    (context.parent / f"{project.name}.Dockerfile").write_text(rest)
    return ["-f", f"{{folder}}/{project.name}.Dockerfile"]


@pytest.mark.parametrize("project", CHOSEN, ids=lambda project: project.id)
def test_project(
    project: Project,
    shared_daemon: Daemon,
    docker: peer.Peer,
    bases: None,
    server: str,
    settings: Path,
) -> None:
    context = laid_out(project, docker.work)
    alternative = context / "Dockerfile.peer"
    places = {"ours": str(docker.work), "theirs": docker.place}

    def words(side: str, flags: tuple[str, ...], tag: str) -> list[str]:
        root = places[side]
        names = {
            "context": f"{root}/{project.name}",
            "folder": root,
            "server": f"{server}/{project.name}",
            "settings": f"{root}/settings",
        }
        given = [flag.format(**names) for flag in flags]
        if not flags or flags[-1] != "{folder}/library":
            given.append(names["context"])
        return ["build", "-q", "--network=host", f"--tag={tag}", *given]

    image = f"project-{project.id}"
    for tag, flags in project.before:
        sampan(shared_daemon, *words("ours", flags, tag))
        docker.docker(*words("theirs", flags, tag))
    sampan(shared_daemon, *words("ours", project.flags, image))
    docker.docker(*words("theirs", (*project.flags, *plain(project, context)), image))
    archive = docker.work / "ours.tar"
    sampan(shared_daemon, "save", "-o", str(archive), image)
    ours = imagefiles.read(archive)
    docker.docker("save", "-o", f"{docker.place}/theirs.tar", image)
    found = imagefiles.differences(ours, imagefiles.read(docker.work / "theirs.tar"), BEGAN)
    if alternative.exists():
        # Other instructions: only what they end in can be the same.
        apart = ("history", "layer", "mtime", " layers, ")
        found = [line for line in found if not any(word in line for word in apart)]
    assert not found, "\n".join(found)
