"""How long until a container's first instruction runs, by a program that tells the time of it."""

from __future__ import annotations

import io
import json
import os
import statistics
import struct
import tarfile
import time
from collections.abc import Iterator

from .api import Connection, socket_of
from .engines import CommandFailed, Engine
from .scenarios import scenario

IMAGE = "bench:first"
COUNT = 30
_ADDRESS = 0x400000
# clock_gettime(CLOCK_MONOTONIC) onto the stack, write these 16 bytes to standard output, exit.
_CODE = {
    "x86_64": bytes.fromhex(
        "4883ec20 bf01000000 4889e6 b8e4000000 0f05"
        "bf01000000 4889e6 ba10000000 b801000000 0f05"
        "31ff b83c000000 0f05"
    ),
    "aarch64": struct.pack(
        "<13I",
        *(0xD10083FF, 0xD2800020, 0x910003E1, 0xD2800E28, 0xD4000001),
        *(0xD2800020, 0x910003E1, 0xD2800202, 0xD2800808, 0xD4000001),
        *(0xD2800000, 0xD2800BA8, 0xD4000001),
    ),
}
_MACHINES = {"x86_64": 62, "aarch64": 183}


def program() -> bytes:
    """An ELF executable that needs nothing; its first instructions ask for the time."""
    machine = os.uname().machine
    if machine not in _CODE:
        raise CommandFailed(f"there is no program for {machine}")
    code = _CODE[machine]
    size = 64 + 56 + len(code)
    head = (
        b"\x7fELF\2\1\1"
        + bytes(9)
        + struct.pack(
            "<HHIQQQIHHHHHH", 2, _MACHINES[machine], 1, _ADDRESS + 120, 64, 0, 0, 64, 56, 1, 0, 0, 0
        )
    )
    return head + struct.pack("<IIQQQQQQ", 1, 5, 0, _ADDRESS, _ADDRESS, size, size, 4096) + code


def image() -> bytes:
    buffer = io.BytesIO()
    content = program()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        entry = tarfile.TarInfo("first")
        entry.size, entry.mode = len(content), 0o755
        tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def milliseconds(connection: Connection) -> float:
    """From before the request to create a container to its first instruction."""
    wanted = {"Image": IMAGE, "Cmd": ["/first"], "HostConfig": {"NetworkMode": "none"}}
    begin = time.monotonic_ns()
    name = json.loads(connection.send_json("/containers/create", wanted))["Id"]
    connection.send_json(f"/containers/{name}/start")
    connection.send_json(f"/containers/{name}/wait")
    output = connection.fetch(f"/containers/{name}/logs?stdout=1")
    connection.send_json(f"/containers/{name}", method="DELETE")
    # Behind the eight bytes of the stream's frame: seconds and nanoseconds.
    seconds, nanoseconds = struct.unpack_from("=qq", output, 8)
    return (seconds * 1_000_000_000 + nanoseconds - begin) / 1e6


@scenario("API: create and start to first instruction", target=8, group="api")
def first_instruction(engine: Engine) -> Iterator[float]:
    """Both requests included, on a connection that is open."""
    connection = Connection(socket_of(engine))
    engine.call("import", "-", IMAGE, stdin=image())
    milliseconds(connection)
    yield statistics.median(milliseconds(connection) for _ in range(COUNT))
    engine.call("rmi", IMAGE)
