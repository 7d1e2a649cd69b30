"""Outputs, secrets and contexts of ``build`` as words become requests."""

from __future__ import annotations

import base64
import io
import json
import tarfile
from pathlib import Path

import pytest

from sampan.cli import buildextras, buildoutput
from sampan.cli.failure import Failure


def options(**given: list[str]) -> dict[str, list[str]]:
    return {"secret": [], "ssh": [], "build-context": [], "allow": []} | given


@pytest.mark.parametrize(
    ("text", "type", "dest"),
    [
        ("out", "local", "out"),
        ("-", "tar", "-"),
        ("type=local,dest=x/y", "local", "x/y"),
        ("type=tar", "tar", "-"),
        ("type=oci,dest=a.tar", "oci", "a.tar"),
        ("type=docker", "docker", ""),
        ("type=image,push=true", "registry", ""),
    ],
)
def test_outputs(text: str, type: str, dest: str) -> None:
    output = buildoutput.parse(text)
    assert (output.type, output.dest) == (type, dest)


@pytest.mark.parametrize("text", ["type=nope", "dest=x", "type=local", "type=oci,colour=red"])
def test_bad_outputs(text: str) -> None:
    with pytest.raises(Failure):
        buildoutput.parse(text)


def test_secrets_travel_in_the_header(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "token").write_bytes(b"\x00binary")
    monkeypatch.setenv("VARIABLE", "value")
    given = options(secret=[f"id=a,src={tmp_path}/token", "id=b,env=VARIABLE"])
    header = buildextras.header(None, given)["X-Sampan-Build"]  # type: ignore[arg-type]
    document = json.loads(base64.urlsafe_b64decode(header))
    secrets = {name: base64.b64decode(value) for name, value in document["secrets"].items()}
    assert secrets == {"a": b"\x00binary", "b": b"value"}
    assert buildextras.header(None, options()) == {}  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "given",
    [
        {"secret": ["src=x"]},
        {"secret": ["id=x,src=/nonexistent"]},
        {"secret": ["id=x,env=NOT_SET_ANYWHERE"]},
        {"secret": ["id=x,colour=red"]},
        {"build-context": ["name"]},
        {"build-context": ["name=ftp://x"]},
        {"allow": ["everything"]},
    ],
)
def test_bad_extras(given: dict[str, list[str]]) -> None:
    with pytest.raises(Failure):
        buildextras.header(None, options(**given))  # type: ignore[arg-type]


def test_files_are_extracted_from_chunks(tmp_path: Path) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        info = tarfile.TarInfo("d/f")
        info.size = 5
        archive.addfile(info, io.BytesIO(b"hello"))
    data = out.getvalue()
    chunks = (data[i : i + 100] for i in range(0, len(data), 100))
    buildoutput.extract(chunks, str(tmp_path / "dest"))
    assert (tmp_path / "dest/d/f").read_bytes() == b"hello"
