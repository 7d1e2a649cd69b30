"""What the library gives back: frozen values made from the API's JSON.

``raw`` is always the whole JSON object, for what has no attribute of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from time import gmtime, strftime
from typing import Any


@dataclass(frozen=True, slots=True)
class Mount:
    """A file system that a container sees at ``target``."""

    type: str
    source: str
    target: str
    read_only: bool = False


@dataclass(frozen=True, slots=True)
class PortBinding:
    """A container's port (``80/tcp``) and where on the host it is published."""

    container: str
    host_ip: str
    host_port: int


@dataclass(frozen=True, slots=True)
class ContainerState:
    """``status`` is ``created``, ``running``, ``paused``, ``restarting``, ``exited`` or ``dead``;
    times are RFC 3339."""

    status: str
    running: bool
    pid: int
    exit_code: int
    error: str
    oom_killed: bool
    started_at: str
    finished_at: str
    health: str = ""


@dataclass(frozen=True, slots=True)
class ContainerInfo:
    """One container, as ``inspect`` tells it."""

    id: str
    name: str
    image: str
    image_id: str
    state: ContainerState
    labels: dict[str, str]
    ports: list[PortBinding]
    mounts: list[Mount]
    raw: dict[str, Any] = field(repr=False)

    @classmethod
    def parse(cls, raw: dict[str, Any]) -> ContainerInfo:
        """From the answer of ``GET /containers/{id}/json``."""
        state, config = raw["State"], raw["Config"]
        return cls(
            id=raw["Id"],
            name=raw["Name"].removeprefix("/"),
            image=config["Image"],
            image_id=raw["Image"],
            state=ContainerState(
                status=state["Status"],
                running=state["Running"],
                pid=state.get("Pid") or 0,
                exit_code=state["ExitCode"],
                error=state.get("Error") or "",
                oom_killed=state.get("OOMKilled") or False,
                started_at=state["StartedAt"],
                finished_at=state["FinishedAt"],
                health=(state.get("Health") or {}).get("Status") or "",
            ),
            labels=dict(config.get("Labels") or {}),
            ports=[
                PortBinding(port, one.get("HostIp") or "", int(one["HostPort"]))
                for port, bindings in (raw["NetworkSettings"].get("Ports") or {}).items()
                for one in bindings or []
            ],
            mounts=[
                Mount(one["Type"], one.get("Source") or "", one["Destination"], not one["RW"])
                for one in raw.get("Mounts") or []
            ],
            raw=raw,
        )


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """One image; ``size`` is in bytes, ``created`` RFC 3339."""

    id: str
    tags: list[str]
    digests: list[str]
    size: int
    created: str
    raw: dict[str, Any] = field(repr=False)

    @classmethod
    def parse(cls, raw: dict[str, Any]) -> ImageInfo:
        """From ``GET /images/{name}/json``, or one of ``GET /images/json``."""
        return cls(
            id=raw["Id"],
            tags=list(raw.get("RepoTags") or []),
            digests=list(raw.get("RepoDigests") or []),
            size=raw.get("Size") or 0,
            created=_moment(raw.get("Created")),
            raw=raw,
        )


def _moment(value: str | int | None) -> str:
    """RFC 3339 of what is that already (inspect) or seconds since the epoch (lists)."""
    if isinstance(value, int):
        return strftime("%Y-%m-%dT%H:%M:%SZ", gmtime(value))
    return value or ""


@dataclass(frozen=True, slots=True)
class NetworkInfo:
    """One network; ``containers`` are the identifiers of those connected."""

    id: str
    name: str
    driver: str
    internal: bool
    subnets: list[str]
    containers: list[str]
    raw: dict[str, Any] = field(repr=False)

    @classmethod
    def parse(cls, raw: dict[str, Any]) -> NetworkInfo:
        """From ``GET /networks/{id}``."""
        configs = (raw.get("IPAM") or {}).get("Config") or []
        return cls(
            id=raw["Id"],
            name=raw["Name"],
            driver=raw["Driver"],
            internal=bool(raw.get("Internal")),
            subnets=[one["Subnet"] for one in configs if one.get("Subnet")],
            containers=sorted(raw.get("Containers") or {}),
            raw=raw,
        )


@dataclass(frozen=True, slots=True)
class VolumeInfo:
    """One volume; ``mountpoint`` is its directory on the daemon's machine."""

    name: str
    driver: str
    mountpoint: str
    labels: dict[str, str]
    raw: dict[str, Any] = field(repr=False)

    @classmethod
    def parse(cls, raw: dict[str, Any]) -> VolumeInfo:
        """From ``GET /volumes/{name}``."""
        return cls(
            name=raw["Name"],
            driver=raw["Driver"],
            mountpoint=raw.get("Mountpoint") or "",
            labels=dict(raw.get("Labels") or {}),
            raw=raw,
        )


@dataclass(frozen=True, slots=True)
class ExecResult:
    """What a command in a container has said, and its exit code."""

    exit_code: int
    stdout: bytes
    stderr: bytes

    @property
    def text(self) -> str:
        """Standard output as text."""
        return self.stdout.decode("utf-8", "replace")


@dataclass(frozen=True, slots=True)
class LogChunk:
    """A piece of output: ``stream`` is ``stdout`` or ``stderr``."""

    stream: str
    data: bytes


@dataclass(frozen=True, slots=True)
class ProgressMessage:
    """One message of a long operation: text, or a row (``id``) with how far it is, in bytes."""

    text: str
    id: str = ""
    current: int = 0
    total: int = 0


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened: ``type`` and ``action`` as ``container``, ``start``."""

    type: str
    action: str
    actor: str
    attributes: dict[str, str]
    time_ns: int
    raw: dict[str, Any] = field(repr=False)

    @classmethod
    def parse(cls, raw: dict[str, Any]) -> Event:
        """From one object of ``GET /events``."""
        actor = raw.get("Actor") or {}
        return cls(
            type=raw.get("Type") or "",
            action=raw.get("Action") or "",
            actor=actor.get("ID") or "",
            attributes=dict(actor.get("Attributes") or {}),
            time_ns=raw.get("timeNano") or 0,
            raw=raw,
        )
