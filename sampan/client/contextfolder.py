"""A folder as the tar stream of a build context, without what its ``.dockerignore`` names."""

from __future__ import annotations

import os
import stat

from sampan.client import tarstream
from sampan.errors import InvalidParameter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from sampan.image.ignore import IgnoreMatcher

DEFAULT = "Dockerfile"


class Packed:
    """A folder's files as they were found, to be sent as an archive.

    ``dockerfile`` is its Dockerfile's name in the archive; ``entries`` are the files by name.
    """

    __slots__ = ("_extra", "dockerfile", "entries", "folder")

    def __init__(
        self,
        folder: str,
        entries: list[tuple[str, os.stat_result]],
        dockerfile: str,
        extra: bytes,
    ) -> None:
        self.folder, self.entries, self.dockerfile = folder, entries, dockerfile
        self._extra = extra

    @property
    def size(self) -> int:
        """Bytes in all regular files."""
        return sum(info.st_size for _, info in self.entries if stat.S_ISREG(info.st_mode))

    @property
    def chunks(self) -> Iterator[bytes]:
        """The whole archive."""
        return self.archive(self.entries)

    def archive(self, entries: Iterable[tuple[str, os.stat_result]]) -> Iterator[bytes]:
        """The archive of some of the entries, with the Dockerfile if it comes from elsewhere."""
        links = tarstream.Hardlinks()
        if self._extra:
            yield alone(self.dockerfile, self._extra)
        for name, info in entries:
            path = f"{self.folder}/{name}"
            try:
                yield from tarstream.member(path, name, info, links, owner=(0, 0))
            except PermissionError:
                raise InvalidParameter(
                    f"error checking context: no permission to read from '{path}'"
                ) from None
            except FileNotFoundError:
                continue  # Removed while the folder was read, as if it had never been there.
        yield tarstream.END


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
    entries: list[tuple[str, os.stat_result]] = []
    _scan(folder, "", ignored, entries)
    return Packed(folder, entries, name, extra)


def plain(folder: str) -> Packed:
    """A folder without a Dockerfile: a context that a Dockerfile names.

    :raises InvalidParameter: a bad pattern, or a file that cannot be read.
    """
    entries: list[tuple[str, os.stat_result]] = []
    _scan(folder, "", _ignored(folder, ""), entries)
    return Packed(folder, entries, "", b"")


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


def _ignored(folder: str, dockerfile: str) -> IgnoreMatcher | None:
    candidates = [f"{dockerfile}.dockerignore"] if dockerfile else []
    for name in (*candidates, ".dockerignore"):
        try:
            with open(os.path.join(folder, name), encoding="utf-8", errors="replace") as file:
                text = file.read()
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise InvalidParameter(f"cannot read {name}: {error.strerror}") from None
        from sampan.image.ignore import IgnoreMatcher, PatternError, read_ignore_file

        patterns = read_ignore_file(text)
        # The daemon needs these two, whatever the patterns say.
        patterns += [f"!{kept}" for kept in (dockerfile, name) if kept]
        try:
            return IgnoreMatcher(patterns)
        except PatternError as error:
            raise InvalidParameter(f"error checking context: {error} in {name}") from None
    return None


def _scan(
    folder: str,
    prefix: str,
    ignored: IgnoreMatcher | None,
    found: list[tuple[str, os.stat_result]],
) -> None:
    try:
        with os.scandir(folder) as listing:
            entries = sorted(listing, key=lambda entry: entry.name)
    except PermissionError:
        raise InvalidParameter(
            f"error checking context: no permission to read from '{folder}'"
        ) from None
    for entry in entries:
        name = prefix + entry.name
        left_out = ignored is not None and ignored.excludes(name)
        directory = entry.is_dir(follow_symlinks=False)
        if left_out and not (directory and ignored is not None and not ignored.prunes(name)):
            continue
        before = len(found)
        if not left_out:
            found.append((name, entry.stat(follow_symlinks=False)))
        if directory:
            _scan(entry.path, f"{name}/", ignored, found)
        if left_out and len(found) > before:
            # Something below is wanted: the folder comes along as it is.
            found.insert(before, (name, entry.stat(follow_symlinks=False)))
