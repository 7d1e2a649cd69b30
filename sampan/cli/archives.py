"""``save``, ``load`` and ``import``: images as tar archives."""

from __future__ import annotations

import sys

from sampan.cli import files, progress
from sampan.cli.command import Command
from sampan.cli.failure import Failure
from sampan.cli.flags import Flag
from sampan.cli.images import platform_json, split_tag
from sampan.client.api import checked
from sampan.client.http import FileBody

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import BinaryIO

    from sampan.cli.flags import Options
    from sampan.cli.session import Session

_BLOCK = 512
_LEAST_LAYER = 1 << 15
"""Bytes below which a blob of a saved archive may be a document, and needs no bar anyway."""


def _platforms(options: Options) -> list[str] | None:
    return [platform_json(text) for text in options["platform"]] or None


def save(session: Session, options: Options, arguments: list[str]) -> int:
    """Write images to an archive."""
    if not options["output"] and sys.stdout.isatty():
        raise Failure("cowardly refusing to save to a terminal. Use the -o flag or redirect")
    query: dict[str, object] = {"names": arguments, "platform": _platforms(options)}
    response = session.api.open("GET", "/images/get", query)
    if options["output"] and sys.stderr.isatty():
        with progress.Screen(sys.stderr) as screen:
            chunks = by_layer(response.chunks(), screen)
            files.save_stream(chunks, options["output"])
        return 0
    files.save_stream(response.chunks(), options["output"])
    return 0


def by_layer(chunks: Iterable[bytes], screen: progress.Screen) -> Iterator[bytes]:
    """A saved archive as it is, with a row for each layer while it passes."""
    blobs = b"blobs/sha256/"
    head, row = b"", ""
    size = left = 0
    for chunk in chunks:
        yield chunk
        at = 0
        while at < len(chunk):
            if left:
                step = min(left, len(chunk) - at)
                left -= step
                at += step
                if row:
                    screen.update(row, "Saving", max(0, size - left), size)
                continue
            step = min(_BLOCK - len(head), len(chunk) - at)
            head += chunk[at : at + step]
            at += step
            if len(head) < _BLOCK:
                break
            size = _size(head[124:136])
            left = -(-size // _BLOCK) * _BLOCK
            layer = head.startswith(blobs) and size >= _LEAST_LAYER
            row = head[len(blobs) : len(blobs) + 12].decode("ascii", "replace") if layer else ""
            head = b""


def _size(field: bytes) -> int:
    """A tar's number: octal digits, or the bytes of a large one."""
    if field[0] & 0x80:
        return int.from_bytes(field[1:], "big")
    digits = field.strip(b"\0 ")
    return int(digits, 8) if digits.isdigit() else 0


def load(session: Session, options: Options, arguments: list[str]) -> int:
    """Read images from an archive."""
    if not options["input"] and sys.stdin.isatty():
        raise Failure("requested load from stdin, but stdin is empty")
    query: dict[str, object] = {"quiet": options["quiet"], "platform": _platforms(options)}
    source = _source(options["input"])
    screen = progress.Screen()
    with screen:
        body = _followed(source, screen, options["quiet"])
        messages = session.api.messages(
            "POST",
            "/images/load",
            query,
            body=body,
            headers={"Content-Type": "application/x-tar"},
        )
        for message in checked(messages):
            if not options["quiet"] or "stream" in message:
                progress.put(screen, message)
    return 0


def _source(path: str) -> BinaryIO:
    return sys.stdin.buffer if path in ("", "-") else files.open_input(path)


def _followed(source: BinaryIO, screen: progress.Screen, quiet: bool) -> Iterable[bytes]:
    live = screen.live and not quiet
    if not FileBody.fits(source):
        chunks = files.read_chunks(source)
        return progress.counted(chunks, screen, "Sending archive", 0) if live else chunks
    body = FileBody(source)
    if live:
        body.progress = lambda sent: screen.update("", "Sending archive", sent, body.size)
    return body


def import_(session: Session, options: Options, arguments: list[str]) -> int:
    """Make an image of one layer from an archive of a file system."""
    source = arguments[0]
    repository, tag = split_tag(arguments[1]) if len(arguments) > 1 else ("", "")
    query: dict[str, object] = {
        "fromSrc": "-",
        "repo": repository or None,
        "tag": tag or None,
        "message": options["message"] or None,
        "changes": options["change"] or None,
        "platform": options["platform"] or None,
    }
    screen = progress.Screen()
    body: Iterable[bytes] | None = None
    if source.startswith(("http://", "https://")):
        query["fromSrc"] = source
    else:
        body = _followed(_source(source), screen, quiet=False)
    with screen:
        messages = session.api.messages(
            "POST",
            "/images/create",
            query,
            body=body,
            headers={"Content-Type": "application/x-tar"},
        )
        for message in checked(messages):
            # Elsewhere than on a terminal the identifier alone is told.
            if screen.live or "id" not in message:
                progress.put(screen, message)
    return 0


SAVE = Command(
    "[OPTIONS] IMAGE [IMAGE...]",
    "Save one or more images to a tar archive (streamed to STDOUT by default)",
    save,
    (
        Flag("output", "string", "Write to a file, instead of STDOUT", "o"),
        Flag("platform", "strings", 'Save only the given platform(s) ("os/arch")'),
    ),
    least=1,
)
LOAD = Command(
    "[OPTIONS]",
    "Load an image from a tar archive or STDIN",
    load,
    (
        Flag("input", "string", "Read from tar archive file, instead of STDIN", "i"),
        Flag("platform", "strings", 'Load only the given platform(s) ("os/arch")'),
        Flag("quiet", "", "Suppress the load output", "q"),
    ),
    most=0,
)
IMPORT = Command(
    "[OPTIONS] file|URL|- [REPOSITORY[:TAG]]",
    "Import the contents from a tarball to create a filesystem image",
    import_,
    (
        Flag("change", "list", "Apply Dockerfile instruction to the created image", "c"),
        Flag("message", "string", "Set commit message for imported image", "m"),
        Flag("platform", "string", "Set platform if server is multi-platform capable"),
    ),
    least=1,
    most=2,
)
