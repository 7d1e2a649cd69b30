"""Every method of docker-py's client against a real daemon.

``proves`` names the methods and endpoints that a test exercises; the last test refuses a method of
the library that no test names.
"""

from __future__ import annotations

import inspect
import io
import json
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import docker
import pytest
from docker.errors import APIError, NotFound
from docker.types import ContainerSpec, IPAMConfig, IPAMPool, TaskTemplate
from harness import Daemon, busybox_tar, until

from tests.registry.servers import Registry, docker_registry


@pytest.fixture
def api(daemon: Daemon) -> docker.APIClient:
    return daemon.client.api


@pytest.fixture
def box(api: docker.APIClient) -> str:
    """A running container."""
    host = api.create_host_config(init=False)
    id = api.create_container("busybox", ["sleep", "1000"], name="box", host_config=host)["Id"]
    api.start(id)
    return str(id)


@pytest.fixture
def tidy(daemon: Daemon) -> Iterator[None]:
    """Images of the name ``py…`` and networks and volumes of that name go afterwards."""
    yield
    daemon.remove_containers()
    client = daemon.client
    for image in client.images.list():
        for tag in image.tags:
            if "py" in tag.split("/")[-1].split(":")[0]:
                client.images.remove(tag, force=True)
    for network in client.networks.list(names=["py"]):
        network.remove()
    for volume in client.volumes.list():
        if volume.name.startswith("py"):
            volume.remove()


def tar_of(**files: bytes) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return stream.getvalue()


# -- containers ----------------------------------------------------------------------------------


@pytest.mark.proves("docker-py run")
def test_run_returns_the_output(daemon: Daemon) -> None:
    assert daemon.client.containers.run("busybox", "echo hi") == b"hi\n"
    assert daemon.client.containers.run("busybox", ["echo", "gone"], remove=True) == b"gone\n"
    with pytest.raises(docker.errors.ContainerError, match="bad"):
        daemon.client.containers.run("busybox", ["sh", "-c", "echo bad >&2; exit 3"], remove=True)


def test_only_docker_py_sees_another_log_driver(daemon: Daemon) -> None:
    container = daemon.client.containers.create("busybox")
    assert container.attrs["HostConfig"]["LogConfig"]["Type"] == "json-file"
    driver = daemon.docker("inspect", "-f", "{{.HostConfig.LogConfig.Type}}", container.id)
    assert driver.stdout == b"local\n"


@pytest.mark.proves(
    "docker-py create_container_config",
    "docker-py create_container_from_config",
    "docker-py create_host_config",
    "docker-py create_networking_config",
    "docker-py create_endpoint_config",
    "docker-py inspect_container",
    "docker-py containers",
    "POST /containers/create",
    "GET /containers/{id}/json",
    "GET /containers/json",
)
def test_create_from_config(api: docker.APIClient) -> None:
    endpoint = api.create_endpoint_config(mac_address="02:42:ac:11:00:09")
    config = api.create_container_config(
        "busybox",
        ["true"],
        environment={"A": "b"},
        labels={"of": "docker-py"},
        host_config=api.create_host_config(mem_limit="64m", cap_drop=["ALL"]),
        networking_config=api.create_networking_config({"bridge": endpoint}),
    )
    id = api.create_container_from_config(config, name="configured")["Id"]
    found = api.inspect_container(id)
    assert found["HostConfig"]["Memory"] == 64 << 20
    assert found["HostConfig"]["CapDrop"] == ["ALL"]
    assert found["Config"]["MacAddress"] == "02:42:ac:11:00:09"
    assert "A=b" in found["Config"]["Env"]
    (listed,) = api.containers(all=True, filters={"label": "of=docker-py"})
    assert listed["Id"] == id


@pytest.mark.proves(
    "docker-py create_container",
    "docker-py start",
    "docker-py pause",
    "docker-py unpause",
    "docker-py rename",
    "docker-py update_container",
    "docker-py restart",
    "docker-py kill",
    "docker-py stop",
    "docker-py wait",
    "docker-py remove_container",
    "docker-py prune_containers",
    "POST /containers/{id}/start",
    "POST /containers/{id}/pause",
    "POST /containers/{id}/unpause",
    "POST /containers/{id}/rename",
    "POST /containers/{id}/update",
    "POST /containers/{id}/restart",
    "POST /containers/{id}/kill",
    "POST /containers/{id}/stop",
    "POST /containers/{id}/wait",
    "DELETE /containers/{id}",
    "POST /containers/prune",
)
def test_life(api: docker.APIClient, box: str) -> None:
    def state() -> str:
        return str(api.inspect_container(box)["State"]["Status"])

    api.pause(box)
    assert state() == "paused"
    api.unpause(box)
    api.rename(box, "renamed")
    assert api.inspect_container("renamed")["Id"] == box
    answer = api.update_container(box, mem_limit="64m", memswap_limit="128m")
    assert not answer["Warnings"]
    assert api.inspect_container(box)["HostConfig"]["Memory"] == 64 << 20
    first = api.inspect_container(box)["State"]["Pid"]
    api.restart(box, timeout=0)
    assert api.inspect_container(box)["State"]["Pid"] not in (0, first)
    api.kill(box, signal="SIGKILL")
    assert api.wait(box)["StatusCode"] == 137
    api.start(box)
    api.stop(box, timeout=0)
    assert state() == "exited"
    assert api.prune_containers()["ContainersDeleted"] == [box]
    other = api.create_container("busybox")["Id"]
    api.remove_container(other)
    with pytest.raises(NotFound):
        api.inspect_container(other)


@pytest.mark.proves(
    "docker-py attach",
    "docker-py attach_socket",
    "docker-py logs",
    "docker-py resize",
    "POST /containers/{id}/attach",
    "GET /containers/{id}/logs",
    "POST /containers/{id}/resize",
)
def test_streams(api: docker.APIClient) -> None:
    id = api.create_container("busybox", ["cat"], stdin_open=True)["Id"]
    sock = api.attach_socket(id, params={"stdin": 1, "stdout": 1, "stream": 1})
    api.start(id)
    output = api.attach(id, stream=True, logs=True)
    sock._sock.sendall(b"line\n")
    assert next(output) == b"line\n"
    sock.close()
    assert until(lambda: api.logs(id) == b"line\n")
    assert api.logs(id, timestamps=True, tail=1).endswith(b"Z line\n")
    assert api.attach(id, logs=True, stream=False) == b"line\n"
    api.stop(id, timeout=0)
    assert list(api.logs(id, stream=True, follow=True)) == [b"line\n"]
    tty = api.create_container("busybox", ["sh"], tty=True, stdin_open=True)["Id"]
    api.start(tty)
    api.resize(tty, height=20, width=70)
    sock = api.attach_socket(tty, params={"stdin": 1, "stdout": 1, "stream": 1})
    sock._sock.sendall(b"stty size; exit\n")
    seen = b""
    while data := sock._sock.recv(4096):
        seen += data
    assert b"20 70" in seen
    sock.close()


@pytest.mark.proves("docker-py attach_socket ws", "GET /containers/{id}/attach/ws")
def test_websocket(api: docker.APIClient, daemon: Daemon) -> None:
    import socket

    import websocket

    id = api.create_container("busybox", ["cat"], stdin_open=True)["Id"]
    api.start(id)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(daemon.run / "sampan.sock"))
        sock.settimeout(20)
        web = websocket.create_connection(
            f"ws://localhost/v1.44/containers/{id}/attach/ws?stdin=1&stdout=1&stream=1",
            socket=sock,
        )
        web.send("over the web\n")
        assert web.recv() == b"over the web\n"
        api.kill(id)
        opcode, _ = web.recv_data()
        assert opcode == websocket.ABNF.OPCODE_CLOSE
        web.close()


@pytest.mark.proves(
    "docker-py top",
    "docker-py stats",
    "docker-py diff",
    "docker-py port",
    "docker-py export",
    "docker-py get_archive",
    "docker-py put_archive",
    "GET /containers/{id}/top",
    "GET /containers/{id}/stats",
    "GET /containers/{id}/changes",
    "GET /containers/{id}/export",
    "GET /containers/{id}/archive",
    "HEAD /containers/{id}/archive",
    "PUT /containers/{id}/archive",
)
def test_looking_inside(api: docker.APIClient, box: str) -> None:
    top = api.top(box, ps_args="-o pid,args")
    assert top["Titles"] == ["PID", "COMMAND"] and top["Processes"][0][1] == "sleep 1000"
    once = api.stats(box, stream=False)
    assert once["memory_stats"]["usage"] > 0 and once["id"] == box
    assert api.stats(box, stream=False, one_shot=True)["pids_stats"]["current"] == 1
    several = api.stats(box, decode=True)
    assert next(several)["name"] == "/box"
    several.close()
    assert api.put_archive(box, "/tmp", tar_of(put=b"there"))
    assert {"Path": "/tmp/put", "Kind": 1} in api.diff(box)
    stream, stat = api.get_archive(box, "/tmp/put")
    assert stat["name"] == "put" and stat["size"] == 5
    with tarfile.open(fileobj=io.BytesIO(b"".join(stream))) as tar:
        assert tar.extractfile("put").read() == b"there"  # type: ignore[union-attr]
    with tarfile.open(fileobj=io.BytesIO(b"".join(api.export(box)))) as tar:
        assert "tmp/put" in tar.getnames()
    host = api.create_host_config(port_bindings={80: ("127.0.0.1", None)})
    web = api.create_container("busybox", ["sleep", "99"], ports=[80], host_config=host)["Id"]
    api.start(web)
    (binding,) = api.port(web, 80)
    assert binding["HostIp"] == "127.0.0.1" and int(binding["HostPort"]) > 0


@pytest.mark.proves(
    "docker-py exec_create",
    "docker-py exec_start",
    "docker-py exec_inspect",
    "docker-py exec_resize",
    "POST /containers/{id}/exec",
    "POST /exec/{id}/start",
    "GET /exec/{id}/json",
    "POST /exec/{id}/resize",
)
def test_exec(api: docker.APIClient, box: str) -> None:
    command = ["sh", "-c", "echo $A; id -un; pwd; echo e >&2; exit 5"]
    made = api.exec_create(box, command, environment={"A": "b"}, user="user", workdir="/tmp")
    assert api.exec_start(made, demux=True) == (b"b\nuser\n/tmp\n", b"e\n")
    found = api.exec_inspect(made)
    assert found["ExitCode"] == 5 and not found["Running"]
    assert found["ProcessConfig"]["user"] == "user"
    pieces = api.exec_start(api.exec_create(box, ["echo", "x"]), stream=True)
    assert b"".join(pieces) == b"x\n"
    detached = api.exec_create(box, ["touch", "/tmp/detached"])
    api.exec_start(detached, detach=True)
    assert until(lambda: api.exec_inspect(detached)["ExitCode"] == 0)
    terminal = api.exec_create(box, ["sh"], tty=True, stdin=True)
    sock = api.exec_start(terminal, tty=True, socket=True)
    api.exec_resize(terminal, height=21, width=71)
    sock._sock.sendall(b"stty size; exit\n")
    seen = b""
    while data := sock._sock.recv(4096):
        seen += data
    assert b"21 71" in seen
    sock.close()


@pytest.mark.proves("docker-py commit", "POST /commit")
def test_commit(api: docker.APIClient, box: str, tidy: None) -> None:
    image = api.commit(box, "py-commit", "1", message="m", author="a", changes=["ENV X=y"])["Id"]
    found = api.inspect_image("py-commit:1")
    assert found["Id"] == image and found["Author"] == "a"
    assert "X=y" in found["Config"]["Env"]


# -- images --------------------------------------------------------------------------------------


@pytest.mark.proves(
    "docker-py import_image",
    "docker-py import_image_from_data",
    "docker-py import_image_from_file",
    "docker-py import_image_from_stream",
    "docker-py import_image_from_url",
    "docker-py import_image_from_image",
    "docker-py inspect_image",
    "POST /images/create",
    "GET /images/{name}/json",
)
def test_imports(api: docker.APIClient, tmp_path: Path, tidy: None) -> None:
    data = busybox_tar()
    file = tmp_path / "root.tar"
    file.write_bytes(data)
    api.import_image(str(file), repository="py-file", tag="1")
    api.import_image_from_file(str(file), repository="py-file", tag="2")
    api.import_image_from_data(data, repository="py-data", changes=["LABEL a=b"])
    api.import_image_from_stream(iter([data]), repository="py-stream")
    for name in ("py-file:1", "py-file:2", "py-data", "py-stream"):
        assert api.inspect_image(name)["RootFS"]["Layers"]
    assert api.inspect_image("py-data")["Config"]["Labels"] == {"a": "b"}
    # A URL that nobody serves, and an image as a source, are refused with a reason.
    assert "error" in api.import_image_from_url("http://127.0.0.1:1/x.tar", repository="py-url")
    with pytest.raises(APIError, match="py-data"):
        api.import_image_from_image("py-data", repository="py-image")


@pytest.mark.proves(
    "docker-py images",
    "docker-py tag",
    "docker-py history",
    "docker-py get_image",
    "docker-py load_image",
    "docker-py remove_image",
    "docker-py prune_images",
    "GET /images/json",
    "POST /images/{name}/tag",
    "GET /images/{name}/history",
    "GET /images/{name}/get",
    "POST /images/load",
    "DELETE /images/{name}",
    "POST /images/prune",
)
def test_images(api: docker.APIClient, tidy: None) -> None:
    api.import_image_from_data(tar_of(a=b"images"), repository="py-one")
    assert api.tag("py-one", "py-two", "x")
    assert [i["RepoTags"] for i in api.images("py-two")] == [["py-two:x"]]
    assert api.images("py-two", quiet=True) == [api.inspect_image("py-one")["Id"]]
    assert api.history("py-one")[0]["Size"] > 0
    archive = b"".join(api.get_image("py-two:x"))
    api.remove_image("py-two:x")
    api.remove_image("py-one", force=True)
    loaded = "".join(line.get("stream", "") for line in api.load_image(archive))
    assert "Loaded image: py-two:x" in loaded
    removed = api.prune_images(filters={"dangling": False, "label": "no-such-label"})
    assert removed["ImagesDeleted"] is None and removed["SpaceReclaimed"] == 0


@pytest.mark.proves("docker-py build", "docker-py prune_builds", "POST /build", "POST /build/prune")
def test_build(daemon: Daemon, api: docker.APIClient, tmp_path: Path, tidy: None) -> None:
    (tmp_path / "Dockerfile").write_text(
        "FROM busybox AS base\nARG WHO\nCOPY f /f\nRUN echo $WHO >> /f\nCMD cat /f\n"
    )
    (tmp_path / "f").write_text("built for\n")
    image, log = daemon.client.images.build(
        path=str(tmp_path), tag="py-built:1", buildargs={"WHO": "you"}, labels={"k": "v"}, rm=True
    )
    assert image.labels == {"k": "v"}
    assert any("Successfully built" in line.get("stream", "") for line in log)
    assert daemon.client.containers.run("py-built:1", remove=True) == b"built for\nyou\n"
    lines = api.build(fileobj=io.BytesIO(b"FROM busybox\nRUN exit 4"), decode=True)
    assert any("errorDetail" in line for line in lines)
    assert api.prune_builds(all=True)["SpaceReclaimed"] >= 0


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with docker_registry(tmp_path_factory.mktemp("registry")) as server:
        yield server


@pytest.mark.proves(
    "docker-py push",
    "docker-py pull",
    "docker-py inspect_distribution",
    "docker-py login",
    "docker-py search",
    "docker-py reload_config",
    "POST /images/{name}/push",
    "GET /distribution/{name}/json",
    "POST /auth",
    "GET /images/search",
)
def test_registry(api: docker.APIClient, registry: Registry, tmp_path: Path, tidy: None) -> None:
    name = f"{registry.host}/py-pushed"
    api.import_image_from_data(tar_of(a=b"pushed"), repository=name, tag="1")
    pushed = list(api.push(name, "1", stream=True, decode=True))
    digest = next(line["aux"]["Digest"] for line in pushed if "aux" in line)
    assert api.inspect_distribution(f"{name}:1")["Descriptor"]["digest"] == digest
    api.remove_image(f"{name}:1")
    pulled = list(api.pull(name, "1", stream=True, decode=True))
    assert pulled[-1]["status"] == f"Status: Downloaded newer image for {name}:1"
    assert api.inspect_image(f"{name}:1")["RepoDigests"] == [f"{name}@{digest}"]
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"auths": {}}))
    api.reload_config(str(config))
    answer = api.login("someone", "secret", registry=registry.host, reauth=True)
    assert answer["Status"] == "Login Succeeded"
    # No registry to search is configured: a clear refusal, not a failure of the daemon.
    with pytest.raises(APIError) as refused:
        api.search("anything")
    assert refused.value.explanation


# -- networks and volumes ------------------------------------------------------------------------


@pytest.mark.proves(
    "docker-py create_network",
    "docker-py networks",
    "docker-py inspect_network",
    "docker-py connect_container_to_network",
    "docker-py disconnect_container_from_network",
    "docker-py remove_network",
    "docker-py prune_networks",
    "POST /networks/create",
    "GET /networks",
    "GET /networks/{id}",
    "POST /networks/{id}/connect",
    "POST /networks/{id}/disconnect",
    "DELETE /networks/{id}",
    "POST /networks/prune",
)
def test_networks(api: docker.APIClient, box: str, tidy: None) -> None:
    ipam = IPAMConfig(pool_configs=[IPAMPool(subnet="10.213.77.0/24", gateway="10.213.77.1")])
    id = api.create_network("py-net", labels={"py": "net"}, ipam=ipam)["Id"]
    assert [n["Id"] for n in api.networks(names=["py-net"])] == [id]
    assert [n["Id"] for n in api.networks(filters={"label": "py=net"})] == [id]
    api.connect_container_to_network(box, "py-net", ipv4_address="10.213.77.9", aliases=["it"])
    found = api.inspect_network("py-net")
    assert found["Containers"][box]["IPv4Address"] == "10.213.77.9/24"
    api.disconnect_container_from_network(box, "py-net", force=True)
    assert api.inspect_network(id)["Containers"] == {}
    assert api.prune_networks(filters={"label": "py=net"})["NetworksDeleted"] == ["py-net"]
    api.create_network("py-net2")
    api.remove_network("py-net2")
    with pytest.raises(NotFound):
        api.inspect_network("py-net2")


@pytest.mark.proves(
    "docker-py create_volume",
    "docker-py volumes",
    "docker-py inspect_volume",
    "docker-py remove_volume",
    "docker-py prune_volumes",
    "POST /volumes/create",
    "GET /volumes",
    "GET /volumes/{name}",
    "DELETE /volumes/{name}",
    "POST /volumes/prune",
)
def test_volumes(api: docker.APIClient, tidy: None) -> None:
    api.create_volume("py-volume", driver="local", labels={"py": "volume"})
    assert api.inspect_volume("py-volume")["Labels"] == {"py": "volume"}
    (found,) = api.volumes(filters={"label": "py=volume"})["Volumes"]
    assert found["Name"] == "py-volume"
    pruned = api.prune_volumes(filters={"all": True, "label": "py=volume"})
    assert pruned["VolumesDeleted"] == ["py-volume"]
    api.create_volume("py-other")
    api.remove_volume("py-other", force=True)
    with pytest.raises(NotFound):
        api.inspect_volume("py-other")


# -- the daemon ----------------------------------------------------------------------------------


@pytest.mark.proves(
    "docker-py ping",
    "docker-py version",
    "docker-py info",
    "docker-py df",
    "docker-py events",
    "docker-py plugins",
    "GET /_ping",
    "GET /version",
    "GET /info",
    "GET /system/df",
    "GET /events",
    "GET /plugins",
)
def test_daemon(api: docker.APIClient) -> None:
    assert api.ping()
    assert api.version()["ApiVersion"] == "1.51"
    assert api.info()["Driver"]
    assert {"Images", "Containers", "Volumes", "LayersSize"} <= api.df().keys()
    assert api.plugins() == []
    stream = api.events(decode=True, filters={"type": "container", "event": "create"})
    seen: list[dict[str, Any]] = []
    thread = threading.Thread(target=lambda: seen.append(next(stream)))
    thread.start()
    assert until(lambda: api.info()["NEventsListener"] > 0)
    id = api.create_container("busybox")["Id"]
    thread.join(20)
    assert seen[0]["Actor"]["ID"] == id
    stream.close()


_TASK = TaskTemplate(ContainerSpec("busybox"))
SWARM: dict[str, Callable[[docker.APIClient], object]] = {
    "create_swarm_spec": lambda api: api.init_swarm(swarm_spec=api.create_swarm_spec()),
    "init_swarm": lambda api: api.init_swarm(),
    "join_swarm": lambda api: api.join_swarm(["127.0.0.1:2377"], "token"),
    "leave_swarm": lambda api: api.leave_swarm(),
    "inspect_swarm": lambda api: api.inspect_swarm(),
    "unlock_swarm": lambda api: api.unlock_swarm({"UnlockKey": "x"}),
    "get_unlock_key": lambda api: api.get_unlock_key(),
    "update_swarm": lambda api: api.update_swarm(1),
    "nodes": lambda api: api.nodes(),
    "inspect_node": lambda api: api.inspect_node("x"),
    "update_node": lambda api: api.update_node("x", 1),
    "remove_node": lambda api: api.remove_node("x"),
    "services": lambda api: api.services(),
    "create_service": lambda api: api.create_service(_TASK, name="x"),
    "inspect_service": lambda api: api.inspect_service("x"),
    "update_service": lambda api: api.update_service("x", 1, _TASK),
    "remove_service": lambda api: api.remove_service("x"),
    "service_logs": lambda api: api.service_logs("x"),
    "tasks": lambda api: api.tasks(),
    "inspect_task": lambda api: api.inspect_task("x"),
    "secrets": lambda api: api.secrets(),
    "create_secret": lambda api: api.create_secret("x", b"y"),
    "inspect_secret": lambda api: api.inspect_secret("x"),
    "remove_secret": lambda api: api.remove_secret("x"),
    "configs": lambda api: api.configs(),
    "create_config": lambda api: api.create_config("x", b"y"),
    "inspect_config": lambda api: api.inspect_config("x"),
    "remove_config": lambda api: api.remove_config("x"),
    "inspect_plugin": lambda api: api.inspect_plugin("x"),
    "enable_plugin": lambda api: api.enable_plugin("x"),
    "disable_plugin": lambda api: api.disable_plugin("x"),
    "remove_plugin": lambda api: api.remove_plugin("x"),
    "configure_plugin": lambda api: api.configure_plugin("x", {"a": "b"}),
    "plugin_privileges": lambda api: api.plugin_privileges("x"),
    "pull_plugin": lambda api: list(api.pull_plugin("x", [])),
    "push_plugin": lambda api: list(api.push_plugin("x")),
    "upgrade_plugin": lambda api: list(api.upgrade_plugin("x", "y", [])),
}


@pytest.mark.proves(*(f"docker-py {name}" for name in SWARM))
@pytest.mark.parametrize("name", SWARM)
def test_out_of_scope(api: docker.APIClient, name: str) -> None:
    """Swarm and managed plugins: 501 or 503 with a sentence that says so."""
    with pytest.raises(APIError) as refused:
        SWARM[name](api)
    assert refused.value.response.status_code in (501, 503)
    assert "swarm" in refused.value.explanation or "plugin" in refused.value.explanation


@pytest.mark.proves("docker-py create_plugin")
def test_plugins_are_not_made(api: docker.APIClient, tmp_path: Path) -> None:
    (tmp_path / "rootfs").mkdir()
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(APIError, match="plugins are not supported"):
        api.create_plugin("x", str(tmp_path))


def test_every_method_is_proved() -> None:
    proved = {
        name
        for function in globals().values()
        for mark in getattr(function, "pytestmark", [])
        if mark.name == "proves"
        for name in mark.args
    }
    import requests

    methods = {
        name
        for name, _ in inspect.getmembers(docker.APIClient, inspect.isfunction)
        if not name.startswith("_") and not hasattr(requests.Session, name)
    }
    assert {name for name in methods if f"docker-py {name}" not in proved} == set()
