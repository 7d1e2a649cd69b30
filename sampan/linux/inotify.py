"""Watch files for changes."""

from __future__ import annotations

import ctypes
import os
import struct
from typing import NamedTuple

from sampan.linux.syscalls import error, function, path_bytes

IN_MODIFY = 0x002
IN_ATTRIB = 0x004
IN_CLOSE_WRITE = 0x008
IN_MOVED_FROM = 0x040
IN_MOVED_TO = 0x080
IN_CREATE = 0x100
IN_DELETE = 0x200
IN_DELETE_SELF = 0x400
IN_MOVE_SELF = 0x800
IN_IGNORED = 0x8000
_FLAGS = os.O_NONBLOCK | os.O_CLOEXEC
_HEADER = struct.Struct("iIII")

_init = function("inotify_init1", ctypes.c_int)
_add = function("inotify_add_watch", ctypes.c_int, ctypes.c_char_p, ctypes.c_uint32)
_remove = function("inotify_rm_watch", ctypes.c_int, ctypes.c_int)


class Event(NamedTuple):
    watch: int
    mask: int
    name: str


def create() -> int:
    """A non-blocking inotify descriptor."""
    fd = _init(_FLAGS)
    if fd < 0:
        raise error("inotify")
    return fd


def add_watch(fd: int, path: str | bytes | os.PathLike[str], mask: int) -> int:
    watch = _add(fd, path_bytes(path), mask)
    if watch < 0:
        raise error(f"watch {os.fsdecode(path)}")
    return watch


def remove_watch(fd: int, watch: int) -> None:
    if _remove(fd, watch) < 0:
        raise error("inotify watch")


def read_events(fd: int) -> list[Event]:
    """The events that have come; empty when there are none."""
    try:
        data = os.read(fd, 65536)
    except BlockingIOError:
        return []
    events, at = [], 0
    while at < len(data):
        watch, mask, _, length = _HEADER.unpack_from(data, at)
        name = data[at + 16 : at + 16 + length].split(b"\0", 1)[0]
        events.append(Event(watch, mask, os.fsdecode(name)))
        at += 16 + length
    return events
