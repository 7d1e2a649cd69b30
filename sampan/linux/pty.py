"""Pseudo-terminals made through descriptors, so that no path of a container is trusted."""

from __future__ import annotations

import errno
import fcntl
import os
import sys

TIOCSPTLCK = 0x40045431
TIOCGPTPEER = 0x5441
TIOCSCTTY = 0x540E
TIOCSWINSZ = 0x5414
TIOCGPTN = 0x80045430
_PTMX = os.makedev(5, 2)


def open_pair(ptmx: int) -> tuple[int, int]:
    """Given an open ``ptmx``, its master unlocked and the terminal side opened: (master, slave).

    Raises OSError if the descriptor is not a pseudo-terminal multiplexer.
    """
    if os.fstat(ptmx).st_rdev != _PTMX:
        raise OSError(errno.ENODEV, "the container's /dev/ptmx is not a terminal multiplexer")
    fcntl.ioctl(ptmx, TIOCSPTLCK, b"\0\0\0\0")
    slave = fcntl.ioctl(ptmx, TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    return ptmx, slave


def number(master: int) -> int:
    """The N of the terminal's /dev/pts/N."""
    raw = fcntl.ioctl(master, TIOCGPTN, b"\0\0\0\0")
    return int.from_bytes(raw, sys.byteorder)


def set_window(fd: int, rows: int, columns: int) -> None:
    size = b"".join(number.to_bytes(2, sys.byteorder) for number in (rows, columns, 0, 0))
    fcntl.ioctl(fd, TIOCSWINSZ, size)


def make_controlling(slave: int) -> None:
    """Make the terminal the calling session leader's controlling one."""
    fcntl.ioctl(slave, TIOCSCTTY, 0)
