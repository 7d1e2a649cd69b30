"""A build on a terminal: each step with its time, and what runs now at the bottom."""

from __future__ import annotations

import sys
import time

from sampan.cli import progress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

_BOLD, _DIM, _PLAIN, _GREEN, _RED = "\x1b[1m", "\x1b[2m", "\x1b[0m", "\x1b[32m", "\x1b[31m"
_CLEAR = "\r\x1b[K"
_FRAMES = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
_TICK = 0.1


class BuildView:
    """Turns the builder's text into steps; the last line moves while a step runs."""

    def __init__(self, screen: progress.Screen) -> None:
        self._screen = screen
        self._step = ""
        self._began = 0.0
        self._cached = False
        self._partial = ""
        self._status = False
        self._identifier = ""

    def show(self, messages: Iterable[dict[str, Any]]) -> str:
        """Show a build to its end; returns the image's identifier."""
        import threading

        done = threading.Event()
        lock = threading.Lock()
        clock = threading.Thread(target=self._turn, args=(done, lock), daemon=True)
        clock.start()
        try:
            for message in messages:
                with lock:
                    self._take(message)
            with lock:
                self._finish(_GREEN + "✔")
        except BaseException:
            with lock:
                self._finish(_RED + "✘")
            raise
        finally:
            done.set()
            clock.join()
        return self._identifier

    def _turn(self, done: Any, lock: Any) -> None:
        frame = 0
        while not done.wait(_TICK):
            with lock:
                if self._step:
                    elapsed = time.monotonic() - self._began
                    self._draw(f"{_FRAMES[frame % len(_FRAMES)]} {self._step}", elapsed)
            frame += 1

    def _draw(self, text: str, elapsed: float) -> None:
        columns = progress.window(sys.stdout)[0]
        tail = f"  {elapsed:.1f}s"
        sys.stdout.write(f"{_CLEAR}{text[: columns - len(tail) - 1]}{tail}")
        sys.stdout.flush()
        self._status = True

    def _erase(self) -> None:
        if self._status:
            sys.stdout.write(_CLEAR)
            self._status = False

    def _take(self, message: dict[str, Any]) -> None:
        if "error" in message or "errorDetail" in message:
            from sampan.cli.build import _fail

            _fail(message)
        if "aux" in message:
            self._identifier = str((message["aux"] or {}).get("ID") or self._identifier)
            return
        if "stream" not in message:
            self._erase()
            progress.put(self._screen, message)
            return
        self._partial += str(message["stream"])
        *lines, self._partial = self._partial.split("\n")
        for line in lines:
            self._line(line)

    def _line(self, line: str) -> None:
        plain = line.strip()
        if plain.startswith("Step ") and " : " in plain:
            self._finish(_GREEN + "✔")
            self._step, self._began, self._cached = plain, time.monotonic(), False
            return
        if plain == "---> Using cache":
            self._cached = True
            return
        if plain.startswith(("---> ", "Removing intermediate container", "Removed intermediate")):
            return
        if plain.startswith(("Successfully built", "Successfully tagged")):
            self._finish(_GREEN + "✔")
            sys.stdout.write(f"{_BOLD}{plain}{_PLAIN}\n")
            return
        if not plain and not self._step:
            return
        self._erase()
        sys.stdout.write(f"  {_DIM}{line}{_PLAIN}\n")
        sys.stdout.flush()

    def _finish(self, sign: str) -> None:
        """Give the running step its last line."""
        self._erase()
        if self._step:
            elapsed = time.monotonic() - self._began
            tail = f"{_DIM}cached{_PLAIN}" if self._cached else f"{_DIM}{elapsed:.1f}s{_PLAIN}"
            sys.stdout.write(f"{sign}{_PLAIN} {self._step}  {tail}\n")
            sys.stdout.flush()
        self._step = ""
