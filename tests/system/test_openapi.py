"""The API as it describes itself, and as it withstands what is generated from that."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import hypothesis
import pytest
import requests
import schemathesis
from harness import Daemon, running, until
from hypothesis import HealthCheck, Phase, settings

from tests.registry.servers import free_port

ELSEWHERE = ("/auth", "/distribution/", "/images/search", "/push", "/images/create", "/build")
"""What sends requests to servers that the input names: no place for generated input."""


KNOWN = {"containers": "target", "images": "busybox", "networks": "bridge"}


def answered(case: Any, base: str) -> str:
    """What is wrong with the answer to a generated request; empty when nothing is."""
    try:
        with requests.request(
            **case.as_transport_kwargs(base_url=base), stream=True, timeout=(5, 1)
        ) as answer:
            status = answer.status_code
    except requests.exceptions.ReadTimeout:
        return ""  # a stream that waits for what it is to tell
    except (ValueError, requests.exceptions.RequestException) as error:
        return f"{case.method} {case.path}: {error}"
    if status < 500 or status in (501, 503):
        return ""
    return f"{status} {case.method} {case.formatted_path} {case.query} {case.body!r}"


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[Daemon, str]]:
    """A daemon that listens on loopback too, and its base URL."""
    port = free_port()
    flags = ["--host", f"tcp://127.0.0.1:{port}", "--host", "unix://{run}/sampan.sock"]
    for daemon in running(*flags):
        yield daemon, f"http://127.0.0.1:{port}"
        for network in daemon.client.networks.list():
            if network.name not in ("bridge", "host", "none"):
                network.remove()
        daemon.remove_containers()


@pytest.fixture(scope="module")
def description(served: tuple[Daemon, str]) -> dict[str, Any]:
    answer = requests.get(f"{served[1]}/openapi.json", timeout=20)
    assert answer.status_code == 200
    document = answer.json()
    assert isinstance(document, dict)
    return document


@pytest.mark.proves("GET /openapi.json")
def test_description(description: dict[str, Any]) -> None:
    operation = description["paths"]["/containers/{name}/logs"]["get"]
    names = {item["name"] for item in operation["parameters"]}
    assert {"name", "follow", "stdout", "stderr", "since", "until", "tail"} <= names
    create = description["paths"]["/containers/create"]["post"]
    schema = create["requestBody"]["content"]["application/json"]["schema"]
    assert schema == {"$ref": "#/components/schemas/CreateRequest"}
    host = description["components"]["schemas"]["HostConfig"]["properties"]
    assert {"Binds", "PortBindings", "NanoCpus"} <= host.keys()


@pytest.mark.timeout(300)
@pytest.mark.proves("no answer 500 to generated requests")
def test_generated_requests(served: tuple[Daemon, str], description: dict[str, Any]) -> None:
    daemon, base = served
    schema = schemathesis.openapi.from_dict(description)
    daemon.client.containers.run("busybox", ["sleep", "9999"], name="target", detach=True)
    failures: list[str] = []
    tried = 0
    for result in schema.get_all_operations():
        operation = result.ok()
        if any(part in operation.path for part in ELSEWHERE):
            continue

        @settings(
            max_examples=6,
            deadline=None,
            database=None,
            derandomize=True,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @hypothesis.given(case=operation.as_strategy())
        def attempt(case: Any) -> None:
            nonlocal tried
            tried += 1
            trouble = answered(case, base)
            if trouble:
                failures.append(trouble)
            # And on something that is there.
            if "name" in (case.path_parameters or {}) and "{name}" in case.path:
                case.path_parameters["name"] = KNOWN.get(case.path.split("/")[1], "target")
                if case.method != "DELETE" and "/kill" not in case.path:
                    trouble = answered(case, base)
                    if trouble:
                        failures.append(trouble)

        attempt()
    assert not failures, "\n".join(failures[:20])
    assert tried > 200
    assert until(lambda: daemon.client.ping())
