"""Which daemon is meant."""

import json
from pathlib import Path

import pytest

from sampan.client import contexts
from sampan.client.hosts import checked, resolve
from sampan.errors import InvalidParameter, NotFound


def test_the_local_daemon_is_the_default(tmp_path):
    host = resolve(environ={"DOCKER_CONFIG": str(tmp_path)})
    assert (host.address, host.own) == ("unix:///run/sampan/sampan.sock", True)


def test_a_run_directory_outweighs_the_environment(tmp_path):
    environ = {"DOCKER_HOST": "tcp://h:1", "DOCKER_CONFIG": str(tmp_path)}
    host = resolve(run_dir="/tmp/r", environ=environ)
    assert (host.address, host.own, host.run_dir) == ("unix:///tmp/r/sampan.sock", True, "/tmp/r")


@pytest.mark.parametrize(
    ("environ", "address"),
    [
        ({"DOCKER_HOST": "tcp://h:1"}, "tcp://h:1"),
        ({"DOCKER_HOST": "tcp://h:1", "SAMPAN_HOST": "unix:///s"}, "unix:///s"),
        ({"SAMPAN_RUN_DIR": "/r"}, "unix:///r/sampan.sock"),
    ],
)
def test_the_environment(environ, address, tmp_path):
    assert resolve(environ={**environ, "DOCKER_CONFIG": str(tmp_path)}).address == address


def test_another_host_is_never_started(tmp_path):
    assert not resolve("unix:///elsewhere", environ={"DOCKER_CONFIG": str(tmp_path)}).own


def test_own_address_given_by_hand_is_own(tmp_path):
    environ = {"SAMPAN_RUN_DIR": "/r", "DOCKER_CONFIG": str(tmp_path)}
    assert resolve("unix:///r/sampan.sock", environ=environ).own


def test_tls_by_the_environment(tmp_path):
    environ = {
        "DOCKER_HOST": "tcp://h:2376",
        "DOCKER_TLS_VERIFY": "1",
        "DOCKER_CERT_PATH": "/certs",
        "DOCKER_CONFIG": str(tmp_path),
    }
    tls = resolve(environ=environ).tls
    assert tls is not None and tls.ca == "/certs/ca.pem" and tls.verify


@pytest.mark.parametrize("address", ["ftp://x", "unix://", "://"])
def test_other_addresses_are_refused(address):
    with pytest.raises(InvalidParameter, match="unable to parse"):
        checked(address)


def test_a_context(tmp_path):
    folder = Path(contexts.directory(str(tmp_path), "far"))
    folder.mkdir(parents=True)
    meta = {"Name": "far", "Endpoints": {"docker": {"Host": "ssh://me@far"}}}
    (folder / "meta.json").write_text(json.dumps(meta))
    environ = {"DOCKER_CONFIG": str(tmp_path)}
    assert resolve(context="far", environ=environ).address == "ssh://me@far"
    (tmp_path / "config.json").write_text('{"currentContext": "far"}')
    assert resolve(environ=environ).context == "far"
    with pytest.raises(NotFound):
        resolve(context="nowhere", environ=environ)
