"""Directory trees of any depth, as whoever filled them left them.

A program can nest directories deeper than a path may be long and than a function may call itself.
So these walk down and up by descriptors, of which at most three are open at a time; the way up is
checked to lead where the walk came from.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

Name = str | os.PathLike[str]


class _Level(NamedTuple):
    """A directory on the way from the top: its name in the one above, what it is, and the names
    of the directories in it that are still to be entered."""

    name: str
    identity: tuple[int, int]
    left: list[str]


def _identity(fd: int) -> tuple[int, int]:
    info = os.fstat(fd)
    return info.st_dev, info.st_ino


def _up(fd: int, level: _Level) -> int:
    """The directory above ``fd``, which is closed.  Raises OSError if it is not ``level``."""
    try:
        above = os.open("..", _DIRECTORY, dir_fd=fd)
    finally:
        os.close(fd)
    if _identity(above) != level.identity:
        os.close(above)
        raise OSError(errno.ESTALE, f"the directory {level.name!r} was moved meanwhile")
    return above


def _enter(fd: int, name: str) -> int:
    """The directory ``name`` of ``fd``, which is closed.  Raises OSError, and closes nothing then."""
    inner = os.open(name, _DIRECTORY, dir_fd=fd)
    os.close(fd)
    return inner


def below(path: Name) -> Iterator[os.DirEntry[str]]:
    """Everything below a directory; what is in a directory comes some time after itself.

    An entry is valid until the next one is asked for.  Directories that go away meanwhile are
    passed over, and where one is moved the walk ends: the tree may be in use.  Raises OSError if
    ``path`` cannot be opened.
    """
    fd = os.open(path, _DIRECTORY)
    levels: list[_Level] = []
    try:
        name = os.fspath(path)
        while True:
            level = _Level(name, _identity(fd), [])
            levels.append(level)
            with os.scandir(fd) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        level.left.append(entry.name)
                    yield entry
            while True:
                while not levels[-1].left:
                    levels.pop()
                    if not levels:
                        return
                    above, fd = fd, -1
                    try:
                        fd = _up(above, levels[-1])
                    except OSError:
                        return
                name = levels[-1].left.pop()
                try:
                    fd = _enter(fd, name)
                except OSError:
                    continue
                break
    finally:
        if fd >= 0:
            os.close(fd)


def remove_tree(path: Name, ignore_errors: bool = False, *, dir_fd: int | None = None) -> None:
    """Remove a directory and everything below it; links are not followed.

    With ``ignore_errors`` what cannot be removed stays, and all else is removed.  Raises OSError.
    """
    try:
        _remove(path, ignore_errors, dir_fd)
    except OSError:
        if not ignore_errors:
            raise


def _remove(path: Name, ignore_errors: bool, dir_fd: int | None) -> None:
    ignored = (OSError,) if ignore_errors else ()
    fd = os.open(path, _DIRECTORY, dir_fd=dir_fd)
    levels: list[_Level] = []
    try:
        name = os.fspath(path)
        while True:
            levels.append(_Level(name, _identity(fd), []))
            with suppress(*ignored):
                _empty(fd, levels[-1].left, ignored)
            while True:
                while not levels[-1].left:
                    done = levels.pop()
                    if not levels:
                        os.rmdir(path, dir_fd=dir_fd)
                        return
                    above, fd = fd, -1
                    fd = _up(above, levels[-1])
                    with suppress(*ignored):
                        os.rmdir(done.name, dir_fd=fd)
                name = levels[-1].left.pop()
                try:
                    fd = _enter(fd, name)
                except ignored:
                    continue
                break
    finally:
        if fd >= 0:
            os.close(fd)


def _empty(fd: int, left: list[str], ignored: tuple[type[OSError], ...]) -> None:
    """Remove all but the directories, whose names are put into ``left``, from a directory."""
    with os.scandir(fd) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                left.append(entry.name)
                continue
            with suppress(*ignored):
                os.unlink(entry.name, dir_fd=fd)
