"""Flags and arguments of builds that the other tests leave out: progress, caches, Git's folder."""

from __future__ import annotations

import http.client
import io
import json
import os
import pty
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from harness import Daemon, until
from test_build_results import SAMPAN, environment, folder, ok, repository, sampan, served

from tests.registry.servers import Registry, docker_registry

__all__ = ["served"]  # a fixture


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    if shutil.which("docker-registry") is None:
        pytest.skip("docker-registry is not installed")
    with docker_registry(tmp_path_factory.mktemp("registry")) as server:
        yield server


def with_submodule(root: Path, address: str) -> None:
    """``r.git`` with the repository ``part.git`` below ``part``, as a server of files shows them."""
    (root / "other").mkdir()
    repository(root / "other")
    (root / "other" / "r.git").rename(root / "part.git")
    repository(root)
    author = ["-c", "user.name=a", "-c", "user.email=a@b.test"]
    work = str(root / "work")
    for words in (
        ["-C", work, "submodule", "--quiet", "add", f"{address}/part.git", "part"],
        ["-C", work, *author, "commit", "-qm", "Second"],
        ["-C", work, "push", "-q", str(root / "r.git"), "main"],
        ["-C", str(root / "r.git"), "update-server-info"],
    ):
        subprocess.run(["git", *words], check=True)


KEPT = "FROM busybox\nCOPY . /all/\nRUN find /all -name .git -maxdepth 2 | sort; cat /all/part/inside\n"


def asked(daemon: Daemon, **query: str) -> str:
    """The output of a build by the classic endpoint, without a body."""
    connection = http.client.HTTPConnection("localhost")
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(str(daemon.run / "sampan.sock"))
    connection.request("POST", f"/build?{urlencode(query)}")
    text = connection.getresponse().read().decode()
    connection.close()
    return "".join(json.loads(line).get("stream", "") for line in io.StringIO(text))


def test_a_repository_comes_with_submodules_and_without_git(
    daemon: Daemon, served: tuple[str, Path], tmp_path: Path
) -> None:
    address, root = served
    with_submodule(root, address)
    (root / "work" / "Dockerfile").write_text(KEPT)
    author = ["-c", "user.name=a", "-c", "user.email=a@b.test"]
    work = str(root / "work")
    subprocess.run(["git", "-C", work, *author, "commit", "-qam", "Third"], check=True)
    subprocess.run(["git", "-C", work, "push", "-q", str(root / "r.git"), "main"], check=True)
    subprocess.run(["git", "-C", str(root / "r.git"), "update-server-info"], check=True)
    source, keep = f"{address}/r.git#main", "BUILDKIT_CONTEXT_KEEP_GIT_DIR"
    by_client = ok(daemon, "build", "--progress=plain", source)
    by_daemon = asked(daemon, remote=source)
    for text in (by_client, by_daemon):
        assert "of the repository" in text and "/all/.git" not in text and "/part/.git" not in text
    by_client = ok(daemon, "build", "--progress=plain", f"--build-arg={keep}=1", source)
    by_daemon = asked(daemon, remote=source, buildargs=json.dumps({keep: "1"}))
    for text in (by_client, by_daemon):
        assert "of the repository" in text and "/all/.git" in text


def test_progress_for_programs(daemon: Daemon, tmp_path: Path) -> None:
    place = folder(
        tmp_path / "context",
        Dockerfile="FROM busybox\nRUN echo heard; echo too >&2\nRUN exit 3\n",
    )
    done = sampan(daemon, "build", "--progress=rawjson", "--no-cache", place)
    assert done.returncode != 0
    events = [
        json.loads(line) for line in (done.stdout + done.stderr).splitlines() if line[0] == "{"
    ]
    vertexes = [vertex for event in events for vertex in event.get("vertexes", ())]
    names = {vertex["name"] for vertex in vertexes}
    assert any("RUN echo heard" in name for name in names)
    assert any(vertex.get("error") for vertex in vertexes if "exit 3" in vertex["name"])
    started = {vertex["digest"] for vertex in vertexes if vertex.get("started")}
    assert started >= {vertex["digest"] for vertex in vertexes if vertex.get("completed")}
    logs = [log for event in events for log in event.get("logs", ())]
    assert {log["stream"] for log in logs} >= {1, 2}


def test_progress_on_a_terminal(daemon: Daemon, tmp_path: Path) -> None:
    place = folder(
        tmp_path / "context",
        Dockerfile="FROM busybox AS a\nRUN echo heard a; sleep 0.4\n"
        "FROM busybox AS b\nRUN echo heard b; sleep 0.4; exit 3\n"
        "FROM a\nCOPY --from=b / /\n",
    )
    near, far = pty.openpty()
    try:
        command = [*SAMPAN, "build", "--no-cache", place]
        with subprocess.Popen(
            command, stdin=far, stdout=far, stderr=far, env=environment(daemon) | {"TERM": "xterm"}
        ) as process:
            os.close(far)
            shown = b""
            try:
                while data := os.read(near, 1 << 16):
                    shown += data
            except OSError:
                pass  # the end, on a terminal
            assert process.wait(60) == 3, shown
    finally:
        os.close(near)
    text = shown.decode()
    assert "│ heard a" in text and "│ heard b" in text  # both run
    assert "\x1b[4A" in text  # what is shown is drawn over
    assert "\x1b[31m✘\x1b[0m [b 2/2] RUN echo heard b" in text
    assert "Dockerfile:4" in text and "   4 | >>> RUN echo heard b; sleep 0.4; exit 3" in text


def test_cache_goes_in_the_image(daemon: Daemon, registry: Registry, tmp_path: Path) -> None:
    place = folder(
        tmp_path / "context",
        Dockerfile="FROM busybox\nRUN cat /proc/sys/kernel/random/uuid > /id\nLABEL m=inline\n",
    )
    name = f"{registry.host}/inline:1"
    ok(daemon, "build", "-q", "--cache-to", "type=inline", "--push", "-t", name, place)
    identity = ok(daemon, "run", "--rm", name, "cat", "/id")
    ok(daemon, "rmi", "-f", name)
    ok(daemon, "builder", "prune", "-af")
    said = ok(daemon, "build", "--cache-from", f"type=registry,ref={name}", "-t", "again", place)
    assert "Using cache" in said
    assert ok(daemon, "run", "--rm", "again", "cat", "/id") == identity


def test_an_index_even_for_one_platform(daemon: Daemon, registry: Registry, tmp_path: Path) -> None:
    place = folder(tmp_path / "context", Dockerfile="FROM busybox\nLABEL a=b\n")
    name = f"{registry.host}/index:1"
    argument = "--build-arg=BUILDKIT_MULTI_PLATFORM=1"
    ok(daemon, "build", "-q", argument, "--push", "-t", name, place)
    assert len(json.loads(ok(daemon, "manifest", "inspect", name))["manifests"]) == 1
    done = sampan(daemon, "build", "-q", argument, place)
    assert done.returncode != 0 and "needs a name" in done.stderr


def test_a_control_group_to_be_below(daemon: Daemon, tmp_path: Path) -> None:
    seconds = 987_600_000 + os.getpid()
    parent = f"{daemon.cgroup_parent}/for-builds"
    place = folder(tmp_path / "context", Dockerfile=f"FROM busybox\nRUN exec sleep {seconds}\n")
    client = subprocess.Popen(
        [*SAMPAN, "build", "-q", "--cgroup-parent", parent, place],
        env=environment(daemon),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        groups = until(lambda: groups_of(f"sleep\0{seconds}\0"))
        assert f":{parent}/" in str(groups)
    finally:
        client.send_signal(signal.SIGINT)
        client.wait(20)
    until(lambda: not groups_of(f"sleep\0{seconds}\0"))
    # The build takes along what it has made above its commands.
    until(lambda: not list(Path("/sys/fs/cgroup").glob(f"*{parent}")))
    done = sampan(daemon, "build", "-q", "--cgroup-parent", "/a/../../b", place)
    assert done.returncode != 0 and "invalid cgroup-parent '/a/../../b'" in done.stderr


def groups_of(command: str) -> str:
    """The control groups of the process with that command line."""
    for process in Path("/proc").iterdir():
        if process.name.isdecimal():
            try:
                if (process / "cmdline").read_bytes() == command.encode():
                    return (process / "cgroup").read_text()
            except OSError:
                continue
    return ""


def test_labels_of_the_command_line_come_over_those_of_the_file(
    daemon: Daemon, tmp_path: Path
) -> None:
    place = folder(tmp_path / "context", Dockerfile="FROM busybox\nLABEL a=file b=file\n")
    flags = ["--label", "a=given", "--label", "c=x=y", "--label", "d"]
    identifier = ok(daemon, "build", "-q", *flags, place).strip()
    labels = json.loads(ok(daemon, "image", "inspect", identifier))[0]["Config"]["Labels"]
    assert labels == {"a": "given", "b": "file", "c": "x=y", "d": ""}


def test_a_quiet_build_that_fails_says_what_it_did(daemon: Daemon, tmp_path: Path) -> None:
    dockerfile = "FROM busybox\nRUN echo words of mine; exit 5\n"
    place = folder(tmp_path / "context", Dockerfile=dockerfile)
    done = sampan(daemon, "build", "-q", place)
    assert done.returncode == 5 and done.stdout == ""
    assert "words of mine" in done.stderr and "non-zero code: 5" in done.stderr


def test_annotations_of_what_is_pushed(daemon: Daemon, registry: Registry, tmp_path: Path) -> None:
    place = folder(tmp_path / "context", Dockerfile=f"FROM busybox\nRUN echo {os.getpid()} > /of\n")
    name = f"{registry.host}/annotated:1"

    def pushed(*flags: str) -> Any:
        ok(daemon, "build", "-q", *flags, "--push", "-t", name, place)
        return json.loads(ok(daemon, "manifest", "inspect", name))

    single = pushed("--annotation", "com.example.a=b")
    assert single["annotations"] == {"com.example.a": "b"}
    assert all(layer["mediaType"].endswith("+gzip") for layer in single["layers"])
    # The same image again, without: what an earlier build asked for is gone.
    assert not pushed().get("annotations")
    flags = ["index:x=1", "manifest-descriptor:y=2", "z=3"]
    both = pushed("--provenance=true", *(f"--annotation={text}" for text in flags))
    assert both["annotations"] == {"x": "1"}
    image = both["manifests"][0]
    assert image["annotations"] == {"y": "2"}
    digest = f"{registry.host}/annotated@{image['digest']}"
    assert json.loads(ok(daemon, "manifest", "inspect", digest))["annotations"] == {"z": "3"}
    for flag, code, message in (
        ("--annotation=lone", 125, "invalid annotation 'lone', expected key=value"),
        ("--annotation=index:a=b", 1, "index annotations need an index"),
        ("--annotation=what:a=b", 1, "unknown annotation type 'what'"),
    ):
        done = sampan(daemon, "build", flag, place)
        assert (done.returncode, message in done.stderr) == (code, True), done.stderr


def test_values_that_are_none(daemon: Daemon, tmp_path: Path) -> None:
    place = folder(tmp_path / "context", Dockerfile="FROM busybox\nRUN true\n")
    for flag, message in {
        "--build-arg=": "invalid environment variable",
        "--build-arg==x": "invalid environment variable: =x",
        "--label==x": 'invalid argument "=x" for "--label" flag: invalid label format',
        "--annotation==x": "invalid annotation '=x', expected key=value",
        "--output=": "invalid output ''",
        "--output=type=image,push=maybe": "push is true or false, not 'maybe'",
        "--ssh=a=/nowhere": "/nowhere: No such file",
        f"--ssh=a={place}/Dockerfile": "is not an agent's socket",
    }.items():
        done = sampan(daemon, "build", flag, place)
        assert (done.returncode, message in done.stderr) == (125, True), (flag, done.stderr)
    done = sampan(daemon, "build", "--platform=foo", place)
    assert done.returncode == 1 and "unknown operating system or architecture" in done.stderr
    ok(daemon, "build", "-q", "--platform=local", "--cache-from=", place)
