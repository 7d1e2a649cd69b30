"""Signals by number and name, and their arrival as bytes on a descriptor that can be polled.

The C module is used: the standard wrapper imports ``enum`` for two milliseconds.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

WINCH = int(_signal.SIGWINCH)
ENDING = (int(_signal.SIGINT), int(_signal.SIGTERM))
PROXIED = tuple(
    int(getattr(_signal, f"SIG{name}"))
    for name in ("HUP", "INT", "QUIT", "USR1", "USR2", "ALRM", "TERM", "CONT", "TSTP")
)
"""What ``--sig-proxy`` passes on to the container's process."""


def name_of(number: int) -> str:
    """``TERM`` for 15; the number itself for one without a name."""
    for key in dir(_signal):
        named = key.startswith("SIG") and not key.startswith("SIG_")
        if named and getattr(_signal, key) == number:
            return key[3:]
    return str(number)


class Arrivals:
    """While in use, signals do nothing but put their number on ``fd``, one byte each."""

    def __init__(self, numbers: Iterable[int]) -> None:
        self._numbers = tuple(numbers)
        self._before: dict[int, object] = {}
        self.fd = -1
        self._writer = -1

    def __enter__(self) -> Arrivals:
        self.fd, self._writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        _signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        for number in self._numbers:
            self._before[number] = _signal.signal(number, _nothing)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            _signal.signal(number, handler)
        _signal.set_wakeup_fd(-1)
        os.close(self.fd)
        os.close(self._writer)

    def read(self) -> bytes:
        """The numbers that have arrived."""
        try:
            return os.read(self.fd, 256)
        except BlockingIOError:
            return b""


def _nothing(_number: int, _frame: object) -> None:
    pass
