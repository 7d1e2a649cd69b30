"""Leases: what was added or found under an open lease is not garbage yet.

Leases live in memory: a collection runs in the same process, and what was in flight when a
process died is garbage by definition.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager


class Leases:
    """Remembers when names (digests, snapshot names) were last wanted, while a lease is open."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: dict[int, int] = {}
        self._touched: dict[str, int] = {}
        self._serial = 0

    @contextmanager
    def open(self) -> Iterator[None]:
        """Hold everything that is touched from now until the end of the block."""
        with self._lock:
            self._serial += 1
            serial = self._serial
            self._open[serial] = time.monotonic_ns()
        try:
            yield
        finally:
            with self._lock:
                del self._open[serial]
                if not self._open:
                    self._touched.clear()

    def touch(self, name: str) -> None:
        with self._lock:
            if self._open:
                self._touched[name] = time.monotonic_ns()

    def holds(self, name: str) -> bool:
        """Whether an open lease covers the name."""
        with self._lock:
            if not self._open:
                return False
            return self._touched.get(name, -1) >= min(self._open.values())
