"""The library: its documentation is run as it stands, and what only an event loop can show."""

from __future__ import annotations

import asyncio
import contextlib
import doctest
import io
import tarfile
from pathlib import Path

import pytest
from harness import Daemon

import sampan
from sampan.client.containers import ContainerFailed
from sampan.client.failures import OperationFailed
from sampan.errors import Conflict, NotFound, Unavailable

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture
def ours(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> Daemon:
    monkeypatch.setenv("SAMPAN_HOST", daemon.url)
    return daemon


def test_the_documentation_runs(ours: Daemon) -> None:
    found = doctest.testfile(
        str(DOCS / "library.md"),
        module_relative=False,
        optionflags=doctest.ELLIPSIS | doctest.IGNORE_EXCEPTION_DETAIL,
        encoding="utf-8",
    )
    assert found.attempted > 20 and not found.failed


async def test_objects_on_an_event_loop(ours: Daemon, tmp_path: Path) -> None:
    async with await sampan.connect_async() as client:
        (tmp_path / "Dockerfile").write_text("FROM busybox\nCOPY big /big\n")
        (tmp_path / "big").write_bytes(bytes(3 << 20))
        seen: list[str] = []
        image = await client.images.build(
            tmp_path, tag="aio:1", report=lambda message: seen.append(message.text)
        )
        assert any("COPY big" in text for text in seen)
        archive = b"".join([part async for part in image.save()])
        await image.remove()
        with pytest.raises(NotFound):
            await client.images.get("aio:1")
        await client.images.load(archive)
        container = await client.containers.start("aio:1", ["sleep", "1000"], name="aio")
        assert (await container.inspect()).state.running
        result = await container.execute("wc -c < /big; echo no >&2; exit 5")
        assert (result.exit_code, result.text, result.stderr) == (5, f"{3 << 20}\n", b"no\n")
        with pytest.raises(Conflict):
            await client.containers.create("busybox", name="aio")
        with tarfile.open(
            fileobj=io.BytesIO(b"".join([x async for x in container.read_archive("/big")]))
        ) as tar:
            await container.write_archive("/tmp", b"".join(_again(tar)))
        assert ("A", "/tmp/big") in await container.diff()
        readings = container.follow_stats()
        assert (await anext(readings))["pids_stats"]["current"] >= 1
        await container.remove(force=True)
        await (await client.images.get("aio:1")).remove()
        with pytest.raises(OperationFailed):
            await client.images.build(context=_dockerfile("FROM busybox\nRUN exit 3\n"))
        with pytest.raises(ContainerFailed):
            await client.containers.run("busybox", "exit 2")


def _again(tar: tarfile.TarFile) -> list[bytes]:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as copy:
        for member in tar:
            copy.addfile(member, tar.extractfile(member))
    return [buffer.getvalue()]


def _dockerfile(text: str) -> list[bytes]:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        entry = tarfile.TarInfo("Dockerfile")
        entry.size = len(text)
        tar.addfile(entry, io.BytesIO(text.encode()))
    return [buffer.getvalue()]


async def test_tasks_share_a_client_and_can_be_cancelled(ours: Daemon) -> None:
    async with await sampan.connect_async() as client:
        events: list[str] = []

        async def watch() -> None:
            async with contextlib.aclosing(client.system.events(type="container")) as found:
                async for event in found:
                    events.append(event.action)
                    if event.action == "destroy":
                        return

        watching = asyncio.create_task(watch())
        container = await client.containers.start("busybox", ["sleep", "1000"])
        waiting = asyncio.create_task(container.wait())
        stopped = asyncio.create_task(container.wait())
        await client.system.ping()
        stopped.cancel()
        with pytest.raises(asyncio.CancelledError):
            await stopped
        await container.kill()
        assert await waiting == 137
        await container.remove()
        await asyncio.wait_for(watching, 30)
        assert events[-1] == "destroy"


async def test_nobody_answers(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="Cannot connect"):
        await sampan.connect_async(f"unix://{tmp_path}/nosuch")
