"""What a build sends: a folder, standard input, a URL or a Git repository as a tar stream."""

from __future__ import annotations

import os
import sys

from sampan.cli import files
from sampan.cli.failure import Failure
from sampan.client import contextfolder, tarstream

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_ARCHIVES = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd")
_USTAR_AT = 257


class Context:
    """The body of a build request, and where in it the Dockerfile is.

    ``source`` is the address that it comes from, ``commit`` the one of a Git repository.
    """

    __slots__ = ("chunks", "commit", "dockerfile", "packed", "source")

    def __init__(
        self,
        chunks: Iterable[bytes],
        dockerfile: str,
        packed: contextfolder.Packed | None = None,
        *,
        source: str = "",
        commit: str = "",
    ) -> None:
        self.chunks, self.dockerfile, self.packed = chunks, dockerfile, packed
        self.source, self.commit = source, commit


def from_argument(argument: str, file: str, *, keep_git: bool = False) -> Context:
    """The context for ``build ARGUMENT`` with ``--file FILE`` (empty if not given).  ``keep_git``
    keeps the own folder of a Git repository (``.git``) in it.

    :raises Failure: no such folder or file, or one that cannot be fetched.
    """
    if argument == "-":
        if file == "-":
            raise Failure("invalid argument: can't use stdin for both build context and dockerfile")
        return _from_stream(files.read_chunks(sys.stdin.buffer), file)
    if os.path.isdir(argument):
        return from_folder(argument, file)
    if is_git(argument):
        return _from_git(argument, file, keep_git)
    if argument.startswith(("http://", "https://")):
        return _from_url(argument, file)
    raise Failure(f'unable to prepare context: path "{argument}" not found')


# A stream: an archive, or a Dockerfile alone.


def _from_stream(chunks: Iterator[bytes], file: str) -> Context:
    first = b""
    for chunk in chunks:
        first += chunk
        if len(first) >= tarstream.BLOCK:
            break
    if first.startswith(_ARCHIVES) or first[_USTAR_AT : _USTAR_AT + 5] == b"ustar":
        return Context(_joined(first, chunks), file or contextfolder.DEFAULT)
    if file:
        raise Failure("ambiguous Dockerfile source: both stdin and flag correspond to Dockerfiles")
    text = b"".join(_joined(first, chunks))
    if not text.strip():
        raise Failure("unable to prepare context: the Dockerfile on standard input is empty")
    return Context(
        [contextfolder.alone(contextfolder.DEFAULT, text), tarstream.END], contextfolder.DEFAULT
    )


def _joined(first: bytes, rest: Iterable[bytes]) -> Iterator[bytes]:
    yield first
    yield from rest


# A folder.


def from_folder(folder: str, file: str) -> Context:
    """A local folder, without what its ``.dockerignore`` names."""
    given = sys.stdin.buffer.read() if file == "-" else None
    packed = contextfolder.packed(folder, "" if file == "-" else file, dockerfile_text=given)
    return Context(packed.chunks, packed.dockerfile, packed)


# Elsewhere.


def is_git(argument: str) -> bool:
    """Whether a context argument names a Git repository."""
    if argument.startswith(("git://", "git@", "github.com/", "ssh://git@")):
        return True
    url = argument.partition("#")[0]
    return argument.startswith(("http://", "https://")) and url.endswith(".git")


def _from_url(url: str, file: str) -> Context:
    from urllib.error import URLError
    from urllib.request import urlopen

    try:
        answer = urlopen(url)
    except (URLError, ValueError) as error:
        raise Failure(f"unable to prepare context: unable to download {url}: {error}") from None
    context = _from_stream(files.read_chunks(answer), file)
    context.source = url
    return context


def _from_git(argument: str, file: str, keep_git: bool) -> Context:
    import subprocess
    import tempfile

    url, _, fragment = argument.partition("#")
    ref, _, below = fragment.partition(":")
    if url.startswith("github.com/"):
        url = f"https://{url}"
    holder = tempfile.TemporaryDirectory(prefix="sampan-git-")
    folder = holder.name

    def git(*words: str) -> str:
        command = ["git", "-C", folder, *words]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except FileNotFoundError:
            raise Failure(
                "unable to prepare context: a Git repository needs the program git "
                "(Debian package git)"
            ) from None
        if done.returncode:
            raise Failure(
                f"unable to prepare context: unable to fetch {url}: {done.stderr.strip()}"
            )
        return done.stdout.strip()

    git("init", "-q")
    try:
        git("fetch", "-q", "--depth=1", "--", url, ref or "HEAD")
    except Failure as failure:
        if "shallow" not in str(failure):
            raise
        # A server of mere files cannot cut the history off.
        git("fetch", "-q", "--", url, ref or "HEAD")
    git("checkout", "-q", "--detach", "FETCH_HEAD")
    if os.path.exists(f"{folder}/.gitmodules"):
        git("submodule", "update", "-q", "--init", "--recursive")
    commit = git("rev-parse", "HEAD")
    if not keep_git:
        _forget_git(folder)
    root = os.path.realpath(folder)
    inside = os.path.realpath(os.path.join(folder, below.lstrip("/")))
    if inside != root and not inside.startswith(f"{root}/"):
        raise Failure(f"unable to prepare context: {below} leads out of the repository")
    if not os.path.isdir(inside):
        raise Failure(f'unable to prepare context: path "{below}" not found in the repository')
    context = from_folder(inside, os.path.join(inside, file) if file else "")
    return Context(
        _held(holder, context.chunks), context.dockerfile, source=argument, commit=commit
    )


def _forget_git(folder: str) -> None:
    """Remove what Git has beside the files: folders named ``.git``, and files of submodules."""
    import shutil

    for top, folders, names in os.walk(folder):
        if ".git" in names:
            os.unlink(f"{top}/.git")
        if ".git" in folders:
            folders.remove(".git")
            shutil.rmtree(f"{top}/.git", ignore_errors=True)


def _held(holder: object, chunks: Iterable[bytes]) -> Iterator[bytes]:
    """``chunks``, keeping the folder that they come from until they end."""
    yield from chunks
    del holder
