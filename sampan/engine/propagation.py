"""Whether mounts made below a bind's source can be seen at its destination, and the reverse.

The kernel makes a *shared* or *slave* copy of whatever mount it is asked for; if that one has no
peers, the copy gets nothing from it and nobody else is told.
"""

from __future__ import annotations

import os

from sampan.errors import InvalidParameter
from sampan.linux import mountinfo as mounts


def check(source: str, propagation: str, mountinfo: bytes | None = None) -> None:
    """Refuse a bind whose propagation could not do what it says.

    :param propagation: of the bind, ``rslave`` for example.
    :param mountinfo: the contents of ``/proc/self/mountinfo`` (default: of this process).

    Raises InvalidParameter when the mount that ``source`` is on is not shared (for ``shared``), or
    neither shared nor a slave (for ``slave``).
    """
    kind = propagation.removeprefix("r")
    if kind not in ("shared", "slave"):
        return
    place, tags = _mount_of(os.fsencode(os.path.realpath(source)), mountinfo)
    accepted = (b"shared:",) if kind == "shared" else (b"shared:", b"master:")
    if not any(tag.startswith(accepted) for tag in tags):
        wanted = "shared" if kind == "shared" else "shared or slave"
        raise InvalidParameter(
            f"path {source} is mounted on {place} but it is not a {wanted} mount"
        )


def _mount_of(path: bytes, mountinfo: bytes | None) -> tuple[str, list[bytes]]:
    """Where the mount that ``path`` is on is mounted, and its optional fields."""
    found: tuple[bytes, list[bytes]] = (b"", [])
    for entry in mounts.entries(mountinfo):
        place = entry.place
        inside = path == place or path.startswith(place.rstrip(b"/") + b"/")
        if inside and len(place) >= len(found[0]):
            found = place, entry.tags
    return os.fsdecode(found[0]), found[1]
