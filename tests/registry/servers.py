"""Real and bad servers for the tests: Debian's docker-registry, and a proxy with faults."""

from __future__ import annotations

import asyncio
import contextlib
import re
import shutil
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Registry:
    port: int
    root: Path

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"


@contextlib.contextmanager
def docker_registry(root: Path, extra: str = "", tls: str = "") -> Iterator[Registry]:
    """Debian's registry on a free port, with ``extra`` top-level and ``tls`` http settings."""
    binary = shutil.which("docker-registry")
    assert binary, "the tests need Debian's docker-registry"
    port = free_port()
    root.mkdir(parents=True, exist_ok=True)
    config = root / "config.yml"
    config.write_text(
        f"""version: 0.1
log: {{level: error, accesslog: {{disabled: true}}}}
storage:
  filesystem: {{rootdirectory: {root}/data}}
  delete: {{enabled: true}}
http:
  addr: 127.0.0.1:{port}
{tls}
{extra}
"""
    )
    log = (root / "log").open("wb")
    process = subprocess.Popen([binary, "serve", config], stdout=log, stderr=log)
    try:
        wait_for_port(port, lambda: process.poll() is None)
        yield Registry(port, root)
    finally:
        process.terminate()
        process.wait()
        log.close()


def wait_for_port(port: int, alive: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            assert alive() and time.monotonic() < deadline, "the server does not start"
            time.sleep(0.02)


@dataclass
class Faults:
    """What the proxy does to blob answers; each counter is used up by one fault.

    ``drops``: cut the connection after ``after`` bytes of the answer.  ``corruptions``: flip a
    byte there.  ``truncations``: end the answer there although more was announced.  ``delay``:
    seconds before each block.
    """

    drops: int = 0
    corruptions: int = 0
    truncations: int = 0
    delay: float = 0.0
    after: int = 100_000
    refusals: list[int] = field(default_factory=list)
    upload_drops: int = 0
    requests: list[str] = field(default_factory=list)
    sent: int = 0


@contextlib.asynccontextmanager
async def bad_proxy(target_port: int, faults: Faults) -> AsyncIterator[int]:
    """A reverse proxy in front of a registry that misbehaves as ``faults`` says."""
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        tasks.add(task)
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                while await _exchange(reader, writer, target_port, faults):
                    pass
        finally:
            writer.close()
            tasks.discard(task)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _exchange(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int, faults: Faults
) -> bool:
    """One request on a fresh connection to the target; False when the client's must end."""
    head = await reader.readuntil(b"\r\n\r\n")
    line = head.split(b"\r\n", 1)[0].decode()
    faults.requests.append(line)
    if faults.refusals and "/v2/ " not in line:
        status = faults.refusals.pop(0)
        writer.write(
            f"HTTP/1.1 {status} X\r\nContent-Length: 0\r\nRetry-After: 0\r\n"
            "Connection: close\r\n\r\n".encode()
        )
        await writer.drain()
        return False
    upstream_reader, upstream = await asyncio.open_connection("127.0.0.1", port)
    try:
        port_of_proxy = writer.get_extra_info("sockname")[1]
        upstream.write(re.sub(rb"(?i)connection: [^\r]*\r\n", b"", head[:-2]))
        upstream.write(b"Connection: close\r\n\r\n")
        if not await _upload(reader, upstream, head, faults):
            return False
        answer = await upstream_reader.readuntil(b"\r\n\r\n")
        answer = answer.replace(f":{port}/".encode(), f":{port_of_proxy}/".encode())
        writer.write(answer)
        is_blob = "/blobs/sha256" in line and line.startswith("GET")
        await _download(upstream_reader, writer, faults if is_blob else Faults())
    finally:
        upstream.close()
    return False


async def _upload(
    reader: asyncio.StreamReader, upstream: asyncio.StreamWriter, head: bytes, faults: Faults
) -> bool:
    match = re.search(rb"(?i)content-length: (\d+)", head)
    left = int(match[1]) if match else 0
    passed = 0
    while left:
        data = await reader.read(min(left, 1 << 16))
        if not data:
            return False
        upstream.write(data)
        await upstream.drain()
        left -= len(data)
        passed += len(data)
        if faults.upload_drops and passed > faults.after:
            faults.upload_drops -= 1
            return False
    return True


async def _download(
    upstream: asyncio.StreamReader, writer: asyncio.StreamWriter, faults: Faults
) -> None:
    passed = 0
    while data := await upstream.read(1 << 16):
        passed += len(data)
        if faults.delay:
            await asyncio.sleep(faults.delay)
        if passed > faults.after:
            if faults.drops:
                faults.drops -= 1
                writer.transport.abort()
                return
            if faults.truncations:
                faults.truncations -= 1
                writer.write(data[:10])
                await writer.drain()
                return
            if faults.corruptions:
                faults.corruptions -= 1
                data = data[:-1] + bytes([data[-1] ^ 1])
        writer.write(data)
        faults.sent += len(data)
        await writer.drain()
