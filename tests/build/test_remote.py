"""ADD of URLs and of Git repositories, from a server on the loopback."""

from __future__ import annotations

import functools
import hashlib
import http.server
import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from build_workshop import Workshop

from sampan.build.ops.remote import parse_git_url
from sampan.errors import InvalidParameter, Unavailable


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """Serves a folder; yields its URL and path."""
    root = tmp_path / "served"
    root.mkdir()
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(root))
    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=httpd.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{httpd.server_port}", root
    finally:
        httpd.shutdown()
        httpd.server_close()
        thread.join()


def git(directory: Path, *args: str) -> str:
    environment = {
        **os.environ,
        "GIT_CONFIG_GLOBAL": "/dev/null",
        "GIT_AUTHOR_NAME": "a",
        "GIT_AUTHOR_EMAIL": "a@b",
        "GIT_COMMITTER_NAME": "a",
        "GIT_COMMITTER_EMAIL": "a@b",
    }
    done = subprocess.run(
        ["git", *args], cwd=directory, env=environment, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


async def test_add_url(workshop: Workshop, server: tuple[str, Path]) -> None:
    url, root = server
    (root / "file.txt").write_text("remote")
    digest = hashlib.sha256(b"remote").hexdigest()
    text = (
        f"FROM busybox\nADD {url}/file.txt /into/\nADD --chmod=644 {url}/file.txt?x=1 /named\n"
        f"ADD --checksum=sha256:{digest} {url}/file.txt /checked\n"
    )
    result = await workshop.build(text)
    assert await workshop.read(result, "/into/file.txt") == "remote"
    assert (await workshop.stat(result, "/into/file.txt")).st_mode & 0o777 == 0o600
    assert (await workshop.stat(result, "/named")).st_mode & 0o777 == 0o644
    again = await workshop.build(text)
    assert again.image_id == result.image_id
    with pytest.raises(InvalidParameter, match="digest mismatch"):
        await workshop.build(f"FROM busybox\nADD --checksum=sha256:{'0' * 64} {url}/file.txt /x\n")
    with pytest.raises(InvalidParameter, match="404"):
        await workshop.build(f"FROM busybox\nADD {url}/missing /x\n")
    with pytest.raises(Unavailable, match="failed to load"):
        await workshop.build("FROM busybox\nADD http://127.0.0.1:1/x /x\n")


async def test_add_git(workshop: Workshop, server: tuple[str, Path], tmp_path: Path) -> None:
    url, root = server
    work = tmp_path / "work"
    work.mkdir()
    git(work, "init", "-q", "-b", "main")
    (work / "sub").mkdir()
    (work / "sub/file").write_text("one")
    (work / "top").write_text("top")
    git(work, "add", ".")
    git(work, "commit", "-qm", "first")
    git(work, "tag", "v1")
    (work / "sub/file").write_text("two")
    git(work, "commit", "-qam", "second")
    git(tmp_path, "clone", "-q", "--bare", str(work), str(root / "repo.git"))
    git(root / "repo.git", "update-server-info")
    result = await workshop.build(
        f"""
FROM busybox
ADD {url}/repo.git /all
ADD {url}/repo.git#v1:sub /sub
ADD --keep-git-dir=true {url}/repo.git#main /kept
"""
    )
    assert await workshop.read(result, "/all/sub/file") == "two"
    assert await workshop.read(result, "/sub/file") == "one"
    assert await workshop.read(result, "/kept/.git/HEAD")
    with pytest.raises(FileNotFoundError):
        await workshop.read(result, "/all/.git/HEAD")
    with pytest.raises(InvalidParameter, match="git"):
        await workshop.build(f"FROM busybox\nADD {url}/repo.git#nosuch /x\n")


def test_git_urls() -> None:
    assert parse_git_url("https://h/r.git#b:d/e") == ("https://h/r.git", "b", "d/e")
    assert parse_git_url("github.com/a/b") == ("https://github.com/a/b", "", "")
    assert parse_git_url("git@h:a/b.git#:d") == ("git@h:a/b.git", "", "d")
