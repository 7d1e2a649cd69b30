"""The spawner process: it forks keepers and does nothing else.

Started by :mod:`sampan.runtime.spawner` from a sealed memory copy of the interpreter, with one
SEQPACKET socket as its standard input.  Each parcel on it is one keeper: an encoded
:class:`~sampan.runtime.types.KeeperRequest` with descriptors, the first of which is the keeper's
first control connection.  The message is decoded by the keeper, not here.  When the socket ends
(the daemon is gone, however it went) the spawner ends; keepers are sessions of their own.
"""

from __future__ import annotations

import gc
import importlib
import os
import select
import signal
import socket
from collections.abc import Sequence

from sampan.linux import process
from sampan.runtime import compact, host, keeper, parcel, plain, rehearsal
from sampan.runtime.cgroups import hold_fast_moves

READY = b"ready"
# Seconds without a request after which the next keeper is forked ahead.
_QUIET = 0.02


def main(modules: Sequence[str]) -> None:
    """Serve until the socket on descriptor 0 ends.  ``modules`` are imported for the keepers."""
    process.close_range(3)
    daemon = socket.socket(fileno=os.dup(0))
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for fd in (0, 1):
        os.dup2(null, fd)
    os.close(null)
    for name in modules:
        importlib.import_module(name)
    process.set_dumpable(False)
    os.chdir("/")
    os.umask(0o022)
    process.reset_signals()
    for number in (signal.SIGINT, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    fast_moves = hold_fast_moves()
    _settle_memory()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    daemon.send(READY)
    _serve(daemon, fast_moves)


def _serve(daemon: socket.socket, fast_moves: int | None) -> None:
    receiver = parcel.Receiver(daemon)
    closed_in_children = (daemon,)
    spare: _Spare | None = _Spare(closed_in_children, fast_moves)
    while True:
        if spare is None and not select.select([daemon], [], [], _QUIET)[0]:
            # Nothing is wanted just now: the next one will be ready sooner.
            spare = _Spare(closed_in_children, fast_moves)
        message = receiver.receive()
        if message is None:
            return
        request, fds = message
        taken = spare is not None and spare.take(request, fds)
        if not taken and not os.fork():
            _close(closed_in_children, fast_moves)
            keeper.main(request, fds)
            os._exit(0)
        spare = None
        for fd in fds:
            os.close(fd)


def _settle_memory() -> None:
    """Leave the memory so that children write to little of it, and share the rest."""
    host.get()
    plain.keep_bytecode()
    rehearsal.run()
    process.set_name("sampan-spawner")
    gc.collect()
    gc.freeze()
    gc.disable()
    compact.compact()


def _close(sockets: Sequence[socket.socket], fast_moves: int | None) -> None:
    for sock in sockets:
        sock.close()
    if fast_moves is not None:
        os.close(fast_moves)


class _Spare:
    """A keeper forked ahead; it ends by itself when this process does."""

    def __init__(self, sockets: Sequence[socket.socket], fast_moves: int | None) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        if not os.fork():
            _close((*sockets, self._socket), fast_moves)
            keeper.main_spare(theirs)
            os._exit(0)
        theirs.close()

    def take(self, request: bytes, fds: Sequence[int]) -> bool:
        """Give it its container; False if it is gone."""
        try:
            parcel.send(self._socket, request, fds)
        except OSError:
            return False
        finally:
            self._socket.close()
        return True
