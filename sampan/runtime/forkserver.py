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
import signal
import socket
from collections.abc import Sequence

from sampan.linux import process
from sampan.runtime import keeper, parcel
from sampan.runtime.cgroups import hold_fast_moves

READY = b"ready"


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
    process.set_name("sampan-spawner")
    os.chdir("/")
    os.umask(0o022)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    fast_moves = hold_fast_moves()
    keeper.prepare()
    gc.collect()
    gc.freeze()
    gc.disable()
    daemon.send(READY)
    receiver = parcel.Receiver(daemon)
    while (message := receiver.receive()) is not None:
        request, fds = message
        if not os.fork():
            daemon.close()
            if fast_moves is not None:
                os.close(fast_moves)
            keeper.main(request, fds)
            os._exit(0)
        for fd in fds:
            os.close(fd)
