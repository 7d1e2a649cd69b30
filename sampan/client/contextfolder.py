"""A folder as the tar stream of a build context, without what its ``.dockerignore`` names."""

from __future__ import annotations

import os
import stat

from sampan.client import tarstream
from sampan.errors import InvalidParameter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from sampan.client.dockerignore import Matcher

DEFAULT = "Dockerfile"


class Packed:
    """The archive, as it is produced, and the Dockerfile's name in it."""

    __slots__ = ("chunks", "dockerfile")

    def __init__(self, chunks: Iterator[bytes], dockerfile: str) -> None:
        self.chunks, self.dockerfile = chunks, dockerfile


def packed(folder: str, file: str = "", *, dockerfile_text: bytes | None = None) -> Packed:
    """``folder`` as a context whose Dockerfile is the path ``file`` (default: its own).

    A Dockerfile that lies outside, or is given as ``dockerfile_text``, goes along under a name
    of its own.

    :raises InvalidParameter: no such Dockerfile, a bad pattern, or a file that cannot be read.
    """
    extra = b""
    if dockerfile_text is not None:
        extra = dockerfile_text
        name = f".dockerfile.{os.urandom(8).hex()}"
    else:
        path = file or os.path.join(folder, DEFAULT)
        name, extra = _dockerfile(folder, path, given=bool(file))
    ignored = _ignored(folder, "" if extra else name)
    return Packed(_walk(folder, ignored, name, extra), name)


def alone(name: str, data: bytes) -> bytes:
    """A member that holds ``data``."""
    head = tarstream.header(os.fsencode(name), 0o600, size=len(data))
    return head + data + tarstream.padding(len(data))


def _dockerfile(folder: str, path: str, *, given: bool) -> tuple[str, bytes]:
    """The Dockerfile's name in the context; its contents, too, when it lies outside."""
    if not os.path.lexists(path):
        what = os.path.abspath(path)
        raise InvalidParameter(
            "unable to prepare context: unable to evaluate symlinks in Dockerfile path: "
            f"lstat {what}: no such file or directory"
        )
    if os.path.isdir(path):
        raise InvalidParameter(
            f"unable to prepare context: {path} is a directory, not a Dockerfile"
        )
    root = os.path.realpath(folder)
    inside = os.path.relpath(os.path.realpath(path), root)
    if not inside.startswith("../"):
        return inside, b""
    if not given:
        raise InvalidParameter(
            f'unable to prepare context: the Dockerfile "{path}" leads out of the context'
        )
    with open(path, "rb") as file:
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
            raise InvalidParameter(f"cannot read {name}: {error.strerror}") from None
        from sampan.client.dockerignore import BadPattern, Matcher, read

        patterns = read(text)
        # The daemon needs these two, whatever the patterns say.
        patterns += [f"!{kept}" for kept in (dockerfile, name) if kept]
        try:
            return Matcher(patterns)
        except BadPattern as error:
            raise InvalidParameter(f"error checking context: {error} in {name}") from None
    return None


def _walk(folder: str, ignored: Matcher | None, name: str, extra: bytes) -> Iterator[bytes]:
    links = tarstream.Hardlinks()
    if extra:
        yield alone(name, extra)
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
                raise InvalidParameter(
                    f"error checking context: no permission to read from '{path}'"
                ) from None
        if directory:
            yield from _below(path, f"{name}/", ignored, links)
