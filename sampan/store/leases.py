"""Leases: what was added or found under an open lease is not garbage yet.

Leases live in memory: a collection runs in the same process, and what was in flight when a
process died is garbage by definition.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Leases:
    """Remembers when names (digests, snapshot names) were last wanted, while a lease is open."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self._open: dict[int, int] = {}
        self._touched: dict[str, int] = {}
        self._serial = 0

    @contextmanager
    def open(self) -> Iterator[None]:
        """Hold everything that is touched from now until the end of the block."""
        with self.lock:
            self._serial += 1
            serial = self._serial
            self._open[serial] = time.monotonic_ns()
        try:
            yield
        finally:
            with self.lock:
                del self._open[serial]
                if not self._open:
                    self._touched.clear()

    def held(self) -> bool:
        """Whether any lease is open."""
        with self.lock:
            return bool(self._open)

    def touch(self, name: str) -> None:
        """Call it before looking whether the name is there."""
        with self.lock:
            if self._open:
                self._touched[name] = time.monotonic_ns()

    @contextmanager
    def collecting(self) -> Iterator[Callable[[str], bool]]:
        """For a collection, around finding its roots and deleting the rest: gives a test whether
        a name is held.  A lease that ends meanwhile still counts, because what it held may have
        become a root after the roots were found.  Test under ``lock``, and delete under it or under
        another one that those who look take."""
        with self.lock:
            floor = min(self._open.values(), default=time.monotonic_ns())
        with self.open():
            yield lambda name: self._touched.get(name, -1) >= floor
