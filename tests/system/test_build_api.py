"""The classic build endpoint, by the docker CLI and by plain requests."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import http.client
import io
import json
import lzma
import os
import signal
import socket
import tarfile
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from harness import Daemon, until

ENVIRONMENT = {**os.environ, "DOCKER_BUILDKIT": "0"}


class UnixConnection(http.client.HTTPConnection):
    """A plain HTTP connection to the daemon."""

    def __init__(self, daemon: Daemon) -> None:
        super().__init__("localhost", timeout=60)
        self._path = daemon.url.removeprefix("unix://")

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(60)
        self.sock.connect(self._path)


def context(**files: str) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name, text in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(text)
            tar.addfile(info, io.BytesIO(text.encode()))
    return stream.getvalue()


def build(
    daemon: Daemon, body: bytes, headers: dict[str, str] | None = None, **query: Any
) -> tuple[int, list[dict[str, Any]]]:
    """One request: its status and the messages of its answer."""
    connection = UnixConnection(daemon)
    connection.request("POST", "/build?" + urlencode(query, doseq=True), body, headers or {})
    answer = connection.getresponse()
    messages = [json.loads(line) for line in answer.read().splitlines() if line]
    connection.close()
    return answer.status, messages


def text_of(messages: list[dict[str, Any]]) -> str:
    return "".join(message.get("stream", "") for message in messages)


@pytest.fixture
def tags(daemon: Daemon) -> Iterator[Any]:
    yield daemon.client.images
    daemon.remove_containers()
    for image in daemon.client.images.list():
        for tag in image.tags:
            if tag != "busybox:latest":
                daemon.client.images.remove(tag, force=True)
    daemon.client.images.prune()


def test_classic_text(daemon: Daemon, tags: Any) -> None:
    dockerfile = 'FROM busybox\nENV A=b\nRUN echo in $A\nCMD ["true"]\n'
    status, messages = build(daemon, context(Dockerfile=dockerfile), t=["b/one:1", "b/two:2"])
    assert status == 200
    (image_id,) = [m["aux"]["ID"] for m in messages if "aux" in m]
    lines = text_of(messages).splitlines()
    assert lines[0] == "Step 1/4 : FROM busybox"
    assert [line for line in lines if line.startswith("Step")][1:] == [
        "Step 2/4 : ENV A=b",
        "Step 3/4 : RUN echo in $A",
        'Step 4/4 : CMD ["true"]',
    ]
    run = lines.index("Step 3/4 : RUN echo in $A")
    assert lines[run + 1].startswith(" ---> Running in ") and lines[run + 2] == "in b"
    assert lines[-3:] == [
        f"Successfully built {image_id[7:19]}",
        "Successfully tagged b/one:1",
        "Successfully tagged b/two:2",
    ]
    assert tags.get("b/one:1").id == tags.get("b/two:2").id == image_id
    _, again = build(daemon, context(Dockerfile=dockerfile), t="b/one:1")
    assert " ---> Using cache\n" in text_of(again)
    assert [m["aux"]["ID"] for m in again if "aux" in m] == [image_id]
    _, fresh = build(daemon, context(Dockerfile=dockerfile), nocache=1)
    assert " ---> Running in" in text_of(fresh)


@pytest.mark.parametrize("pack", [bytes, gzip.compress, bz2.compress, lzma.compress])
def test_compressed_context(daemon: Daemon, tags: Any, pack: Callable[[bytes], bytes]) -> None:
    body = pack(context(Dockerfile="FROM busybox\nCOPY f /f\n", f="x"))
    status, messages = build(daemon, body, q=1)
    assert status == 200
    assert text_of(messages).startswith("sha256:") and len(messages) == 1


def test_parameters(daemon: Daemon, tags: Any) -> None:
    dockerfile = (
        "FROM busybox AS first\nARG V=none\nRUN echo v=$V; cat /proc/sys/kernel/hostname\n"
        "RUN grep named /etc/hosts && ulimit -n && df -m /dev/shm | tail -1\n"
        "FROM busybox AS second\nRUN false\n"
    )
    status, messages = build(
        daemon,
        context(**{"other.df": dockerfile}),
        dockerfile="other.df",
        t="b/params:1",
        target="first",
        buildargs=json.dumps({"V": "given", "UNUSED": "x"}),
        labels=json.dumps({"a": "b"}),
        extrahosts="named:10.9.8.7",
        shmsize=8 << 20,
        ulimits=json.dumps([{"Name": "nofile", "Soft": 321, "Hard": 321}]),
        networkmode="none",
        memory=64 << 20,
        rm=1,
        forcerm=0,
        pull=0,
    )
    out = text_of(messages)
    assert status == 200 and "error" not in messages[-1], messages[-1]
    assert "v=given" in out and "10.9.8.7" in out and "321" in out
    assert "[Warning] One or more build-args [UNUSED] were not consumed" in out
    assert tags.get("b/params:1").labels == {"a": "b"}


def test_rich_events(daemon: Daemon, tags: Any) -> None:
    _, messages = build(daemon, context(Dockerfile="FROM busybox\nRUN echo hello\n"), sampan=1)
    traces = [m["aux"] for m in messages if m.get("id") == "sampan.trace"]
    names = {v["name"] for t in traces for v in t.get("vertexes", [])}
    assert "[2/2] RUN echo hello" in names
    done = [v for t in traces for v in t.get("vertexes", []) if "completed" in v]
    assert len(done) >= 2
    assert messages[-2]["aux"]["ID"].startswith("sha256:")


@pytest.mark.parametrize(
    ("body", "query", "status", "text"),
    [
        (context(Dockerfile="FROM busybox\nRUNN x\n"), {}, 400, ">>> RUNN x"),
        (context(other="x"), {}, 400, "Dockerfile"),
        (context(Dockerfile="FROM busybox"), {"t": "Bad Tag"}, 400, "invalid reference format"),
        (context(Dockerfile="FROM busybox"), {"target": "nope"}, 400, "nope"),
        (context(Dockerfile="FROM busybox"), {"version": 2}, 501, "BuildKit"),
        (context(Dockerfile="FROM busybox"), {"buildargs": "[1]"}, 400, "buildargs"),
        (context(Dockerfile="FROM busybox"), {"memory": "lots"}, 400, "not a number"),
        (b"no tar" * 200, {}, 400, "tar"),
        (context(**{"../evil": "x"}), {}, 400, "evil"),
    ],
)
def test_refusals(
    daemon: Daemon, tags: Any, body: bytes, query: dict[str, Any], status: int, text: str
) -> None:
    got, messages = build(daemon, body, **query)
    assert got == status and text in messages[-1]["message"]
    contexts = daemon.state / "tmp" / "contexts"
    assert not contexts.exists() or list(contexts.iterdir()) == []


def test_failing_command(daemon: Daemon, tags: Any) -> None:
    status, messages = build(daemon, context(Dockerfile="FROM busybox\nRUN exit 3\n"), t="b/bad:1")
    assert status == 200
    assert messages[-1]["errorDetail"]["code"] == 3
    assert messages[-1]["error"] == "The command '/bin/sh -c exit 3' returned a non-zero code: 3"
    assert all("b/bad:1" not in image.tags for image in tags.list())


def test_missing_base(daemon: Daemon, tags: Any) -> None:
    _, messages = build(daemon, context(Dockerfile="FROM 127.0.0.1:1/nosuch:1\n"))
    assert "127.0.0.1:1" in str(messages[-1])


def test_client_that_goes_away(daemon: Daemon, tags: Any) -> None:
    connection = UnixConnection(daemon)
    body = context(Dockerfile="FROM busybox\nRUN echo started; sleep 987651\n")
    connection.request("POST", "/build?t=b/gone:1&nocache=1", body)
    answer = connection.getresponse()
    until(lambda: sleeping(987651))
    connection.sock.shutdown(socket.SHUT_RDWR)
    answer.close()
    connection.close()
    until(lambda: not sleeping(987651))
    assert all("b/gone:1" not in image.tags for image in tags.list())


def sleeping(seconds: int) -> bool:
    """Whether a build's command runs; its shell may do the sleeping itself."""
    for process in Path("/proc").iterdir():
        if process.name.isdecimal():
            try:
                if b"sleep %d" % seconds in (process / "cmdline").read_bytes().replace(b"\0", b" "):
                    return True
            except OSError:
                continue
    return False


def test_remote_context(daemon: Daemon, tags: Any) -> None:
    bodies = {
        "/Dockerfile": b"FROM busybox\nRUN echo remote\n",
        "/context.tar.gz": gzip.compress(context(Dockerfile="FROM busybox\nCOPY f /\n", f="1")),
    }

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = bodies.get(self.path)
            self.send_response(200 if body else 404)
            self.send_header("Content-Length", str(len(body or b"")))
            self.end_headers()
            self.wfile.write(body or b"")

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    try:
        _, messages = build(daemon, b"", remote=f"{url}/Dockerfile")
        assert "remote\n" in text_of(messages)
        _, messages = build(daemon, b"", remote=f"{url}/context.tar.gz")
        assert "Successfully built" in text_of(messages)
        _, messages = build(daemon, b"", remote=f"{url}/nosuch")
        assert "not found" in str(messages[-1])
    finally:
        server.shutdown()
        server.server_close()


def test_docker_cli(
    daemon: Daemon, tags: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_BUILDKIT", "0")
    (tmp_path / "Dockerfile").write_text("FROM busybox\nCOPY . /app\nRUN ls /app\n")
    (tmp_path / "kept").write_text("1")
    (tmp_path / "dropped").write_text("1")
    (tmp_path / ".dockerignore").write_text("dropped\n")
    built = daemon.docker("build", "--iidfile", f"{tmp_path}/id", "-t", "b/cli:1", str(tmp_path))
    assert built.returncode == 0, built.stderr
    assert b"kept" in built.stdout and b"dropped" not in built.stdout
    assert b"Successfully tagged b/cli:1" in built.stdout
    assert tags.get("b/cli:1").id == (tmp_path / "id").read_text()
    stdin = daemon.docker("build", "-q", "-", input=b"FROM busybox\nRUN echo from stdin\n")
    assert stdin.returncode == 0 and stdin.stdout.startswith(b"sha256:")
    failed = daemon.docker("build", "-", input=b"FROM busybox\nRUN exit 7\n")
    assert failed.returncode == 7
    usage = daemon.docker("system", "df", "-v")
    assert usage.returncode == 0 and b"Build cache usage" in usage.stdout
    pruned = daemon.docker("builder", "prune", "-af")
    assert pruned.returncode == 0 and b"Total reclaimed space" in pruned.stdout


def test_killed_daemon_leaves_no_command_running(own_daemon: Daemon) -> None:
    def request() -> None:
        with contextlib.suppress(OSError, http.client.HTTPException):
            build(own_daemon, context(Dockerfile="FROM busybox\nRUN sleep 987652\n"))

    client = threading.Thread(target=request)
    client.start()
    until(lambda: sleeping(987652))
    own_daemon.stop(signal.SIGKILL)
    client.join()
    assert sleeping(987652)
    own_daemon.start()
    until(lambda: not sleeping(987652))
    assert not (own_daemon.state / "tmp" / "contexts").exists()
    _, messages = build(own_daemon, context(Dockerfile="FROM busybox\nRUN echo again\n"))
    assert "Successfully built" in text_of(messages)
