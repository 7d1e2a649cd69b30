"""The spawner process: it forks keepers and does nothing else.

Started by :mod:`sampan.runtime.spawner` from a sealed memory copy of the interpreter, with one
SEQPACKET socket as its standard input.  Each byte on it is one keeper
(:data:`~sampan.runtime.protocol.KEEPER` or :data:`~sampan.runtime.protocol.BRIEF`), and with it
comes the socket on which that keeper will get its request.  When the socket ends (the daemon is gone, however it
went) the spawner ends; keepers are sessions of their own.
"""

from __future__ import annotations

import fcntl
import gc
import importlib
import os
import signal
import socket
import sys
from collections.abc import Sequence

from sampan.linux import process, title
from sampan.runtime import ahead, compact, host, keeper, model, plain, rehearsal, sample
from sampan.runtime.cgroups import hold_fast_moves
from sampan.runtime.protocol import BRIEF

READY = b"ready"
_kept: list[object] = []
_ONE = socket.CMSG_SPACE(4)


def main(modules: Sequence[str]) -> None:
    """Serve until the socket on descriptor 0 ends.  ``modules`` are imported for the keepers."""
    process.close_range(3)
    daemon = _high(socket.socket(fileno=os.dup(0)))
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
    for number in (signal.SIGINT, signal.SIGPIPE, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    fast_moves = hold_fast_moves()
    _settle_memory()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    send, wait, use_sample = daemon.send, model.wait, compact.use_sample
    # The model is served as any other keeper, so that it becomes what any other will.
    asking = _high(model.request()) if sample.wanted() else daemon
    _kept.append(asking)
    while True:
        if asking is daemon:
            send(READY)
        _serve(asking, fast_moves)
        if asking is daemon:
            return
        # Closed, but kept: what goes away between the model and the first keeper would make every
        # keeper differ from the model, as would the warning of a socket that is open.
        asking.close()
        wait()
        use_sample()
        asking = daemon


def _high(sock: socket.socket) -> socket.socket:
    with sock:
        return socket.socket(fileno=fcntl.fcntl(sock, fcntl.F_DUPFD_CLOEXEC, sample.HIGH))


def _serve(daemon: socket.socket, fast_moves: int | None) -> None:
    """Fork a keeper for each descriptor that comes.

    What this loop writes to after a fork is a page of the keeper's own as well: it does little.
    """
    gc.freeze()
    while True:
        data, ancillary, _, _ = daemon.recvmsg(1, _ONE, socket.MSG_CMSG_CLOEXEC)
        if not data:
            return
        requests = int.from_bytes(ancillary[0][2], sys.byteorder)
        if not os.fork():
            daemon.close()
            if fast_moves is not None:
                os.close(fast_moves)
            keeper.main(requests, data == BRIEF)
            os._exit(0)
        os.close(requests)


def _settle_memory() -> None:
    """Leave the memory so that children write to little of it, and share the rest."""
    host.get()
    plain.keep_bytecode()
    rehearsal.run()
    process.set_name("sampan-spawner")
    title.locate()
    gc.collect()
    gc.freeze()
    gc.disable()
    ahead.prepare()
    _kept.extend(compact.fill_holes())
    compact.compact()
