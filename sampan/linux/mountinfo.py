"""The mounts of a process's mount namespace: proc_pid_mountinfo(5)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from sampan.linux import files

_OCTAL = re.compile(rb"\\([0-7]{3})")


class Entry(NamedTuple):
    """Where something is mounted, its optional fields (``shared:1``), and what it is of."""

    place: bytes
    tags: list[bytes]
    source: bytes


def entries(content: bytes | None = None) -> Iterator[Entry]:
    """The mounts in their order, by default this process's: of several on one place the last hides
    the others."""
    if content is None:
        content = files.read("/proc/self/mountinfo")
    for line in content.splitlines():
        mount, _, file_system = line.partition(b" - ")
        fields = mount.split(b" ")
        yield Entry(_plain(fields[4]), fields[6:], _plain(file_system.split(b" ")[1]))


def _plain(field: bytes) -> bytes:
    return _OCTAL.sub(lambda match: bytes([int(match[1], 8)]), field)
