"""What a build sends: a folder, standard input, a URL or a Git repository as a tar stream."""

from __future__ import annotations

import os
import stat
import sys

from sampan.cli import files, tarstream
from sampan.cli.failure import Failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from sampan.cli.dockerignore import Matcher

DEFAULT = "Dockerfile"
_ARCHIVES = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd")
_USTAR_AT = 257


class Context:
    """The body of a build request, and where in it the Dockerfile is."""

    __slots__ = ("chunks", "dockerfile")

    def __init__(self, chunks: Iterable[bytes], dockerfile: str) -> None:
        self.chunks, self.dockerfile = chunks, dockerfile


def from_argument(argument: str, file: str) -> Context:
    """The context for ``build ARGUMENT`` with ``--file FILE`` (empty if not given).

    :raises Failure: no such folder or file, or one that cannot be fetched.
    """
    if argument == "-":
        if file == "-":
            raise Failure("invalid argument: can't use stdin for both build context and dockerfile")
        return _from_stream(files.read_chunks(sys.stdin.buffer), file)
    if os.path.isdir(argument):
        return from_folder(argument, file)
    if is_git(argument):
        return _from_git(argument, file)
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
        return Context(_joined(first, chunks), file or DEFAULT)
    if file:
        raise Failure("ambiguous Dockerfile source: both stdin and flag correspond to Dockerfiles")
    text = b"".join(_joined(first, chunks))
    if not text.strip():
        raise Failure("unable to prepare context: the Dockerfile on standard input is empty")
    return Context([_alone(DEFAULT, text), tarstream.END], DEFAULT)


def _joined(first: bytes, rest: Iterable[bytes]) -> Iterator[bytes]:
    yield first
    yield from rest


def _alone(name: str, data: bytes) -> bytes:
    head = tarstream.header(os.fsencode(name), 0o600, size=len(data))
    return head + data + tarstream.padding(len(data))


# A folder.


def from_folder(folder: str, file: str) -> Context:
    """A local folder, without what its ``.dockerignore`` names."""
    extra = b""
    if file == "-":
        extra = sys.stdin.buffer.read()
        name = f".dockerfile.{os.urandom(8).hex()}"
    else:
        path = file or os.path.join(folder, DEFAULT)
        name, extra = _dockerfile(folder, path, given=bool(file))
    ignored = _ignored(folder, "" if extra else name)
    return Context(_walk(folder, ignored, name, extra), name)


def _dockerfile(folder: str, path: str, *, given: bool) -> tuple[str, bytes]:
    """The Dockerfile's name in the context; its contents, too, when it lies outside."""
    if not os.path.lexists(path):
        what = os.path.abspath(path)
        raise Failure(
            "unable to prepare context: unable to evaluate symlinks in Dockerfile path: "
            f"lstat {what}: no such file or directory"
        )
    if os.path.isdir(path):
        raise Failure(f"unable to prepare context: {path} is a directory, not a Dockerfile")
    root = os.path.realpath(folder)
    inside = os.path.relpath(os.path.realpath(path), root)
    if not inside.startswith("../"):
        return inside, b""
    if not given:
        raise Failure(
            f'unable to prepare context: the Dockerfile "{path}" leads out of the context'
        )
    with files.open_input(path) as file:
        return f".dockerfile.{os.urandom(8).hex()}", file.read()


def _ignored(folder: str, dockerfile: str) -> Matcher | None:
    candidates = [f"{dockerfile}.dockerignore"] if dockerfile else []
    for name in (*candidates, ".dockerignore"):
        try:
            with open(os.path.join(folder, name), encoding="utf-8", errors="replace") as file:
                text = file.read()
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise Failure(f"cannot read {name}: {error.strerror}") from None
        from sampan.cli.dockerignore import BadPattern, Matcher, read

        patterns = read(text)
        # The daemon needs these two, whatever the patterns say.
        patterns += [f"!{kept}" for kept in (dockerfile, name) if kept]
        try:
            return Matcher(patterns)
        except BadPattern as error:
            raise Failure(f"error checking context: {error} in {name}") from None
    return None


def _walk(folder: str, ignored: Matcher | None, name: str, extra: bytes) -> Iterator[bytes]:
    links = tarstream.Hardlinks()
    if extra:
        yield _alone(name, extra)
    yield from _below(folder, "", ignored, links)
    yield tarstream.END


def _below(
    folder: str, prefix: str, ignored: Matcher | None, links: tarstream.Hardlinks
) -> Iterator[bytes]:
    for entry in sorted(os.listdir(folder)):
        path, name = f"{folder}/{entry}", f"{prefix}{entry}"
        left_out = ignored is not None and ignored.excluded(name)
        info = os.lstat(path)
        directory = stat.S_ISDIR(info.st_mode)
        if left_out and not (
            directory and ignored is not None and ignored.may_hold_exceptions(name)
        ):
            continue
        if not left_out:
            try:
                yield from tarstream.member(path, name, info, links, owner=(0, 0))
            except PermissionError:
                raise Failure(
                    f"error checking context: no permission to read from '{path}'"
                ) from None
        if directory:
            yield from _below(path, f"{name}/", ignored, links)


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
    return _from_stream(files.read_chunks(answer), file)


def _from_git(argument: str, file: str) -> Context:
    import subprocess
    import tempfile

    url, _, fragment = argument.partition("#")
    ref, _, below = fragment.partition(":")
    if url.startswith("github.com/"):
        url = f"https://{url}"
    holder = tempfile.TemporaryDirectory(prefix="sampan-git-")
    folder = holder.name
    steps = [
        ["git", "init", "-q", folder],
        ["git", "-C", folder, "fetch", "-q", "--depth", "1", "--", url, ref or "HEAD"],
        ["git", "-C", folder, "checkout", "-q", "--detach", "FETCH_HEAD"],
    ]
    for step in steps:
        try:
            done = subprocess.run(step, capture_output=True, text=True, check=False)
        except FileNotFoundError:
            raise Failure(
                "unable to prepare context: a Git repository needs the program git "
                "(Debian package git)"
            ) from None
        if done.returncode:
            raise Failure(
                f"unable to prepare context: unable to fetch {url}: {done.stderr.strip()}"
            )
    root = os.path.realpath(folder)
    inside = os.path.realpath(os.path.join(folder, below.lstrip("/")))
    if inside != root and not inside.startswith(f"{root}/"):
        raise Failure(f"unable to prepare context: {below} leads out of the repository")
    if not os.path.isdir(inside):
        raise Failure(f'unable to prepare context: path "{below}" not found in the repository')
    context = from_folder(inside, os.path.join(inside, file) if file else "")
    return Context(_held(holder, context.chunks), context.dockerfile)


def _held(holder: object, chunks: Iterable[bytes]) -> Iterator[bytes]:
    """``chunks``, keeping the folder that they come from until they end."""
    yield from chunks
    del holder
