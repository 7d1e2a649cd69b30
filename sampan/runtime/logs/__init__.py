"""A container's kept output: the keeper writes, the daemon reads.

An *entry* is one line of one stream (or a part of a line longer than 16 KiB, *partial*), with the
time at which it was read.  Files rotate by rename: ``log``, ``log.1``, ``log.2`` …
Import the reader from :mod:`sampan.runtime.logs.reader`, the writer from
:mod:`sampan.runtime.logs.writer`; the keeper must not load the reader.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sampan.runtime.logs.decode import Entry
    from sampan.runtime.logs.reader import read

__all__ = ["Entry", "read"]


def __getattr__(name: str) -> Any:
    if name == "Entry":
        from sampan.runtime.logs.decode import Entry

        return Entry
    if name == "read":
        from sampan.runtime.logs.reader import read

        return read
    raise AttributeError(name)
