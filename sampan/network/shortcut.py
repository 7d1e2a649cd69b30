"""Frames from container to container, without the bridge in between.

A frame that a container sends arrives at the host's end of its veth pair.  Bridging it from there
costs the kernel about as much as a second veth pair does, and three times that where the host
filters bridged packets (br_netfilter, which Docker and Kubernetes switch on).  A program on the
host's end looks the destination's MAC address up among the containers of the network and lets the
kernel hand the frame to that container's interface directly.  Whatever it does not know goes to the
bridge as ever: broadcasts, what is for the host, addresses that a user chose or a container made
up.

Only containers that reach each other anyway get a program (not without ICC), and only while their
link is up and on its network's bridge.  Programs come a moment after a container's start, so that
the start does not wait for them; they need no daemon, and the kernel removes an address from the
map together with its link, so that nothing is ever sent to a container that is gone.  Where the
kernel or its administrator does not have it (CAP_BPF, and Linux 6.7: older ones do not count such
frames among those that a container has received), the bridge does it all.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass

from sampan.linux import bpf, classifier, kernel, rtnetlink
from sampan.linux.netlink import Message
from sampan.linux.rtnetlink import Link
from sampan.network.ipam import MAC_PREFIX
from sampan.network.types import Endpoint

log = logging.getLogger(__name__)

# Longer than a short-lived container lives, shorter than a connection worth the effort.
_DELAY_SECONDS = 0.3
_STEP_SECONDS = 0.1
_AT_ONCE = 32
_CONTAINERS = 4096
_KERNEL = (6, 7)
_FAILURES = 20
"""After so many without a success there is no use in trying."""
_LABEL = "sampan-shortcut"

# Opcodes and helpers of eBPF that are used here.
_LOAD_WORD, _LOAD_HALF, _STORE_HALF = 0x61, 0x69, 0x6B
_MOVE, _MOVE_REGISTER, _ADD = 0xB7, 0xBF, 0x07
_LOAD_MAP, _PSEUDO_MAP_FD = 0x18, 1
_JUMP_EQUAL, _JUMP_NOT_EQUAL, _JUMP_GREATER_REGISTER = 0x15, 0x55, 0x2D
_CALL, _EXIT = 0x85, 0x95
_MAP_LOOKUP, _CHANGE_TYPE, _REDIRECT_PEER = 1, 32, 155
# Offsets in struct __sk_buff.
_DATA, _DATA_END = 76, 80
_ETHERNET_HEADER = 14
_PACKET_HOST = 0
_GO_ON = -1


@dataclass(frozen=True, slots=True)
class Candidate:
    """A container's interface whose frames may take the shortcut."""

    endpoint: Endpoint
    bridge: str


class _Program:
    """The map and the program of one network."""

    def __init__(self) -> None:
        self.map = bpf.create_link_map(_CONTAINERS)
        try:
            self.program = bpf.load_classifier(assemble(self.map))
        except BaseException:
            os.close(self.map)
            raise

    def close(self) -> None:
        os.close(self.program)
        os.close(self.map)


class Shortcuts:
    """The programs of one daemon's networks.

    ``candidates`` gives, by the name of the host's end, the interfaces that may have a program.
    """

    def __init__(self, candidates: Callable[[], dict[str, Candidate]]) -> None:
        self._candidates = candidates
        self._programs: dict[str, _Program] = {}
        # Links by their index: the last notice of each, and what has been done.
        self._waiting: dict[int, bytes] = {}
        self._prepared: set[int] = set()
        self._attached: set[int] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._usable = True
        self._proved = False
        self._failures = 0

    def close(self) -> None:
        """Let go; what is attached goes on working."""
        if self._timer is not None:
            self._timer.cancel()
        for program in self._programs.values():
            program.close()
        self._programs.clear()

    def start(self, *, wanted: bool) -> None:
        """Look at all links; without ``wanted``, take off what a predecessor attached."""
        if wanted and counts_frames(os.uname().release):
            self.look()
            return
        self._usable = False
        candidates = self._candidates()
        with rtnetlink.open_socket() as route:
            messages = [
                classifier.detach(link.ifindex, link.name)
                for link in rtnetlink.links(route)
                if link.name in candidates
            ]
            if messages:
                route.request(messages)

    def look(self) -> None:
        """Notice the links as they are now, after a time without notices."""
        with rtnetlink.open_socket() as route:
            for payload in rtnetlink.link_payloads(route):
                self.changed(payload)

    def changed(self, payload: bytes) -> None:
        """A link was made or changed.  There are several notices a start of a container: the last
        one counts, and it is read when the container has lived for a moment."""
        if self._usable:
            self._waiting[rtnetlink.link_index(payload)] = payload
            self._look_later(_DELAY_SECONDS)

    def gone(self, index: int) -> None:
        """A link was deleted."""
        self._waiting.pop(index, None)
        self._prepared.discard(index)
        self._attached.discard(index)

    def forget(self, network_id: str) -> None:
        """A network was removed."""
        program = self._programs.pop(network_id, None)
        if program is not None:
            program.close()

    def _look_later(self, seconds: float) -> None:
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(seconds, self._catch_up)

    def _catch_up(self) -> None:
        self._timer = None
        candidates = self._candidates()
        messages: list[Message] = []
        for index in list(self._waiting)[:_AT_ONCE]:
            payload = self._waiting.pop(index)
            link = rtnetlink.parse_link(payload)
            if link.name in candidates:
                messages += self._step(link, candidates[link.name], payload)
        try:
            if messages:
                with rtnetlink.open_socket() as route:
                    route.request(messages)
            self._proved = self._proved or bool(self._attached)
        except OSError as error:
            self._failed(error)
        if self._waiting:
            self._look_later(_STEP_SECONDS)

    def _failed(self, error: OSError) -> None:
        # A link that is about to go has a moment of many errors; they say nothing of other links.
        self._failures += 1
        if self._proved or self._failures < _FAILURES:
            log.debug("no shortcut for a link: %s", error)
        else:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        log.info("containers reach each other by the bridges alone: %s", error)
        self._usable = False
        self._waiting.clear()

    def _step(self, link: Link, candidate: Candidate, payload: bytes) -> list[Message]:
        """The next thing to do about a link."""
        if not link.flags & rtnetlink.IFF_UP or link.master != _index(candidate.bridge):
            return self._detach(link, candidate.endpoint)
        if link.ifindex in self._attached:
            return []
        if link.ifindex in self._prepared:
            return self._attach(link, candidate.endpoint)
        # A filter that is added at once makes the kernel wait, with all networking locked.
        self._prepared.add(link.ifindex)
        self._waiting[link.ifindex] = payload
        return [classifier.prepare(link.ifindex, link.name)]

    def _attach(self, link: Link, endpoint: Endpoint) -> list[Message]:
        program = self._programs.get(endpoint.network_id)
        if program is None:
            try:
                program = self._programs[endpoint.network_id] = _Program()
            except OSError as error:
                self._failed(error)
                return []
        if endpoint.mac.startswith(MAC_PREFIX):
            try:
                bpf.put_link(program.map, _key(endpoint.mac), link.ifindex)
            except OSError as error:
                # The container ended meanwhile, or there are very many.
                log.debug("no shortcut to %s: %s", link.name, error)
                return []
        self._attached.add(link.ifindex)
        return [classifier.attach(link.ifindex, link.name, program.program, _LABEL)]

    def _detach(self, link: Link, endpoint: Endpoint) -> list[Message]:
        if link.ifindex not in self._attached:
            return []
        self._attached.discard(link.ifindex)
        program = self._programs.get(endpoint.network_id)
        if program is not None:
            with contextlib.suppress(OSError):
                bpf.remove_link(program.map, _key(endpoint.mac))
        return [classifier.detach(link.ifindex, link.name)]


def assemble(map_fd: int) -> bytes:
    """The program: a frame to ``02:42:`` and a key of the map goes to the peer of that link, every
    other one on its way."""
    to_peer = [
        bpf.instruction(_LOAD_WORD, 7, 0, 0),  # r7 = the link's index
        bpf.instruction(_MOVE_REGISTER, 1, 6),
        bpf.instruction(_MOVE, 2, value=_PACKET_HOST),
        bpf.instruction(_CALL, value=_CHANGE_TYPE),  # as if it had arrived at its receiver
        bpf.instruction(_MOVE_REGISTER, 1, 7),
        bpf.instruction(_MOVE, 2, value=0),
        bpf.instruction(_CALL, value=_REDIRECT_PEER),
        bpf.instruction(_EXIT),
    ]
    look_up = [
        bpf.instruction(_LOAD_HALF, 4, 2, 2),
        bpf.instruction(_STORE_HALF, 10, 4, -4),  # the key, on the stack
        bpf.instruction(_LOAD_HALF, 4, 2, 4),
        bpf.instruction(_STORE_HALF, 10, 4, -2),
        bpf.instruction(_MOVE_REGISTER, 2, 10),
        bpf.instruction(_ADD, 2, value=-4),
        bpf.instruction(_LOAD_MAP, 1, _PSEUDO_MAP_FD, value=map_fd),
        bpf.instruction(0),
        bpf.instruction(_CALL, value=_MAP_LOOKUP),
        bpf.instruction(_JUMP_EQUAL, 0, 0, len(to_peer), 0),
    ]
    prefix = int.from_bytes(bytes.fromhex(MAC_PREFIX.replace(":", "")), "little")
    check = [
        bpf.instruction(_LOAD_HALF, 4, 2, 0),
        bpf.instruction(_JUMP_NOT_EQUAL, 4, 0, len(look_up) + len(to_peer), prefix),
    ]
    begin = [
        bpf.instruction(_MOVE_REGISTER, 6, 1),  # r6 = the frame
        bpf.instruction(_LOAD_WORD, 2, 1, _DATA),
        bpf.instruction(_LOAD_WORD, 3, 1, _DATA_END),
        bpf.instruction(_MOVE_REGISTER, 4, 2),
        bpf.instruction(_ADD, 4, value=_ETHERNET_HEADER),
        bpf.instruction(_JUMP_GREATER_REGISTER, 4, 3, len(check) + len(look_up) + len(to_peer)),
    ]
    end = [bpf.instruction(_MOVE, 0, value=_GO_ON), bpf.instruction(_EXIT)]
    return b"".join([*begin, *check, *look_up, *to_peer, *end])


def counts_frames(release: str) -> bool:
    """Whether the kernel of this release counts what takes a shortcut."""
    return kernel.version(release) >= _KERNEL


def _key(mac: str) -> bytes:
    return rtnetlink.mac_bytes(mac)[2:]


def _index(bridge: str) -> int:
    try:
        return rtnetlink.index_of(bridge)
    except OSError:
        return -1
