"""What crosses the borders between daemon, spawner and keeper, as typed structs.

Every struct is encoded with msgpack on the sockets and with JSON in ``state.json``.  Times are
nanoseconds since the epoch, durations nanoseconds, sizes bytes.
"""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct, field

from sampan.runtime.interfaces import Interface

MIB = 1 << 20


class Mount(Struct, frozen=True):
    """One mount of a root file system, as a snapshotter hands it out.

    ``type`` is a kernel file system name or ``bind``; ``options`` are mount(8) option strings
    (flags such as ``ro`` and file-system options such as ``lowerdir=…``).  A list of mounts is
    stacked from first to last; the last one is the root.  ``{0}`` in a later one's source or
    options stands for the root of the first, ``{1}`` for that of the second.
    """

    type: str
    source: str
    options: list[str] = field(default_factory=list)


class LogConfig(Struct):
    """Where a container's output goes.

    ``local`` is framed chunks, ``json-file`` is Docker's format, ``none`` keeps nothing; any other
    name is one of :mod:`sampan.runtime.logs.drivers`, which sends it away with the settings in
    ``remote`` and keeps a copy as ``local`` if there is a ``path``.
    ``max_size`` is the size of one file at which it is rotated (0: never); ``max_file`` counts
    the files kept.  ``attributes`` are told with every line, where the driver can.
    ``buffer`` are the bytes that may wait for a driver before output is dropped; with 0 the
    container's output waits for the driver instead.  ``compress`` says that rotated files are
    compressed.
    """

    driver: str = "local"
    path: str = ""
    max_size: int = 20 * MIB
    max_file: int = 5
    attributes: dict[str, str] = field(default_factory=dict)
    buffer: int = 0
    compress: bool = False
    remote: dict[str, Any] = field(default_factory=dict)

    @property
    def on_file(self) -> bool:
        """Whether the driver itself writes the files that are read back."""
        return self.driver in ("local", "json-file")

    @property
    def shipped(self) -> bool:
        """Whether a process of its own feeds the driver."""
        return self.driver != "none" and (self.buffer > 0 or not self.on_file)

    @property
    def kept(self) -> LogConfig:
        """What is left on this host to be read back: the driver's own files, or its copy."""
        if self.on_file or self.driver == "none":
            return self
        driver = "local" if self.path else "none"
        return LogConfig(driver, self.path, self.max_size, self.max_file, compress=self.compress)


class AttachRequest(Struct):
    """A client's connection that takes part in a process's stdio; its fd travels beside it.

    ``raw`` sends the output as it is (terminals); otherwise each chunk is preceded by Docker's
    8-byte header (stream, three zeros, length big-endian).  ``detach_keys`` is the byte sequence
    that ends the attachment (empty: none), ``initial`` what was read from the client already.
    """

    stdin: bool = False
    stdout: bool = True
    stderr: bool = True
    raw: bool = False
    detach_keys: bytes = b""
    initial: bytes = b""


class ServiceRequest(Struct):
    """A keeper service: ``name`` is ``module:attribute`` of a preloaded module."""

    name: str
    config: dict[str, Any] = field(default_factory=dict)


class RestartPolicy(Struct):
    """Docker's restart policy; ``maximum_retry_count`` 0 means without limit."""

    name: Literal["no", "always", "on-failure", "unless-stopped"] = "no"
    maximum_retry_count: int = 0


class HealthCheck(Struct):
    """A probe that the keeper runs inside the container; ``process`` is an OCI process.  Without a
    ``start_interval`` the interval holds in the start period as well, as under Docker."""

    process: dict[str, Any]
    interval: int = 30_000_000_000
    timeout: int = 30_000_000_000
    start_period: int = 0
    start_interval: int = 0
    retries: int = 3


class KeeperRequest(Struct):
    """Everything a keeper needs to run one container.

    ``spec`` is an OCI runtime-spec ``config.json``.  ``process.user`` may carry ``username``
    (``name|uid[:group|gid]``) and ``additionalGroupNames``: both are resolved inside the root file
    system.  ``run_dir`` is the container's own directory below ``RUN/containers``.  The file
    descriptors beside a request are first ``hold_count`` descriptors kept open while the
    container lives (reserved port sockets), then one for each of ``attaches``.
    """

    id: str
    run_dir: str
    spec: dict[str, Any]
    rootfs: list[Mount]
    log: LogConfig = field(default_factory=lambda: LogConfig(driver="none"))
    open_stdin: bool = False
    stdin_once: bool = False
    init: bool = False
    interfaces: list[Interface] = field(default_factory=list)
    attaches: list[AttachRequest] = field(default_factory=list)
    hold_count: int = 0
    services: list[ServiceRequest] = field(default_factory=list)
    restart: RestartPolicy = field(default_factory=RestartPolicy)
    healthcheck: HealthCheck | None = None
    seccomp_program: bytes = b""
    runtime: list[str] = field(default_factory=list)
    """The command (path and arguments) of another OCI runtime that makes the processes."""


class ExecRequest(Struct):
    """A further process of a running container; ``process`` is an OCI process."""

    id: str
    process: dict[str, Any]
    open_stdin: bool = False
    attaches: list[AttachRequest] = field(default_factory=list)


class ProbeResult(Struct, frozen=True):
    """One run of the health probe."""

    start: int
    end: int
    exit_code: int
    output: str


class Health(Struct, tag="health", frozen=True):
    """The health state after a probe."""

    status: Literal["starting", "healthy", "unhealthy"]
    failing_streak: int
    log: list[ProbeResult]


Status = Literal["created", "running", "paused", "restarting", "exited"]


class ContainerState(Struct):
    """What a keeper knows of its container: the content of ``state.json``.

    ``keeper_start`` is the keeper's start time in clock ticks (field 22 of /proc/PID/stat), so
    that a reused process number is not mistaken for it.
    """

    id: str
    status: Status
    keeper_pid: int
    keeper_start: int = 0
    pid: int = 0
    started_at: int = 0
    finished_at: int = 0
    exit_code: int = 0
    oom_killed: bool = False
    error: str = ""
    restart_count: int = 0
    health: Health | None = None
    execs: dict[str, int] = field(default_factory=dict)
    cgroup: str = ""
    warnings: list[str] = field(default_factory=list)


class Started(Struct, tag="started", frozen=True):
    """The container's process has been executed; ``pid`` is the host's number for it."""

    pid: int
    at: int
    state: ContainerState | None = None


class StartFailed(Struct, tag="start-failed", frozen=True):
    """The container's process could not be started; the keeper ends."""

    message: str
    exit_code: int


class Exited(Struct, tag="exited", frozen=True):
    """The container's process has ended (``code`` is 128+n for a signal); the keeper ends.

    ``lost`` tells that the keeper was killed, so that it did not apply the restart policy.
    """

    code: int
    at: int
    oom_killed: bool = False
    error: str = ""
    lost: bool = False


class Restarting(Struct, tag="restarting", frozen=True):
    """The process has ended and will be started again by the restart policy."""

    code: int
    at: int
    count: int
    delay: int
    oom_killed: bool = False


class ExecExited(Struct, tag="exec-exited", frozen=True):
    """An additional process has ended."""

    exec_id: str
    code: int
    at: int


class Detached(Struct, tag="detached", frozen=True):
    """A client has typed its detach keys; ``exec_id`` is empty for the container's process."""

    exec_id: str
    at: int


class OutOfMemory(Struct, tag="oom", frozen=True):
    """The kernel has killed a process of the container for want of memory."""

    at: int


class Paused(Struct, tag="paused", frozen=True):
    """The container's processes are frozen."""

    at: int


class Unpaused(Struct, tag="unpaused", frozen=True):
    """The container's processes run again."""

    at: int


KeeperEvent = (
    Started
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
