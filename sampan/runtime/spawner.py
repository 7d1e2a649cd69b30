"""The daemon's side of the spawner: start it, ask it for keepers.

``Spawner.start`` runs the fork server; ``spawn`` returns once the container's process has been
executed, with the :class:`~sampan.runtime.control.Keeper` to talk to.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from sampan.linux import memfd
from sampan.runtime import parcel, seccomp
from sampan.runtime.control import Keeper
from sampan.runtime.errors import StartError
from sampan.runtime.protocol import BRIEF, KEEPER, encoder
from sampan.runtime.types import Exited, KeeperEvent, KeeperRequest
from sampan.runtime.waiting import writable

# A machine that emulates another one, or is very busy, needs a hundred times the usual.
_START_TIMEOUT = 120.0
# Seconds without a request after which the next keeper is forked ahead.
_QUIET = 0.02
# Seconds without a command of a build after which none is expected.
_UNWANTED = 2.0


def _library_path() -> str | None:
    """The directory of a shared libpython: what runs from a memory file cannot find it by a path
    relative to itself."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        path = line.partition("/")[2]
        if path and "libpython" in path.rpartition("/")[2]:
            return "/" + path.rpartition("/")[0]
    return None


def _launch(preload: Sequence[str]) -> tuple[subprocess.Popen[bytes], socket.socket]:
    program = (
        "import sys; "
        f"sys.path[:] = {sys.path!r}; "
        "from sampan.runtime.forkserver import main; "
        f"main({list(preload)!r})"
    )
    # Functions are bound now: bound late, each process would write to its own copy of the tables.
    environment = {
        "PATH": os.defpath,
        "LC_ALL": "C.UTF-8",
        "LD_BIND_NOW": "1",
        "MALLOC_ARENA_MAX": "1",
    }
    if library := _library_path():
        environment["LD_LIBRARY_PATH"] = library
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    image = memfd.sealed_copy(sys.executable, "sampan-spawner")
    try:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", program],
            executable=f"/proc/self/fd/{image}",
            stdin=theirs.fileno(),
            env=environment,
            pass_fds=(image,),
            start_new_session=True,
        )
    finally:
        theirs.close()
        os.close(image)
    return process, ours


class Spawner:
    """A connection to one fork server process."""

    def __init__(self, process: subprocess.Popen[bytes], sock: socket.socket) -> None:
        self._process = process
        self._socket = sock
        self._lock = asyncio.Lock()
        self._spares: dict[bytes, socket.socket] = {}
        """Where keepers that were forked ahead wait for their requests, by their kind."""
        self._leaving: asyncio.TimerHandle | None = None
        self._quiet: asyncio.TimerHandle | None = None

    @classmethod
    async def start(cls, preload: Sequence[str] = ()) -> Spawner:
        """Run the fork server with the modules of ``preload`` imported (keeper services).

        Raises StartError if it does not come up.
        """
        process, ours = await asyncio.to_thread(_launch, preload)
        ours.setblocking(False)
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(_START_TIMEOUT):
                ready = await loop.sock_recv(ours, 64)
        except (TimeoutError, OSError):
            ready = b""
        if not ready:
            process.kill()
            process.wait()
            ours.close()
            raise StartError("the spawner process did not start; see its output above", 125)
        spawner = cls(process, ours)
        spawner._spares[KEEPER] = await spawner._keeper(KEEPER)
        return spawner

    @property
    def pid(self) -> int:
        return self._process.pid

    async def spawn(
        self,
        request: KeeperRequest,
        *,
        attach_fds: Sequence[int] = (),
        hold_fds: Sequence[int] = (),
        on_event: Callable[[KeeperEvent], None] | None = None,
        brief: bool = False,
    ) -> Keeper:
        """Start a container; return when its process has been executed.

        ``attach_fds`` belong to ``request.attaches`` in order.  The descriptors are duplicated
        into the keeper; the caller closes its own.  ``on_event`` gets every event from
        ``Started`` on.  ``brief`` is for one that is expected to end soon: starting it is faster,
        and its keeper has more memory.  Raises StartError.
        """
        if len(attach_fds) != len(request.attaches):
            raise ValueError("one descriptor is needed for each attach request")
        request.hold_count = len(hold_fds)
        request = _with_compiled_seccomp(request)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            kind = BRIEF if brief else KEEPER
            await self._give(
                kind, encoder.encode(request), [theirs.fileno(), *hold_fds, *attach_fds]
            )
        except OSError as failure:
            ours.close()
            raise StartError(f"the spawner process has ended: {failure.strerror}", 125) from None
        finally:
            theirs.close()

        def told(event: KeeperEvent) -> None:
            if on_event:
                on_event(event)
            if isinstance(event, Exited) and not brief:
                # What waits for this end may start the next one at once.
                self.fork_ahead()

        return await Keeper.started(ours, request, told)

    async def _keeper(self, kind: bytes) -> socket.socket:
        """A new keeper: the socket for its request."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        try:
            async with self._lock:
                while True:
                    try:
                        socket.send_fds(self._socket, [kind], [theirs.fileno()])
                        return ours
                    except BlockingIOError:
                        await writable(self._socket)
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()

    async def _give(self, kind: bytes, message: bytes, fds: list[int]) -> None:
        """Give a request to the keeper that waits for one, or else to a new one."""
        spare = self._spares.pop(kind, None)
        if kind == BRIEF and spare is None:
            spare = self._spares.pop(KEEPER, None)
        if self._quiet:
            self._quiet.cancel()
        self._quiet = asyncio.get_running_loop().call_later(_QUIET, self.fork_ahead)
        if spare is not None:
            try:
                with spare:
                    await _send(spare, message, fds)
                return
            except OSError:
                pass  # it has died
        with await self._keeper(kind) as keeper:
            await _send(keeper, message, fds)

    def fork_ahead(self, *, brief: bool = False) -> None:
        """Have the next keeper forked now, so that it is ready when it is wanted.

        Happens by itself when nothing has been wanted for a moment; a caller that starts one
        container after another calls it while the one before works.  A ``brief`` one is let go
        when none has been wanted for a while.
        """
        kind = BRIEF if brief else KEEPER
        if brief:
            if self._leaving:
                self._leaving.cancel()
            self._leaving = asyncio.get_running_loop().call_later(_UNWANTED, self._let_go)
        if kind in self._spares:
            return
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        try:
            socket.send_fds(self._socket, [kind], [theirs.fileno()])
            self._spares[kind] = ours
        except OSError:
            ours.close()
        finally:
            theirs.close()

    def _let_go(self) -> None:
        if spare := self._spares.pop(BRIEF, None):
            spare.close()

    async def close(self) -> None:
        """End the fork server; keepers live on."""
        for timer in (self._quiet, self._leaving):
            if timer:
                timer.cancel()
        for spare in self._spares.values():
            spare.close()
        self._socket.close()
        await asyncio.to_thread(self._process.wait)


async def _send(sock: socket.socket, message: bytes, fds: list[int]) -> None:
    while True:
        try:
            parcel.send(sock, message, fds)
            return
        except BlockingIOError:
            await writable(sock)


def _compile(profile: dict[str, Any], process: dict[str, Any]) -> bytes:
    bounding = (process.get("capabilities") or {}).get("bounding") or ()
    try:
        return seccomp.compile_profile(profile, bounding)
    except (ValueError, KeyError, TypeError) as failure:
        raise StartError(f"the seccomp profile cannot be used: {failure}", 125) from None


def _with_compiled_seccomp(request: KeeperRequest) -> KeeperRequest:
    """The request with its profile as a program, which is small, in the profile's place."""
    linux = request.spec.get("linux") or {}
    profile = linux.get("seccomp")
    if not profile:
        return request
    if request.runtime:
        return _with_plain_seccomp(request, linux)
    return msgspec.structs.replace(
        request,
        spec={**request.spec, "linux": {**linux, "seccomp": None}},
        seccomp_program=_compile(profile, request.spec["process"]),
    )


def _with_plain_seccomp(request: KeeperRequest, linux: dict[str, Any]) -> KeeperRequest:
    """The request with its profile as other runtimes understand it."""
    bounding = (request.spec["process"].get("capabilities") or {}).get("bounding") or ()
    try:
        profile = seccomp.plain_profile(linux["seccomp"], bounding)
    except (ValueError, KeyError, TypeError) as failure:
        raise StartError(f"the seccomp profile cannot be used: {failure}", 125) from None
    return msgspec.structs.replace(
        request, spec={**request.spec, "linux": {**linux, "seccomp": profile}}
    )
