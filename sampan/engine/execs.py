"""Further processes in running containers.

Life: ``create`` (checks, an id) → ``start`` (the keeper runs it) → the keeper reports its end.
Execs live in the daemon's memory and with their container, as Docker's do; a daemon that restarts
learns of those that still run from their keepers, by id.
"""

from __future__ import annotations

import base64
import secrets
from typing import Any

import msgspec

from sampan.engine.apparmor import NONE, Profiles
from sampan.engine.attach import detach_keys
from sampan.engine.containers import Containers
from sampan.engine.specs import confine, environment_variables, limit
from sampan.engine.state import Container
from sampan.errors import Conflict, NotFound
from sampan.runtime.errors import StartError
from sampan.runtime.spec import default_spec, make_privileged
from sampan.runtime.types import AttachRequest, Detached, ExecExited, ExecRequest


class ExecConfig(msgspec.Struct, frozen=True):
    """Docker's body of ``POST /containers/{id}/exec``."""

    cmd: list[str] = msgspec.field(name="Cmd", default=[])
    user: str = msgspec.field(name="User", default="")
    privileged: bool = msgspec.field(name="Privileged", default=False)
    tty: bool = msgspec.field(name="Tty", default=False)
    attach_stdin: bool = msgspec.field(name="AttachStdin", default=False)
    attach_stdout: bool = msgspec.field(name="AttachStdout", default=False)
    attach_stderr: bool = msgspec.field(name="AttachStderr", default=False)
    detach_keys: str = msgspec.field(name="DetachKeys", default="")
    env: list[str] = msgspec.field(name="Env", default=[])
    working_dir: str = msgspec.field(name="WorkingDir", default="")
    console_size: tuple[int, int] = msgspec.field(name="ConsoleSize", default=(0, 0))


class Exec:
    """One further process, as inspect shows it."""

    def __init__(self, id: str, container: Container, config: ExecConfig) -> None:
        self.id = id
        self.container = container
        self.config = config
        self.running = False
        self.started = False
        self.pid = 0
        self.exit_code: int | None = None

    def document(self) -> dict[str, Any]:
        """Docker's ``GET /exec/{id}/json``."""
        config = self.config
        return {
            "ID": self.id,
            "Running": self.running,
            "ExitCode": self.exit_code,
            "ProcessConfig": {
                "tty": config.tty,
                "entrypoint": config.cmd[0],
                "arguments": config.cmd[1:],
                "privileged": config.privileged,
                **({"user": config.user} if config.user else {}),
            },
            "OpenStdin": config.attach_stdin,
            "OpenStderr": config.attach_stderr,
            "OpenStdout": config.attach_stdout,
            "CanRemove": False,
            "ContainerID": self.container.id,
            "DetachKeys": _encoded(config.detach_keys),
            "Pid": self.pid,
        }


class Execs:
    """All execs of the containers that run."""

    def __init__(self, containers: Containers, apparmor: Profiles = NONE) -> None:
        self._containers = containers
        self._apparmor = apparmor
        self._execs: dict[str, Exec] = {}

    def create(self, ref: str, config: ExecConfig) -> Exec:
        """Prepare an exec.  Raises NotFound, Conflict (not running, paused), InvalidParameter."""
        container = self._containers.get(ref)
        _check_running(container)
        found = Exec(secrets.token_hex(32), container, config)
        self._execs[found.id] = found
        self._publish(found, f"exec_create: {_shown(config.cmd)}")
        return found

    def get(self, id: str) -> Exec:
        """Raises NotFound ``No such exec instance: ID``."""
        found = self._execs.get(id)
        if found is None:
            matches = [key for key in self._execs if id and key.startswith(id)]
            if len(matches) != 1:
                raise NotFound(f"No such exec instance: {id}")
            found = self._execs[matches[0]]
        return found

    def of(self, container: Container) -> list[str] | None:
        """Ids of a container's execs that run; None if there are none, as Docker shows."""
        return [
            e.id for e in self._execs.values() if e.container is container and e.running
        ] or None

    async def start(
        self,
        found: Exec,
        attach: AttachRequest | None = None,
        fd: int | None = None,
        console_size: tuple[int, int] = (0, 0),
    ) -> None:
        """Run it; the caller's connection ``fd`` takes part in its stdio.

        Raises Conflict (started already, container not running), StartError.
        """
        self.check(found)
        keeper = found.container.live_keeper()
        found.started = True
        found.running = True
        request = ExecRequest(
            id=found.id,
            process=self._process(found, console_size),
            open_stdin=found.config.attach_stdin,
            attaches=[attach] if attach is not None else [],
        )
        self._publish(found, f"exec_start: {_shown(found.config.cmd)}")
        try:
            pid = await keeper.exec(request, [fd] if fd is not None else [])
        except StartError as error:
            found.running = False
            found.exit_code = error.exit_code
            raise
        found.pid = pid

    def check(self, found: Exec) -> None:
        """Raises Conflict when it cannot start: it was started, or the container does not run."""
        if found.started:
            state = "is already running" if found.running else "has already run"
            raise Conflict(f"Error: Exec command {found.id} {state}")
        _check_running(found.container)

    async def resize(self, found: Exec, rows: int, columns: int) -> None:
        """Set the window size of its terminal.  Raises Conflict when it does not run."""
        if not found.running:
            raise Conflict(f"cannot resize a stopped exec: {found.id}")
        await found.container.live_keeper().resize(rows, columns, found.id)

    # -- news ------------------------------------------------------------------------------

    def on_event(self, container: Container, event: ExecExited | Detached) -> None:
        """A keeper's news of one of its execs, or of a client that typed its detach keys."""
        if isinstance(event, Detached):
            if event.exec_id in self._execs:
                self._publish(self._execs[event.exec_id], "exec_detach")
            elif not event.exec_id:
                self._containers.publish(container.record, "detach")
            return
        found = self._execs.get(event.exec_id)
        if found is None:
            return
        found.running = False
        found.exit_code = event.code
        self._publish(found, "exec_die", exitCode=str(event.code))

    def container_ended(self, container: Container) -> None:
        """Execs end with their container."""
        for found in self._execs.values():
            if found.container is container and found.running:
                found.running = False
                found.exit_code = 137

    def forget(self, container_id: str) -> None:
        """Drop what is known of a removed container's execs."""
        for id in [e.id for e in self._execs.values() if e.container.id == container_id]:
            del self._execs[id]

    # -- inside ----------------------------------------------------------------------------

    def _publish(self, found: Exec, action: str, **attributes: str) -> None:
        self._containers.publish(found.container.record, action, execID=found.id, **attributes)

    def _process(self, found: Exec, console_size: tuple[int, int]) -> dict[str, Any]:
        """The OCI process: the container's environment and confinement, the exec's command."""
        record, config = found.container.record, found.config
        names = {item.partition("=")[0] for item in config.env}
        inherited = [
            item
            for item in environment_variables(record)
            if item.partition("=")[0] not in names
            and (config.tty or not item.startswith("TERM=") or not record.config.tty)
        ]
        if config.tty and "TERM" not in names and not any(i.startswith("TERM=") for i in inherited):
            inherited.append("TERM=xterm")
        process = exec_process(
            found.container,
            config,
            [*inherited, *(item for item in config.env if "=" in item)],
            console_size if any(console_size) else config.console_size,
        )
        # The container's own even if the exec is privileged, as under Docker.
        if profile := self._apparmor.of(record.host):
            process["apparmorProfile"] = profile
        return process


def _shown(command: list[str]) -> str:
    """A command as Docker's events have it: the program, a space, and what it is given."""
    return f"{command[0]} {' '.join(command[1:])}"


def _encoded(keys: str) -> str:
    """Detach keys as the API shows them: the bytes, in base64."""
    return base64.b64encode(detach_keys(keys, tty=True)).decode() if keys else ""


def exec_process(
    container: Container, config: ExecConfig, env: list[str], console_size: tuple[int, int]
) -> dict[str, Any]:
    """The OCI process of an exec with that environment."""
    record = container.record
    spec = default_spec(
        args=config.cmd,
        env=env,
        cwd=config.working_dir or record.config.working_dir or "/",
        user=config.user or record.config.user,
        groups=[] if config.user else record.host.group_add or [],
        terminal=config.tty,
    )
    if config.privileged or record.host.privileged:
        make_privileged(spec)
    elif record.host.cap_add or record.host.cap_drop:
        confine(spec, record.host)
    process: dict[str, Any] = spec["process"]
    limit(process, record.host)
    rows, columns = console_size
    if config.tty and rows and columns:
        process["consoleSize"] = {"height": rows, "width": columns}
    for option in record.host.security_opt or []:
        if option in ("no-new-privileges", "no-new-privileges=true", "no-new-privileges:true"):
            process["noNewPrivileges"] = True
    return process


def _check_running(container: Container) -> None:
    status = container.record.state.status
    if status == "paused":
        raise Conflict(f"Container {container.name} is paused, unpause the container before exec")
    if status == "restarting":
        raise Conflict(
            f"Container {container.id} is restarting, wait until the container is running"
        )
    if container.keeper is None:
        raise Conflict(f"container {container.id} is not running")
