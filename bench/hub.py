"""The hub beside Debian's docker-registry, one process each, on the same disk.

``python -m bench.hub`` prints a table: pushes and pulls of 200 MB, small manifest requests, 100
pushes at once with the hub's memory, and the paging of a large catalog.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import random
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from http.client import HTTPConnection
from pathlib import Path

import uvloop

SIZE = 200_000_000
RUNS = 5
REQUESTS = 8000
CONNECTIONS = 16
REPOSITORIES = 100_000
OCI = "application/vnd.oci.image.manifest.v1+json"
CONFIG = b"{}"


@dataclass
class Server:
    name: str
    port: int
    pid: int
    root: Path


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def served(name: str, root: Path, port: int, command: list[str]) -> Iterator[Server]:
    with (root / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + 30
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port), 1).close()
                    break
                except OSError:
                    if process.poll() is not None or time.monotonic() > deadline:
                        raise SystemExit(f"{name} does not start: see {log.name}") from None
                    time.sleep(0.05)
            yield Server(name, port, process.pid, root)
        finally:
            process.terminate()
            process.wait()


@contextlib.contextmanager
def hub(root: Path) -> Iterator[Server]:
    root.mkdir()
    port = free_port()
    command = [sys.executable, "-m", "sampan.cli.main"]
    script = shutil.which("sampan", path=str(Path(sys.executable).parent))
    command = [script] if script else command
    command += ["hub", "serve", "--root", str(root), "--listen", f"127.0.0.1:{port}"]
    with served("sampan hub", root, port, [*command, "--anonymous", "push"]) as server:
        yield server


@contextlib.contextmanager
def registry(root: Path) -> Iterator[Server]:
    root.mkdir()
    port = free_port()
    (root / "config.yml").write_text(
        "version: 0.1\nlog: {level: error, accesslog: {disabled: true}}\n"
        f"storage: {{filesystem: {{rootdirectory: {root}/data}}}}\n"
        f"http: {{addr: '127.0.0.1:{port}'}}\n"
    )
    command = ["docker-registry", "serve", str(root / "config.yml")]
    with served("docker-registry", root, port, command) as server:
        yield server


def push_blob(server: Server, repository: str, data: bytes, name: str) -> None:
    """POST, then PUT, as clients do."""
    http = HTTPConnection("127.0.0.1", server.port, timeout=120)
    http.request("POST", f"/v2/{repository}/blobs/uploads/")
    begun = http.getresponse()
    begun.read()
    location = begun.headers["Location"]
    path = location[location.index("/v2/") :]
    path += ("&" if "?" in path else "?") + f"digest={name}"
    http.request("PUT", path, data, {"Content-Type": "application/octet-stream"})
    done = http.getresponse()
    done.read()
    http.close()
    if done.status != 201:
        raise SystemExit(f"{server.name}: push answered {done.status}")


def pull_blob(server: Server, repository: str, name: str) -> None:
    """GET into one buffer, as fast as a client can take it."""
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        request = f"GET /v2/{repository}/blobs/{name} HTTP/1.1\r\nHost: x\r\n\r\n"
        connection.sendall(request.encode())
        buffer = bytearray(1 << 20)
        count = connection.recv_into(buffer)
        head = bytes(buffer[:count]).partition(b"\r\n\r\n")[0]
        received = count - len(head) - 4
        if b" 200 " not in head:
            raise SystemExit(f"{server.name}: pull answered {head[:30]!r}")
        while received < SIZE:
            received += connection.recv_into(buffer)


def push_manifest(server: Server, repository: str) -> None:
    push_blob(server, repository, CONFIG, digest(CONFIG))
    config = {
        "mediaType": "application/vnd.oci.image.config.v1+json",
        "digest": digest(CONFIG),
        "size": len(CONFIG),
    }
    body = json.dumps(
        {"schemaVersion": 2, "mediaType": OCI, "config": config, "layers": []}
    ).encode()
    http = HTTPConnection("127.0.0.1", server.port)
    http.request("PUT", f"/v2/{repository}/manifests/1", body, {"Content-Type": OCI})
    answer = http.getresponse()
    answer.read()
    http.close()
    if answer.status != 201:
        raise SystemExit(f"{server.name}: manifest answered {answer.status}")


def processor_seconds(server: Server) -> float:
    """What the server's threads have used so far, which a busy machine changes little."""
    fields = Path(f"/proc/{server.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Transfers:
    """Repeated transfers of one kind with each server, in turns."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._seconds: dict[str, list[float]] = {}
        self._used: dict[str, list[float]] = {}

    def run(self, server: Server, call: Callable[[], None]) -> None:
        before = processor_seconds(server)
        self._seconds.setdefault(server.name, []).append(seconds(call))
        self._used.setdefault(server.name, []).append(processor_seconds(server) - before)

    def report(self, ours: Server, theirs: Server) -> None:
        mine, other = (
            SIZE / 1e6 / statistics.median(self._seconds[s.name]) for s in (ours, theirs)
        )
        row(f"{self.name} of 200 MB", "MB/s", mine, other, ">= 1.5 x theirs", mine >= 1.5 * other)
        mine, other = (statistics.mean(self._used[s.name]) * 1000 for s in (ours, theirs))
        row("  the server's processor time", "ms", mine, other, "<= theirs", mine <= other)


def seconds(call: Callable[[], None]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


async def _requests(port: int, path: str, count: int) -> list[float]:
    times: list[float] = []
    request = f"GET {path} HTTP/1.1\r\nHost: x\r\nAccept: {OCI}\r\n\r\n".encode()

    async def client() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(count // CONNECTIONS):
            begin = time.perf_counter()
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            match = re.search(rb"(?i)content-length: (\d+)", head)
            if b" 200 " not in head or match is None:
                raise SystemExit(f"a request was answered {head[:40]!r}")
            await reader.readexactly(int(match[1]))
            times.append(time.perf_counter() - begin)
        writer.close()

    await asyncio.gather(*(client() for _ in range(CONNECTIONS)))
    return times


def manifest_requests(server: Server) -> tuple[float, float]:
    """Requests a second and the 99th percentile in milliseconds."""
    path = "/v2/bench/app/manifests/1"
    uvloop.run(_requests(server.port, path, 800))
    begin = time.perf_counter()
    times = sorted(uvloop.run(_requests(server.port, path, REQUESTS)))
    return len(times) / (time.perf_counter() - begin), times[int(len(times) * 0.99)] * 1000


def peak_megabytes(server: Server) -> float:
    status = Path(f"/proc/{server.pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def hundred_pushes(server: Server) -> float:
    """Seconds for 100 pushes of 4 MB at once."""
    blobs = [random.Random(i).randbytes(4_000_000) for i in range(100)]
    names = [digest(data) for data in blobs]
    with ThreadPoolExecutor(100) as pool:
        begin = time.perf_counter()
        list(pool.map(lambda i: push_blob(server, f"many/n{i}", blobs[i], names[i]), range(100)))
        return time.perf_counter() - begin


def catalog_page(server: Server) -> float:
    """Milliseconds for a page of 100 names out of 100,000, the median over the catalog."""
    import sqlite3

    with contextlib.closing(sqlite3.connect(server.root / "hub.db", timeout=30)) as connection:
        connection.executemany(
            "INSERT INTO repositories (name, created, updated, searched) VALUES (?, 0, 0, ?)",
            ((f"c/{i:06d}", f"c/{i:06d}\n") for i in range(REPOSITORIES)),
        )
        connection.commit()
    times = []
    http = HTTPConnection("127.0.0.1", server.port)
    for start in range(0, REPOSITORIES, REPOSITORIES // 50):
        begin = time.perf_counter()
        http.request("GET", f"/v2/_catalog?n=100&last=c/{start:06d}")
        http.getresponse().read()
        times.append(time.perf_counter() - begin)
    http.close()
    return statistics.median(times) * 1000


def search_page(server: Server) -> float:
    times = []
    http = HTTPConnection("127.0.0.1", server.port)
    for term in ("0001", "c/09", "nothing", "bench", "99"):
        begin = time.perf_counter()
        http.request("GET", f"/search?q={term}")
        http.getresponse().read()
        times.append(time.perf_counter() - begin)
    http.close()
    return statistics.median(times) * 1000


def row(name: str, unit: str, ours: float, theirs: float | None, target: str, met: bool) -> None:
    other = "-" if theirs is None else f"{theirs:,.1f}"
    verdict = "met" if met else "MISSED"
    print(f"{name:<40}{ours:>12,.1f}{other:>18} {unit:<7}{target:>18}  {verdict}", flush=True)


def main() -> None:
    data = os.urandom(SIZE)
    name = digest(data)
    folder = Path(tempfile.mkdtemp(prefix="sampan-bench-hub-"))
    try:
        with hub(folder / "hub") as ours, registry(folder / "registry") as theirs:
            both = (ours, theirs)
            print(f"{'':<40}{'sampan hub':>12}{'docker-registry':>18} {'':<7}{'target':>18}")
            push, pull = Transfers("push"), Transfers("pull")
            # In turns, so that the machine's mood is shared.  A repository of its own each time:
            # the blob is known then, but is received and hashed again.
            for turn in range(RUNS):
                for server in both:
                    repository = f"bench/r{turn}"
                    push.run(server, partial(push_blob, server, repository, data, name))
            for server in both:
                pull_blob(server, "bench/r0", name)
            for _ in range(RUNS * 2):
                for server in both:
                    pull.run(server, partial(pull_blob, server, "bench/r0", name))
            push.report(*both)
            pull.report(*both)
            for server in both:
                push_manifest(server, "bench/app")
            (rate, p99), (their_rate, their_p99) = (manifest_requests(s) for s in both)
            row("manifest requests", "/s", rate, their_rate, ">= 1.5 x theirs",
                rate >= 1.5 * their_rate)  # fmt: skip
            row("manifest requests, 99th percentile", "ms", p99, their_p99, "<= theirs",
                p99 <= their_p99)  # fmt: skip
            mine, other = hundred_pushes(ours), hundred_pushes(theirs)
            row("100 pushes of 4 MB at once", "s", mine, other, "", True)
            peak = peak_megabytes(ours)
            row("memory after all that", "MB", peak, peak_megabytes(theirs), "<= 150", peak <= 150)
            page = catalog_page(ours)
            row("a catalog page of 100,000 repositories", "ms", page, None, "<= 20", page <= 20)
            search = search_page(ours)
            row("a search page of 100,000 repositories", "ms", search, None, "<= 50", search <= 50)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
