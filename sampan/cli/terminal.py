"""The user's terminal: its size, its raw mode, and the keys that detach from it."""

from __future__ import annotations

import os

from sampan.cli.failure import Failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from sampan.cli.session import Session


def size() -> tuple[int, int]:
    """Rows and columns of the terminal, or zeros without one."""
    for fd in (1, 0, 2):
        try:
            found = os.get_terminal_size(fd)
        except OSError:
            continue
        return found.lines, found.columns
    return 0, 0


class Raw:
    """While in use, the terminal on standard input passes every key on as it is pressed."""

    def __init__(self, fd: int = 0, *, active: bool = True) -> None:
        self._fd = fd
        self._active = active and os.isatty(fd)
        self._before: list[Any] = []

    def __enter__(self) -> Raw:
        if self._active:
            import termios as t

            self._before = t.tcgetattr(self._fd)
            mode = t.tcgetattr(self._fd)
            mode[0] &= ~(
                t.IGNBRK | t.BRKINT | t.PARMRK | t.ISTRIP | t.INLCR | t.IGNCR | t.ICRNL | t.IXON
            )
            mode[1] &= ~t.OPOST
            mode[2] = mode[2] & ~(t.CSIZE | t.PARENB) | t.CS8
            mode[3] &= ~(t.ECHO | t.ECHONL | t.ICANON | t.ISIG | t.IEXTEN)
            mode[6][t.VMIN], mode[6][t.VTIME] = 1, 0
            t.tcsetattr(self._fd, t.TCSADRAIN, mode)
        return self

    def __exit__(self, *_: object) -> None:
        self.restore()

    def restore(self) -> None:
        """Back to how it was; may be called twice."""
        if self._active and self._before:
            import termios

            termios.tcsetattr(self._fd, termios.TCSADRAIN, self._before)
            self._before = []


class NotKeys(ValueError):
    """A sequence of detach keys that cannot be pressed."""


def detach_keys(text: str) -> bytes:
    """``ctrl-p,ctrl-q`` as the bytes that a terminal sends.

    :raises NotKeys: a name that is neither a character nor ``ctrl-`` and one.
    """
    found = bytearray()
    for key in text.split(","):
        if key.startswith("ctrl-"):
            letter = key[5:].lower()
            if len(letter) == 1 and ("a" <= letter <= "z" or letter in "@[\\]^_"):
                found.append(ord(letter.upper()) & 0x1F)
                continue
            raise NotKeys(f"Unknown character: '{key}'")
        if len(key) != 1 or not key.isascii():
            raise NotKeys(f"Unknown character: '{key}'")
        found.append(ord(key))
    return bytes(found)


DETACH = b"\x10\x11"
"""ctrl-p, ctrl-q."""


class KeyWatch:
    """Looks for a key sequence in what is typed, holding back what may be its beginning."""

    def __init__(self, keys: bytes) -> None:
        self._keys = keys
        self._matched = 0

    def feed(self, data: bytes) -> tuple[bytes, bool]:
        """What to pass on, and whether the whole sequence has been pressed."""
        if not self._keys:
            return data, False
        passed = bytearray()
        for byte in data:
            if byte == self._keys[self._matched]:
                self._matched += 1
                if self._matched == len(self._keys):
                    self._matched = 0
                    return bytes(passed), True
                continue
            passed += self._keys[: self._matched]
            self._matched = 0
            if byte == self._keys[0]:
                self._matched = 1
                if len(self._keys) == 1:
                    return bytes(passed), True
            else:
                passed.append(byte)
        return bytes(passed), False


def keys_of(session: Session, given: str) -> tuple[str, bytes]:
    """The detach keys: as the API wants them (empty: its default), and as bytes."""
    text = given
    if not text and os.path.exists(f"{session.config_dir}/config.json"):
        text = str(session.config.get("detachKeys") or "")
    if not text:
        return "", DETACH
    try:
        return text, detach_keys(text)
    except NotKeys as error:
        raise Failure(f"invalid detach keys ({text}): {error}", 125) from None


def check_terminal(stdin: bool, tty: bool) -> None:
    """Refuse a terminal session whose input is no terminal."""
    if stdin and tty and not os.isatty(0):
        raise Failure("the input device is not a TTY")
