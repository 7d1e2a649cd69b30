"""Containers of a daemon, for an event loop."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from sampan.client.aio.api import AsyncApi
from sampan.client.aio.http import Body
from sampan.client.containers import (
    MULTIPLEXED,
    ContainerFailed,
    commit_query,
    conditions,
    creation,
    execution,
    log_query,
)
from sampan.client.http import quote
from sampan.client.models import ContainerInfo, ExecResult, LogChunk
from sampan.client.streams import STDERR, Demultiplexer
from sampan.errors import NotFound, NotModified


class AsyncContainer:
    """One container.  Methods ask the daemon; :meth:`inspect` gives its state at that moment."""

    def __init__(self, api: AsyncApi, identifier: str) -> None:
        self._api = api
        self.id = identifier
        self._path = f"/containers/{quote(identifier)}"

    def __repr__(self) -> str:
        return f"<AsyncContainer {self.id[:12]}>"

    async def inspect(self) -> ContainerInfo:
        """Its configuration and state now."""
        return ContainerInfo.parse(await self._api.get(f"{self._path}/json"))

    async def start(self) -> None:
        """Run it; nothing happens if it runs."""
        await self._quietly("start")

    async def stop(self, timeout: int | None = None, signal: str | None = None) -> None:
        """Ask it to end, and kill it after ``timeout`` seconds."""
        await self._quietly("stop", {"t": timeout, "signal": signal})

    async def restart(self, timeout: int | None = None) -> None:
        """Stop and start it."""
        await self._quietly("restart", {"t": timeout})

    async def kill(self, signal: str = "KILL") -> None:
        """Send a signal to its main process."""
        await self._quietly("kill", {"signal": signal})

    async def pause(self) -> None:
        """Freeze all its processes."""
        await self._quietly("pause")

    async def unpause(self) -> None:
        """Let its processes go on."""
        await self._quietly("unpause")

    async def rename(self, name: str) -> None:
        """Give it another name."""
        await self._quietly("rename", {"name": name})

    async def _quietly(self, verb: str, query: Mapping[str, object] | None = None) -> None:
        try:
            await self._api.post(f"{self._path}/{verb}", query)
        except NotModified:
            pass

    async def wait(self, condition: str = "not-running") -> int:
        """Its exit code, when it has ended."""
        answer = await self._api.post(f"{self._path}/wait", {"condition": condition})
        return int(answer["StatusCode"])

    async def remove(self, *, force: bool = False, volumes: bool = False) -> None:
        """Remove it; ``force`` kills it first, ``volumes`` takes its anonymous volumes along."""
        await self._api.delete(self._path, {"force": force, "v": volumes})

    async def logs(
        self, *, follow: bool = False, tail: int | str = "all", since: str = "", until: str = ""
    ) -> AsyncIterator[LogChunk]:
        """What it has written; with ``follow``, what it writes until it ends, too.

        Times are seconds since the epoch or RFC 3339.
        """
        query = log_query(follow, tail, since, until)
        async with await self._api.open("GET", f"{self._path}/logs", query) as response:
            framed = response.headers.get("content-type") == MULTIPLEXED
            if not framed:
                framed = not (await self._api.get(f"{self._path}/json"))["Config"]["Tty"]
            demultiplexer = Demultiplexer()
            async for chunk in response.chunks():
                if not framed:
                    yield LogChunk("stdout", chunk)
                    continue
                for stream, data in demultiplexer.feed(chunk):
                    yield LogChunk("stderr" if stream == STDERR else "stdout", data)

    async def output(self) -> bytes:
        """All that it has written to standard output."""
        return b"".join([chunk.data async for chunk in self.logs() if chunk.stream == "stdout"])

    async def execute(
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
        process = (await self._api.post(f"{self._path}/exec", json=body))["Id"]
        parts: dict[bool, list[bytes]] = {False: [], True: []}
        demultiplexer = Demultiplexer()
        how = {"Detach": False, "Tty": False}
        async with await self._api.hijack(f"/exec/{process}/start", json=how) as response:
            async for chunk in response.raw():
                for stream, data in demultiplexer.feed(chunk):
                    parts[stream == STDERR].append(data)
        code = int((await self._api.get(f"/exec/{process}/json"))["ExitCode"] or 0)
        return ExecResult(code, b"".join(parts[False]), b"".join(parts[True]))

    async def top(self, ps_args: str = "") -> list[dict[str, str]]:
        """Its processes, a dictionary each, by ps's column titles."""
        found = await self._api.get(f"{self._path}/top", {"ps_args": ps_args or None})
        return [dict(zip(found["Titles"], row, strict=False)) for row in found["Processes"]]

    async def diff(self) -> list[tuple[str, str]]:
        """``(kind, path)`` of what it changed: kinds are ``C``, ``A`` and ``D``."""
        found = await self._api.get(f"{self._path}/changes") or []
        return [("CAD"[change["Kind"]], change["Path"]) for change in found]

    def export(self) -> AsyncIterator[bytes]:
        """Its file system as a tar stream."""
        return self._api.stream("GET", f"{self._path}/export")

    def read_archive(self, path: str) -> AsyncIterator[bytes]:
        """A file or directory of it as a tar stream."""
        return self._api.stream("GET", f"{self._path}/archive", {"path": path})

    async def write_archive(self, path: str, archive: Body) -> None:
        """Unpack a tar stream in its directory ``path``."""
        await self._api.call("PUT", f"{self._path}/archive", {"path": path}, body=archive)

    async def stats(self) -> dict[str, Any]:
        """One reading of what it uses, as the API gives it."""
        query = {"stream": "false", "one-shot": "true"}
        found: dict[str, Any] = await self._api.get(f"{self._path}/stats", query)
        return found

    async def follow_stats(self) -> AsyncIterator[dict[str, Any]]:
        """Readings of what it uses, about one a second, as the API gives them."""
        async for reading in self._api.messages("GET", f"{self._path}/stats"):
            yield reading

    async def commit(
        self, name: str = "", *, message: str = "", author: str = "", changes: Sequence[str] = ()
    ) -> str:
        """Make an image of its file system; the image's identifier."""
        query = commit_query(self.id, name, message, author, changes)
        return str((await self._api.post("/commit", query))["Id"])


class AsyncContainers:
    """``client.containers``."""

    def __init__(self, api: AsyncApi) -> None:
        self._api = api

    async def list(self, *, all: bool = False, **filters: str) -> list[AsyncContainer]:
        """Those that run, or ``all``; ``filters`` are the API's (``name="web"``)."""
        query: dict[str, object] = {"all": all, "filters": conditions(filters)}
        found = await self._api.get("/containers/json", query)
        return [AsyncContainer(self._api, one["Id"]) for one in found]

    async def get(self, name: str) -> AsyncContainer:
        """By name or (the beginning of) identifier; NotFound if there is none."""
        found = await self._api.get(f"/containers/{quote(name)}/json")
        return AsyncContainer(self._api, found["Id"])

    async def create(
        self,
        image: str,
        command: Sequence[str] | str | None = None,
        *,
        name: str = "",
        **how: Any,
    ) -> AsyncContainer:
        """Make a container; ``how`` are the parameters of
        :meth:`sampan.client.containers.Containers.create`.  A missing image is pulled."""
        body = creation(image, command, **how)
        query = {"name": name or None}
        try:
            made = await self._api.post("/containers/create", query, body)
        except NotFound:
            from sampan.client.aio.images import AsyncImages

            await AsyncImages(self._api).pull(image)
            made = await self._api.post("/containers/create", query, body)
        return AsyncContainer(self._api, made["Id"])

    async def start(
        self, image: str, command: Sequence[str] | str | None = None, **how: Any
    ) -> AsyncContainer:
        """Create (parameters as there) and start a container."""
        container = await self.create(image, command, **how)
        await container.start()
        return container

    async def run(
        self, image: str, command: Sequence[str] | str | None = None, **how: Any
    ) -> bytes:
        """Run a container to its end, remove it, and give back its standard output.

        :raises ContainerFailed: its exit code was not zero.
        """
        container = await self.create(image, command, **{**how, "remove": False})
        try:
            await container.start()
            code = await container.wait()
            parts: dict[str, bytes] = {"stdout": b"", "stderr": b""}
            async for chunk in container.logs():
                parts[chunk.stream] += chunk.data
        finally:
            await container.remove(force=True, volumes=True)
        if code:
            raise ContainerFailed(container.id[:12], code, parts["stderr"])
        return parts["stdout"]

    async def prune(self) -> int:
        """Remove all that do not run; the bytes freed."""
        return int((await self._api.post("/containers/prune")).get("SpaceReclaimed") or 0)
