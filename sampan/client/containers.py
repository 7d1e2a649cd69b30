"""Containers of a daemon, as objects."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sampan.client.api import Api
from sampan.client.http import quote
from sampan.client.models import ContainerInfo, ExecResult, LogChunk
from sampan.client.streams import STDERR, demultiplex
from sampan.errors import NotFound

MULTIPLEXED = "application/vnd.docker.multiplexed-stream"


class ContainerFailed(Exception):
    """A container that was waited for has ended with another exit code than zero."""

    def __init__(self, container: str, exit_code: int, stderr: bytes) -> None:
        said = stderr.decode("utf-8", "replace").strip()
        super().__init__(
            f"container {container} exited with {exit_code}" + (f": {said}" if said else "")
        )
        self.container, self.exit_code, self.stderr = container, exit_code, stderr


class Container:
    """One container.  Methods ask the daemon; :meth:`inspect` gives its state at that moment."""

    def __init__(self, api: Api, identifier: str) -> None:
        self._api = api
        self.id = identifier
        self._path = f"/containers/{quote(identifier)}"

    def __repr__(self) -> str:
        return f"<Container {self.id[:12]}>"

    def inspect(self) -> ContainerInfo:
        """Its configuration and state now."""
        return ContainerInfo.parse(self._api.get(f"{self._path}/json"))

    def start(self) -> None:
        """Run it; nothing happens if it runs."""
        self._quietly("start")

    def stop(self, timeout: int | None = None, signal: str | None = None) -> None:
        """Ask it to end, and kill it after ``timeout`` seconds."""
        self._quietly("stop", {"t": timeout, "signal": signal})

    def restart(self, timeout: int | None = None) -> None:
        """Stop and start it."""
        self._quietly("restart", {"t": timeout})

    def kill(self, signal: str = "KILL") -> None:
        """Send a signal to its main process."""
        self._quietly("kill", {"signal": signal})

    def pause(self) -> None:
        """Freeze all its processes."""
        self._quietly("pause")

    def unpause(self) -> None:
        """Let its processes go on."""
        self._quietly("unpause")

    def rename(self, name: str) -> None:
        """Give it another name."""
        self._quietly("rename", {"name": name})

    def _quietly(self, verb: str, query: Mapping[str, object] | None = None) -> None:
        from sampan.errors import NotModified

        try:
            self._api.post(f"{self._path}/{verb}", query)
        except NotModified:
            pass

    def wait(self, condition: str = "not-running") -> int:
        """Its exit code, when it has ended."""
        answer = self._api.post(f"{self._path}/wait", {"condition": condition})
        return int(answer["StatusCode"])

    def remove(self, *, force: bool = False, volumes: bool = False) -> None:
        """Remove it; ``force`` kills it first, ``volumes`` takes its anonymous volumes along."""
        self._api.delete(self._path, {"force": force, "v": volumes})

    def logs(
        self, *, follow: bool = False, tail: int | str = "all", since: str = "", until: str = ""
    ) -> Iterator[LogChunk]:
        """What it has written; with ``follow``, what it writes until it ends, too.

        Times are seconds since the epoch or RFC 3339.
        """
        query = log_query(follow, tail, since, until)
        response = self._fresh().open("GET", f"{self._path}/logs", query)
        framed = response.headers.get("content-type") == MULTIPLEXED
        if not framed:
            framed = not self._api.get(f"{self._path}/json")["Config"]["Tty"]
        if not framed:
            for chunk in response.chunks():
                yield LogChunk("stdout", chunk)
            return
        for stream, data in demultiplex(response.chunks()):
            yield LogChunk("stderr" if stream == STDERR else "stdout", data)

    def output(self) -> bytes:
        """All that it has written to standard output."""
        return b"".join(chunk.data for chunk in self.logs() if chunk.stream == "stdout")

    def execute(
        self,
        command: Sequence[str] | str,
        *,
        user: str = "",
        workdir: str = "",
        environment: Mapping[str, str] | None = None,
        privileged: bool = False,
    ) -> ExecResult:
        """Run another command in it and wait for that; a string is given to ``/bin/sh -c``."""
        body = execution(command, user, workdir, environment, privileged)
        process = self._api.post(f"{self._path}/exec", json=body)["Id"]
        response = self._fresh().hijack(
            f"/exec/{process}/start", json={"Detach": False, "Tty": False}
        )
        sock, first = response.hijack()
        parts: dict[bool, list[bytes]] = {False: [], True: []}
        for stream, data in demultiplex(_received(sock, first)):
            parts[stream == STDERR].append(data)
        sock.close()
        code = int(self._api.get(f"/exec/{process}/json")["ExitCode"] or 0)
        return ExecResult(code, b"".join(parts[False]), b"".join(parts[True]))

    def top(self, ps_args: str = "") -> list[dict[str, str]]:
        """Its processes, a dictionary each, by ps's column titles."""
        found = self._api.get(f"{self._path}/top", {"ps_args": ps_args or None})
        return [dict(zip(found["Titles"], row, strict=False)) for row in found["Processes"]]

    def diff(self) -> list[tuple[str, str]]:
        """``(kind, path)`` of what it changed: kinds are ``C``, ``A`` and ``D``."""
        found = self._api.get(f"{self._path}/changes") or []
        return [("CAD"[change["Kind"]], change["Path"]) for change in found]

    def export(self) -> Iterator[bytes]:
        """Its file system as a tar stream."""
        return self._fresh().open("GET", f"{self._path}/export").chunks()

    def read_archive(self, path: str) -> Iterator[bytes]:
        """A file or directory of it as a tar stream."""
        return self._fresh().open("GET", f"{self._path}/archive", {"path": path}).chunks()

    def write_archive(self, path: str, archive: bytes | Iterator[bytes]) -> None:
        """Unpack a tar stream in its directory ``path``."""
        self._fresh().open("PUT", f"{self._path}/archive", {"path": path}, body=archive).read()

    def stats(self) -> dict[str, Any]:
        """One reading of what it uses, as the API gives it."""
        found: dict[str, Any] = self._api.get(
            f"{self._path}/stats", {"stream": "false", "one-shot": "true"}
        )
        return found

    def commit(
        self, name: str = "", *, message: str = "", author: str = "", changes: Sequence[str] = ()
    ) -> str:
        """Make an image of its file system; the image's identifier."""
        query = commit_query(self.id, name, message, author, changes)
        return str(self._api.post("/commit", query)["Id"])

    def _fresh(self) -> Api:
        return Api(self._api.host)


def _received(sock: Any, first: bytes) -> Iterator[bytes]:
    if first:
        yield first
    while data := sock.recv(64 << 10):
        yield data


def as_command(command: Sequence[str] | str) -> list[str]:
    """A command as a list of words; a string is a shell's."""
    return ["/bin/sh", "-c", command] if isinstance(command, str) else list(command)


class Containers:
    """``client.containers``."""

    def __init__(self, api: Api) -> None:
        self._api = api

    def list(self, *, all: bool = False, **filters: str) -> list[Container]:
        """Those that run, or ``all``; ``filters`` are the API's (``name="web"``)."""
        query: dict[str, object] = {"all": all, "filters": conditions(filters)}
        found = self._api.get("/containers/json", query)
        return [Container(self._api, one["Id"]) for one in found]

    def get(self, name: str) -> Container:
        """By name or (the beginning of) identifier; NotFound if there is none."""
        return Container(self._api, self._api.get(f"/containers/{quote(name)}/json")["Id"])

    def create(
        self,
        image: str,
        command: Sequence[str] | str | None = None,
        *,
        name: str = "",
        environment: Mapping[str, str] | None = None,
        ports: Mapping[str, str | int] | None = None,
        volumes: Sequence[str] = (),
        labels: Mapping[str, str] | None = None,
        network: str = "",
        workdir: str = "",
        user: str = "",
        remove: bool = False,
        memory: int = 0,
        cpus: float = 0,
        config: Mapping[str, Any] | None = None,
        host_config: Mapping[str, Any] | None = None,
    ) -> Container:
        """Make a container.

        ``ports`` publishes: ``{"80/tcp": 8080}`` or ``{"80/tcp": "127.0.0.1:8080"}``; ``volumes``
        are ``source:target[:ro]``; ``memory`` is in bytes.  What has no parameter goes into
        ``config`` and ``host_config``, by the API's names.  A missing image is pulled.
        """
        body = creation(
            image,
            command,
            environment=environment,
            ports=ports,
            volumes=volumes,
            labels=labels,
            network=network,
            workdir=workdir,
            user=user,
            remove=remove,
            memory=memory,
            cpus=cpus,
            config=config,
            host_config=host_config,
        )
        query = {"name": name or None}
        try:
            made = self._api.post("/containers/create", query, body)
        except NotFound:
            from sampan.client.images import Images

            Images(self._api).pull(image)
            made = self._api.post("/containers/create", query, body)
        return Container(self._api, made["Id"])

    def start(
        self, image: str, command: Sequence[str] | str | None = None, **how: Any
    ) -> Container:
        """Create (parameters as there) and start a container."""
        container = self.create(image, command, **how)
        container.start()
        return container

    def run(self, image: str, command: Sequence[str] | str | None = None, **how: Any) -> bytes:
        """Run a container to its end, remove it, and give back its standard output.

        :raises ContainerFailed: its exit code was not zero.
        """
        container = self.create(image, command, **{**how, "remove": False})
        try:
            container.start()
            code = container.wait()
            parts: dict[str, bytes] = {"stdout": b"", "stderr": b""}
            for chunk in container.logs():
                parts[chunk.stream] += chunk.data
        finally:
            container.remove(force=True, volumes=True)
        if code:
            raise ContainerFailed(container.id[:12], code, parts["stderr"])
        return parts["stdout"]

    def prune(self) -> int:
        """Remove all that do not run; the bytes freed."""
        return int(self._api.post("/containers/prune").get("SpaceReclaimed") or 0)


def creation(
    image: str,
    command: Sequence[str] | str | None = None,
    *,
    environment: Mapping[str, str] | None = None,
    ports: Mapping[str, str | int] | None = None,
    volumes: Sequence[str] = (),
    labels: Mapping[str, str] | None = None,
    network: str = "",
    workdir: str = "",
    user: str = "",
    remove: bool = False,
    memory: int = 0,
    cpus: float = 0,
    config: Mapping[str, Any] | None = None,
    host_config: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The body of ``POST /containers/create``; parameters as in :meth:`Containers.create`."""
    host: dict[str, Any] = {"AutoRemove": remove}
    if ports:
        host["PortBindings"] = {_port(key): [_binding(at)] for key, at in ports.items()}
    if volumes:
        host["Binds"] = list(volumes)
    if network:
        host["NetworkMode"] = network
    if memory:
        host["Memory"] = memory
    if cpus:
        host["NanoCpus"] = int(cpus * 1e9)
    body: dict[str, Any] = {
        "Image": image,
        "Env": [f"{key}={value}" for key, value in (environment or {}).items()],
        "Labels": dict(labels or {}),
        "WorkingDir": workdir,
        "User": user,
        "ExposedPorts": {_port(key): {} for key in ports or {}},
        **(config or {}),
        "HostConfig": {**host, **(host_config or {})},
    }
    if command is not None:
        body["Cmd"] = as_command(command)
    return body


def execution(
    command: Sequence[str] | str,
    user: str,
    workdir: str,
    environment: Mapping[str, str] | None,
    privileged: bool,
) -> dict[str, Any]:
    """The body of ``POST /containers/{id}/exec`` for a command whose output is wanted."""
    return {
        "Cmd": as_command(command),
        "AttachStdout": True,
        "AttachStderr": True,
        "User": user,
        "WorkingDir": workdir,
        "Privileged": privileged,
        "Env": [f"{name}={value}" for name, value in (environment or {}).items()],
    }


def log_query(follow: bool, tail: int | str, since: str, until: str) -> dict[str, object]:
    """The query of ``GET /containers/{id}/logs`` for both streams."""
    return {
        "stdout": True,
        "stderr": True,
        "follow": follow,
        "tail": tail,
        "since": since or None,
        "until": until or None,
    }


def commit_query(
    container: str, name: str, message: str, author: str, changes: Sequence[str]
) -> dict[str, object]:
    """The query of ``POST /commit``."""
    from sampan.client.imagecalls import split_name

    repository, tag = split_name(name) if name else ("", "")
    return {
        "container": container,
        "repo": repository or None,
        "tag": tag or None,
        "comment": message or None,
        "author": author or None,
        "changes": list(changes) or None,
    }


def conditions(filters: Mapping[str, str]) -> dict[str, dict[str, bool]] | None:
    """Filters as the API has them."""
    return {key: {value: True} for key, value in filters.items()} or None


def _port(key: str) -> str:
    return key if "/" in key else f"{key}/tcp"


def _binding(where: str | int) -> dict[str, str]:
    address, _, port = str(where).rpartition(":")
    return {"HostIp": address.strip("[]"), "HostPort": port}


__all__ = ["Container", "ContainerFailed", "Containers"]
