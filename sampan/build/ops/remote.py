"""Sources outside: files over HTTP(S) and Git repositories, fetched into temporary folders."""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import hashlib
import os
import posixpath
import re
import shutil
from pathlib import Path
from urllib.parse import unquote, urlsplit

import aiohttp

from sampan.build.graph.ops import Source
from sampan.errors import InvalidParameter, Unavailable

_GIT_TIMEOUT = 600
SAFE_GIT = (
    "-c",
    "core.hooksPath=/dev/null",
    "-c",
    "core.fsmonitor=",
    "-c",
    "protocol.ext.allow=never",
)
"""Options of git: what a repository brings is not run, and no command is taken for an address."""


class Remote:
    """Fetches the remote sources of one build below ``directory``; :meth:`close` removes them."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._folders: dict[str, Path] = {}

    def folder(self, name: str) -> Path | None:
        """Where a fetched source lies."""
        return self._folders.get(name)

    def empty(self) -> Path:
        """An empty directory."""
        path = self._directory / "empty"
        path.mkdir(parents=True, exist_ok=True)
        return path

    def close(self) -> None:
        shutil.rmtree(self._directory, ignore_errors=True)

    async def fetch(self, op: Source) -> str:
        """Fetch a source; returns the name that :meth:`folder` knows it by.

        Raises InvalidParameter for what does not exist or has another checksum, Unavailable for
        a server that cannot be reached.
        """
        name = hashlib.sha256(repr((op.identifier, op.attrs)).encode()).hexdigest()
        target = self._directory / name
        target.mkdir(parents=True)
        if op.scheme == "git":
            await self._git(op, target)
        else:
            await self._http(op, target)
        self._folders[name] = target
        return name

    async def _http(self, op: Source, target: Path) -> None:
        filename = posixpath.basename(unquote(op.attr("filename"))) or "index.html"
        path = target / filename
        state = hashlib.sha256()
        try:
            async with (
                aiohttp.ClientSession(trust_env=True) as session,
                session.get(op.identifier, timeout=aiohttp.ClientTimeout(sock_read=60)) as answer,
            ):
                if answer.status >= 400:
                    raise InvalidParameter(
                        f"invalid response status {answer.status} for {op.identifier}"
                    )
                with path.open("wb") as out:
                    async for chunk in answer.content.iter_chunked(1 << 18):
                        state.update(chunk)
                        await asyncio.to_thread(out.write, chunk)
                modified = answer.headers.get("Last-Modified", "")
        except (aiohttp.ClientError, TimeoutError) as error:
            raise Unavailable(f"failed to load {op.identifier}: {error}") from None
        path.chmod(0o600)
        with contextlib.suppress(TypeError, ValueError):
            when = email.utils.parsedate_to_datetime(modified).timestamp()
            os.utime(path, (when, when))
        wanted = op.attr("checksum")
        if wanted and wanted != f"sha256:{state.hexdigest()}":
            raise InvalidParameter(
                f"digest mismatch for {op.identifier}: sha256:{state.hexdigest()}, not {wanted}"
            )

    async def _git(self, op: Source, target: Path) -> None:
        url, ref, subdir = parse_git_url(op.identifier.removeprefix("git://"))
        await clone(url, ref, target, checksum=op.attr("checksum"))
        if op.attr("keep-git-dir") != "true":
            shutil.rmtree(target / ".git", ignore_errors=True)
        if subdir:
            inner = (target / subdir).resolve()
            if not inner.is_relative_to(target.resolve()) or not inner.is_dir():
                raise InvalidParameter(f"the repository {url} has no folder {subdir!r}")
            moved = target.with_name(target.name + "-sub")
            inner.rename(moved)
            shutil.rmtree(target)
            moved.rename(target)


def parse_git_url(text: str) -> tuple[str, str, str]:
    """``URL#REF:SUBDIR`` as its three parts; ``github.com/…`` gets its scheme."""
    url, _, fragment = text.partition("#")
    ref, _, subdir = fragment.partition(":")
    if url.startswith("github.com/"):
        url = "https://" + url
    return url, ref, subdir.strip("/")


async def clone(url: str, ref: str, target: Path, *, checksum: str = "") -> str:
    """Check out ``ref`` (branch, tag or commit) of ``url`` with its submodules into ``target``.

    Returns the commit.  Raises InvalidParameter, or Unavailable when git is not installed.
    """
    if url.startswith("-") or ref.startswith("-"):
        raise InvalidParameter(f"invalid repository {url!r} or reference {ref!r}")
    if re.match(r"^[\w+.-]+://", url) and urlsplit(url).scheme not in (
        "https",
        "http",
        "ssh",
        "git",
        "file",
    ):
        raise InvalidParameter(f"unsupported scheme of the repository {url}")
    await _git(target, "init", "-q", ".")
    await _git(target, "remote", "add", "origin", url)
    wanted = ref or "HEAD"
    head = "FETCH_HEAD"
    try:
        await _git(target, "fetch", "-q", "--depth=1", "origin", wanted)
    except InvalidParameter:
        # Some servers cannot send a part of the history, some refuse a bare commit.
        try:
            await _git(target, "fetch", "-q", "origin", wanted)
        except InvalidParameter:
            await _git(target, "fetch", "-q", "origin", "+refs/heads/*:refs/remotes/origin/*")
            head = wanted
    await _git(target, "checkout", "-q", head)
    commit = (await _git(target, "rev-parse", "HEAD")).strip()
    if checksum and not commit.startswith(checksum):
        raise InvalidParameter(f"commit mismatch for {url}: {commit}, not {checksum}")
    if (target / ".gitmodules").exists():
        await _git(target, "submodule", "update", "-q", "--init", "--recursive", "--depth=1")
    return commit


async def _git(directory: Path, *args: str) -> str:
    environment = {
        **os.environ,
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": "/dev/null",
    }
    try:
        process = await asyncio.create_subprocess_exec(
            "git",
            *SAFE_GIT,
            *args,
            cwd=directory,
            env=environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
    except FileNotFoundError:
        raise Unavailable("git is not installed: it is needed for Git sources") from None
    try:
        out, errors = await asyncio.wait_for(process.communicate(), _GIT_TIMEOUT)
    except BaseException:
        if process.returncode is None:
            process.kill()
            await process.wait()
        raise
    if process.returncode:
        message = errors.decode(errors="replace").strip().splitlines()
        raise InvalidParameter(f"git {args[0]}: {message[-1] if message else 'failed'}")
    return out.decode(errors="replace")
