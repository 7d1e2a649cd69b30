"""Images through the API: names, removal, archives, commit, registries."""

from __future__ import annotations

import io
import json
import shutil
import socket
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest
from docker.errors import APIError, ImageNotFound, NotFound
from docker.types import LogConfig
from harness import Daemon, busybox_tar, until

from tests.registry.servers import Registry, docker_registry


@pytest.fixture
def images(daemon: Daemon) -> Iterator[Any]:
    """The client's images; those that a test leaves are removed."""
    before = {image.id for image in daemon.client.images.list()}
    yield daemon.client.images
    daemon.remove_containers()
    for image in daemon.client.images.list():
        others = [tag for tag in image.tags if tag != "busybox:latest"]
        for tag in others:
            daemon.client.images.remove(tag, force=True)
        if image.id not in before and not others:
            daemon.client.images.remove(image.id, force=True)


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    if shutil.which("docker-registry") is None:
        pytest.skip("docker-registry is not installed")
    with docker_registry(tmp_path_factory.mktemp("registry")) as server:
        yield server


def made(daemon: Daemon, name: str, *changes: str) -> str:
    """A small image with this name; returns its id."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        info = tarfile.TarInfo("name")
        info.size = len(name)
        tar.addfile(info, io.BytesIO(name.encode()))
    repository, _, tag = name.rpartition(":")
    daemon.client.api.import_image_from_data(
        stream.getvalue(), repository=repository, tag=tag, changes=list(changes) or None
    )
    return str(daemon.client.images.get(name).id)


def output(daemon: Daemon, image: str, command: list[str] | None = None) -> bytes:
    """What a container of the image prints."""
    log = LogConfig(type="json-file")
    return bytes(daemon.client.containers.run(image, command, log_config=log, remove=True))


def test_list_and_filters(daemon: Daemon, images: Any) -> None:
    first = made(daemon, "t/first:1", "LABEL color=red")
    second = made(daemon, "t/second:1", "LABEL color=blue", "LABEL size=big")
    assert [i.id for i in images.list()][:2] == [second, first]

    def found(**filters: Any) -> set[str]:
        return {i.id for i in images.list(filters=filters)}

    assert found(label="color=red") == {first}
    assert found(label=["color", "size=big"]) == {second}
    assert found(reference="t/*") == {first, second}
    assert found(reference="*") & {first, second} == set()
    assert first in found(before="t/second:1") and second not in found(before="t/second:1")
    assert found(since="t/first:1") == {second}
    assert found(dangling=True) & {first, second} == set()
    with pytest.raises(APIError, match="invalid filter 'nope'"):
        images.list(filters={"nope": "x"})
    with pytest.raises(APIError, match="invalid filter 'dangling="):
        images.list(filters={"dangling": "maybe"})


def test_tag_and_rules_of_removal(daemon: Daemon, images: Any) -> None:
    image = images.get("busybox")
    assert image.tag("t/other", "2")
    assert image.tag("t/other", "3")
    assert "t/other:2" in images.get("busybox").tags
    with pytest.raises(APIError, match="invalid reference format"):
        image.tag("UPPER", "1")
    container = daemon.client.containers.create("busybox", ["true"])
    records = daemon.client.api.remove_image("t/other:2")
    assert records == [{"Untagged": "t/other:2"}]
    daemon.client.api.remove_image("t/other:3")
    with pytest.raises(APIError) as caught:
        images.remove("busybox")
    assert caught.value.response.status_code == 409
    assert (
        f'conflict: unable to remove repository reference "busybox" (must force) - container '
        f"{container.short_id} is using its referenced image"
    ) in caught.value.explanation
    with pytest.raises(APIError, match="image is being used by stopped container"):
        images.remove(image.id)
    with pytest.raises(ImageNotFound, match="No such image: nosuch:latest"):
        images.remove("nosuch")


def test_removal_of_an_image_with_children(daemon: Daemon, images: Any) -> None:
    container = daemon.client.containers.create("busybox", ["true"])
    child = container.commit("t/child", "1")
    container.remove()
    parent = images.get("busybox")
    with pytest.raises(APIError) as caught:
        images.remove(parent.id, force=True)
    assert "(cannot be forced) - image has dependent child images" in caught.value.explanation
    records = daemon.client.api.remove_image("t/child:1")
    assert records[:2] == [{"Untagged": "t/child:1"}, {"Deleted": child.id}]
    assert images.get("busybox").id == parent.id


def test_image_in_two_repositories(daemon: Daemon, images: Any) -> None:
    image_id = made(daemon, "t/a:1")
    images.get("t/a:1").tag("t/b", "1")
    with pytest.raises(APIError, match=r"must be forced.*referenced in multiple repositories"):
        images.remove(image_id)
    records = daemon.client.api.remove_image(image_id, force=True)
    assert {"Untagged": "t/a:1"} in records and {"Deleted": image_id} in records


def test_commit(daemon: Daemon, images: Any) -> None:
    container = daemon.client.containers.run(
        "busybox", ["sh", "-c", "echo new > /new; rm -r /home; sleep 1000"], detach=True
    )
    until(lambda: container.exec_run(["cat", "/new"]).exit_code == 0)
    image = container.commit(
        "t/committed",
        "v2",
        message="has update",
        author="runoob",
        changes=["ENV A=1 B=2", "EXPOSE 80", "WORKDIR /tmp", 'CMD ["cat", "/new"]'],
    )
    assert image.attrs["Author"] == "runoob" and image.attrs["Comment"] == "has update"
    config = image.attrs["Config"]
    assert {"A=1", "B=2"} <= set(config["Env"]) and config["ExposedPorts"] == {"80/tcp": {}}
    assert config["WorkingDir"] == "/tmp" and config["Cmd"] == ["cat", "/new"]
    assert image.attrs["Parent"] == images.get("busybox").id
    newest, below = image.history()
    assert newest["Comment"] == "has update" and newest["CreatedBy"].startswith("sh -c echo new")
    assert (newest["Id"], below["Id"]) == (image.id, image.attrs["Parent"])
    assert output(daemon, "t/committed:v2") == b"new\n"
    with pytest.raises(docker.errors.ContainerError):
        output(daemon, "t/committed:v2", ["ls", "/home"])
    with pytest.raises(APIError, match="run is not a valid change command"):
        container.commit("t/bad", changes="RUN true")
    with pytest.raises(APIError, match="unknown instruction"):
        container.commit("t/bad", changes="NOSUCH x")
    with pytest.raises(NotFound, match="No such container: nosuch"):
        daemon.client.api.commit("nosuch")
    container.reload()
    assert container.status == "running"


def test_progress_of_a_commit(daemon: Daemon) -> None:
    fill = "dd if=/dev/urandom of=/big bs=1M count=8"
    container = daemon.client.containers.create("busybox", ["sh", "-c", fill])
    container.start()
    container.wait()
    api = daemon.client.api
    query = {"container": container.id, "repo": "t/followed", "progress": "1"}
    lines = api._result(api._post(api._url("/commit"), params=query)).splitlines()
    *steps, last = [json.loads(line) for line in lines]
    details = [(x["progressDetail"]["current"], x["progressDetail"]["total"]) for x in steps]
    assert details == sorted(details) and details
    assert all(8 << 20 <= total < 9 << 20 and done <= total for done, total in details)
    assert {x["status"] for x in steps} == {"Committing"}
    assert last == {"Id": daemon.client.images.get("t/followed").id}
    with pytest.raises(NotFound, match="No such container: nosuch"):
        api._raise_for_status(
            api._post(api._url("/commit"), params=query | {"container": "nosuch"})
        )


def test_save_and_load(daemon: Daemon, images: Any, tmp_path: Path) -> None:
    one, two = made(daemon, "t/one:1"), made(daemon, "t/two:1")
    images.get("t/two:1").tag("t/two", "2")
    data = daemon.docker("save", "t/one:1", "t/two").stdout
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        manifest = json.load(tar.extractfile("manifest.json"))  # type: ignore[arg-type]
    assert {name for m in manifest for name in m["RepoTags"]} == {"t/one:1", "t/two:1", "t/two:2"}
    for name in ("t/one:1", "t/two:1", "t/two:2"):
        images.remove(name)
    loaded = {image.id for image in images.load(data)}
    assert loaded == {one, two}
    assert set(images.get("t/two:2").tags) == {"t/two:1", "t/two:2"}
    with pytest.raises(NotFound, match="No such image"):
        b"".join(daemon.client.api.get_image("t/nosuch"))


def test_load_of_garbage(daemon: Daemon, images: Any) -> None:
    before = {image.id for image in images.list(all=True)}
    for data in (b"", b"garbage" * 1000, busybox_tar()):
        with pytest.raises((APIError, docker.errors.ImageLoadError)):
            images.load(data)
    assert {image.id for image in images.list(all=True)} == before


def test_import_with_changes(daemon: Daemon, images: Any) -> None:
    made(
        daemon,
        "t/imported:1",
        "ENTRYPOINT /bin/true",
        "USER 1000:1000",
        "VOLUME /data",
        "STOPSIGNAL SIGINT",
        "HEALTHCHECK --interval=5s CMD true",
        "ONBUILD RUN x",
    )
    config = images.get("t/imported:1").attrs["Config"]
    assert config["Entrypoint"] == ["/bin/sh", "-c", "/bin/true"]
    assert (config["User"], config["Volumes"]) == ("1000:1000", {"/data": {}})
    assert config["StopSignal"] == "SIGINT" and config["OnBuild"] == ["RUN x"]
    assert config["Healthcheck"] == {"Test": ["CMD-SHELL", "true"], "Interval": 5_000_000_000}


def test_prune(own_daemon: Daemon) -> None:
    daemon, images = own_daemon, own_daemon.client.images
    old = made(daemon, "t/prune:1")
    new = made(daemon, "t/prune:1", "LABEL keep=yes")
    assert images.get("t/prune:1").id == new
    result = images.prune()
    assert {"Deleted": old} in result["ImagesDeleted"]
    assert images.get("t/prune:1").id == new
    images.prune(filters={"dangling": False, "label!": "keep"})
    assert images.get("t/prune:1").id == new
    result = images.prune(filters={"dangling": False, "label": "keep=yes"})
    assert {"Untagged": "t/prune:1"} in result["ImagesDeleted"]
    with pytest.raises(ImageNotFound):
        images.get("t/prune:1")


def test_push_and_pull(daemon: Daemon, images: Any, registry: Registry) -> None:
    name = f"{registry.host}/team/app"
    image_id = made(daemon, f"{name}:1")
    lines = [json.loads(x) for x in images.push(name, tag="1").splitlines()]
    digest = next(line["aux"]["Digest"] for line in lines if "aux" in line)
    assert images.get(f"{name}:1").attrs["RepoDigests"] == [f"{name}@{digest}"]
    records = daemon.client.api.remove_image(f"{name}:1")
    assert [{"Untagged": f"{name}:1"}, {"Untagged": f"{name}@{digest}"}] == records[:2]
    lines = list(daemon.client.api.pull(name, tag="1", stream=True, decode=True))
    assert lines[0] == {"status": "Pulling from team/app", "id": "1"}
    assert lines[-2:] == [
        {"status": f"Digest: {digest}"},
        {"status": f"Status: Downloaded newer image for {name}:1"},
    ]
    assert images.get(f"{name}:1").id == image_id
    lines = list(daemon.client.api.pull(name, tag="1", stream=True, decode=True))
    assert lines[-1] == {"status": f"Status: Image is up to date for {name}:1"}
    images.remove(f"{name}:1")
    by_digest = images.pull(f"{name}@{digest}")
    assert by_digest.id == image_id and by_digest.tags == []
    assert daemon.client.api.inspect_distribution(f"{name}:1")["Descriptor"]["digest"] == digest
    daemon.client.api.remove_image(f"{name}@{digest}")


def test_pull_failures_leave_nothing(daemon: Daemon, images: Any, registry: Registry) -> None:
    before = {image.id for image in images.list(all=True)}
    with pytest.raises(NotFound, match="manifest unknown"):
        images.pull(f"{registry.host}/nosuch", tag="1")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    with pytest.raises(APIError):
        images.pull(f"127.0.0.1:{port}/x", tag="1")
    with pytest.raises(APIError, match="does not exist locally with the tag"):
        for line in images.push(f"{registry.host}/nosuch", tag="1", stream=True, decode=True):
            assert "error" not in line
    with pytest.raises(APIError, match="invalid reference format"):
        images.pull("Bad/Name", tag="1")
    assert {image.id for image in images.list(all=True)} == before


def test_docker_cli_tells_the_story(daemon: Daemon, images: Any, registry: Registry) -> None:
    name = f"{registry.host}/cli:v1"
    assert daemon.docker("tag", "busybox", name).returncode == 0
    pushed = daemon.docker("push", name)
    assert pushed.returncode == 0 and b"v1: digest: sha256:" in pushed.stdout
    listed = daemon.docker("images", "--format", "{{.Repository}}:{{.Tag}}")
    assert name in listed.stdout.decode().split()
    assert daemon.docker("rmi", name).returncode == 0
    pulled = daemon.docker("pull", name)
    assert pulled.returncode == 0 and b"Status: " in pulled.stdout
    history = daemon.docker("history", "--no-trunc", "--format", "{{.ID}}", "busybox")
    assert history.stdout.startswith(b"sha256:")
    usage = daemon.docker("system", "df", "--format", "{{.Type}}")
    assert usage.stdout.decode().splitlines() == [
        "Images",
        "Containers",
        "Local Volumes",
        "Build Cache",
    ]
