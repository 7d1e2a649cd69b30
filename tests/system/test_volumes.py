"""Volumes and mounts of containers."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from docker.errors import APIError, ContainerError, NotFound
from docker.types import LogConfig, Mount
from harness import Daemon, until


@pytest.fixture
def volumes(daemon: Daemon) -> Iterator[Any]:
    yield daemon.client.volumes
    daemon.remove_containers()
    for volume in daemon.client.volumes.list():
        volume.remove(force=True)


def sh(daemon: Daemon, script: str, **options: Any) -> str:
    """What a script in a container prints."""
    options["log_config"] = LogConfig(type="json-file")
    command = ["sh", "-c", script]
    return str(daemon.client.containers.run("busybox", command, remove=True, **options).decode())


def test_life_of_a_volume(daemon: Daemon, volumes: Any) -> None:
    volume = volumes.create("data", labels={"a": "b"})
    assert volume.attrs["Driver"] == "local" and volume.attrs["Labels"] == {"a": "b"}
    assert volumes.create("data").name == "data"
    assert [v.name for v in volumes.list(filters={"label": "a=b"})] == ["data"]
    assert volumes.list(filters={"label": "a=c"}) == []
    sh(daemon, "echo kept > /v/file", volumes={"data": {"bind": "/v"}})
    assert sh(daemon, "cat /v/file", volumes=["data:/v:ro"]) == "kept\n"
    with pytest.raises(ContainerError, match="Read-only file system"):
        sh(daemon, "touch /v/x", volumes=["data:/v:ro"])
    container = daemon.client.containers.create("busybox", volumes=["data:/v"])
    with pytest.raises(APIError) as caught:
        volume.remove()
    assert caught.value.response.status_code == 409
    assert f"remove data: volume is in use - [{container.id}]" in caught.value.explanation
    container.remove()
    volume.remove()
    with pytest.raises(NotFound, match="get data: no such volume"):
        volumes.get("data")


@pytest.mark.parametrize(
    ("options", "status", "message"),
    [
        ({"name": "a/b"}, 400, "includes invalid characters"),
        ({"name": "ab", "driver": "nosuch"}, 404, 'plugin "nosuch" not found'),
        ({"name": "ab", "driver_opts": {"foo": "x"}}, 400, 'invalid option: "foo"'),
        ({"name": "ab", "driver_opts": {"type": "tmpfs"}}, 400, "missing required option"),
    ],
)
def test_refused_volumes(volumes: Any, options: dict[str, Any], status: int, message: str) -> None:
    with pytest.raises(APIError) as caught:
        volumes.create(**options)
    assert caught.value.response.status_code == status
    assert message in caught.value.explanation
    assert volumes.list() == []


def test_filled_from_the_image_at_first_use(daemon: Daemon, volumes: Any) -> None:
    assert sh(daemon, "ls /v", volumes=["fresh:/v"]) == ""
    assert "passwd" in sh(daemon, "ls /etc", volumes=["copied:/etc"])
    assert sh(daemon, "ls /etc", volumes=["copied:/etc:nocopy"]) != ""
    bare = Mount("/etc", "bare", no_copy=True)
    assert "passwd" not in sh(daemon, "ls /etc", mounts=[bare])


def test_anonymous_volumes_go_with_the_container(daemon: Daemon, volumes: Any) -> None:
    container = daemon.client.containers.create("busybox", volumes=["/data"])
    (mount,) = container.attrs["Mounts"]
    assert mount["Type"] == "volume" and len(mount["Name"]) == 64
    assert volumes.get(mount["Name"]).attrs["Labels"] == {"com.docker.volume.anonymous": ""}
    container.remove(v=True)
    assert volumes.list() == []


def test_volumes_from(daemon: Daemon, volumes: Any) -> None:
    first = daemon.client.containers.create("busybox", volumes=["one:/one", "/two"])
    assert (
        sh(daemon, "touch /one/x; mount | grep -c -E ' /one | /two '", volumes_from=[first.id])
        == "2\n"
    )
    with pytest.raises(ContainerError, match="Read-only"):
        sh(daemon, "touch /one/y", volumes_from=[f"{first.id}:ro"])
    # Not 404: the docker CLI would take that for the image's absence, and pull.
    with pytest.raises(APIError, match=r"400.*No such container"):
        daemon.client.containers.create("busybox", volumes_from=["nosuch"])


def test_local_driver_mounts(daemon: Daemon, volumes: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("host")
    volumes.create("bound", driver_opts={"type": "none", "o": "bind", "device": str(tmp_path)})
    assert sh(daemon, "cat /v/file", volumes=["bound:/v"]) == "host"
    memory = volumes.create(
        "memory", driver_opts={"type": "tmpfs", "o": "size=1m", "device": "tmpfs"}
    )
    assert "1.0M" in sh(daemon, "df -h /v | tail -1", volumes=["memory:/v"])
    assert memory.attrs["Mountpoint"] not in Path("/proc/self/mountinfo").read_text()
    volumes.create(
        "broken", driver_opts={"type": "none", "o": "bind", "device": str(tmp_path / "no")}
    )
    with pytest.raises(APIError, match="failed to mount local volume"):
        sh(daemon, "true", volumes=["broken:/v"])


def test_subpath(daemon: Daemon, volumes: Any) -> None:
    sh(daemon, "mkdir /v/sub; echo x > /v/sub/f; ln -s / /v/out", volumes=["tree:/v"])
    api = daemon.client.api

    def create(subpath: str) -> Any:
        mount = Mount("/m", "tree", type="volume")
        mount["VolumeOptions"] = {"Subpath": subpath}
        host = api.create_host_config(mounts=[mount])
        container = api.create_container("busybox", ["cat", "/m/f"], host_config=host)
        return daemon.client.containers.get(container["Id"])

    container = create("sub")
    container.start()
    assert container.wait()["StatusCode"] == 0 and container.logs() == b"x\n"
    outside = create("out")
    outside.start()  # the link leads to the volume's own root, which has no such file
    assert outside.wait()["StatusCode"] == 1
    with pytest.raises(APIError, match="cannot access path"):
        create("nosuch").start()
    with pytest.raises(APIError, match="must be a relative path"):
        create("../x")


def test_binds(daemon: Daemon, tmp_path: Path) -> None:
    (tmp_path / "f").write_text("1")
    assert sh(daemon, "cat /b/f", volumes=[f"{tmp_path}:/b"]) == "1"
    made = tmp_path / "made" / "by-start"
    sh(daemon, "true", volumes=[f"{made}:/b"])
    assert made.is_dir()
    missing = Mount("/b", str(tmp_path / "missing"), type="bind")
    with pytest.raises(APIError, match="bind source path does not exist"):
        sh(daemon, "true", mounts=[missing])
    assert not (tmp_path / "missing").exists()
    with pytest.raises(APIError, match="Duplicate mount point: /b"):
        sh(daemon, "true", volumes=[f"{tmp_path}:/b"], tmpfs={"/b": ""})


def test_prune(daemon: Daemon, volumes: Any) -> None:
    volumes.create("named")
    volumes.create("share", driver_opts={"type": "tmpfs", "device": "tmpfs"})
    anonymous = volumes.create()
    daemon.client.containers.create("busybox", volumes=["/used"])
    result = volumes.prune()
    assert result["VolumesDeleted"] == [anonymous.name]
    assert daemon.client.api.prune_volumes({"all": ["true"]})["VolumesDeleted"] == ["named"]
    assert len(volumes.list()) == 2
    assert len(volumes.list(filters={"dangling": False})) == 1
    assert [left.name for left in volumes.list(filters={"dangling": True})] == ["share"]


def test_image_mounts(daemon: Daemon, volumes: Any) -> None:
    mount = Mount("/image", "busybox") | {"Type": "image"}
    assert "root:x:0:0" in sh(daemon, "cat /image/etc/passwd", mounts=[mount])
    with pytest.raises(ContainerError, match="Read-only"):
        sh(daemon, "touch /image/x", mounts=[mount])
    mount |= {"ImageOptions": {"Subpath": "etc"}}
    assert "root:x:0:0" in sh(daemon, "cat /image/passwd", mounts=[mount])
    missing = Mount("/image", "nosuch") | {"Type": "image"}
    with pytest.raises(NotFound, match="No such image: nosuch"):
        daemon.client.containers.create("busybox", mounts=[missing])


def test_mounts_outlive_the_daemon_and_not_the_container(own_daemon: Daemon) -> None:
    daemon = own_daemon
    api = daemon.client.api
    options = {"type": "tmpfs", "o": "size=1m", "device": "tmpfs"}
    memory = daemon.client.volumes.create("memory", driver_opts=options)
    daemon.client.volumes.create("tree")
    sh(daemon, "mkdir /v/sub", volumes=["tree:/v"])
    sub = Mount("/sub", "tree", type="volume") | {"VolumeOptions": {"Subpath": "sub"}}
    host = api.create_host_config(mounts=[sub, Mount("/memory", "memory", type="volume")])
    made = api.create_container(
        "busybox", ["sh", "-c", "echo kept > /memory/f; sleep 1000"], host_config=host
    )
    container = daemon.client.containers.get(made["Id"])
    container.start()
    places = [memory.attrs["Mountpoint"], f"{daemon.run}/volume-mounts/"]

    def mounted() -> list[bool]:
        return [place in Path("/proc/self/mountinfo").read_text() for place in places]

    assert mounted() == [True, True]
    daemon.stop(signal.SIGKILL)
    daemon.start()
    assert mounted() == [True, True]
    assert container.exec_run(["cat", "/memory/f"]).output == b"kept\n"
    assert sh(daemon, "cat /m/f", volumes=["memory:/m"]) == "kept\n"
    assert mounted() == [True, True]
    container.remove(force=True)
    until(lambda: mounted() == [False, False])
    memory.remove()
