"""What builds take and give beside the image: contexts, caches, indexes, attestations, states."""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import shutil
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from harness import Daemon, busybox_tar, running

from tests.registry.servers import Registry, docker_registry

PEERS = Path(os.environ.get("SAMPAN_PEERS", "/var/cache/sampan/peers"))

SAMPAN = [sys.executable, "-P", "-c", "from sampan.cli.main import entry; entry()"]


def environment(daemon: Daemon) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("DOCKER_")}
    settings = {
        "SAMPAN_RUN_DIR": str(daemon.run),
        "SAMPAN_STATE_DIR": str(daemon.state),
        "DOCKER_CONFIG": str(daemon.root / "config"),
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    return {**kept, **settings}


def sampan(daemon: Daemon, *words: str, input: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*SAMPAN, *words],
        input=input,
        capture_output=True,
        text=True,
        timeout=90,
        env=environment(daemon),
    )


def ok(daemon: Daemon, *words: str, input: str = "") -> str:
    done = sampan(daemon, *words, input=input)
    assert done.returncode == 0, done.stderr
    return done.stdout


def folder(path: Path, **files: str) -> str:
    """A folder of files; ``Dockerfile`` is one of them."""
    path.mkdir(exist_ok=True)
    for name, content in files.items():
        (path / name).write_text(content)
    return str(path)


TWO_STAGES = """\
FROM busybox AS one
RUN echo one > /one
FROM busybox
COPY --from=one /one /one
RUN echo two > /two
"""


def many(path: Path) -> str:
    place = folder(path, Dockerfile="FROM busybox\nCOPY . /data/\nRUN ls -R /data | md5sum\n")
    for number in range(300):
        (path / f"file{number}").write_text(f"{number}\n")
        os.utime(path / f"file{number}", (1, 1))
    return place


def test_only_what_changed_in_a_large_context_is_sent(daemon: Daemon, tmp_path: Path) -> None:
    place = many(tmp_path / "many")
    ok(daemon, "build", "-q", place)
    (tmp_path / "many" / "file7").write_text("changed\n")
    (tmp_path / "many" / "file8").unlink()
    (tmp_path / "many" / "file301").write_text("new\n")
    image = ok(daemon, "build", "-q", place).strip()
    text = ok(
        daemon,
        "run",
        "--rm",
        image,
        "sh",
        "-c",
        "cd /data; cat file7 file9 file301; test -e file8 || echo file8 is gone",
    )
    assert text == "changed\n9\nnew\nfile8 is gone\n"


@pytest.mark.parametrize("mode", ["min", "max"])
def test_cache_goes_through_a_folder(daemon: Daemon, tmp_path: Path, mode: str) -> None:
    place = folder(tmp_path / "context", Dockerfile=TWO_STAGES + f"LABEL m={mode}\n")
    cache = tmp_path / "cache"
    ok(daemon, "build", "-q", "--cache-to", f"type=local,dest={cache},mode={mode}", place)
    assert (cache / "index.json").exists()
    ok(daemon, "image", "prune", "-af", "--filter", "label=m")
    ok(daemon, "builder", "prune", "-af")
    said = ok(daemon, "build", "--cache-from", f"type=local,src={cache}", place)
    assert said.count("Using cache") >= (3 if mode == "max" else 2)


def test_a_cache_that_is_not_there_is_only_a_warning(daemon: Daemon, tmp_path: Path) -> None:
    place = folder(tmp_path / "context", Dockerfile="FROM busybox\nRUN true\n")
    done = sampan(daemon, "build", "--cache-from", f"type=local,src={tmp_path}/none", place)
    assert done.returncode == 0
    assert "WARNING: no cache is taken from" in done.stderr


def test_named_contexts_of_folders_and_layouts(daemon: Daemon, tmp_path: Path) -> None:
    other = folder(tmp_path / "other", file="from a folder\n")
    layout = tmp_path / "layout"
    ok(
        daemon,
        "build",
        "-q",
        "--cache-to",
        f"type=local,dest={layout}",
        folder(tmp_path / "base", Dockerfile="FROM busybox\nRUN echo from a layout > /file\n"),
    )
    place = folder(
        tmp_path / "context",
        Dockerfile="FROM busybox\nCOPY --from=other /file /a\nCOPY --from=layout /file /b\n",
    )
    image = ok(
        daemon,
        "build",
        "-q",
        "--build-context",
        f"other={other}",
        "--build-context",
        f"layout=oci-layout://{layout}",
        place,
    ).strip()
    text = ok(daemon, "run", "--rm", image, "cat", "/a", "/b")
    assert text == "from a folder\nfrom a layout\n"


def test_a_shell_opens_in_the_state_before_a_failed_step(daemon: Daemon, tmp_path: Path) -> None:
    place = folder(
        tmp_path / "context",
        Dockerfile="FROM busybox\nENV A=b\nWORKDIR /w\nRUN touch x\nRUN touch y; false\n",
    )
    done = sampan(daemon, "build", "--invoke", place, input="ls; echo $A; pwd\n")
    assert done.returncode == 1
    assert done.stdout.endswith("x\nb\n/w\n")


def test_an_index_for_two_platforms(daemon: Daemon, tmp_path: Path) -> None:
    place = folder(
        tmp_path / "context", Dockerfile="FROM scratch\nARG TARGETARCH\nLABEL arch=$TARGETARCH\n"
    )
    flags = ["--progress=rawjson", "--platform", "linux/amd64,linux/arm64", "-t", "several:1"]
    done = sampan(daemon, "build", *flags, place)
    assert done.returncode == 0, done.stderr
    events = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    steps = {v["digest"]: v["name"] for event in events for v in event.get("vertexes", ())}
    names = {"[linux/amd64 1/1] FROM scratch", "[linux/arm64 1/1] FROM scratch"}
    assert names <= set(steps.values())
    described = json.loads(ok(daemon, "image", "inspect", "several:1"))[0]
    assert described["Config"]["Labels"]["arch"] == "amd64"


def test_foreign_commands_without_an_emulator(daemon: Daemon, tmp_path: Path) -> None:
    if Path("/proc/sys/fs/binfmt_misc/qemu-s390x").exists():
        pytest.skip("an emulator is registered")
    place = folder(tmp_path / "context", Dockerfile='FROM scratch\nRUN ["/x"]\n')
    done = sampan(daemon, "build", "--platform", "linux/s390x", place)
    assert done.returncode == 1
    assert "no emulator is registered with binfmt_misc" in done.stderr


def test_attestations_are_in_the_index(daemon: Daemon, tmp_path: Path) -> None:
    status = "Package: libx\\nStatus: install ok installed\\nVersion: 1.2-3\\nArchitecture: all\\n"
    place = folder(
        tmp_path / "context",
        Dockerfile="FROM busybox\nARG SECRET_NOT=v\n"
        f"RUN mkdir -p /var/lib/dpkg && printf '{status}' > /var/lib/dpkg/status\n",
    )
    name = f"attested:{os.getpid()}"
    ok(daemon, "build", "-q", "--sbom=true", "--provenance=mode=max", "-t", name, place)
    blobs = daemon.state / "blobs" / "sha256"
    indexes = [
        document
        for path in blobs.iterdir()
        if path.stat().st_size < 1 << 16 and b"attestation-manifest" in path.read_bytes()
        for document in [json.loads(path.read_bytes())]
    ]
    image, about = indexes[0]["manifests"]
    assert about["platform"] == {"architecture": "unknown", "os": "unknown"}
    assert about["annotations"]["vnd.docker.reference.digest"] == image["digest"]
    manifest = json.loads((blobs / about["digest"].partition(":")[2]).read_bytes())
    statements = [
        json.loads((blobs / layer["digest"].partition(":")[2]).read_bytes())
        for layer in manifest["layers"]
    ]
    sbom, provenance = (statement["predicate"] for statement in statements)
    assert [
        reference["referenceLocator"]
        for package in sbom["packages"]
        for reference in package.get("externalRefs", ())
    ] == ["pkg:deb/libx@1.2-3?arch=all"]
    assert provenance["materials"][0]["uri"].startswith("pkg:docker/busybox@latest")
    assert statements[0]["subject"][0]["digest"]["sha256"] == image["digest"].partition(":")[2]


def test_a_failed_output_says_why(daemon: Daemon, tmp_path: Path) -> None:
    place = folder(tmp_path / "context", Dockerfile="FROM busybox\n")
    done = sampan(daemon, "build", "--cache-to", "type=s3,bucket=x", place)
    assert done.returncode == 125
    assert "unexpected key" in done.stderr


DESCRIBED = """\
# VERSION of everything
ARG VERSION=1
FROM busybox AS base
FROM base AS one
# FLAVOUR of the first
ARG FLAVOUR
ARG VERSION
RUN --mount=type=secret,id=token,required true
# two puts it together
FROM base AS two
COPY --from=one /bin/sh /sh
RUN --mount=type=ssh --mount=type=secret,target=/root/key true
"""


def test_targets_and_what_they_take(daemon: Daemon, tmp_path: Path) -> None:
    place = folder(tmp_path / "context", Dockerfile=DESCRIBED)
    text = ok(daemon, "build", "--call=targets", place)
    assert text.splitlines() == [
        "TARGET          DESCRIPTION",
        "base",
        "one",
        "two (default)   puts it together",
    ]
    text = ok(daemon, "build", "--call=outline", "--build-arg=FLAVOUR=sweet", place)
    assert [line.split() for line in text.splitlines() if line] == [
        ["TARGET:", "two"],
        ["DESCRIPTION:", "puts", "it", "together"],
        ["BUILD", "ARG", "VALUE", "DESCRIPTION"],
        ["VERSION", "1", "of", "everything"],
        ["FLAVOUR", "sweet", "of", "the", "first"],
        ["SECRET", "REQUIRED"],
        ["token", "true"],
        ["key"],
        ["SSH", "REQUIRED"],
        ["default"],
    ]
    text = ok(daemon, "build", "--call=outline,format=json", "--target=base", place)
    assert json.loads(text)["secrets"] == []
    done = sampan(daemon, "build", "--call=guess", place)
    assert done.returncode == 125 and "invalid call 'guess'" in done.stderr


def test_the_linter_alone(daemon: Daemon, tmp_path: Path) -> None:
    place = folder(tmp_path / "context", Dockerfile="FROM busybox AS Upper\nRUN true\n")
    done = sampan(daemon, "build", "--check", place)
    assert done.returncode == 1
    assert "StageNameCasing" in done.stdout and "1 warning has been found" in done.stdout
    done = sampan(daemon, "build", "--call=check,format=json", place)
    assert [found["ruleName"] for found in json.loads(done.stdout)["warnings"]] == [
        "StageNameCasing"
    ]
    place = folder(tmp_path / "clean", Dockerfile="FROM busybox\n")
    assert ok(daemon, "build", "--check", place) == "Check complete, no warnings found.\n"


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    if shutil.which("docker-registry") is None:
        pytest.skip("docker-registry is not installed")
    with docker_registry(tmp_path_factory.mktemp("registry")) as server:
        yield server


def test_an_output_that_is_pushed(daemon: Daemon, registry: Registry, tmp_path: Path) -> None:
    place = folder(tmp_path / "context", Dockerfile="FROM busybox\nLABEL pushed=by-output\n")
    name, facts = f"{registry.host}/pushed:1", tmp_path / "facts"
    output = f"--output=type=image,name={name},push=true"
    ok(daemon, "build", "-q", output, f"--metadata-file={facts}", place)
    document = json.loads(facts.read_text())
    ok(daemon, "rmi", name)
    ok(daemon, "pull", "-q", name)
    described = json.loads(ok(daemon, "image", "inspect", name))[0]
    assert described["Id"] == document["containerimage.config.digest"]
    assert described["RepoDigests"] == [
        f"{registry.host}/pushed@{document['containerimage.digest']}"
    ]
    assert document["image.name"] == name


def test_cache_goes_through_a_registry(daemon: Daemon, registry: Registry, tmp_path: Path) -> None:
    place = folder(tmp_path / "context", Dockerfile=TWO_STAGES + "LABEL m=registry\n")
    cache = f"type=registry,ref={registry.host}/cache:1"
    ok(daemon, "build", "-q", "--cache-to", f"{cache},mode=max", place)
    ok(daemon, "image", "prune", "-af", "--filter", "label=m")
    ok(daemon, "builder", "prune", "-af")
    said = ok(daemon, "build", "--cache-from", cache, place)
    assert said.count("Using cache") >= 3


def repository(path: Path) -> str:
    """A repository as a dumb HTTP server shows it; returns its commit."""
    folder(path / "work", Dockerfile="FROM scratch\nCOPY inside /\n", inside="of the repository\n")
    author = ["-c", "user.name=a", "-c", "user.email=a@b.test"]
    for words in (
        ["init", "-q", "-b", "main", str(path / "work")],
        ["-C", str(path / "work"), "add", "."],
        ["-C", str(path / "work"), *author, "commit", "-qm", "First"],
        ["clone", "-q", "--bare", str(path / "work"), str(path / "r.git")],
        ["-C", str(path / "r.git"), "update-server-info"],
    ):
        subprocess.run(["git", *words], check=True)
    head = subprocess.run(
        ["git", "-C", str(path / "work"), "rev-parse", "HEAD"], capture_output=True, check=True
    )
    return head.stdout.decode().strip()


class _Served(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None: ...


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A folder and its address."""
    root = tmp_path / "served"
    root.mkdir()
    handler = partial(_Served, directory=str(root))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", root
        server.shutdown()


def test_named_contexts_from_elsewhere(
    daemon: Daemon, served: tuple[str, Path], tmp_path: Path
) -> None:
    address, root = served
    repository(root)
    with tarfile.open(root / "files.tar.gz", "w:gz") as tar:
        tar.add(folder(tmp_path / "files", file="of the archive\n"), ".")
    ok(daemon, "tag", "busybox", "other:1")
    place = folder(
        tmp_path / "context",
        Dockerfile="FROM base\nCOPY --from=git /inside /a\nCOPY --from=url /file /b\n"
        "COPY --from=image /etc/passwd /c\n",
    )
    contexts = (
        f"git={address}/r.git#main",
        f"url={address}/files.tar.gz",
        "image=docker-image://other:1",
        "base=docker-image://busybox",
    )
    flags = [f"--build-context={text}" for text in contexts]
    image = ok(daemon, "build", "-q", *flags, place).strip()
    text = ok(daemon, "run", "--rm", image, "cat", "/a", "/b", "/c")
    assert text.startswith("of the repository\nof the archive\nroot:")
    done = sampan(daemon, "build", f"--build-context=git={address}/no.git", place)
    assert done.returncode == 1 and "no.git" in done.stderr


@pytest.mark.parametrize("version", ["v0.2", "v1"])
def test_what_tools_read_of_an_attested_build(
    daemon: Daemon, registry: Registry, served: tuple[str, Path], version: str
) -> None:
    address, root = served
    commit = repository(root)
    name = f"{registry.host}/attested-{version}:1"
    provenance = f"--provenance=mode=max,version={version}"
    source = f"{address}/r.git#main"
    ok(daemon, "build", "-q", "--sbom=true", provenance, "--push", "-t", name, source)
    if not (PEERS / "usr/bin/docker").exists():
        pytest.skip("needs buildx: scripts/peers brings it")

    def asked(form: str) -> Any:
        command = ["docker", "buildx", "imagetools", "inspect", "--format", form, name]
        done = subprocess.run(
            ["chroot", PEERS, *command], env={**os.environ, "HOME": "/tmp"}, capture_output=True
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    said = asked("{{json .Provenance}}")["SLSA"]
    if version == "v1":
        origin = said["buildDefinition"]["externalParameters"]["configSource"]
    else:
        origin = said["invocation"]["configSource"]
        assert {"uri": source, "digest": {"sha1": commit}} in said["materials"]
    assert origin["uri"] == source and origin["digest"] == {"sha1": commit}
    assert asked("{{json .SBOM}}")["SPDX"]["spdxVersion"] == "SPDX-2.3"


def test_attestations_as_referrers(daemon: Daemon, registry: Registry, tmp_path: Path) -> None:
    place = folder(tmp_path / "context", Dockerfile="FROM busybox\nLABEL a=b\n")
    repository = f"{registry.host}/referred"
    output = f"type=image,name={repository}:1,push=true,oci-artifact=true"
    ok(daemon, "build", "-q", "--sbom=true", "--provenance=mode=max", "-o", output, place)

    def manifest(reference: str) -> Any:
        return json.loads(ok(daemon, "manifest", "inspect", reference))

    image, about = manifest(f"{repository}:1")["manifests"]
    assert about["artifactType"] == "application/vnd.docker.attestation.manifest.v1+json"
    attestation = manifest(f"{repository}@{about['digest']}")
    assert attestation["artifactType"] == about["artifactType"]
    assert attestation["config"]["mediaType"] == "application/vnd.oci.empty.v1+json"
    subject = {key: image[key] for key in ("mediaType", "digest", "size")}
    assert attestation["subject"] == subject
    # Where a registry keeps no list of referrers, it is under a tag.
    listed = manifest(f"{repository}:{image['digest'].replace(':', '-')}")["manifests"]
    assert [entry["digest"] for entry in listed] == [about["digest"]]
    assert ok(daemon, "run", "--rm", f"{repository}:1", "echo", "runs") == "runs\n"
    done = sampan(daemon, "build", "-o", f"type=local,dest={tmp_path},oci-artifact=true", place)
    assert done.returncode == 125 and "oci-artifact is for images" in done.stderr


REPRODUCIBLE = """\
FROM scratch
ADD root.tar /
RUN printf 'Package: a\\nStatus: install ok installed\\nVersion: 1\\n' > /var.list
COPY f /f
WORKDIR /w/x
LABEL a=b
"""


def test_equal_input_gives_equal_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In other folders, at other times, by each storage driver; with attestations and without."""
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1600000000")
    found: list[dict[str, str]] = []
    for number, driver in enumerate(("overlay", "erofs", "plain")):
        place = folder(tmp_path / f"context{number}", Dockerfile=REPRODUCIBLE, f="x")
        (tmp_path / f"context{number}" / "root.tar").write_bytes(busybox_tar())
        os.utime(f"{place}/f", (number, 2_000_000_000 + number))
        for daemon in running("--storage-driver", driver):
            digests = {}
            for kind, flags in (
                ("oci", ["-t", "r:1"]),
                ("oci", ["-t", "r:2", "--sbom=true", "--provenance=mode=max"]),
                ("tar", []),
            ):
                file = tmp_path / f"out{number}"
                output = f"type={kind},dest={file}"
                ok(daemon, "build", "-q", "-o", output, *flags, place)
                digests[f"{kind} {flags}"] = hashlib.sha256(file.read_bytes()).hexdigest()
            found.append(digests)
    assert found[0] == found[1] == found[2]
    with tarfile.open(tmp_path / "out2") as archive:
        assert max(member.mtime for member in archive) == 1_600_000_000


def test_files_alone_leave_images_as_they_are(daemon: Daemon, tmp_path: Path) -> None:
    place = folder(tmp_path / "context", Dockerfile="FROM busybox\nLABEL own=image\n")
    tagged = ok(daemon, "build", "-q", "-t", "stays:1", place).strip()
    out = tmp_path / "out"
    ok(daemon, "build", "-q", "-o", str(out), place)
    assert (out / "bin" / "busybox").exists()
    assert ok(daemon, "image", "inspect", "-f", "{{.Id}}", "stays:1").strip() == tagged
    nameless = ok(daemon, "build", "-q", "--label", "more=x", place).strip()
    ok(daemon, "build", "-q", "--label", "more=x", "-o", str(out), place)
    ok(daemon, "rmi", nameless)
    ok(daemon, "build", "-q", "--label", "more=y", "-o", str(out), place)
    assert ok(daemon, "images", "-aq", "--filter", "label=more=y") == ""
