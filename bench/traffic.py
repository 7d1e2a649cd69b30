"""A sender and a receiver: ``python -m bench.traffic serve PORT | stream|trips ADDRESS PORT SECONDS``.

Run by the network's figures inside network namespaces.  ``stream`` prints bytes a second through
one TCP connection, ``trips`` the microseconds of a round trip of 64 bytes.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
BUFFER = 1 << 18
SMALL = 64


def serve(port: int) -> None:
    listener = socket.create_server(("0.0.0.0", port))
    print("ready", flush=True)
    while True:
        connection, _ = listener.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with connection, contextlib.suppress(ConnectionResetError):
            if connection.recv(1) == b"s":
                buffer = bytearray(BUFFER)
                while connection.recv_into(buffer):
                    pass
            else:
                while data := connection.recv(SMALL):
                    connection.sendall(data)


def stream(address: str, port: int, seconds: float) -> float:
    with socket.create_connection((address, port)) as connection:
        connection.sendall(b"s")
        data, sent = memoryview(bytes(BUFFER)), 0
        begin = time.perf_counter()
        while (spent := time.perf_counter() - begin) < seconds:
            sent += connection.send(data)
        return sent / spent


def trips(address: str, port: int, seconds: float) -> float:
    with socket.create_connection((address, port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(b"t")
        data, count = bytes(SMALL), 0
        begin = time.perf_counter()
        while (spent := time.perf_counter() - begin) < seconds:
            connection.sendall(data)
            connection.recv(SMALL, socket.MSG_WAITALL)
            count += 1
        return spent / count * 1e6


def _inside(namespace: int, processor: int, *arguments: str) -> list[str]:
    """The command of this module in a process's network namespace, pinned to a processor."""
    program = [sys.executable, "-m", "bench.traffic", *arguments]
    pinned = ["taskset", "-c", str(processor % (os.cpu_count() or 1)), *program]
    return ["nsenter", f"--net=/proc/{namespace}/ns/net", *pinned]


@contextlib.contextmanager
def serving(namespace: int, port: int) -> Iterator[None]:
    """A receiver in the network namespace of the process ``namespace``."""
    command = _inside(namespace, 1, "serve", str(port))
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=REPOSITORY) as server:
        try:
            assert server.stdout is not None
            if server.stdout.readline() != b"ready\n":
                raise RuntimeError(f"no server in the namespace of {namespace}")
            yield
        finally:
            server.kill()


def measure(kind: str, namespace: int, address: str, port: int, seconds: float) -> float:
    """``kind`` is ``stream`` or ``trips``; sent from the namespace of the process ``namespace``."""
    command = _inside(namespace, 0, kind, address, str(port), str(seconds))
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, check=True)
    return float(done.stdout)


@contextlib.contextmanager
def bare_pair() -> Iterator[tuple[int, int, str]]:
    """Two namespaces with a veth pair and nothing else: their holders, and the second's address."""
    with contextlib.ExitStack() as stack:
        holders = []
        for _ in range(2):
            command = ["unshare", "--net", "sh", "-c", "echo ready; exec sleep 100000"]
            holder = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE))
            stack.callback(holder.kill)
            assert holder.stdout is not None and holder.stdout.readline()
            holders.append(holder.pid)
        first, second = holders
        script = (
            f"ip link add eth0 type veth peer eth0 netns {second};"
            "ip addr add 198.19.0.1/24 dev eth0; ip link set eth0 up; ip link set lo up"
        )
        _configure(first, script)
        _configure(second, "ip addr add 198.19.0.2/24 dev eth0; ip link set eth0 up")
        yield first, second, "198.19.0.2"


def _configure(namespace: int, script: str) -> None:
    enter = ["nsenter", f"--net=/proc/{namespace}/ns/net", "sh", "-ec", script]
    subprocess.run(enter, check=True)


def main() -> None:
    what, *rest = sys.argv[1:]
    if what == "serve":
        serve(int(rest[0]))
    else:
        address, port, seconds = rest
        print({"stream": stream, "trips": trips}[what](address, int(port), float(seconds)))


if __name__ == "__main__":
    main()
