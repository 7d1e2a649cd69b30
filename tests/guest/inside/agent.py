"""Serves the tests from inside a guest: runs commands, reads and writes files, starts daemons.

One request a connection: a line of JSON in, a line of JSON out.  A second port carries connections
on to the socket of the daemon, so that any client outside can talk to it.
"""

from __future__ import annotations

import base64
import glob
import json
import os
import socket
import subprocess
import threading
from pathlib import Path
from typing import Any

AGENT_PORT, RELAY_PORT = 7000, 7001
DAEMON_SOCKET = "/run/sampan/sampan.sock"


def run(request: dict[str, Any]) -> dict[str, Any]:
    """A command to its end."""
    try:
        done = subprocess.run(
            request["argv"],
            input=base64.b64decode(request["input"]),
            capture_output=True,
            timeout=request["timeout"],
        )
    except subprocess.TimeoutExpired as late:
        return {"code": -1, "out": _text(late.stdout), "err": _text(b"it took too long")}
    return {"code": done.returncode, "out": _text(done.stdout), "err": _text(done.stderr)}


def start(request: dict[str, Any]) -> dict[str, Any]:
    """A daemon, up to the line that says it is ready."""
    read, write = os.pipe()
    argv = [*request["argv"], "--ready-fd", str(write)]
    with Path("/var/log/daemon").open("ab") as said:
        process = subprocess.Popen(
            argv, pass_fds=[write], stdin=subprocess.DEVNULL, stdout=said, stderr=said
        )
    threading.Thread(target=process.wait, daemon=True).start()
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        return {"pid": process.pid, "said": pipe.readline().decode()}


def read(request: dict[str, Any]) -> dict[str, Any]:
    """All files of some patterns; those that cannot be read are left out."""
    files = {}
    for pattern in request["patterns"]:
        for path in glob.glob(pattern):
            try:
                files[path] = Path(path).read_bytes().decode(errors="replace")
            except OSError:
                continue
    return {"files": files}


def write(request: dict[str, Any]) -> dict[str, Any]:
    Path(request["path"]).write_bytes(base64.b64decode(request["data"]))
    return {}


ANSWERS = {"run": run, "start": start, "read": read, "write": write}


def _text(data: bytes | None) -> str:
    return base64.b64encode(data or b"").decode()


def answer(connection: socket.socket) -> None:
    with connection, connection.makefile("rwb") as stream:
        request = json.loads(stream.readline())
        try:
            reply = ANSWERS[request["do"]](request)
        except Exception as error:
            reply = {"error": f"{type(error).__name__}: {error}"}
        stream.write(json.dumps(reply).encode() + b"\n")


def relay(connection: socket.socket) -> None:
    """Carry bytes both ways; the end of one way is passed on."""
    with connection, socket.socket(socket.AF_UNIX) as daemon:
        daemon.connect(DAEMON_SOCKET)
        back = threading.Thread(target=carry, args=(daemon, connection), daemon=True)
        back.start()
        carry(connection, daemon)
        back.join()


def carry(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(1 << 16):
            target.sendall(data)
    except OSError:
        pass
    try:
        target.shutdown(socket.SHUT_WR)
    except OSError:
        pass


def serve(listener: socket.socket, handler: Any) -> None:
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=quietly, args=(handler, connection), daemon=True).start()


def quietly(handler: Any, connection: socket.socket) -> None:
    try:
        handler(connection)
    except OSError:
        pass  # the other side went away, or no daemon listens


def main() -> None:
    for port, handler in ((AGENT_PORT, answer), (RELAY_PORT, relay)):
        listener = socket.create_server(("", port), backlog=64)
        threading.Thread(target=serve, args=(listener, handler)).start()
    print("guest is ready", flush=True)


if __name__ == "__main__":
    main()
