"""A store with a busybox image, a spawner and a network manager, for building for real."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from sampan.build import BuildDeps, BuildEvent, BuildRequest, BuildResult, StepLog, build
from sampan.build.context import extract
from sampan.build.ops.tree import mounted
from sampan.errors import NotFound, Unsupported
from sampan.image.config import ImageConfig, RunConfig
from sampan.image.manifest import Platform
from sampan.image.reference import Reference
from sampan.network.manager import NetworkManager, NetworkSettings
from sampan.network.types import Endpoint, Network
from sampan.progress import Report
from sampan.runtime.spawner import Spawner
from sampan.store import probe
from sampan.store.archives import Archives
from sampan.store.content import ContentStore
from sampan.store.images import Image, ImageStore
from sampan.store.metadata import Metadata

BUSYBOX = Path("/bin/busybox")


def busybox_tar() -> bytes:
    """A root file system with busybox and its applets."""
    applets = subprocess.run(
        [BUSYBOX, "--list"], capture_output=True, text=True, check=True
    ).stdout.split()
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name in ("bin", "etc", "tmp", "root"):
            info = tarfile.TarInfo(name)
            info.type, info.mode = tarfile.DIRTYPE, 0o1777 if name == "tmp" else 0o755
            archive.addfile(info)
        archive.add(BUSYBOX, "bin/busybox")
        for applet in applets:
            if applet == "busybox":
                continue
            info = tarfile.TarInfo(f"bin/{applet}")
            info.type, info.linkname = tarfile.SYMTYPE, "busybox"
            archive.addfile(info)
        for name, text in (
            ("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nweb:x:33:44:web:/:/bin/sh\n"),
            ("etc/group", "root:x:0:\nweb:x:44:\nstaff:x:50:\n"),
        ):
            info = tarfile.TarInfo(name)
            info.size = len(text)
            archive.addfile(info, io.BytesIO(text.encode()))
    return out.getvalue()


async def _chunks(data: bytes) -> AsyncIterator[bytes]:
    yield data


@dataclass
class Workshop:
    """Builds and looks at results."""

    deps: BuildDeps
    root: Path
    events: list[BuildEvent] = field(default_factory=list)
    count: int = 0
    archived: bool = False

    def context(self, **files: str | bytes) -> Path:
        """A folder; ``__`` in names stands for a slash, ``_`` stays."""
        self.count += 1
        path = self.root / f"context-{self.count}"
        path.mkdir()
        for name, content in files.items():
            target = path / name.replace("__", "/")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    async def build(
        self, dockerfile: str, context: Path | None = None, **options: object
    ) -> BuildResult:
        self.events.clear()
        context = context or self.context()
        request = BuildRequest(
            context=self.as_archive(context) if self.archived else context,
            dockerfile_text=dockerfile.encode(),
            **options,  # type: ignore[arg-type]
        )
        return await build(request, self.deps, self.events.append)

    def as_archive(self, context: Path) -> Path:
        """The context as it is after it came as a tar."""
        self.count += 1
        dest = self.root / f"archive-{self.count}"
        dest.mkdir()
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w") as archive:
            archive.add(context, ".")
        stream.seek(0)
        extract(stream, dest)
        return dest

    def image(self, result: BuildResult) -> Image:
        assert result.image_id is not None
        return self.deps.images.get(result.image_id)

    async def read(self, result: BuildResult, path: str) -> str:
        """The content of a file in a built image."""
        chain = await self.deps.images.unpack(self.image(result))
        assert chain is not None
        with mounted(self.deps.snapshots.mounts(chain)) as tree:
            os.close(tree.open(path))
            return tree.read(path).decode()

    async def stat(self, result: BuildResult, path: str) -> os.stat_result:
        chain = await self.deps.images.unpack(self.image(result))
        assert chain is not None
        with mounted(self.deps.snapshots.mounts(chain)) as tree:
            fd = tree.open(path, os.O_PATH | os.O_NOFOLLOW)
            try:
                return os.fstat(fd)
            finally:
                os.close(fd)

    def output(self) -> str:
        return b"".join(e.data for e in self.events if isinstance(e, StepLog)).decode()

    def kinds(self) -> list[str]:
        return [type(e).__name__ for e in self.events]


@asynccontextmanager
async def opened(tmp_path: Path, kind: str) -> AsyncIterator[Workshop]:
    """A workshop; ``kind`` says how contexts come and which snapshotter there is."""
    state, run = tmp_path / "state", tmp_path / "run"
    state.mkdir()
    run.mkdir()
    metadata = Metadata(state / "meta.db")
    content = ContentStore(state)
    form, _, driver = kind.partition("-")
    try:
        snapshots, _ = probe.choose(state, run, metadata, driver)
    except Unsupported as error:
        pytest.skip(str(error))
    images = ImageStore(content, metadata, snapshots)
    networks = NetworkManager(
        metadata.collection("networks", Network),
        metadata.collection("endpoints", Endpoint),
        NetworkSettings(
            run_dir=str(run),
            bridge_name=f"spbd{os.getpid() % 10**7}",
            table_name=f"sampan-build-{os.getpid()}",
        ),
    )
    await networks.start(set())
    spawner = await Spawner.start(["sampan.network.dns"])
    config = ImageConfig(config=RunConfig(env=["PATH=/bin"], cmd=["/bin/sh"]))
    await Archives(images).import_(
        _chunks(busybox_tar()), config, Reference.parse("busybox:latest")
    )

    async def pull(reference: Reference, platform: Platform | None, report: Report) -> Image:
        raise NotFound(f"manifest for {reference.familiar()} not found: manifest unknown")

    deps = BuildDeps(images, content, snapshots, metadata, spawner, networks, pull, state, run)
    try:
        yield Workshop(deps, tmp_path, archived=form == "archive")
    finally:
        await spawner.close()
        await networks.close(remove_all=True)
        snapshots.close()
        metadata.close()
