"""The daemon's handle of a keeper: commands, replies and events over its control socket."""

from __future__ import annotations

import asyncio
import errno
import os
import select
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from sampan.errors import InvalidParameter, SampanError
from sampan.linux import process
from sampan.runtime import cgroups, parcel, protocol
from sampan.runtime.errors import KeeperGone, StartError
from sampan.runtime.interfaces import Interface
from sampan.runtime.types import (
    AttachRequest,
    ContainerState,
    ExecRequest,
    Exited,
    KeeperEvent,
    KeeperRequest,
    Paused,
    Restarting,
    ServiceRequest,
    Started,
    StartFailed,
    Unpaused,
)
from sampan.runtime.waiting import writable

_state_decoder = msgspec.json.Decoder(ContainerState)
_LOST = 255
_DYING = 2.0
OnEvent = Callable[[KeeperEvent], None]


def read_state(run_dir: Path) -> ContainerState | None:
    """The last state that a keeper recorded in its run directory, or None."""
    try:
        return _state_decoder.decode((run_dir / protocol.STATE_NAME).read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None


def keeper_alive(state: ContainerState) -> bool:
    """Whether the keeper that recorded this state still exists (and is not another process)."""
    try:
        return process.start_time(state.keeper_pid) == state.keeper_start
    except OSError:
        return False


def _is_gone(state: ContainerState, patience: float) -> bool:
    """Whether the keeper has ended, or does within some seconds (its socket closes first)."""
    try:
        pidfd = os.pidfd_open(state.keeper_pid)
    except OSError:
        return True
    try:
        return not keeper_alive(state) or bool(select.select([pidfd], [], [], patience)[0])
    finally:
        os.close(pidfd)


def bury(state: ContainerState | None) -> None:
    """Kill what a keeper that died before its container has left running.

    Nothing else can: its streams have no reader and its end no witness.  Blocks for a moment.
    """
    if state is None or state.status in ("created", "exited") or not state.cgroup:
        return
    if _is_gone(state, _DYING):
        try:
            cgroups.group(state.cgroup).delete()
        except OSError:
            return  # it is tried again by the next start of a container of this name


class Keeper:
    """A live connection to one keeper.  Every command raises KeeperGone when it has ended."""

    def __init__(
        self, sock: socket.socket, state: ContainerState, on_event: OnEvent | None
    ) -> None:
        self.state = state
        self.on_event = on_event
        self._socket = sock
        self._receiver = parcel.Receiver(sock)
        self._seq = 0
        self._replies: dict[int, asyncio.Future[protocol.Reply]] = {}
        self._closed = asyncio.Event()
        self._started: asyncio.Future[Started] | None = None
        self._burial: asyncio.Future[None] | None = None
        self._loop = asyncio.get_running_loop()
        sock.setblocking(False)
        self._loop.add_reader(sock, self._readable)

    @classmethod
    async def started(
        cls, sock: socket.socket, request: KeeperRequest, on_event: OnEvent | None
    ) -> Keeper:
        """Wait for a new keeper's ``Started``.  Raises StartError.  For the spawner's use."""
        state = ContainerState(request.id, "created", 0)
        keeper = cls(sock, state, on_event)
        keeper._started = keeper._loop.create_future()
        try:
            await keeper._started
        except BaseException:
            keeper.close()
            raise
        return keeper

    @classmethod
    async def connect(cls, run_dir: Path, on_event: OnEvent | None = None) -> Keeper:
        """Connect to the keeper whose run directory this is (after a daemon restart).

        Raises KeeperGone if none listens there; what a dead one has left is killed then.
        """
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            directory = os.open(run_dir, os.O_PATH | os.O_DIRECTORY)
            try:
                # By the descriptor: a socket's path is limited to 108 bytes.
                sock.connect(f"/proc/self/fd/{directory}/{protocol.SOCKET_NAME}")
            finally:
                os.close(directory)
        except OSError:
            sock.close()
            await asyncio.to_thread(bury, read_state(run_dir))
            raise KeeperGone(f"no keeper of a container runs in {run_dir}") from None
        keeper = cls(sock, ContainerState("", "created", 0), on_event)
        try:
            keeper.state = await keeper.refresh()
        except BaseException as failure:
            keeper.close()
            if isinstance(failure, KeeperGone):
                # It died a moment ago.
                await asyncio.to_thread(bury, read_state(run_dir))
            raise
        return keeper

    @property
    def pid(self) -> int:
        """The container's first process, as the host numbers it."""
        return self.state.pid

    @property
    def keeper_pid(self) -> int:
        return self.state.keeper_pid

    async def refresh(self) -> ContainerState:
        """Ask the keeper for its state."""
        reply = await self._command(protocol.GetState())
        self.state = msgspec.convert(reply.value, ContainerState)
        return self.state

    async def signal(self, signal: int, *, everyone: bool = False) -> None:
        """Send a signal to the first process, or to every process of the container."""
        await self._command(protocol.Signal(signal, everyone))

    async def attach(self, request: AttachRequest, fd: int) -> None:
        """Hand a client's connection to the keeper; the caller closes its own copy."""
        await self._command(protocol.Attach(request), [fd])

    async def exec(self, request: ExecRequest, fds: Sequence[int] = ()) -> int:
        """Start a further process; return its process number.  Raises StartError."""
        if len(fds) != len(request.attaches):
            raise ValueError("one descriptor is needed for each attach request")
        reply = await self._command(protocol.Exec(request), fds)
        return int(reply.value)

    async def exec_attach(self, exec_id: str, request: AttachRequest, fd: int) -> None:
        """Attach a client to a process started by :meth:`exec`."""
        await self._command(protocol.Attach(request, exec_id), [fd])

    async def resize(self, rows: int, columns: int, exec_id: str | None = None) -> None:
        """Set the terminal's window size."""
        await self._command(protocol.Resize(rows, columns, exec_id or ""))

    async def pause(self) -> None:
        await self._command(protocol.Pause())

    async def resume(self) -> None:
        await self._command(protocol.Resume())

    async def update(self, resources: dict[str, Any]) -> None:
        """Apply OCI ``linux.resources`` to the running container."""
        await self._command(protocol.Update(resources))

    async def set_restart(self, name: str, maximum_retry_count: int = 0) -> None:
        """Change the restart policy (``stop`` sets ``no`` first)."""
        await self._command(protocol.SetRestart(name, maximum_retry_count))

    async def set_network(
        self, interfaces: Sequence[Interface], services: Sequence[ServiceRequest]
    ) -> None:
        """Tell what the container's network is now: the interfaces for a restart, and services of
        which those that do not run yet are started."""
        await self._command(protocol.SetNetwork(list(interfaces), list(services)))

    async def wait_closed(self) -> None:
        """Return when the keeper has ended (its last event has been delivered by then)."""
        await self._closed.wait()

    def close(self) -> None:
        """Drop the connection; the keeper and its container go on."""
        if self._closed.is_set():
            return
        self._closed.set()
        self._loop.remove_reader(self._socket)
        self._socket.close()
        for reply in self._replies.values():
            if not reply.done():
                reply.set_exception(KeeperGone(f"container {self.state.id} is not running"))
        self._replies.clear()
        if self._started and not self._started.done():
            self._started.set_exception(
                StartError("the keeper of the container has died unexpectedly", 125)
            )

    async def _command(self, body: protocol.Body, fds: Sequence[int] = ()) -> protocol.Reply:
        if self._closed.is_set():
            raise KeeperGone(f"container {self.state.id} is not running")
        self._seq += 1
        seq = self._seq
        future: asyncio.Future[protocol.Reply] = self._loop.create_future()
        self._replies[seq] = future
        try:
            await self._send(protocol.encoder.encode(protocol.Command(seq, body)), fds)
            reply = await future
        except OSError:
            raise KeeperGone(f"container {self.state.id} is not running") from None
        finally:
            self._replies.pop(seq, None)
        if reply.error:
            if isinstance(body, protocol.Exec):
                raise StartError(reply.error, reply.code)
            if reply.code == errno.ESRCH:
                # Its process has just ended, and the keeper is about to.
                raise KeeperGone(reply.error)
            if reply.code:
                raise InvalidParameter(reply.error)
            raise SampanError(reply.error)
        return reply

    async def _send(self, message: bytes, fds: Sequence[int]) -> None:
        while True:
            try:
                parcel.send(self._socket, message, fds)
                return
            except BlockingIOError:
                await writable(self._socket)

    def _readable(self) -> None:
        while not self._closed.is_set():
            try:
                message = self._receiver.receive()
            except BlockingIOError:
                return
            except OSError:
                message = None
            if message is None:
                self._ended()
                return
            for fd in message[1]:
                os.close(fd)
            self._dispatch(protocol.upward_decoder.decode(message[0]))

    def _ended(self) -> None:
        """The keeper has ended; if it did not say how its container ended, it was killed."""
        if self.state.status in ("created", "exited"):
            self.close()
            return
        self._loop.remove_reader(self._socket)
        self._burial = asyncio.ensure_future(self._report_death())

    async def _report_death(self) -> None:
        await asyncio.to_thread(bury, self.state)
        why = "the keeper of the container was killed"
        event = Exited(_LOST, time.time_ns(), False, why, lost=True)
        self._note(event)
        if self.on_event:
            self.on_event(event)
        self.close()

    def _dispatch(self, message: protocol.Upward) -> None:
        if isinstance(message, protocol.Reply):
            reply = self._replies.get(message.seq)
            if reply and not reply.done():
                reply.set_result(message)
            return
        self._note(message)
        if isinstance(message, StartFailed) and self._started and not self._started.done():
            self._started.set_exception(StartError(message.message, message.exit_code))
            return
        if self.on_event:
            self.on_event(message)
        if isinstance(message, Started) and self._started and not self._started.done():
            self._started.set_result(message)

    def _note(self, event: KeeperEvent) -> None:
        """Keep the copy of the state current."""
        state = self.state
        match event:
            case Started():
                if event.state is not None:
                    self.state = event.state
            case Exited():
                state.status, state.finished_at = "exited", event.at
                state.exit_code, state.oom_killed = event.code, event.oom_killed
                state.error = event.error
            case Restarting():
                state.status, state.finished_at = "restarting", event.at
                state.exit_code, state.restart_count = event.code, event.count
            case Paused():
                state.status = "paused"
            case Unpaused():
                state.status = "running"
            case _:
                pass
