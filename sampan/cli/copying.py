"""``cp``: files between a container and here, by the API's archive endpoints."""

from __future__ import annotations

import os
import stat
import sys

from sampan import wirejson
from sampan.cli import files
from sampan.cli.command import Command
from sampan.cli.failure import Failure
from sampan.cli.flags import Flag
from sampan.cli.units import human_size
from sampan.client import tarstream
from sampan.client.http import quote
from sampan.errors import NotFound

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

    from sampan.cli.flags import Options
    from sampan.cli.session import Session

STAT_HEADER = "x-docker-container-path-stat"
GO_DIRECTORY, GO_SYMLINK = 1 << 31, 1 << 27
"""Bits of Go's file mode, which the API sends."""


def split(text: str) -> tuple[str, str]:
    """``container:path`` in two; the container is empty for a local path.

    A path that begins with ``/`` or ``.`` is local, whatever colons it has.
    """
    if text.startswith(("/", ".")):
        return "", text
    container, colon, path = text.partition(":")
    if not colon:
        return "", text
    return container, path


def cp(session: Session, options: Options, arguments: list[str]) -> int:
    """Copy to or from a container."""
    for argument in arguments:
        if not argument:
            raise Failure("neither source nor destination can be empty")
    source_container, source = split(arguments[0])
    target_container, target = split(arguments[1])
    if source_container and target_container:
        raise Failure("copying between containers is not supported")
    if source_container:
        return _from_container(session, options, source_container, source, target)
    if target_container:
        return _to_container(session, options, source, target_container, target)
    raise Failure("must specify at least one container source")


def _stat(session: Session, container: str, path: str) -> dict[str, Any]:
    headers = session.api.head(f"/containers/{quote(container)}/archive", {"path": path})
    return _stat_of(headers)


def _stat_of(headers: dict[str, str]) -> dict[str, Any]:
    from binascii import a2b_base64

    found: dict[str, Any] = wirejson.loads(a2b_base64(headers[STAT_HEADER]))
    return found


def _link_target(path: str, found: dict[str, Any]) -> str:
    target = str(found["linkTarget"])
    return target if target.startswith("/") else os.path.join(os.path.dirname(path), target)


def base_of(path: str) -> str:
    """The last name of a path, ``/`` for the root and ``.`` for nothing."""
    stripped = path.rstrip("/")
    if not stripped:
        return "/" if path else "."
    return stripped.rpartition("/")[2]


def wants_contents(path: str) -> bool:
    """Whether a path means what is in a directory, and not the directory: ``dir/.``."""
    return path in (".", "./") or path.endswith(("/.", "/./"))


# From a container.


def _from_container(
    session: Session, options: Options, container: str, source: str, target: str
) -> int:
    if options["follow-link"]:
        found = _stat(session, container, source)
        if found["mode"] & GO_SYMLINK:
            source = _link_target(source, found)
    if target != "-":
        parent = os.path.dirname(os.path.abspath(target)) if not os.path.isdir(target) else target
        if not os.path.isdir(parent):
            raise Failure(f'invalid output path: directory "{parent}" does not exist')
    response = session.api.open("GET", f"/containers/{quote(container)}/archive", {"path": source})
    found = _stat_of(response.headers)
    counted = _Counted(response.chunks())
    if target == "-":
        if sys.stdout.isatty():
            raise Failure(
                "cowardly refusing to write an archive to a terminal. Redirect the output"
            )
        files.save_stream(counted, "")
        return 0
    _extract(counted, found, source, target, keep_owner=options["archive"])
    _report(options, counted.bytes, os.path.abspath(target))
    return 0


class _Counted:
    """Chunks, and how many bytes they were."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = chunks
        self.bytes = 0

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._chunks:
            self.bytes += len(chunk)
            yield chunk


def _report(options: Options, size: int, target: str) -> None:
    if not options["quiet"] and sys.stderr.isatty():
        sys.stderr.write(f"Successfully copied {human_size(size, 3)} to {target}\n")


def _extract(
    chunks: Iterable[bytes], found: dict[str, Any], source: str, target: str, *, keep_owner: bool
) -> None:
    """Unpack what came as ``source`` to ``target``, by the rules of ``cp``.

    The container may be hostile: a member that would land outside of the target, directly or by a
    link of the archive itself, is refused.
    """
    import tarfile
    from copy import copy

    from sampan.cli.untar import unpack

    directory = bool(found["mode"] & GO_DIRECTORY)
    folder, name = _landing(source, target, directory)
    top = str(found["name"]).strip("/")

    def place(item: tarfile.TarInfo) -> tarfile.TarInfo | None:
        first, _, rest = item.name.strip("/").partition("/")
        renamed = rest if first in (top, ".") or not top else item.name
        if first not in (top, ".") and top:
            raise Failure(f"the archive holds {item.name!r}, which is not below {top!r}")
        path_in = f"{name}/{renamed}" if name and renamed else name or renamed
        if not path_in:
            return None
        item = copy(item)
        item.name = path_in
        if item.islnk():
            first, _, rest = item.linkname.strip("/").partition("/")
            item.linkname = f"{name}/{rest}" if name else rest
        if not keep_owner:
            item.uid, item.gid = os.getuid(), os.getgid()
        return item

    try:
        unpack(chunks, folder, place)
    except (tarfile.TarError, OSError) as error:
        raise Failure(f"cannot copy to {target}: {error}") from None


def _landing(source: str, target: str, directory: bool) -> tuple[str, str]:
    """The existing folder to unpack in, and the name that the top member takes (empty: none)."""
    slash = target.endswith(("/", "/."))
    if os.path.isdir(target):
        if directory and wants_contents(source):
            return target, ""
        return target, base_of(source) if not wants_contents(source) else ""
    if os.path.lexists(target):
        if directory:
            raise Failure(f'cannot copy a directory to a file: "{target}"')
        if slash:
            raise Failure(f'not a directory: "{target}"')
    elif slash and not directory:
        raise Failure(f'no such directory: "{target}"')
    path = os.path.abspath(target)
    return os.path.dirname(path), os.path.basename(path)


# To a container.


def _to_container(
    session: Session, options: Options, source: str, container: str, target: str
) -> int:
    if not target:
        raise Failure("the destination path must not be empty")
    path = target if target.startswith("/") else f"/{target}"
    found: dict[str, Any] | None
    try:
        found = _stat(session, container, path)
        if found["mode"] & GO_SYMLINK:
            path = _link_target(path, found)
            found = _stat(session, container, path)
    except NotFound as error:
        if "container" in str(error).lower() and "file" not in str(error).lower():
            raise
        found = None
    query: dict[str, object] = {
        "noOverwriteDirNonDir": "true",
        "copyUIDGID": "true" if options["archive"] else None,
    }
    if source == "-":
        if found is not None and not found["mode"] & GO_DIRECTORY:
            raise Failure(f'destination "{container}:{target}" must be a directory')
        body = _Counted(files.read_chunks(sys.stdin.buffer))
        query["path"] = path
    else:
        folder, name = _remote_landing(source, path, found, options["follow-link"])
        query["path"] = folder
        body = _Counted(_packed(source, name, follow=options["follow-link"]))
    response = session.api.open(
        "PUT",
        f"/containers/{quote(container)}/archive",
        query,
        body=body,
        headers={"Content-Type": "application/x-tar"},
    )
    response.read()
    _report(options, body.bytes, f"{container}:{target}")
    return 0


def _remote_landing(
    source: str, path: str, found: dict[str, Any] | None, follow: bool
) -> tuple[str, str]:
    """The folder in the container to unpack in, and the name that the source takes there."""
    if not os.path.lexists(source):
        plain = os.path.lexists(source.rstrip("/"))
        why = "not a directory" if plain else "no such file or directory"
        raise Failure(f"lstat {os.path.abspath(source)}: {why}")
    directory = os.path.isdir(source) and (follow or not os.path.islink(source.rstrip("/")))
    if source.endswith("/") and not os.path.isdir(source):
        raise Failure(f'not a directory: "{source}"')
    if found is not None and found["mode"] & GO_DIRECTORY:
        return path, "" if wants_contents(source) else base_of(os.path.abspath(source))
    if found is not None and directory:
        raise Failure(f'cannot copy a directory to a file: "{path}"')
    if found is None and path.endswith("/") and not directory:
        raise Failure(f'no such directory: "{path}"')
    stripped = path.rstrip("/")
    return os.path.dirname(stripped) or "/", base_of(stripped)


def _packed(source: str, name: str, *, follow: bool) -> Iterator[bytes]:
    path = source
    if follow or wants_contents(source) or source.endswith("/"):
        path = os.path.realpath(source)
    links = tarstream.Hardlinks()
    if name:
        yield from tarstream.tree(path, name, links)
    elif stat.S_ISDIR(os.lstat(path).st_mode):
        for entry in sorted(os.listdir(path)):
            yield from tarstream.tree(f"{path}/{entry}", entry, links)
    yield tarstream.END


CP = Command(
    "[OPTIONS] CONTAINER:SRC_PATH DEST_PATH|-\n"
    "        sampan cp [OPTIONS] SRC_PATH|- CONTAINER:DEST_PATH",
    "Copy files/folders between a container and the local filesystem\n\n"
    "Use '-' as the source to read a tar archive from stdin\n"
    "and extract it to a directory destination in a container.\n"
    "Use '-' as the destination to stream a tar archive of a\n"
    "container source to stdout.",
    cp,
    (
        Flag("archive", "", "Archive mode (copy all uid/gid information)", "a"),
        Flag("follow-link", "", "Always follow symbol link in SRC_PATH", "L"),
        Flag(
            "quiet",
            "",
            "Suppress progress output during copy. Progress output is automatically suppressed "
            "if no terminal is attached",
            "q",
        ),
    ),
    least=2,
    most=2,
)
