"""What builds take and give beside the image: contexts, caches, indexes, attestations, states."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from harness import Daemon

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
    ok(daemon, "build", "-q", "--platform", "linux/amd64,linux/arm64", "-t", "several:1", place)
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
