"""cp and export, with running and stopped containers."""

from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import Path
from typing import Any

import pytest
from docker.errors import APIError, NotFound
from harness import Daemon


@pytest.fixture(params=["running", "created"])
def container(request: pytest.FixtureRequest, daemon: Daemon, tmp_path: Path) -> Any:
    """A container in either state with a volume, and a host directory mounted read-only."""
    (tmp_path / "bound").mkdir()
    (tmp_path / "bound" / "b").write_text("bound")
    found = daemon.client.containers.create(
        "busybox",
        ["sleep", "1000"],
        volumes=["cpvolume:/vol", f"{tmp_path}/bound:/ro:ro"],
        user="user",
    )
    if request.param == "running":
        found.start()
    yield found
    found.remove(force=True)
    daemon.client.volumes.get("cpvolume").remove()


def tar_of(**files: str) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name, text in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.uid, info.gid = len(text), 5, 6
            tar.addfile(info, io.BytesIO(text.encode()))
    return stream.getvalue()


def files(container: Any, path: str) -> dict[str, tarfile.TarInfo]:
    stream, _ = container.get_archive(path)
    with tarfile.open(fileobj=io.BytesIO(b"".join(stream))) as tar:
        return {member.name: member for member in tar.getmembers()}


def text(container: Any, path: str) -> str:
    stream, _ = container.get_archive(path)
    with tarfile.open(fileobj=io.BytesIO(b"".join(stream))) as tar:
        member = tar.next()
        assert member is not None
        return tar.extractfile(member).read().decode()  # type: ignore[union-attr]


def test_in_and_out(container: Any) -> None:
    assert container.put_archive("/tmp", tar_of(f="hello"))
    _, stat = container.get_archive("/tmp/f")
    assert (stat["name"], stat["size"], stat["mode"]) == ("f", 5, 0o644)
    assert text(container, "/tmp/f") == "hello"
    assert text(container, "tmp/../tmp/f") == "hello"
    member = files(container, "/tmp/f")["f"]
    assert (member.uid, member.gid) == (5, 6)


def test_compressed_upload(container: Any) -> None:
    assert container.put_archive("/tmp", gzip.compress(tar_of(z="zipped")))
    assert text(container, "/tmp/z") == "zipped"


def test_directory_names(container: Any) -> None:
    container.put_archive("/root", tar_of(a="1"))
    assert set(files(container, "/root")) == {"root", "root/a"}
    assert set(files(container, "/root/")) == {"root", "root/a"}
    assert {name.removeprefix("./") for name in files(container, "/root/.")} == {".", "a"}


def test_volumes_are_seen(container: Any) -> None:
    container.put_archive("/vol", tar_of(v="in volume"))
    assert text(container, "/vol/v") == "in volume"
    assert "vol/v" in files(container, "/vol")
    assert text(container, "/ro/b") == "bound"
    with pytest.raises(APIError, match="mounted volume is marked read-only"):
        container.put_archive("/ro", tar_of(x="1"))
    assert not any(name.strip("/") == "vol/v" for name in exported(container))


def exported(container: Any) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(b"".join(container.export()))) as tar:
        return {member.name: member for member in tar.getmembers()}


def test_export(container: Any) -> None:
    container.put_archive("/tmp", tar_of(exported="1"))
    found = exported(container)
    assert found["bin/busybox"].isreg() and found["bin/sh"].issym()
    assert "tmp/exported" in found
    assert not any(name.startswith(("proc/", "sys/", "dev/")) for name in found)


@pytest.mark.parametrize("path", ["/nosuch", "/etc/passwd/x", "/tmp/a/b"])
def test_missing(container: Any, path: str) -> None:
    with pytest.raises(NotFound, match=f"Could not find the file {path} in container"):
        container.get_archive(path)
    with pytest.raises(NotFound):
        container.put_archive(path, tar_of(x="1"))


def test_destination_must_be_a_directory(container: Any) -> None:
    with pytest.raises(APIError, match="extraction point is not a directory"):
        container.put_archive("/etc/passwd", tar_of(x="1"))


def test_links_stay_inside(container: Any, daemon: Daemon, tmp_path: Path) -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name, target in (
            ("abs", str(tmp_path)),
            ("up", "../../../../../.."),
            ("p", "/etc/passwd"),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            tar.addfile(info)
    container.put_archive("/tmp", stream.getvalue())
    with pytest.raises(NotFound):
        container.put_archive("/tmp/abs", tar_of(escaped="1"))
    container.put_archive("/tmp/up", tar_of(rooted="1"))
    assert text(container, "/rooted") == "1"
    _, stat = container.get_archive("/tmp/p")
    assert stat["linkTarget"] == "/etc/passwd" and stat["mode"] >> 27 & 1
    assert files(container, "/tmp/p")["p"].issym()
    assert not (tmp_path / "escaped").exists() and not Path("/rooted").exists()


def test_hostile_archive(container: Any) -> None:
    with pytest.raises(APIError, match="leads out of the archive"):
        container.put_archive("/tmp", tar_of(**{"../../evil": "x"}))
    with pytest.raises(APIError, match="invalid archive"):
        container.put_archive("/tmp", b"not a tar" * 100)


def test_docker_cp(container: Any, daemon: Daemon, tmp_path: Path) -> None:
    """The CLI's own rules on directories and trailing dots, with our end of them."""
    source = tmp_path / "src"
    (source / "inner").mkdir(parents=True)
    (source / "inner" / "f").write_text("deep")
    assert daemon.docker("cp", str(source), f"{container.id}:/tmp/new").returncode == 0
    assert text(container, "/tmp/new/inner/f") == "deep"
    assert daemon.docker("cp", f"{source}/.", f"{container.id}:/home").returncode == 0
    assert text(container, "/home/inner/f") == "deep"
    assert daemon.docker("cp", str(source), f"{container.id}:/home").returncode == 0
    assert text(container, "/home/src/inner/f") == "deep"
    out = tmp_path / "out"
    assert daemon.docker("cp", f"{container.id}:/home/src", str(out)).returncode == 0
    assert (out / "inner" / "f").read_text() == "deep"
    streamed = daemon.docker("cp", f"{container.id}:/etc/passwd", "-")
    with tarfile.open(fileobj=io.BytesIO(streamed.stdout)) as tar:
        assert tar.getnames() == ["passwd"]
    assert daemon.docker("cp", "-a", f"{source}/inner/f", f"{container.id}:/tmp/").returncode == 0
    assert files(container, "/tmp/f")["f"].uid == 1000
    failed = daemon.docker("cp", str(source), f"{container.id}:/etc/passwd")
    assert failed.returncode != 0
