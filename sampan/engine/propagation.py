"""Whether mounts made below a bind's source can be seen at its destination, and the reverse.

The kernel makes a *shared* or *slave* copy of whatever mount it is asked for; if that one has no
peers, the copy gets nothing from it and nobody else is told.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from sampan.errors import InvalidParameter

_OCTAL = re.compile(rb"\\([0-7]{3})")


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
    if mountinfo is None:
        mountinfo = Path("/proc/self/mountinfo").read_bytes()
    place, tags = _mount_of(os.fsencode(os.path.realpath(source)), mountinfo)
    accepted = ("shared:",) if kind == "shared" else ("shared:", "master:")
    if not any(tag.startswith(accepted) for tag in tags):
        wanted = "shared" if kind == "shared" else "shared or slave"
        raise InvalidParameter(
            f"path {source} is mounted on {place} but it is not a {wanted} mount"
        )


def _mount_of(path: bytes, mountinfo: bytes) -> tuple[str, list[str]]:
    """Where the mount that ``path`` is on is mounted, and its optional fields."""
    found: tuple[bytes, list[str]] = (b"", [])
    for line in mountinfo.splitlines():
        fields = line.partition(b" - ")[0].split(b" ")
        place = _OCTAL.sub(lambda match: bytes([int(match[1], 8)]), fields[4])
        inside = path == place or path.startswith(place.rstrip(b"/") + b"/")
        # Of several mounts on one place the last hides the others.
        if inside and len(place) >= len(found[0]):
            found = place, [os.fsdecode(field) for field in fields[6:]]
    return os.fsdecode(found[0]), found[1]
