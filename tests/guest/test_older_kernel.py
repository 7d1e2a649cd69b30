"""Linux 6.1: the overlay driver, networks, published ports and a killed daemon; and a host that
has neither overlayfs nor tracing."""

from __future__ import annotations

import io
import signal
import tarfile

import requests
from guest import PUBLISHED, Guest
from harness import until
from test_store_kills import context


def use_storage(machine: Guest) -> None:
    """Run, diff, copy, commit, build and check."""
    api = machine.client.api
    container = machine.client.containers.run(
        "busybox", "sh -c 'echo new > /new; rm /etc/group; echo x >> /etc/passwd'", detach=True
    )
    assert container.wait()["StatusCode"] == 0, container.logs()
    changes = {(change["Path"], change["Kind"]) for change in container.diff()}
    wanted = {("/new", 1), ("/etc", 0), ("/etc/group", 2), ("/etc/passwd", 0)}
    assert wanted <= changes, changes
    stream, _ = container.get_archive("/new")
    with tarfile.open(fileobj=io.BytesIO(b"".join(stream))) as tar:
        member = tar.extractfile("new")
        assert member is not None and member.read() == b"new\n"
    container.commit("committed")
    container.remove()
    output = list(
        api.build(fileobj=context(5), custom_context=True, tag="built", rm=True, decode=True)
    )
    assert "error" not in output[-1], output[-1]
    script = "cat /new; ls /d | wc -l; wc -c < /d/f1"
    said = machine.client.containers.run("built", ["sh", "-c", script], remove=True)
    assert said.split() == [b"5", b"40", b"50000"]
    script = "cat /new; tail -n 1 /etc/passwd; test ! -e /etc/group"
    said = machine.client.containers.run("committed", ["sh", "-c", script], remove=True)
    assert said == b"new\nx\n"
    answer = api._get(api.base_url + "/sampan/check")
    assert answer.json()["Problems"] == []


def test_overlay_where_files_cannot_be_mounted(guest: Guest) -> None:
    info = guest.client.info()
    assert info["Driver"] == "overlay"
    # A daemon that has been started again would say that it made what is stored here.
    assert guest.reason.startswith("erofs does not work here (")
    assert "overlayfs can be mounted here" in guest.reason
    use_storage(guest)


def test_an_image_of_many_layers(guest: Guest) -> None:
    lines = ["FROM busybox", *(f"COPY f{number} /many/" for number in range(60))]
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name, text in {
            "Dockerfile": "\n".join(lines),
            **{f"f{n}": "" for n in range(60)},
        }.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(text)
            tar.addfile(entry, io.BytesIO(text.encode()))
    stream.seek(0)
    output = list(
        guest.client.api.build(fileobj=stream, custom_context=True, tag="many", decode=True)
    )
    assert "error" not in output[-1], output[-1]
    said = guest.client.containers.run("many", "sh -c 'ls /many | wc -l'", remove=True)
    assert said == b"60\n"


def test_networks_names_and_published_ports(guest: Guest) -> None:
    network = guest.client.networks.create("own")
    serve = "sh -c 'echo hello > /index.html; exec httpd -f -p 80 -h /'"
    server = guest.client.containers.run(
        "busybox", serve, name="server", detach=True, network="own", ports={"80/tcp": PUBLISHED}
    )
    try:
        said = guest.client.containers.run(
            "busybox",
            "sh -c 'for i in 1 2 3 4 5 6 7 8 9; do wget -qO- http://server/ && break; sleep 1; done'",
            network="own",
            remove=True,
        )
        assert said == b"hello\n"

        # From outside, through the guest's own interface, and from its loopback.
        def outside() -> bool:
            try:
                answer = requests.get(f"http://127.0.0.1:{guest.port(PUBLISHED)}/", timeout=20)
            except requests.RequestException:
                return False
            return answer.text == "hello\n"

        until(outside, 30)
        local = guest.run("busybox", "wget", "-qO-", f"http://127.0.0.1:{PUBLISHED}/")
        assert local.out == "hello\n", local.err
        table = guest.run("nft", "list", "ruleset")
        assert "table inet" in table.out, table.err
    finally:
        server.remove(force=True)
        network.remove()


def test_containers_survive_the_daemon(guest: Guest) -> None:
    container = guest.client.containers.run("busybox", "sleep 1000", detach=True)
    try:
        assert guest.run("kill", "-KILL", str(guest.daemon)).code == 0
        guest.start_daemon()
        found = guest.client.containers.get(container.id)
        assert found.status == "running"
        code, said = found.exec_run("echo still here")
        assert (code, said) == (0, b"still here\n")
        found.kill(signal.SIGTERM)
        found.kill(signal.SIGKILL)
        assert found.wait()["StatusCode"] == 137
    finally:
        guest.client.containers.get(container.id).remove(force=True)


def test_plain_where_there_is_no_overlay(bare_guest: Guest) -> None:
    info = bare_guest.client.info()
    assert info["Driver"] == "plain"
    why = dict(info["DriverStatus"])["Chosen because"]
    assert "overlay does not work here (" in why and "copies work everywhere" in why
    use_storage(bare_guest)
    said = bare_guest.sampan("info")
    assert "Storage Driver: plain" in said.out and "copies work everywhere" in said.out
