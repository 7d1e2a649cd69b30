"""Testcontainers for Python with a real Redis."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator

import pytest
from debian import load_bookworm
from harness import Daemon, running, until

pytestmark = [pytest.mark.network, pytest.mark.slow, pytest.mark.timeout(400)]

DOCKERFILE = b"""FROM debian:bookworm
RUN apt-get update && apt-get install -y --no-install-recommends redis-server
EXPOSE 6379
CMD ["redis-server", "--save", "", "--bind", "0.0.0.0", "--protected-mode", "no"]
"""


@pytest.fixture(scope="module")
def redis_daemon() -> Iterator[Daemon]:
    """A daemon with the image ``redis:debian``; Testcontainers finds it by the environment."""
    before = {
        name: os.environ.get(name) for name in ("DOCKER_HOST", "TESTCONTAINERS_RYUK_DISABLED")
    }
    for daemon in running():
        load_bookworm(daemon)
        daemon.client.images.build(fileobj=io.BytesIO(DOCKERFILE), tag="redis:debian")
        wanted = {"DOCKER_HOST": daemon.url, "TESTCONTAINERS_RYUK_DISABLED": "true"}
        os.environ.update(wanted)
        try:
            yield daemon
        finally:
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value


@pytest.mark.proves("testcontainers redis")
def test_redis(redis_daemon: Daemon) -> None:
    # Its configuration is read at import.
    from testcontainers.community.redis import RedisContainer
    from testcontainers.core.config import testcontainers_config

    testcontainers_config.ryuk_disabled = True
    with RedisContainer("redis:debian") as redis:
        client = redis.get_client()
        client.set("key", "value")
        assert client.get("key") == b"value"
    assert redis_daemon.client.containers.list(all=True) == []


@pytest.mark.proves("testcontainers generic container, logs, exec, networks, files")
def test_generic(redis_daemon: Daemon) -> None:
    from testcontainers.core.config import testcontainers_config
    from testcontainers.core.container import DockerContainer
    from testcontainers.core.network import Network
    from testcontainers.core.wait_strategies import LogMessageWaitStrategy

    testcontainers_config.ryuk_disabled = True
    with Network() as network:
        server = DockerContainer("redis:debian").with_network(network)
        server = server.with_network_aliases("store").with_exposed_ports(6379)
        server = server.waiting_for(LogMessageWaitStrategy("Ready to accept connections"))
        with server as started:
            assert int(started.get_exposed_port(6379)) > 0
            assert started.exec(["redis-cli", "set", "a", "b"]).output == b"OK\n"
            client = DockerContainer("redis:debian").with_network(network)
            client = client.with_command("redis-cli -h store get a").with_env("X", "y")
            with client as other:
                assert until(lambda: other.get_logs()[0] == b"b\n")
    assert redis_daemon.client.containers.list(all=True) == []
