"""User and group names, from a container's own files, by our own parser.

The C library's lookups would load plug-ins and read configuration from inside the container; this
reads ``etc/passwd`` and ``etc/group`` through descriptors and parses text.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from sampan.linux.openat2 import open_in_root

_LARGEST = 16 << 20
_LARGEST_ID = (1 << 31) - 1


class Identity(NamedTuple):
    """Who a process runs as."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str


class UnknownUser(ValueError):
    """A name that the container's files do not have, or a number that cannot be."""


def read_database(root: int, path: str) -> bytes:
    """A file below ``root``, or nothing if there is no regular file of that name."""
    try:
        fd = open_in_root(root, path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError:
        return b""
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return b""
        parts, size = [], 0
        while size < _LARGEST and (part := os.read(fd, 1 << 16)):
            parts.append(part)
            size += len(part)
        return b"".join(parts)
    finally:
        os.close(fd)


def resolve(passwd: bytes, group: bytes, user: str, additional: Sequence[str] = ()) -> Identity:
    """Resolve ``name|uid[:group|gid]``, with Docker's rules.

    A user that is only a number need not exist; its group is then 0.  Supplementary groups come
    from the group file when no group was named, and ``additional`` is added to them; the group
    itself is one of them, so that a program that changes only its group does not gain by it.
    Raises UnknownUser.
    """
    name, separator, group_name = user.partition(":")
    entry = _find_user(passwd, name or "0")
    if entry is None:
        uid, gid, login, home = _number(name or "0", "user"), 0, "", "/"
    else:
        login, uid, gid, home = entry
    groups: list[int] = []
    if separator and group_name:
        gid = _group_id(group, group_name)
    elif login:
        groups = [number for _, number, members in _groups(group) if login in members]
    groups += [_group_id(group, extra) for extra in additional]
    unique = tuple(dict.fromkeys([gid, *groups]))
    return Identity(uid, gid, unique, home or "/")


def home_of(passwd: bytes, uid: int) -> str:
    """The home directory of a user number, ``/`` if it has none."""
    for _, number, _, home in _users(passwd):
        if number == uid:
            return home or "/"
    return "/"


def _find_user(passwd: bytes, wanted: str) -> tuple[str, int, int, str] | None:
    by_number = None
    for entry in _users(passwd):
        if entry[0] == wanted:
            return entry
        if by_number is None and wanted.isdecimal() and entry[1] == int(wanted):
            by_number = entry
    return by_number


def _group_id(group: bytes, wanted: str) -> int:
    for name, number, _ in _groups(group):
        if name == wanted:
            return number
    return _number(wanted, "group")


def _number(text: str, kind: str) -> int:
    if text.isascii() and text.isdecimal():
        number = int(text)
        if number <= _LARGEST_ID:
            return number
        raise UnknownUser(f"uids and gids must be in range 0-{_LARGEST_ID}")
    file = "passwd" if kind == "user" else "group"
    raise UnknownUser(f"unable to find {kind} {text}: no matching entries in {file} file")


def _users(passwd: bytes) -> Iterator[tuple[str, int, int, str]]:
    for line in passwd.decode(errors="replace").splitlines():
        fields = line.strip().split(":")
        if len(fields) >= 4 and fields[2].isdecimal() and fields[3].isdecimal():
            home = fields[5] if len(fields) > 5 else ""
            yield fields[0], int(fields[2]), int(fields[3]), home


def _groups(group: bytes) -> Iterator[tuple[str, int, list[str]]]:
    for line in group.decode(errors="replace").splitlines():
        fields = line.strip().split(":")
        if len(fields) >= 3 and fields[2].isdecimal():
            yield fields[0], int(fields[2]), fields[3].split(",") if len(fields) > 3 else []
