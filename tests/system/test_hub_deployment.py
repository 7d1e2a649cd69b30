"""What ``deploy/`` holds works: the Compose file on our daemon, the units, the manifests."""

from __future__ import annotations

import base64
import io
import os
import re
import subprocess
import sys
import tarfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from debian import REPOSITORY
from harness import Daemon, until

from sampan.cli.flags import parse
from sampan.cli.hub import SERVE, _settings
from sampan.hub.config import HubConfig

DEPLOY = REPOSITORY / "deploy"
HUB = DEPLOY / "hub"
SCRIPT = Path(sys.executable).with_name("sampan")


def settings(words: list[str]) -> HubConfig:
    """What ``hub serve`` makes of a command line.  Raises for one that it refuses."""
    options, arguments = parse(SERVE.flags, words)
    assert arguments == []
    return HubConfig(**_settings(options))


def entry_point() -> list[str]:
    """The arguments of ``hub serve`` in the image."""
    line = re.search(r"^ENTRYPOINT (.*)$", (HUB / "Dockerfile").read_text(), re.MULTILINE)
    assert line
    words: list[str] = yaml.safe_load(line[1])
    assert words[:3] == ["sampan", "hub", "serve"]
    return words[3:]


@pytest.mark.parametrize(
    "unit", sorted(DEPLOY.glob("*/*.service")) + sorted(DEPLOY.glob("*/*.socket")),
    ids=lambda path: path.name,
)  # fmt: skip
def test_units_are_valid(unit: Path, tmp_path: Path) -> None:
    for name in ("sampan.service", "sampan.socket", "sampan-hub.service"):
        source = next(DEPLOY.glob(f"*/{name}"))
        # The program is elsewhere in a checkout.
        (tmp_path / name).write_text(
            source.read_text().replace("/usr/local/bin/sampan", str(SCRIPT))
        )
    command = ["systemd-analyze", "verify", "--man=no", tmp_path / unit.name]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("no systemd-analyze here")
    if "Failed to initialize manager" in done.stderr:
        pytest.skip(f"systemd-analyze does not work here: {done.stderr}")
    assert (done.returncode, done.stderr) == (0, "")


def test_the_hub_unit_starts_a_hub_as_it_says() -> None:
    text = (HUB / "sampan-hub.service").read_text()
    line = re.search(r"^ExecStart=/usr/local/bin/sampan hub serve (.*)$", text, re.MULTILINE)
    assert line
    config = settings(line[1].split())
    state = re.search(r"^StateDirectory=(.*)$", text, re.MULTILINE)
    assert state and config.root == Path("/var/lib") / state[1]


def only(value: dict[str, Any], *keys: str) -> None:
    """No key that Kubernetes does not know in this place: it would refuse or ignore it."""
    assert set(value) <= set(keys), set(value) - set(keys)


def test_the_kubernetes_manifests_hold_together() -> None:
    deployment, service = yaml.safe_load_all((HUB / "kubernetes.yaml").read_text())
    assert (deployment["apiVersion"], deployment["kind"]) == ("apps/v1", "Deployment")
    assert (service["apiVersion"], service["kind"]) == ("v1", "Service")
    for document in (deployment, service):
        only(document, "apiVersion", "kind", "metadata", "spec")
        only(document["metadata"], "name", "labels")
    spec = deployment["spec"]
    only(spec, "replicas", "selector", "template")
    labels = spec["template"]["metadata"]["labels"]
    assert spec["selector"] == {"matchLabels": labels} and service["spec"]["selector"] == labels
    pod = spec["template"]["spec"]
    only(pod, "securityContext", "containers", "volumes")
    only(pod["securityContext"], "runAsNonRoot", "runAsUser", "fsGroup", "seccompProfile")
    (container,) = pod["containers"]
    only(container, "name", "image", "args", "envFrom", "ports", "readinessProbe", "livenessProbe",
         "resources", "securityContext", "volumeMounts")  # fmt: skip
    only(container["securityContext"], "allowPrivilegeEscalation", "readOnlyRootFilesystem",
         "capabilities")  # fmt: skip
    assert {m["name"] for m in container["volumeMounts"]} <= {v["name"] for v in pod["volumes"]}
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    for name, path in (("readinessProbe", "/readyz"), ("livenessProbe", "/healthz")):
        assert container[name]["httpGet"]["path"] == path
        assert container[name]["httpGet"]["port"] in ports
    assert service["spec"]["ports"][0]["targetPort"] in ports
    annotated = spec["template"]["metadata"]["annotations"]["prometheus.io/port"]
    assert ports["http"] == int(annotated)
    # The arguments are ones that the hub takes, after the image's own.
    named = {"S3_KEY": "k", "S3_SECRET": "s", "DATABASE_URL": "postgresql://db/hub"}
    words = [re.sub(r"\$\((\w+)\)", lambda m: named[m[1]], word) for word in container["args"]]
    config = settings([*entry_point(), *words])
    assert config.port == ports["http"] and config.host == "0.0.0.0"
    assert config.root == Path(container["volumeMounts"][0]["mountPath"])
    assert config.database_url == named["DATABASE_URL"]
    assert config.storage_options["secret_access_key"] == "s"


def image_tar() -> bytes:
    """A root file system that is the machine's own, where the test mounts it."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name in ("usr", "data", "tmp", "etc"):
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if name in ("data", "tmp") else 0o755
            tar.addfile(entry)
        for name in ("bin", "lib", "lib64"):
            if Path("/", name).is_symlink():
                entry = tarfile.TarInfo(name)
                entry.type, entry.linkname = tarfile.SYMTYPE, os.readlink(f"/{name}")
                tar.addfile(entry)
    return buffer.getvalue()


@pytest.fixture
def compose(daemon: Daemon, tmp_path: Path) -> Iterator[list[str | Path]]:
    """The command line of Compose for ``deploy/hub`` with an image that needs no download."""
    found = subprocess.run([REPOSITORY / "scripts/compose-plugin"], capture_output=True, text=True)
    if found.returncode:
        pytest.skip(f"no Compose plugin: {found.stderr}")
    words = [str(SCRIPT), "hub", "serve", *entry_point()]
    change = "ENTRYPOINT [" + ", ".join(f'"{word}"' for word in words) + "]"
    daemon.client.api.import_image_from_data(
        image_tar(), repository="sampan-hub", tag="latest", changes=[change]
    )
    places = {"/usr", sys.prefix, sys.base_prefix, str(REPOSITORY / "sampan")}
    volumes = [f"{place}:{place}:ro" for place in sorted(places)]
    more = tmp_path / "more.yaml"
    more.write_text(
        yaml.safe_dump(
            {
                "services": {
                    "hub": {
                        # Our files belong to root, and it has no capability to read others'.
                        "user": "0:0",
                        "environment": {"PYTHONPATH": str(REPOSITORY)},
                        "ports": ["127.0.0.1::5000"],
                        "volumes": volumes,
                    }
                }
            }
        ).replace("ports:", "ports: !override")
    )
    yield [found.stdout.strip(), "-p", f"hub{os.getpid()}", "-f", HUB / "compose.yaml", "-f", more]


def test_the_compose_file_on_our_daemon(daemon: Daemon, compose: list[str | Path]) -> None:
    def run(*words: str) -> str:
        done = subprocess.run(
            [*compose, *words],
            env={"PATH": os.environ["PATH"], "HOME": str(daemon.root), "DOCKER_HOST": daemon.url},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    try:
        run("up", "-d", "--no-build")
        until(lambda: "listens on" in run("logs", "hub"), 30)
        address = run("port", "hub", "5000").strip()
        with urllib.request.urlopen(f"http://{address}/readyz", timeout=10) as answer:
            assert answer.status == 200
        password = run("logs", "--no-log-prefix", "hub").split("password ")[1].split(" ")[0]
        login = urllib.request.Request(f"http://{address}/v2/")
        pair = base64.b64encode(f"admin:{password}".encode()).decode()
        login.add_header("Authorization", f"Basic {pair}")
        with urllib.request.urlopen(login, timeout=10) as answer:
            assert answer.status == 200
        # Nothing but its volume and its scratch folder can be written to.
        container = daemon.client.containers.get(run("ps", "-q", "hub").strip())
        assert container.attrs["HostConfig"]["ReadonlyRootfs"] is True
        # What it keeps outlives it.
        run("restart", "hub")
        until(lambda: run("logs", "hub").count("listens on") == 2, 30)
        assert run("logs", "hub").count("password ") == 1
    finally:
        run("down", "-v")
