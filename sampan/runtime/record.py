"""What a keeper knows of its container.

It decodes what it is seldom asked for when it is asked for it: a keeper lives as long as its
container, and every page that it touches is a page of its own.  So the request stays in a memory
file, and the state stays the message that it came in.
"""

from __future__ import annotations

import os

import msgspec

from sampan.linux import memfd
from sampan.runtime import cgroups, launch, protocol, starter
from sampan.runtime.external.command import Runtime
from sampan.runtime.types import ContainerState, KeeperRequest

_state_decoder = msgspec.msgpack.Decoder(ContainerState)


class Record:
    """The request and the state of one container, and a few facts that are needed without them."""

    def __init__(self) -> None:
        self.id = ""
        self.stdin_once = False
        self.external = False
        """Whether another runtime makes the processes."""
        self.run_dir = -1
        self._cgroup = ""
        self._memory = -1
        """A memory file with the encoded request."""
        self._request: KeeperRequest | None = None
        self._state_message = b""
        self._state: ContainerState | None = None

    def take(
        self, facts: tuple[str, str, bool, bool], state: bytes, run_dir: int, memory: int
    ) -> None:
        """Take over what the starter of the first start knows."""
        self.id, self._cgroup, self.stdin_once, self.external = facts
        self._state_message, self.run_dir, self._memory = state, run_dir, memory

    @property
    def request(self) -> KeeperRequest:
        if self._request is None:
            self._request = launch.request_decoder.decode(self.message())
        return self._request

    @property
    def state(self) -> ContainerState:
        if self._state is None:
            self._state = _state_decoder.decode(self._state_message)
        return self._state

    @property
    def group(self) -> cgroups.Group:
        return cgroups.group(self._cgroup)

    @property
    def running_group(self) -> cgroups.Group:
        """Raises ProcessLookupError when the container does not run."""
        if self.state.status not in ("running", "paused"):
            raise ProcessLookupError
        return self.group

    @property
    def runtime(self) -> Runtime:
        """The other runtime, if there is one."""
        return Runtime(self.request.runtime, self.request.run_dir)

    def message(self) -> bytes:
        """The encoded request."""
        return memfd.read_all(self._memory)

    def know(self, message: bytes) -> None:
        """The request comes before everything else, for the sake of the services in it."""
        self._request = launch.request_decoder.decode(message)

    def keep_request(self) -> None:
        """The request has been changed: the next start is made by the changed one."""
        os.close(self._memory)
        self._memory = memfd.sealed_bytes("request", protocol.encoder.encode(self.request))

    def write(self) -> None:
        """Write the state to the run directory."""
        starter.record(self.run_dir, self.state)

    def close(self) -> None:
        os.close(self.run_dir)
        os.close(self._memory)
