"""The keeper process: parent of one container from its start to its end.

Forked from the spawner, it has the container's processes started by starters
(:mod:`sampan.runtime.starter`), owns their streams, log, control group, held descriptors and
services, serves control connections (the daemon's, one daemon after another), and ends when the
container has ended and every client has its output.  One thread, one event loop, nothing that
blocks for long.

This module has its own life: its fork, its rest and its end.  The container's is in its parts:
the first process and what follows from its end (:mod:`.first`), further processes (:mod:`.execs`),
the starts of either (:mod:`.starts`), the daemon's commands (:mod:`.commands`) and connections
(:mod:`.connection`), and what is known of the container (:mod:`.record`).
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import gc
import os
import socket

from sampan.linux import process
from sampan.runtime import ahead, compact, launch, model, parcel, protocol, sample, starter
from sampan.runtime.commands import Commands
from sampan.runtime.connection import Answer, Connections
from sampan.runtime.execs import Execs
from sampan.runtime.first import FirstProcess
from sampan.runtime.health import OnEnd, Probe
from sampan.runtime.loop import Loop, Timer
from sampan.runtime.outlet import Outlet
from sampan.runtime.record import Record
from sampan.runtime.services import Services
from sampan.runtime.starter import Starter
from sampan.runtime.starts import Starts
from sampan.runtime.types import LogConfig, RestartPolicy
from sampan.runtime.unfinished import Unfinished


def main(requests: int, brief: bool) -> None:
    """Run a keeper in the calling (forked) process; returns when the container has ended.

    Its request comes over the socket ``requests``, a parcel with an encoded
    :class:`~sampan.runtime.types.KeeperRequest`, the first control connection, the held
    descriptors and the attached clients.  The starter and the container's first process are forked
    ahead of it.  A keeper that lives ``brief``ly does its starter's work itself: that costs it
    memory, and saves a process.
    """
    _settle()
    spare = launch.Spare(not brief, requests)
    if brief:
        _serve_briefly(requests, spare)
        return

    def work(sock: socket.socket) -> None:
        if sample.wanted():
            model.start(sock, requests, spare)
            return
        connection = socket.socket(fileno=requests)
        lesson = ahead.Lesson(ahead.Role.STARTER)
        received = parcel.Receiver(connection).receive()
        connection.close()
        if received is not None:
            starter.first(sock, *received, spare)
            lesson.end()

    serve(Starter(work), [requests, spare.sock.detach()], spare.pid)


def _serve_briefly(requests: int, spare: launch.Spare) -> None:
    connection = socket.socket(fileno=requests)
    ahead.fault_in(ahead.Role.STARTER)
    received = parcel.Receiver(connection).receive()
    connection.close()
    if received is None:
        spare.sock.close()
        _collect_spare(spare.pid)
        return
    keeper = Keeper()
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    starter.first(far, *received, spare, keeper.early_services)
    far.close()
    _go_on(keeper, starter.Reported(near), spare.pid)


def serve(
    forked: Starter,
    unused: list[int],
    spare: int = 0,
    further: starter.Further = starter.further,
) -> None:
    """Be the keeper of the container that a starter starts; ``unused`` is closed here.  ``spare``
    is the number of a child that the starter uses, or else lets go; further processes are started
    by ``further``."""
    for fd in unused:
        os.close(fd)
    _go_on(Keeper(further), forked, spare)


def _go_on(keeper: Keeper, forked: starter.Reported, spare: int) -> None:
    result = forked.result(keeper.early_services)
    if result is not None:
        keeper.run(result, forked, spare)
    elif spare:
        _collect_spare(spare)


def _collect_spare(pid: int) -> None:
    """Wait for the end of a spare that is no container's process."""
    try:
        os.waitpid(pid, 0)
    except ChildProcessError:
        pass  # it has been collected where the start was given up


def _settle() -> None:
    os.setsid()
    # By the function below the one that makes enumerations of its arguments and results.
    _signal.signal(_signal.SIGCHLD, _signal.SIG_DFL)
    _signal.signal(_signal.SIGTERM, _signal.SIG_IGN)
    gc.enable()


class Keeper:
    """The parts of one container's keeper, and its own life."""

    def __init__(self, further: starter.Further = starter.further) -> None:
        self._loop = loop = Loop()
        self._record = record = Record()
        self._unfinished = Unfinished(loop)
        self._services = Services(loop)
        self._outlet = Outlet(loop)
        self._connections = connections = Connections(loop, self._serve)
        starts = Starts(loop, self._unfinished)
        self._first = FirstProcess(
            loop,
            record,
            connections,
            self._services,
            starts,
            self._unfinished,
            self._outlet,
            self._probe,
        )
        self._execs = Execs(
            loop,
            record,
            connections,
            starts,
            self._unfinished,
            self._first,
            self._trim_soon,
            further,
        )
        self._commands = Commands(record, connections, self._services, self._first, self._execs)
        self._trim: Timer | None = None
        self._starter: starter.Reported | None = None
        """The first start's, while it is to be collected."""
        self.early_services = self._first.early_services

    def run(self, result: starter.Result, forked: starter.Reported, spare: int) -> None:
        """Serve the container, which ``forked`` has started, until its end."""
        process.set_name("sampan-keeper")
        if result.process.pid == spare:
            # It may end while its starter is still ending itself: nobody waits for that.
            forked.release()
            self._starter = forked
        self._take(result)
        if self._starter is None:
            forked.wait()
            if spare:
                _collect_spare(spare)
        self._trim_soon()
        self._loop.run()
        self._collect()
        self._end()

    def _take(self, result: starter.Result) -> None:
        """Take over what the starter of the first start has made."""
        state, log, restart, facts, wishes, (hold_count,), *ship = result.extra
        control, run_dir, listener, memory, *others = result.fds
        self._record.take(facts, state, run_dir, memory)
        self._outlet.open(LogConfig(*log), ship, others)
        self._services.held = self._services.held or others[:hold_count]
        self._first.take(result, RestartPolicy(*restart), others[hold_count:], *wishes)
        self._connections.listen(listener)
        self._connections.add(socket.socket(fileno=control))

    def _collect(self) -> None:
        if self._starter:
            self._starter.wait()
            self._starter = None

    def _trim_soon(self) -> None:
        """Give memory back when what is being done is over."""
        if self._trim:
            self._trim.cancel()
        self._trim = self._loop.call_later(sample.settled(), self._rest)

    def _rest(self) -> None:
        self._collect()
        if not self._loop.running:
            return  # its container has ended in the same round: nothing will come to wait for
        compact.trim(self._loop.fileno(), self._loop.time_left())

    def _end(self) -> None:
        self._connections.close()
        try:
            os.unlink(protocol.SOCKET_NAME, dir_fd=self._record.run_dir)
        except FileNotFoundError:
            pass
        self._record.close()

    # The parts know each other in one direction; these two go against it.

    def _serve(self, command: protocol.Command, fds: list[int], answer: Answer) -> None:
        self._commands.serve(command, fds, answer)

    def _probe(self, on_end: OnEnd) -> Probe:
        check = self._record.request.healthcheck
        assert check is not None
        return self._execs.probe(check.process, on_end)
