"""A container's terminal: handed over a console socket, or joined to the caller's own."""

from __future__ import annotations

import errno
import os
import select
import signal
import socket

from sampan.linux import pty
from sampan.runtime.oci.errors import OciError

_CHUNK = 65536


def check(terminal: bool, console_socket: str, detached: bool) -> None:
    """Raises OciError where runc does."""
    if terminal and detached and not console_socket:
        raise OciError("cannot allocate tty if runc will detach without setting console socket")
    if console_socket and not (terminal and detached):
        raise OciError("cannot use console socket if runc will not detach or allocate tty")


def hand_over(path: str, master: int) -> None:
    """Send the terminal's master to whoever listens on the socket.  Raises OciError."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.connect(path)
            socket.send_fds(sock, [f"/dev/pts/{pty.number(master)}".encode()], [master])
    except OSError as failure:
        raise OciError(f"console socket {path}: {failure.strerror}") from None
    finally:
        os.close(master)


def relay(master: int, handle: int) -> None:
    """Join the caller's streams to the terminal until the process of ``handle`` has ended."""
    import fcntl
    import termios
    import tty

    own = os.isatty(0)
    saved = termios.tcgetattr(0) if own else None

    def resize(*_: object) -> None:
        try:
            fcntl.ioctl(master, pty.TIOCSWINSZ, fcntl.ioctl(0, termios.TIOCGWINSZ, b"\0" * 8))
        except OSError:
            pass

    if own:
        tty.setraw(0)
        resize()
        signal.signal(signal.SIGWINCH, resize)
    try:
        _pump(master, handle)
    finally:
        if saved is not None:
            termios.tcsetattr(0, termios.TCSADRAIN, saved)
        os.close(master)


def _pump(master: int, handle: int) -> None:
    poll = select.poll()
    for fd in (0, master, handle):
        poll.register(fd, select.POLLIN)
    ended = False
    while True:
        ready = [fd for fd, _ in poll.poll(0 if ended else None)]
        if master in ready:
            try:
                data = os.read(master, _CHUNK)
            except OSError as failure:
                if failure.errno != errno.EIO:
                    raise
                data = b""
            if not data:
                return
            _write(1, data)
        elif ended:
            return
        if 0 in ready and not ended:
            data = os.read(0, _CHUNK)
            if data:
                _write(master, data)
            else:
                poll.unregister(0)
        if handle in ready:
            ended = True
            poll.unregister(handle)


def _write(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
