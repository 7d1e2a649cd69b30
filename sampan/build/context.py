"""The build context: a tar stream made into a directory, safely, and checksums of its files."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO


def extract(stream: BinaryIO, dest: Path) -> int:
    """Extract the (possibly compressed) tar ``stream`` into the empty directory ``dest``.

    Returns the bytes of file contents written.  Raises :class:`sampan.errors.InvalidParameter`
    for something that is not a tar, or for a member that would land outside ``dest``.  Blocking:
    call it in a thread.
    """
    raise NotImplementedError
