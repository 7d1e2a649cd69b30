"""The build context: a tar stream made into a directory, safely."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

from sampan.build.dockerfile.ignore import IgnoreMatcher, PatternError, read_ignore_file
from sampan.build.ops import unpack
from sampan.build.ops.checksum import DIGESTS
from sampan.build.ops.tree import NOTHING, folder
from sampan.errors import InvalidParameter


def extract(stream: BinaryIO, dest: Path) -> int:
    """Extract the (possibly compressed) tar ``stream`` into the empty directory ``dest``.

    Every path is resolved below ``dest``.  The digests of the files are remembered on the way, so
    that their checksums need no second reading.  Returns the bytes of file contents written.
    Raises :class:`sampan.errors.InvalidParameter` for something that is not a tar, or for a member
    that would land outside ``dest``, and DiskFull.  Blocking: call it in a thread.
    """
    head = stream.read(512)
    with folder(dest) as tree:
        return unpack.extract(
            unpack.decompressed(stream, head), tree, owner=(0, 0), digests=DIGESTS
        )


def ignore_patterns(context: Path, dockerfile: str) -> IgnoreMatcher:
    """The patterns of ``DOCKERFILE.dockerignore`` or else ``.dockerignore``.

    Raises InvalidParameter for a malformed pattern.
    """
    with folder(context) as tree:
        for name in (f"{dockerfile}.dockerignore", ".dockerignore"):
            data = tree.read("/" + name)
            if data:
                break
        else:
            return NOTHING
    try:
        return IgnoreMatcher(read_ignore_file(data.decode(errors="surrogateescape")))
    except PatternError as error:
        raise InvalidParameter(f"{name}: {error}") from None
