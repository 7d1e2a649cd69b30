"""What is to be finished before a keeper may end: processes, starts, clients with output to come."""

from __future__ import annotations

from sampan.runtime.loop import Loop


class Unfinished:
    """Counts; stops the loop when the container is over and nothing is left."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._count = 0
        self._over = False

    @property
    def any(self) -> bool:
        return self._count > 0

    def begin(self) -> None:
        self._count += 1

    def end(self) -> None:
        self._count -= 1
        self._stop_if_none()

    def close(self) -> None:
        """The container is over: nothing begins any more but what follows from what goes on."""
        self._over = True
        self._stop_if_none()

    def _stop_if_none(self) -> None:
        if self._over and not self.any:
            self._loop.stop()
