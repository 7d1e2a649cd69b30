"""What is said about the size of a context."""

from __future__ import annotations

import stat
import sys

from sampan.cli.units import human_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.client.contextfolder import Packed

_MANY = 200
_LARGE = 1 << 20
_MISTAKE = 1 << 30
_SHOWN = 3


def is_large(packed: Packed) -> bool:
    """Whether it pays to ask the daemon what it has of a context."""
    return len(packed.entries) > _MANY or packed.size > _LARGE


def warn(packed: Packed) -> None:
    """Say it when a context is so large that somebody has probably forgotten what is in it."""
    size = packed.size
    if size < _MISTAKE:
        return
    places: dict[str, int] = {}
    for name, info in packed.entries:
        if stat.S_ISREG(info.st_mode):
            top = name.partition("/")[0]
            places[top] = places.get(top, 0) + info.st_size
    largest = sorted(places, key=lambda top: -places[top])[:_SHOWN]
    listed = ", ".join(f"{top} ({human_size(places[top])})" for top in largest)
    sys.stderr.write(
        f"WARNING: the build context has {human_size(size)}. The largest in it: {listed}."
        " Name in .dockerignore what the build does not need.\n"
    )
