"""What a container may do to annoy its engine: the engine and its other containers go on."""

from __future__ import annotations

import docker
import pytest
from harness import Daemon


def test_directories_deeper_than_a_path_may_be_long(own_daemon: Daemon) -> None:
    """They are counted and removed, and no daemon stumbles over them when it starts."""
    own_daemon.load_busybox()
    client = own_daemon.client
    client.volumes.create("deep")
    dig = "while echo > file && mkdir a && cd a; do :; done 2> /dev/null; true"
    # 2,000 levels in the container and in its volume: as many as have a path.
    container = client.containers.run(
        "busybox",
        ["sh", "-c", f"cd /root; {dig}; cd /v; {dig}"],
        volumes={"deep": {"bind": "/v"}},
        network_mode="none",
        detach=True,
    )
    assert container.wait(timeout=60)["StatusCode"] == 0
    assert client.api.df()["Containers"][0]["SizeRw"] > 2000
    with pytest.raises(docker.errors.APIError, match="nested too deep"):
        container.commit("deep")
    container.remove()
    client.volumes.get("deep").remove()
    left = own_daemon.state / "volumes"
    assert not list(left.glob("*deep*")) and not list(left.glob(".*"))
    own_daemon.stop()
    own_daemon.start()
    assert client.ping()
