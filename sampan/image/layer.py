"""Layer tars made from an overlay's upper directory, and the vocabulary of whiteouts.

The tar is a function of the tree alone: entries sorted by name, numeric owners, no names of users
or hosts, PAX records only where a value does not fit the plain header.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

WHITEOUT_PREFIX = b".wh."
WHITEOUT_META_PREFIX = b".wh..wh."
OPAQUE_MARKER = b".wh..wh..opq"
OVERLAY_OPAQUE = "trusted.overlay.opaque"

Kind = Literal["added", "modified", "deleted"]


@dataclass(frozen=True, slots=True)
class Change:
    """One line of ``docker diff``; ``path`` is absolute inside the root file system."""

    path: str
    kind: Kind


def write_diff(upper: Path, out: BinaryIO, *, clamp_mtime: int | None = None) -> int:
    """Write the layer tar of an overlay's upper directory to ``out``.

    ``clamp_mtime`` (seconds since the epoch; SOURCE_DATE_EPOCH) is an upper limit of the times.
    Returns the sum of the sizes of the regular files in bytes.
    """
    raise NotImplementedError


def changes(upper: Path, lower: int | None) -> Iterator[Change]:
    """What the upper directory changes against ``lower`` (a directory fd of the tree below, or
    None for nothing), sorted by path: the answer of ``docker diff``."""
    raise NotImplementedError
