"""``userns-remap``: root of a container is an unprivileged user of the host, and nobody sees it."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from docker.errors import APIError
from harness import Daemon, running

from sampan.engine import remap
from sampan.errors import InvalidParameter

FIRST = 231072


@pytest.fixture(scope="module")
def subids(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("subids")
    for name in ("subuid", "subgid"):
        (folder / name).write_text(f"# ranges\nroot:{FIRST}:65536\n")
    return folder


@pytest.fixture(scope="module", params=["", "overlay"])
def shared_remapped(request: pytest.FixtureRequest, subids: Path) -> Iterator[Daemon]:
    """A daemon with remapping, with the best storage driver and with overlay."""
    storage = ("--storage-driver", request.param) if request.param else ()
    yield from running("--userns-remap", "root", "--subid-dir", str(subids), *storage)


@pytest.fixture
def remapped(shared_remapped: Daemon) -> Iterator[Daemon]:
    yield shared_remapped
    shared_remapped.remove_containers()


def start(daemon: Daemon, *command: str, **options: Any) -> Any:
    container = daemon.client.containers.run("busybox", list(command), detach=True, **options)
    container.reload()
    return container


def shell(container: Any, script: str) -> str:
    result = container.exec_run(["sh", "-c", script])
    return str(result.output.decode().strip())


def owners(stream: Any) -> dict[str, tuple[int, int]]:
    with tarfile.open(fileobj=io.BytesIO(b"".join(stream))) as archive:
        return {member.name: (member.uid, member.gid) for member in archive}


def test_the_host_sees_another_user(remapped: Daemon) -> None:
    container = start(remapped, "sleep", "1000")
    status = Path(f"/proc/{container.attrs['State']['Pid']}/status").read_text()
    assert f"Uid:\t{FIRST}\t{FIRST}" in status
    assert shell(container, "id -u; cat /proc/self/uid_map").split() == [
        *("0", "0"),
        *(str(FIRST), "65536"),
    ]
    assert shell(container, "ping -c 1 -W 5 127.0.0.1 > /dev/null && hostname") == container.id[:12]
    assert "name=userns" in remapped.client.info()["SecurityOptions"]
    assert container.attrs["HostConfig"]["UsernsMode"] == ""


def test_owners_in_diff_commit_and_copies(remapped: Daemon) -> None:
    container = start(remapped, "sleep", "1000")
    shell(container, "mkdir /d; echo x > /d/f; chown 5:6 /d/f; chown 7 /bin/busybox")
    assert {change["Path"] for change in container.diff()} >= {"/d", "/d/f", "/bin/busybox"}
    stream, _ = container.get_archive("/d")
    assert owners(stream) == {"d": (0, 0), "d/f": (5, 6)}
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, number in (("copied", 0), ("of-nine", 9)):
            member = tarfile.TarInfo(name)
            member.uid = member.gid = number
            archive.addfile(member)
    assert container.put_archive("/d", packed.getvalue())
    assert shell(container, "stat -c '%n %u:%g' /d/*") == (
        "/d/copied 0:0\n/d/f 5:6\n/d/of-nine 9:9"
    )
    exported = owners(container.export())
    assert exported["d/f"] == (5, 6)
    assert exported["bin/busybox"] == (7, 0)
    image = container.commit("remapped-commit")
    container.kill()
    stream, _ = container.get_archive("/d")
    assert owners(stream)["d/of-nine"] == (9, 9)
    again = start(remapped, "sleep", "1000", userns_mode="host", name="on-the-host")
    assert shell(again, "cat /proc/self/uid_map").split() == ["0", "0", "4294967295"]
    other = remapped.client.containers.run(
        image.id, ["stat", "-c", "%u:%g", "/d/f", "/d/of-nine"], userns_mode="host", remove=True
    )
    assert other == b"5:6\n9:9\n"
    same = remapped.client.containers.run(image.id, ["stat", "-c", "%u", "/d/f"], remove=True)
    assert same == b"5\n"
    again.remove(force=True)
    container.remove(force=True)
    remapped.client.images.remove(image.id)


def test_volumes_are_the_container_s_and_binds_the_host_s(remapped: Daemon, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    secret.chmod(0o600)
    for parent in tmp_path.parents[:2]:
        parent.chmod(0o755)
    tmp_path.chmod(0o755)
    volumes = {"kept": {"bind": "/kept"}, str(tmp_path): {"bind": "/bound"}}
    container = start(remapped, "sleep", "1000", volumes=volumes, tmpfs={"/t": "uid=3,gid=4"})
    assert shell(container, "cat /bound/secret; touch /bound/new; true") == (
        "cat: can't open '/bound/secret': Permission denied\ntouch: /bound/new: Permission denied"
    )
    assert shell(container, "echo x > /kept/f; stat -c %u:%g /kept/f /t /etc/hosts") == (
        "0:0\n3:4\n0:0"
    )
    found = Path(remapped.client.volumes.get("kept").attrs["Mountpoint"])
    assert (found / "f").stat().st_uid == 0
    # A container without the namespace shares the volume.
    output = remapped.client.containers.run(
        "busybox",
        ["stat", "-c", "%u", "/kept/f"],
        volumes={"kept": {"bind": "/kept"}},
        userns_mode="host",
        remove=True,
    )
    assert output == b"0\n"
    container.remove(force=True)
    remapped.client.volumes.get("kept").remove()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"privileged": True}, "privileged mode is incompatible with user namespaces"),
        ({"network_mode": "host"}, "cannot share the host's network namespace"),
        ({"pid_mode": "host"}, "cannot share the host PID namespace"),
        ({"userns_mode": "private"}, "invalid USER mode"),
    ],
)
def test_refused(remapped: Daemon, options: dict[str, Any], text: str) -> None:
    api = remapped.client.api
    host = api.create_host_config(**{**options, "userns_mode": None})
    host["UsernsMode"] = options.get("userns_mode", "")
    with pytest.raises(APIError, match=text):
        api.create_container("busybox", ["true"], host_config=host)
    if "userns_mode" not in options:
        host["UsernsMode"] = "host"
        created = api.create_container("busybox", ["true"], host_config=host)
        api.start(created)
        assert api.wait(created)["StatusCode"] == 0


def test_published_ports_dns_and_restart(remapped: Daemon) -> None:
    client = remapped.client
    network = client.networks.create("remapped-net")
    server = start(
        remapped,
        *("sh", "-c", "mkdir /w; echo page > /w/index.html; exec httpd -f -p 80 -h /w"),
        network="remapped-net",
        name="web",
        init=True,
    )
    asked = client.containers.run(
        "busybox",
        ["sh", "-c", "for i in 1 2 3 4 5; do wget -q -O - http://web/ && exit; sleep 0.3; done"],
        network="remapped-net",
        remove=True,
    )
    assert asked == b"page\n"
    server.restart(timeout=1)
    server.reload()
    assert server.status == "running"
    server.remove(force=True)
    network.remove()


def test_ranges(tmp_path: Path) -> None:
    (tmp_path / "subuid").write_text("root:1000:10\nother:5:5\n0:5000:20\nbad\n")
    (tmp_path / "subgid").write_text(f"{os.getgid()}:7:70000\n")
    found = remap.read("root:0", tmp_path)
    assert found == remap.Remap(((1000, 10), (5000, 20)), ((7, 70000),))
    assert remap.read("", tmp_path) is None
    for setting, text in (
        ("nosuch-user", "there is no user"),
        ("root:nosuch-group", "there is no group"),
        ("daemon", "no subordinate ids"),
    ):
        with pytest.raises(InvalidParameter, match=text):
            remap.read(setting, tmp_path)
