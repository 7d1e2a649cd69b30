"""Build contexts that are somewhere else: Git repositories, and tars and Dockerfiles by HTTP."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

from sampan.build.ops.remote import SAFE_GIT
from sampan.engine.transfers import download
from sampan.errors import InvalidParameter, Unavailable
from sampan.image.compression import recognise
from sampan.progress import Progress, Report

MAX_DOCKERFILE = 16 << 20
_GIT = re.compile(r"git://|git@|ssh://|github\.com/|https?://[^#]+\.git(#|$)")
_REF = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./-]*")


def is_git(url: str) -> bool:
    """Whether the address names a Git repository."""
    return _GIT.match(url) is not None


def is_archive(head: bytes) -> bool:
    """Whether the first bytes are those of a tar, compressed or not."""
    return recognise(head) != "none" or head[257:262] == b"ustar"


async def fetch(url: str, report: Report) -> tuple[bytes, AsyncIterator[bytes]]:
    """The first bytes at an address, and all of them as a stream; nothing is reported before there
    is something.

    Raises InvalidParameter, NotFound, Unavailable.
    """
    if not url.startswith(("http://", "https://")):
        raise InvalidParameter(f"remoteURL ({url}) could not be recognized as URL")
    early: list[Progress] = []
    head = b""

    def reported(progress: Progress) -> None:
        if head:
            report(progress)
        else:
            early.append(progress)

    source = download(url, reported)
    async for chunk in source:
        head += chunk
        if len(head) >= 512:
            break
    for progress in early:
        report(progress)

    async def whole() -> AsyncIterator[bytes]:
        yield head
        async for chunk in source:
            yield chunk

    return head, whole()


async def text(stream: AsyncIterator[bytes]) -> bytes:
    """A whole Dockerfile.  Raises InvalidParameter when it is far too large to be one."""
    data = b""
    async for chunk in stream:
        data += chunk
        if len(data) > MAX_DOCKERFILE:
            raise InvalidParameter("the Dockerfile is larger than 16 MiB")
    return data


async def clone(url: str, place: Path, *, keep_git: bool = False) -> Path:
    """Check out ``URL[#REF[:DIRECTORY]]`` below ``place``; returns the context's directory.
    ``keep_git`` keeps the repository's own folder (``.git``) in it.

    Raises Unavailable (no git here, or it fails) and InvalidParameter.
    """
    if shutil.which("git") is None:
        raise Unavailable(f"cannot read {url}: git is not installed here")
    address, _, fragment = url.partition("#")
    if address.startswith("github.com/"):
        address = f"https://{address}"
    ref, _, directory = fragment.partition(":")
    if ref and not _REF.fullmatch(ref):
        raise InvalidParameter(f"invalid Git reference {ref!r}")
    if address.startswith("-") or ".." in directory.split("/") or directory.startswith("/"):
        raise InvalidParameter(f"invalid Git address {url!r}")
    await _git(place, "init", "-q")
    wanted = ("--recurse-submodules=no", "--", address, ref or "HEAD")
    try:
        await _git(place, "fetch", "-q", "--depth=1", *wanted)
    except Unavailable as error:
        if "shallow" not in str(error):
            raise
        # A server of mere files cannot cut the history off.
        await _git(place, "fetch", "-q", *wanted)
    await _git(place, "checkout", "-q", "FETCH_HEAD")
    await _submodules(place)
    if not keep_git:
        await asyncio.to_thread(_forget_git, place)
    context = place / directory
    if context.is_symlink() or not context.is_dir():
        raise InvalidParameter(f"{url}: there is no directory {directory!r} in the repository")
    return context


async def _submodules(place: Path) -> None:
    if not (place / ".gitmodules").exists():
        return
    update = ("submodule", "update", "-q", "--init", "--recursive")
    try:
        await _git(place, *update, "--depth=1")
    except Unavailable as error:
        if "shallow" not in str(error):
            raise
        await _git(place, *update)


def _forget_git(place: Path) -> None:
    """Remove what Git has beside the files: folders named ``.git``, and files of submodules."""
    for top, folders, files in os.walk(place):
        if ".git" in files:
            os.unlink(os.path.join(top, ".git"))
        if ".git" in folders:
            folders.remove(".git")
            shutil.rmtree(os.path.join(top, ".git"), ignore_errors=True)


async def _git(place: Path, *args: str) -> None:
    environment = {**os.environ, "GIT_TERMINAL_PROMPT": "0", "GIT_CONFIG_NOSYSTEM": "1"}
    process = await asyncio.create_subprocess_exec(
        "git",
        *SAFE_GIT,
        *("-c", "protocol.file.allow=never"),  # no file of this host is an address either
        "-C",
        str(place),
        *args,
        env=environment,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        _, errors = await process.communicate()
    except BaseException:
        process.kill()
        await process.wait()
        raise
    if process.returncode:
        raise Unavailable(f"git {args[0]} failed: {errors.decode(errors='replace').strip()}")
