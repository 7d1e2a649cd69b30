"""``cp`` by the rules of Docker's documentation, with both command lines, in both directions."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from harness import Daemon
from test_platforms import PROGRAM

SETUP = """
mkdir -p /c/dir/sub /c/empty; echo one > /c/dir/one; echo two > /c/dir/sub/two; echo f > /c/file
ln -s dir /c/todir; ln -s file /c/tofile; ln -s /c/dir /c/absolute; ln -s /nowhere /c/broken
ln -s ../../../../../../../../../etc /c/out; chown 1000:2000 /c/file; chmod 750 /c/dir
sleep 1000
"""


class Said(NamedTuple):
    code: int
    text: str
    out: bytes


Cp = Callable[..., Said]


@pytest.fixture(params=["docker", "sampan"])
def cp(request: pytest.FixtureRequest, daemon: Daemon, tmp_path: Path) -> Cp:
    if request.param == "docker":
        program = [shutil.which("docker") or "", "-H", daemon.url]
        if not program[0]:
            pytest.skip("the docker CLI is not installed")
    else:
        program = [sys.executable, PROGRAM, "-H", daemon.url]

    def run(*words: str, input: bytes = b"") -> Said:
        done = subprocess.run(
            [*program, "cp", *words], cwd=tmp_path, input=input, capture_output=True, timeout=60
        )
        return Said(done.returncode, done.stderr.decode(), done.stdout)

    return run


@pytest.fixture
def container(daemon: Daemon, tmp_path: Path) -> Iterator[Any]:
    """A container with a tree, and the same tree below ``h`` on the host."""
    found = daemon.client.containers.run("busybox", ["sh", "-c", SETUP], detach=True, name="box")
    while found.exec_run(["pidof", "sleep"]).exit_code:
        continue
    here = tmp_path / "h"
    (here / "dir" / "sub").mkdir(parents=True)
    (here / "empty").mkdir()
    for name, text in (("dir/one", "one\n"), ("dir/sub/two", "two\n"), ("file", "f\n")):
        (here / name).write_text(text)
    for name, target in (("todir", "dir"), ("tofile", "file"), ("broken", "/nowhere")):
        (here / name).symlink_to(target)
    os.chown(here / "file", 1000, 2000)
    yield found
    found.remove(force=True)


def inside(container: Any, script: str) -> str:
    done = container.exec_run(["sh", "-c", script])
    return str(done.output.decode())


def test_out_of_a_container(
    cp: Cp, container: Any, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    def copied(*words: str) -> None:
        said = cp(*words)
        assert said.code == 0, said.text

    copied("box:/c/file", "new")
    assert (tmp_path / "new").read_text() == "f\n"
    (tmp_path / "new").write_text("old")
    copied("box:/c/file", "new")  # a file is replaced
    assert (tmp_path / "new").read_text() == "f\n"
    copied("box:c/file", ".")  # relative to the root
    assert (tmp_path / "file").read_text() == "f\n"
    copied("box:/c/dir", "made")  # a directory that is not there is made of it
    assert sorted(p.name for p in (tmp_path / "made").iterdir()) == ["one", "sub"]
    assert (tmp_path / "made").stat().st_mode & 0o777 == 0o750
    copied("box:/c/dir", "made")  # one that is there gets it
    assert (tmp_path / "made/dir/sub/two").read_text() == "two\n"
    (tmp_path / "into").mkdir()
    copied("box:/c/dir/.", "into")  # a dot means the content
    assert (tmp_path / "into/one").exists() and not (tmp_path / "into/dir").exists()
    copied("box:/c/empty/.", "into/")
    copied("box:/c/tofile", "link")  # links are copied as they are
    assert os.readlink(tmp_path / "link") == "file"
    copied("-L", "box:/c/tofile", "followed")
    assert not (tmp_path / "followed").is_symlink()
    assert (tmp_path / "followed").read_text() == "f\n"
    copied("-L", "box:/c/absolute", "through")
    assert (tmp_path / "through/sub/two").exists()
    copied("box:/c/todir/", "slash")  # and followed before a slash
    assert (tmp_path / "slash/one").exists()
    copied("box:/c/out/passwd", "passwd")  # never out of the container
    assert (tmp_path / "passwd").read_text().startswith("root:x:0:0:root:/root:/bin/sh\nuser")
    copied("-a", "box:/c/file", "owned")
    info = (tmp_path / "owned").stat()
    if request.node.callspec.params["cp"] == "sampan":  # as documented, which Docker's does not do
        assert (info.st_uid, info.st_gid) == (1000, 2000)
    archive = cp("box:/c/dir", "-")
    with tarfile.open(fileobj=io.BytesIO(archive.out)) as tar:
        assert {"dir/one", "dir/sub/two"} <= set(tar.getnames())


def test_into_a_container(cp: Cp, container: Any) -> None:
    def copied(*words: str, input: bytes = b"") -> None:
        said = cp(*words, input=input)
        assert said.code == 0, said.text

    copied("h/file", "box:/new")
    assert inside(container, "cat /new") == "f\n"
    inside(container, "echo old > /new")
    copied("h/file", "box:/new")
    assert inside(container, "cat /new") == "f\n"
    copied("h/file", "box:/tmp")
    assert inside(container, "cat /tmp/file; stat -c %u:%g /tmp/file") == "f\n1000:2000\n"
    copied("-a", "h/file", "box:/tmp")  # where the container's user is root
    assert inside(container, "stat -c %u:%g /tmp/file") == "1000:2000\n"
    copied("h/dir", "box:/made")
    assert inside(container, "ls /made") == "one\nsub\n"
    copied("h/dir", "box:/made")
    assert inside(container, "cat /made/dir/sub/two") == "two\n"
    copied("h/dir/.", "box:/c/empty")
    assert inside(container, "ls /c/empty") == "one\nsub\n"
    copied("h/tofile", "box:/tmp/link")
    assert inside(container, "readlink /tmp/link") == "file\n"
    copied("-L", "h/tofile", "box:/tmp/followed")
    assert inside(container, "test -L /tmp/followed || cat /tmp/followed") == "f\n"
    copied("h/todir/", "box:/tmp/slash")
    assert inside(container, "ls /tmp/slash") == "one\nsub\n"
    copied("h/file", "box:/c/todir")  # the destination's links are followed
    assert inside(container, "cat /c/dir/file") == "f\n"
    copied("h/file", "box:/c/out")  # inside of the container
    assert inside(container, "cat /etc/file") == "f\n"
    assert not Path("/etc/file").exists()
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        entry = tarfile.TarInfo("t/name")
        entry.size = 2
        tar.addfile(entry, io.BytesIO(b"x\n"))
    copied("-", "box:/tmp", input=stream.getvalue())
    assert inside(container, "cat /tmp/t/name") == "x\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("h/file", "box:/nodir/"), "no such directory|not a directory|could not find"),
        (("h/file", "box:/nodir/new"), "could not find|no such file"),
        (("h/dir", "box:/c/file"), "cannot copy"),
        (("h/dir", "box:/c/file/"), "not a directory|cannot overwrite"),
        (("h/none", "box:/tmp"), "no such file"),
        (("h/file/", "box:/tmp"), "not a directory"),
        (("-L", "h/broken", "box:/tmp"), "no such file"),
        (("box:/c/none", "x"), "could not find|no such file"),
        (("box:/c/file/", "x"), "not a directory|could not find"),
        (("box:/c/file/.", "x"), "not a directory|could not find"),
        (("box:/c/file", "nodir/"), "no such|not a directory"),
        (("box:/c/file", "nodir/new"), "no such|not a directory|invalid output path"),
        (("box:/c/dir", "h/file"), "cannot copy"),
        (("nobox:/c/dir", "x"), "no such container"),
        (("-", "box:/c/file"), "must be a directory|not a directory"),
        (("box:/c/file", "box:/c/new"), "between containers"),
        (("h/file", "h/new"), "at least one container|must specify"),
    ],
)
def test_refused(
    cp: Cp, container: Any, tmp_path: Path, words: tuple[str, ...], message: str
) -> None:
    before = sorted(tmp_path.rglob("*"))
    said = cp(*words)
    assert said.code == 1
    assert any(part in said.text.lower() for part in message.split("|")), said.text
    assert sorted(tmp_path.rglob("*")) == before
