"""What is measured of storage: images in and out, and what their size and number cost."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import random
import shutil
import socket
import subprocess
import tarfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from .engines import Chroot, CommandFailed, Engine, Sampan
from .scenarios import IMAGE, Timed, busybox_tar, scenario

_SIZE = 184_000_000
_LEVEL = 1
_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
_CONFIG = "application/vnd.docker.container.image.v1+json"
_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"
_CONFIGURATION = """
version: 0.1
storage: {filesystem: {rootdirectory: ROOT}, delete: {enabled: true}}
http: {addr: "127.0.0.1:PORT"}
log: {level: error, accesslog: {disabled: true}}
"""


def software() -> bytes:
    """A layer of 184 MB of this machine's programs and libraries, about 20 kB a file."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for top in ("usr/lib/python3", "usr/lib/python3.11", "usr/share", "usr/lib"):
            for folder, folders, names in os.walk(Path("/", top)):
                folders.sort()
                for name in sorted(names):
                    path = Path(folder, name)
                    try:
                        if path.is_file() and path.stat().st_size < 8_000_000:
                            tar.add(path, f"data{path}", recursive=False)
                    except OSError:
                        continue
                    if buffer.tell() > _SIZE:
                        return _finished(tar, buffer)
    return buffer.getvalue()


def _finished(tar: tarfile.TarFile, buffer: io.BytesIO) -> bytes:
    tar.close()
    return buffer.getvalue()


def _digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


class Sample:
    """An image as plain layers; written as an archive, or stored in a registry."""

    def __init__(self, name: str, layers: Sequence[bytes]) -> None:
        self.name, self.layers = name, layers
        config = {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Cmd": ["sh"]},
            "rootfs": {"type": "layers", "diff_ids": [_digest(layer) for layer in layers]},
            "history": [{"created_by": f"layer {n}"} for n in range(len(layers))],
        }
        self.config = json.dumps(config).encode()

    def archive(self, path: Path) -> Path:
        """As ``docker save`` writes it."""
        names = [f"{n}/layer.tar" for n in range(len(self.layers))]
        config = _digest(self.config)[7:] + ".json"
        listed = [{"Config": config, "RepoTags": [self.name], "Layers": names}]
        with tarfile.open(path, "w") as tar:
            for name, data in zip(names, self.layers, strict=True):
                _add(tar, name, data)
            _add(tar, config, self.config)
            _add(tar, "manifest.json", json.dumps(listed).encode())
        return path

    def publish(self, address: str, repository: str) -> None:
        """Store it in a registry, its layers gzipped."""
        blobs = [gzip.compress(layer, _LEVEL, mtime=0) for layer in self.layers]
        for blob in (*blobs, self.config):
            _upload(address, repository, blob)
        manifest = {
            "schemaVersion": 2,
            "mediaType": _MANIFEST,
            "config": _described(_CONFIG, self.config),
            "layers": [_described(_LAYER, blob) for blob in blobs],
        }
        _request(
            "PUT",
            f"http://{address}/v2/{repository}/manifests/1",
            json.dumps(manifest).encode(),
            _MANIFEST,
        )


def _described(kind: str, data: bytes) -> dict[str, object]:
    return {"mediaType": kind, "digest": _digest(data), "size": len(data)}


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    tar.addfile(entry, io.BytesIO(data))


def _request(method: str, url: str, body: bytes | None = None, kind: str = "") -> str:
    """Returns the ``Location`` of the answer."""
    request = urllib.request.Request(url, body, {"Content-Type": kind} if kind else {})
    request.method = method
    with urllib.request.urlopen(request) as answer:
        return str(answer.headers.get("Location", ""))


def _upload(address: str, repository: str, data: bytes) -> None:
    place = _request("POST", f"http://{address}/v2/{repository}/blobs/uploads/", b"")
    _request("PUT", f"{place}&digest={_digest(data)}", data, "application/octet-stream")


class LocalRegistry:
    """Debian's docker-registry on the loopback that the engine sees."""

    def __init__(self, engine: Engine | None, root: Path) -> None:
        if shutil.which("docker-registry") is None:
            raise CommandFailed("docker-registry is not installed")
        # One each: the registries of several engines run at the same time.
        self.root, self.port = root, _free_port()
        self.address = f"127.0.0.1:{self.port}"
        self._prefix: tuple[str, ...] = ()
        if isinstance(engine, Chroot):
            self._prefix = ("nsenter", f"--net=/proc/{engine.holder.pid}/ns/net")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.root.mkdir(parents=True, exist_ok=True)
        file = self.root.with_suffix(".yml")
        text = _CONFIGURATION.replace("ROOT", str(self.root)).replace("PORT", str(self.port))
        file.write_text(text)
        self._process = subprocess.Popen(
            [*self._prefix, "docker-registry", "serve", str(file)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "OTEL_TRACES_EXPORTER": "none"},
        )
        probe = [
            "python3",
            "-c",
            f"import socket; socket.create_connection(('127.0.0.1', {self.port}))",
        ]
        deadline = time.monotonic() + 20
        while subprocess.run([*self._prefix, *probe], stderr=subprocess.DEVNULL).returncode:
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise CommandFailed("docker-registry does not start")
            time.sleep(0.05)

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def empty(self) -> None:
        """Forget everything that was pushed."""
        self.stop()
        shutil.rmtree(self.root, ignore_errors=True)
        self.start()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def registry(engine: Engine | None, root: Path) -> Iterator[LocalRegistry]:
    server = LocalRegistry(engine, root)
    server.start()
    try:
        yield server
    finally:
        server.stop()


_samples: dict[str, Sample] = {}


def sample() -> Sample:
    """The image of 184 MB, made once."""
    if "big" not in _samples:
        _samples["big"] = Sample("bench/big:1", [busybox_tar(), software()])
    return _samples["big"]


@contextmanager
def published(engine: Engine, image: Sample) -> Iterator[str]:
    """The image in a registry that the engine sees; its name there."""
    root = engine.work.parent / f"{engine.work.name}-registry"
    with registry(None, root) as server:
        image.publish(server.address, "bench/big")
    with registry(engine, root) as server:
        try:
            yield f"{server.address}/bench/big:1"
        finally:
            shutil.rmtree(root, ignore_errors=True)


def _plain(engine: Engine) -> tuple[str, ...]:
    """Podman wants to be told that the registry has no TLS."""
    return ("--tls-verify=false",) if engine.name == "podman" else ()


def _forget(engine: Engine, *names: str) -> None:
    for name in names:
        engine.call("rmi", "-f", name, check=False)


@scenario("pull 184 MB from loopback", target=700, group="storage", runs=3)
def pull(engine: Engine) -> Iterator[Timed]:
    with published(engine, sample()) as name:

        def run() -> None:
            engine.call("pull", "-q", *_plain(engine), name)

        run.before = lambda: _forget(engine, name)  # type: ignore[attr-defined]
        yield run
        _forget(engine, name)


@scenario("pull and run 184 MB from loopback", target=800, group="storage", runs=3)
def pull_and_run(engine: Engine) -> Iterator[Timed]:
    with published(engine, sample()) as name:

        def run() -> None:
            engine.call("run", "--rm", "--network=host", *_plain(engine), name, "true")

        run.before = lambda: _forget(engine, name)  # type: ignore[attr-defined]
        yield run
        _forget(engine, name)


@contextmanager
def loaded(engine: Engine) -> Iterator[Path]:
    """The sample in the engine and as an archive."""
    path = sample().archive(engine.work / "big.tar")
    engine.call("load", "-q", "-i", engine.path(path))
    try:
        yield path
    finally:
        _forget(engine, sample().name)
        path.unlink()


@scenario("push 184 MB to loopback", target=3000, group="storage", runs=3)
def push(engine: Engine) -> Iterator[Timed]:
    root = engine.work.parent / f"{engine.work.name}-pushed"
    with loaded(engine), registry(engine, root) as server:
        name = f"{server.address}/pushed/big:1"

        def run() -> None:
            engine.call("push", *_plain(engine), name)

        def before() -> None:
            # A fresh image each time: else what was compressed once would be sent again.
            server.empty()
            _forget(engine, name, sample().name)
            engine.call("load", "-q", "-i", engine.path(engine.work / "big.tar"))
            engine.call("tag", sample().name, name)

        run.before = before  # type: ignore[attr-defined]
        yield run
        _forget(engine, name)
    shutil.rmtree(root, ignore_errors=True)


@scenario("load 184 MB", target=600, group="storage", runs=3)
def load(engine: Engine) -> Iterator[Timed]:
    with loaded(engine) as path:

        def run() -> None:
            engine.call("load", "-q", "-i", engine.path(path))

        run.before = lambda: _forget(engine, sample().name)  # type: ignore[attr-defined]
        yield run


@scenario("save 184 MB", target=350, group="storage", runs=3)
def save(engine: Engine) -> Iterator[Timed]:
    with loaded(engine):
        target = engine.work / "saved.tar"

        def run() -> None:
            engine.call("save", "-o", engine.path(target), sample().name)

        run.before = lambda: target.unlink(missing_ok=True)  # type: ignore[attr-defined]
        yield run
        target.unlink(missing_ok=True)


@scenario("import 184 MB", target=600, group="storage", runs=3)
def import_(engine: Engine) -> Iterator[Timed]:
    path = engine.work / "root.tar"
    path.write_bytes(sample().layers[1])

    def run() -> None:
        engine.call("import", engine.path(path), "bench/imported:1")

    run.before = lambda: _forget(engine, "bench/imported:1")  # type: ignore[attr-defined]
    yield run
    _forget(engine, "bench/imported:1")
    path.unlink()


@scenario("commit of 100 MB in 2,000 files", target=400, group="storage", runs=3)
def commit(engine: Engine) -> Iterator[Timed]:
    folder = engine.work / "tree"
    folder.mkdir()
    chance = random.Random(1)
    for number in range(2000):
        (folder / str(number)).write_bytes(chance.randbytes(50_000))
    container = engine.call("create", IMAGE, "true").splitlines()[-1]
    try:
        engine.call("cp", engine.path(folder), f"{container}:/tree")

        def run() -> None:
            engine.call("commit", container, "bench/committed:1")

        run.before = lambda: _forget(engine, "bench/committed:1")  # type: ignore[attr-defined]
        yield run
    finally:
        engine.remove(container)
        _forget(engine, "bench/committed:1")
        shutil.rmtree(folder)


def _of_layers(engine: Engine, count: int) -> str:
    layers = [busybox_tar()]
    for number in range(count - 1):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            _add(tar, f"f{number}", b"x" * 1000)
        layers.append(buffer.getvalue())
    image = Sample(f"bench/layers:{count}", layers)
    path = image.archive(engine.work / "layers.tar")
    engine.call("load", "-q", "-i", engine.path(path))
    path.unlink()
    return image.name


@scenario("run --rm of an image with 1 layer", target=45, group="storage")
def run_one_layer(engine: Engine) -> Iterator[Timed]:
    name = _of_layers(engine, 1)
    yield lambda: engine.call("run", "--rm", "--network", "none", name, "true")
    _forget(engine, name)


@scenario("run --rm of an image with 100 layers", target=45, group="storage")
def run_hundred_layers(engine: Engine) -> Iterator[Timed]:
    name = _of_layers(engine, 100)
    yield lambda: engine.call("run", "--rm", "--network", "none", name, "true")
    _forget(engine, name)


@scenario("images, of 2,000", target=80, group="storage", sampan_only=True)
def many_images(engine: Engine) -> Iterator[Timed]:
    path, layer = engine.work / "many.tar", busybox_tar()
    with tarfile.open(path, "w") as tar:
        _add(tar, "layer.tar", layer)
        listed = []
        for number in range(2000):
            config = Sample("", [layer]).config.replace(b'"sh"', f'"sh{number}"'.encode())
            _add(tar, f"{number}.json", config)
            tags = [f"bench/many:{number}"]
            listed.append({"Config": f"{number}.json", "RepoTags": tags, "Layers": ["layer.tar"]})
        _add(tar, "manifest.json", json.dumps(listed).encode())
    engine.call("load", "-q", "-i", engine.path(path))
    yield lambda: engine.call("images")
    _forget(engine, *(f"bench/many:{number}" for number in range(2000)))


@scenario(
    "daemon's peak while pulling 2 GB (RSS)",
    target=150,
    unit="MB",
    group="storage",
    sampan_only=True,
)
def pull_memory(engine: Engine) -> Iterator[float]:
    assert isinstance(engine, Sampan)
    block = random.Random(2).randbytes(64 << 20)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for number in range(31):
            _add(tar, f"f{number}", block)
    with published(engine, Sample("bench/huge:1", [buffer.getvalue()])) as name:
        del buffer
        peak = Path(f"/proc/{engine.daemon.pid}")
        (peak / "clear_refs").write_text("5")
        engine.call("pull", "-q", name)
        line = next(x for x in (peak / "status").read_text().splitlines() if "VmHWM" in x)
        yield int(line.split()[1]) / 1000
        _forget(engine, name)
