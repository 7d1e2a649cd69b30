"""One path for packets against another: ``python -m bench.traffic KIND TRACK TRACK``.

A track is ``CLIENT,SERVER,ADDRESS,PORT,LISTEN``: processes whose network namespaces the two ends
are in, and where the client connects to what listens at the server.  ``stream`` moves the same
amount through one TCP connection again and again, ``trips`` makes the same number of round trips of
64 bytes, between two processes that are pinned to processors of their own.  ``path`` makes the
round trips with both ends in one process, so that no waking up and no other program is in the
figure: it is what the kernel does for the packets.  The tracks take turns of some milliseconds, so
that what else the machine does hits them alike.  Printed are, a track a line, the seconds of each
turn (of processor time for ``path``).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
BUFFER = 1 << 18
SMALL = 64
TURNS = 80
# What a turn moves: 8 MiB, or so many round trips.
CHUNKS = {"stream": 32, "trips": 150, "path": 200}
_CLONE_NEWNET = 0x40000000


@dataclass(frozen=True)
class Track:
    """Where the two ends of a connection are, and how the client reaches the server."""

    client: int
    server: int
    address: str
    port: int
    listen: int

    def __str__(self) -> str:
        return f"{self.client},{self.server},{self.address},{self.port},{self.listen}"

    @staticmethod
    def parse(text: str) -> Track:
        client, server, address, port, listen = text.split(",")
        return Track(int(client), int(server), address, int(port), int(listen))


@contextlib.contextmanager
def inside(process: int) -> Iterator[None]:
    """Be in the network namespace of a process."""
    libc = ctypes.CDLL(None, use_errno=True)
    home = os.open("/proc/self/ns/net", os.O_RDONLY)
    there = os.open(f"/proc/{process}/ns/net", os.O_RDONLY)
    try:
        if libc.setns(there, _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"entering the namespace of {process}")
        yield
        libc.setns(home, _CLONE_NEWNET)
    finally:
        os.close(home)
        os.close(there)


def connected(track: Track) -> tuple[socket.socket, socket.socket]:
    with inside(track.server):
        listener = socket.create_server(("0.0.0.0", track.listen))
    with listener:
        with inside(track.client):
            near = socket.create_connection((track.address, track.port), timeout=10)
        far, _ = listener.accept()
    for end in (near, far):
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # One that does not probe for more: its experiments would be the figure.
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"reno")
        end.settimeout(None)
    return near, far


def serve(kind: str, ends: Sequence[socket.socket], turns: Sequence[int]) -> None:
    """The other side of the turns of ``stream`` and ``trips``."""
    buffer = bytearray(BUFFER)
    for turn in turns:
        end = ends[turn]
        if kind == "trips":
            for _ in range(CHUNKS[kind]):
                end.sendall(end.recv(SMALL, socket.MSG_WAITALL))
        else:
            left = CHUNKS[kind] * BUFFER
            while left:
                left -= end.recv_into(buffer)
            end.sendall(b".")


def stream(near: socket.socket) -> float:
    data = bytes(BUFFER)
    begun = time.perf_counter()
    for _ in range(CHUNKS["stream"]):
        near.sendall(data)
    near.recv(1)
    return time.perf_counter() - begun


def trips(near: socket.socket) -> float:
    data = bytes(SMALL)
    begun = time.perf_counter()
    for _ in range(CHUNKS["trips"]):
        near.sendall(data)
        near.recv(SMALL, socket.MSG_WAITALL)
    return time.perf_counter() - begun


def path(near: socket.socket, far: socket.socket) -> float:
    data = bytes(SMALL)
    begun = time.thread_time()
    for _ in range(CHUNKS["path"]):
        near.send(data)
        far.recv(SMALL)
        far.send(data)
        near.recv(SMALL)
    return time.thread_time() - begun


def race(kind: str, tracks: Sequence[Track]) -> list[list[float]]:
    """The seconds of the turns, by track."""
    pairs = [connected(track) for track in tracks]
    forth = list(range(len(tracks)))
    turns = [turn for _ in range(TURNS // 2) for turn in [*forth, *reversed(forth)]]
    found: list[list[float]] = [[] for _ in tracks]
    processors = sorted(os.sched_getaffinity(0))
    server = 0
    if kind != "path":
        server = os.fork()
        if not server:
            os.sched_setaffinity(0, {processors[-1]})
            serve(kind, [far for _, far in pairs], turns)
            os._exit(0)
    os.sched_setaffinity(0, {processors[0]})
    for turn in turns:
        near, far = pairs[turn]
        if kind == "path":
            spent = path(near, far)
        else:
            spent = stream(near) if kind == "stream" else trips(near)
        found[turn].append(spent)
    if server:
        os.waitpid(server, 0)
    return found


def compare(kind: str, track: Track, reference: Track) -> float:
    """By how many percent a track takes longer than another.

    Each track's figure is the median of its fastest quarter of turns: those that nothing else
    disturbed.
    """
    command = [sys.executable, "-m", "bench.traffic", kind, str(track), str(reference)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, check=True)
    ours, other = (
        statistics.median(sorted(map(float, line.split()))[: TURNS // 4])
        for line in done.stdout.splitlines()
    )
    return 100 * (ours / other - 1)


@contextlib.contextmanager
def namespaces(count: int) -> Iterator[list[int]]:
    """Fresh network namespaces, by the processes that hold them."""
    with contextlib.ExitStack() as stack:
        holders = []
        for _ in range(count):
            command = ["unshare", "--net", "sh", "-c", "echo ready; exec sleep 100000"]
            holder = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE))
            stack.callback(holder.kill)
            assert holder.stdout is not None and holder.stdout.readline()
            holders.append(holder.pid)
        yield holders


@contextlib.contextmanager
def bare_pair(listen: int) -> Iterator[Track]:
    """Two namespaces with a veth pair and nothing else."""
    with namespaces(2) as (first, second):
        script = (
            f"ip link add eth0 numtxqueues 1 numrxqueues 1 type veth peer eth0 netns {second}"
            " numtxqueues 1 numrxqueues 1;"
            "ip addr add 198.19.0.1/24 dev eth0; ip link set eth0 up; ip link set lo up"
        )
        configure(first, script)
        configure(second, "ip addr add 198.19.0.2/24 dev eth0; ip link set eth0 up")
        yield Track(first, second, "198.19.0.2", listen, listen)


@contextlib.contextmanager
def bare_bridge(listen: int) -> Iterator[Track]:
    """Two namespaces on a bridge in a third that has no rules: what the kernel's own costs."""
    with namespaces(3) as (host, first, second):
        switches = "/proc/sys/net/bridge/bridge-nf-call"
        configure(
            host,
            f"for f in {switches}-iptables {switches}-ip6tables; do"
            " if test -e $f; then echo 0 > $f; fi; done;"
            "ip link add br0 type bridge; ip link set br0 up",
        )
        for number, end in ((1, first), (2, second)):
            configure(
                host,
                f"ip link add v{number} numtxqueues 1 numrxqueues 1 master br0 type veth"
                f" peer eth0 netns {end} numtxqueues 1 numrxqueues 1; ip link set v{number} up",
            )
            configure(end, f"ip addr add 198.19.0.{number}/24 dev eth0; ip link set eth0 up")
        yield Track(first, second, "198.19.0.2", listen, listen)


def configure(namespace: int, script: str) -> None:
    enter = ["nsenter", f"--net=/proc/{namespace}/ns/net", "sh", "-ec", script]
    subprocess.run(enter, check=True)


def main() -> None:
    kind, *rest = sys.argv[1:]
    for turns in race(kind, [Track.parse(text) for text in rest]):
        print(*(f"{spent:.9f}" for spent in turns))


if __name__ == "__main__":
    main()
