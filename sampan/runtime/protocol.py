"""The messages on a keeper's control socket: commands down, replies and events up.

Every command is answered by one :class:`Reply` with its ``seq``; events come at any time.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct

from sampan.runtime.interfaces import Interface
from sampan.runtime.types import (
    AttachRequest,
    Detached,
    ExecExited,
    ExecRequest,
    Exited,
    Health,
    OutOfMemory,
    Paused,
    Restarting,
    ServiceRequest,
    Started,
    StartFailed,
    Unpaused,
)

KEEPER, BRIEF = b"k", b"b"
"""What the spawner is asked for: a keeper of a container, or one of a command of a build, which
lives briefly and most likely joins a network namespace."""


class Signal(Struct, tag="signal"):
    number: int
    everyone: bool = False


class Attach(Struct, tag="attach"):
    """One descriptor travels beside it."""

    request: AttachRequest
    exec_id: str = ""


class Exec(Struct, tag="exec"):
    """One descriptor for each of the request's attaches travels beside it."""

    request: ExecRequest


class Resize(Struct, tag="resize"):
    rows: int
    columns: int
    exec_id: str = ""


class Pause(Struct, tag="pause"):
    pass


class Resume(Struct, tag="resume"):
    pass


class Update(Struct, tag="update"):
    resources: dict[str, Any]


class SetRestart(Struct, tag="set-restart"):
    name: str
    maximum_retry_count: int = 0


class SetNetwork(Struct, tag="set-network"):
    """The interfaces for the next start; services that do not run yet are started."""

    interfaces: list[Interface]
    services: list[ServiceRequest]


class GetState(Struct, tag="get-state"):
    pass


Body = (
    Signal | Attach | Exec | Resize | Pause | Resume | Update | SetRestart | SetNetwork | GetState
)


class Command(Struct):
    seq: int
    body: Body


class Reply(Struct, tag="reply"):
    """``error`` is empty on success; ``code`` is a start failure's exit code, or an errno."""

    seq: int
    error: str = ""
    code: int = 0
    value: Any = None


Upward = (
    Reply
    | Started
    | StartFailed
    | Exited
    | Restarting
    | ExecExited
    | Detached
    | OutOfMemory
    | Health
    | Paused
    | Unpaused
)

encoder = msgspec.msgpack.Encoder()
command_decoder = msgspec.msgpack.Decoder(Command)
upward_decoder: msgspec.msgpack.Decoder[Upward] = msgspec.msgpack.Decoder(Upward)
SOCKET_NAME = "keeper.sock"
STATE_NAME = "state.json"
