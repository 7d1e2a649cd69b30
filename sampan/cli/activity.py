"""A sign of life for an operation that cannot say how far it is."""

from __future__ import annotations

import sys
import threading
import time

_FRAMES = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
_DELAY = 0.3
_STEP = 0.1


class Activity:
    """While in use, a moving sign, ``text`` and the seconds gone by, on standard error.

    It appears only when the operation takes longer than a moment, and leaves nothing behind.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._turn, daemon=True)

    def __enter__(self) -> Activity:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _turn(self) -> None:
        began = time.monotonic()
        if self._done.wait(_DELAY):
            return
        frame = 0
        while True:
            elapsed = time.monotonic() - began
            sign = _FRAMES[frame % len(_FRAMES)]
            sys.stderr.write(f"\r{sign} {self._text}  {elapsed:.1f}s\x1b[K")
            sys.stderr.flush()
            frame += 1
            if self._done.wait(_STEP):
                break
        sys.stderr.write("\r\x1b[K")
        sys.stderr.flush()
