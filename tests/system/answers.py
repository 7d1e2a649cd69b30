"""Answers of the API, without what differs from run to run, to compare ours with Docker's engine's.

``golden/api/SCENE.json`` has the answers to the requests of one scene of ``api_rows``, in order;
``scripts/golden`` writes the files by sending the requests to a real dockerd.
"""

from __future__ import annotations

import contextlib
import json
import re
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "golden" / "api"

NUMBERS = frozenset(
    [
        "Size",
        "SizeRw",
        "SizeRootFs",
        "VirtualSize",
        "SharedSize",
        "LayersSize",
        "SpaceReclaimed",
        "Pid",
        "Created",
        "time",
        "timeNano",
        "MemTotal",
        "NCPU",
        "NFd",
        "NGoroutines",
        "NEventsListener",
        "read",
        "total",
        "current",
        "reclaimed",
        "IPPrefixLen",
    ]
)
"""Members whose numbers differ from run to run; that they are numbers is compared."""

UNORDERED = frozenset(
    (
        "Mounts",
        "Containers",
        "DNSNames",
        "NetworksDeleted",
        "VolumesDeleted",
        "ContainersDeleted",
        "Volumes",
        "Ports",
    )
)
"""Lists whose order is random in Docker's engine."""

_RULES = [
    (re.compile(pattern), word)
    for pattern, word in (
        (r"sha256:[0-9a-f]{64}", "<digest>"),
        (r"\b[0-9a-f]{64}\b", "<id>"),
        (r"\b[0-9a-f]{12}\b", "<short id>"),
        (r"\b0001-01-01T00:00:00Z", "<never>"),
        (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:\d\d)", "<time>"),
        (r"\b(?:Less than a second|About a minute|\d+ (?:seconds?|minutes?)) ago", "<ago>"),
        (r"\bUp (?:Less than a second|About a minute|\d+ (?:seconds?|minutes?))", "Up <while>"),
        (r"\b(?:[0-9a-f]{2}:){5}[0-9a-f]{2}\b", "<mac>"),
        (r"\b(?:10|172|192)\.\d+\.\d+\.\d+(?:/\d+)?", "<address>"),
        (r"/var/lib/docker|/tmp/smp\w+(?:/s|/data)?|/tmp/smp\w+", "<state>"),
    )
]


@dataclass(frozen=True)
class Answer:
    """What came back: status, headers by lower-case name, and the body."""

    status: int
    headers: dict[str, str]
    body: bytes


def ask(path: str, method: str, target: str, body: bytes, headers: dict[str, str]) -> Answer:
    """One request on a connection of its own to the unix socket ``path``."""
    sent = {"Host": "docker", "Connection": "close", **headers}
    if body or method in ("POST", "PUT"):
        sent["Content-Length"] = str(len(body))
    head = f"{method} {target} HTTP/1.1\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in sent.items())
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(30)
        sock.connect(path)
        sock.sendall(head.encode() + b"\r\n" + body)
        data = b""
        # An engine that has answered before it read the whole body resets the connection.
        with contextlib.suppress(ConnectionResetError):
            while piece := sock.recv(1 << 16):
                data += piece
    top, _, rest = data.partition(b"\r\n\r\n")
    first, *lines = top.decode().split("\r\n")
    found = {}
    for line in lines:
        name, _, value = line.partition(": ")
        found[name.lower()] = value
    if found.get("transfer-encoding") == "chunked":
        rest = b"".join(_chunks(rest))
    return Answer(int(first.split()[1]), found, rest)


def _chunks(data: bytes) -> Iterator[bytes]:
    while data:
        size, _, data = data.partition(b"\r\n")
        length = int(size, 16)
        yield data[:length]
        data = data[length + 2 :]


def document(answer: Answer, places: dict[str, str]) -> dict[str, Any]:
    """An answer as it is compared: status, content type, and a body of JSON, its lines, or text."""
    kind = answer.headers.get("content-type", "").replace(" ", "")
    ping = places.get("target") == "/_ping"
    found: dict[str, Any] = {"status": answer.status}
    if kind:
        found["type"] = kind
    for name in ("docker-experimental", "ostype", "swarm", "builder-version", "cache-control"):
        if ping and name in answer.headers:
            found[name] = answer.headers[name]
    if not answer.body:
        return found
    if kind in ("application/x-tar", "application/octet-stream"):
        found["body"] = "<bytes>"
        return found
    if kind.startswith("application/vnd.docker"):
        found["body"] = repr(answer.body)
        return found
    text = answer.body.decode(errors="replace")
    try:
        lines = [json.loads(line) for line in text.splitlines() if line.strip()]
    except json.JSONDecodeError:
        found["body"] = _text(text, places)
        return found
    normal = [_normal(line, places) for line in lines]
    if places.get("target", "").startswith("/networks") and isinstance(normal[0], list):
        normal[0].sort(key=lambda each: str(each["Name"]))  # Docker's order is random
    found["body"] = normal[0] if len(normal) == 1 else normal
    return found


def _normal(value: Any, places: dict[str, str], name: str = "") -> Any:
    if isinstance(value, dict):
        return {_text(key, places): _normal(value[key], places, key) for key in sorted(value)}
    if isinstance(value, list):
        normal = [_normal(each, places, name) for each in value]
        return sorted(normal, key=_order) if name in UNORDERED else normal
    if isinstance(value, str):
        return _text(value, places)
    if name in NUMBERS and isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return "<number>"
    return value


def _order(value: Any) -> str:
    names = ("Name", "Destination", "Target", "PrivatePort")
    if isinstance(value, dict):
        return "".join(str(value[name]) for name in names if name in value)
    return str(value)


def _text(text: str, places: dict[str, str]) -> str:
    for name, place in places.items():
        if len(place) > 4:
            text = text.replace(place, f"<{name}>")
    for pattern, word in _RULES:
        text = pattern.sub(word, text)
    return text


def differences(wanted: Any, found: Any, at: str = "") -> Iterator[tuple[str, str]]:
    """Places where two documents differ, as paths, and how."""
    if isinstance(wanted, dict) and isinstance(found, dict):
        for key in sorted(wanted.keys() | found.keys()):
            if key not in found:
                yield f"{at}/{key}", f"Docker's {wanted[key]!r} is missing"
            elif key not in wanted:
                yield f"{at}/{key}", f"{found[key]!r} is not in Docker's"
            else:
                yield from differences(wanted[key], found[key], f"{at}/{key}")
    elif isinstance(wanted, list) and isinstance(found, list) and len(wanted) == len(found):
        for number, (left, right) in enumerate(zip(wanted, found, strict=True)):
            yield from differences(left, right, f"{at}/{number}")
    elif type(wanted) is not type(found) or wanted != found:
        yield at, f"Docker's {wanted!r}, ours {found!r}"
