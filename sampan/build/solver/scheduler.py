"""The scheduler: one task a vertex, results shared, work bounded."""

from __future__ import annotations

import asyncio
import hashlib
import os
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from sampan.build.graph.ops import Exec, File, Merge, Source, Vertex
from sampan.build.solver.cache import PREFIX, BuildCache, CacheRecord
from sampan.store.layers import LayerRef

SCRATCH = "scratch"


@dataclass(slots=True)
class Result:
    """What a vertex gave.

    ``snapshot`` is None for the empty tree and for a local folder (``local`` is then its name).
    ``made`` says that a layer over the first input came of it.
    """

    key: str
    snapshot: str | None
    record: CacheRecord | None = None
    local: str = ""
    cached: bool = True


@dataclass(slots=True)
class Done:
    """What an operation's runner reports: the active snapshot to commit, or (``active`` None)
    that nothing changed and the result is the first input's snapshot, or the layer (``made``) of
    a snapshot that it has committed under the name of its key itself.  ``ahead`` says that the
    command that comes next can run on the active snapshot before it is committed."""

    active: str | None
    container_id: str = ""
    made: LayerRef | None = None
    ahead: bool = False


class Coming(NamedTuple):
    """What comes after an operation: whether a command is to run on its result next, and how many
    commands are to run in all."""

    follows: bool
    commands: int


class Runner(Protocol):
    """Carries out operations; the scheduler knows none of their details."""

    async def source(self, vertex: Vertex, op: Source) -> Result:
        """Bring a source; images are not unpacked before :meth:`ready`."""
        ...

    async def ready(self, result: Result) -> None:
        """Make sure that the result's snapshot can be used as a parent or read."""
        ...

    async def contents(self, vertex: Vertex, inputs: Sequence[Result | None]) -> list[str] | None:
        """Checksums of what the operation reads of its inputs but the first; None if it has no
        use for them."""
        ...

    async def run(
        self, vertex: Vertex, inputs: Sequence[Result | None], key: str, coming: Coming
    ) -> Done:
        """Do the work; ``key`` is unique, for the names of what is made on the way."""
        ...


class Watcher(Protocol):
    """Hears what happens to vertices."""

    def started(self, vertex: Vertex) -> None: ...

    def cached(self, vertex: Vertex, result: Result) -> None: ...

    def done(self, vertex: Vertex, result: Result, container_id: str) -> None: ...

    def failed(self, vertex: Vertex, error: BaseException) -> None: ...


@dataclass(slots=True)
class Shared:
    """What the builds of one daemon share: work in flight by key, and slots for running."""

    flights: dict[str, asyncio.Event] = field(default_factory=dict)
    slots: asyncio.Semaphore = field(
        default_factory=lambda: asyncio.Semaphore(max(4, 2 * (os.cpu_count() or 1)))
    )


class _Work(NamedTuple):
    """A vertex being solved.  ``ran`` has its result when the command that follows can run on it,
    ``task`` when it is in the cache and told of as well."""

    task: asyncio.Task[Result]
    ran: asyncio.Future[Result]


class Solver:
    """Solves vertices for one build; ``finished`` hears of each result as soon as it is there.

    A command that follows another one is started at once when that has ended: the result that it
    runs on is put into the cache meanwhile.
    """

    def __init__(
        self,
        cache: BuildCache,
        runner: Runner,
        watcher: Watcher,
        shared: Shared,
        finished: Callable[[Vertex, Result], None] = lambda vertex, result: None,
    ) -> None:
        self._finished = finished
        self._cache = cache
        self._runner = runner
        self._watcher = watcher
        self._shared = shared
        self._works: dict[str, _Work] = {}
        self._followers: dict[str, Vertex] = {}
        """By the digest of a command: the command that runs next on its result."""
        self._commands = 0
        """How many commands have no result yet."""
        self.used: list[CacheRecord] = []
        self.hits: list[CacheRecord] = []
        """Those of the used records that were there before."""
        self.failed: Vertex | None = None

    async def solve(self, vertex: Vertex | None) -> Result:
        """The result of ``vertex``; raises what its work, or that of an input, raised."""
        if vertex is None:
            return Result(SCRATCH, None)
        # Inputs first and without recursion: chains are longer than the stack.
        loop = asyncio.get_running_loop()
        for needed in topological(vertex):
            if needed.digest in self._works:
                continue
            inputs = [None if item is None else self._works[item.digest] for item in needed.inputs]
            if isinstance(needed.op, Exec):
                self._commands += 1
                before = needed.inputs[0]
                if before is not None and isinstance(before.op, Exec):
                    self._followers.setdefault(before.digest, needed)
            ran: asyncio.Future[Result] = loop.create_future()
            task = asyncio.create_task(self._solve(needed, inputs, ran))
            self._works[needed.digest] = _Work(task, ran)
        return await self._works[vertex.digest].task

    async def close(self) -> None:
        """Cancel what is running and wait until it has cleaned up."""
        tasks = [work.task for work in self._works.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for record in self.used:
            self._cache.in_use[record.id] -= 1

    def solved(self, vertex: Vertex) -> bool:
        """Whether the vertex has a result."""
        work = self._works.get(vertex.digest)
        return work is not None and _succeeded(work)

    def result(self, vertex: Vertex) -> Result:
        """The result of a vertex that has been solved."""
        return self._works[vertex.digest].task.result()

    async def _solve(
        self, vertex: Vertex, below: Sequence[_Work | None], ran: asyncio.Future[Result]
    ) -> Result:
        try:
            result = await self._result(vertex, below, ran)
        except asyncio.CancelledError:
            ran.cancel()
            raise
        except BaseException as error:
            if not ran.done():
                ran.set_exception(error)
                ran.exception()  # Whoever waits gets it; if nobody does, it is not news.
            raise
        finally:
            self._commands -= isinstance(vertex.op, Exec)
        if not ran.done():
            ran.set_result(result)
        return result

    async def _result(
        self, vertex: Vertex, below: Sequence[_Work | None], ran: asyncio.Future[Result]
    ) -> Result:
        inputs = await self._inputs(vertex, below)
        try:
            if isinstance(vertex.op, Source):
                self._watcher.started(vertex)
                result = await self._runner.source(vertex, vertex.op)
                self._watcher.done(vertex, result, "")
                return result
            result = await self._operation(vertex, inputs, below, ran)
            self._finished(vertex, result)
            return result
        except BaseException as error:
            if self.failed is None and not isinstance(error, asyncio.CancelledError):
                self.failed = vertex
            self._watcher.failed(vertex, error)
            raise

    async def _inputs(self, vertex: Vertex, below: Sequence[_Work | None]) -> list[Result | None]:
        """The results to work on; the first one may not be in the cache yet."""
        found: list[Result | None] = []
        for number, (before, work) in enumerate(zip(vertex.inputs, below, strict=True)):
            if work is None or before is None:
                found.append(None)
            elif number == 0 and self._followers.get(before.digest) is vertex:
                found.append(await work.ran)
            else:
                found.append(await work.task)
        return found

    def _tell_start(self, vertex: Vertex, below: Sequence[_Work | None]) -> None:
        """Say that the vertex has begun, but not before what it runs on is said to be done."""

        def tell(_: object) -> None:
            if before is not None and _succeeded(before):
                self._watcher.started(vertex)

        before = below[0] if below else None
        if before is None or before.task.done():
            self._watcher.started(vertex)
        else:
            before.task.add_done_callback(tell)

    async def _operation(
        self,
        vertex: Vertex,
        inputs: list[Result | None],
        below: Sequence[_Work | None],
        ran: asyncio.Future[Result],
    ) -> Result:
        keys: list[str] = []
        if not any(i is not None and i.local for i in inputs):
            keys.append(derive_key(vertex, [i.key if i else SCRATCH for i in inputs]))
            found = self._lookup(vertex, keys)
            if found is not None:
                return found
        else:
            self._tell_start(vertex, below)
        contents = await self._runner.contents(vertex, inputs)
        if contents is not None:
            first = inputs[0].key if inputs and inputs[0] else SCRATCH
            keys.append(derive_key(vertex, [first, *contents]))
            found = self._lookup(vertex, keys)
            if found is not None:
                return found
        return await self._work(vertex, inputs, keys, below, ran)

    def _lookup(self, vertex: Vertex, keys: list[str]) -> Result | None:
        """The cached result under the last key; all keys lead to it from then on."""
        if vertex.ignore_cache:
            return None
        record = self._cache.find(keys[-1])
        if record is None:
            return None
        if any(key not in record.keys for key in keys):
            self._cache.add(record, keys)
        result = Result(record.id, record.snapshot, record)
        self._use(record)
        self.hits.append(record)
        self._watcher.cached(vertex, result)
        return result

    def _use(self, record: CacheRecord) -> None:
        self._cache.in_use[record.id] += 1
        self.used.append(record)

    async def _work(
        self,
        vertex: Vertex,
        inputs: list[Result | None],
        keys: list[str],
        below: Sequence[_Work | None],
        ran: asyncio.Future[Result],
    ) -> Result:
        """Run the operation, unless another build is just doing it."""
        flights = self._shared.flights
        flight = keys[-1]
        while not vertex.ignore_cache and flight in flights:
            await flights[flight].wait()
            found = self._lookup(vertex, keys)
            if found is not None:
                return found
        landed = asyncio.Event()
        if not vertex.ignore_cache:
            flights[flight] = landed
        try:
            async with self._shared.slots:
                self._tell_start(vertex, below)
                for item in inputs:
                    if item is not None:
                        await self._runner.ready(item)
                key = secrets.token_hex(32)
                coming = Coming(vertex.digest in self._followers, self._commands - 1)
                done = await self._runner.run(vertex, inputs, key, coming)
            for work in below:
                if work is not None:
                    await work.task
            record = self._record(vertex, inputs, key, done)
            result = Result(key, record.snapshot, record, cached=False)
            try:
                if done.ahead:
                    # The command that follows is asked for before the result is put away.
                    ran.set_result(result)
                    await asyncio.sleep(0)
            finally:
                self._use(record)
                self._cache.commit(record, keys, done.active)
        finally:
            landed.set()
            if flights.get(flight) is landed:
                del flights[flight]
        self._watcher.done(vertex, result, done.container_id)
        return result

    def _record(
        self, vertex: Vertex, inputs: list[Result | None], key: str, done: Done
    ) -> CacheRecord:
        parent = inputs[0].snapshot if inputs and inputs[0] else None
        now = time.time()
        empty = done.active is None and done.made is None
        name = parent if empty else PREFIX + key
        record = CacheRecord(key, name, parent, now, now, description(vertex), uses=0, empty=empty)
        record.boot = self._cache.boot
        record.layer = done.made
        return record


def _succeeded(work: _Work) -> bool:
    task = work.task
    return task.done() and not task.cancelled() and task.exception() is None


def topological(vertex: Vertex) -> list[Vertex]:
    """The vertex and everything below it, inputs first."""
    order: list[Vertex] = []
    seen: set[str] = set()
    stack: list[tuple[Vertex, bool]] = [(vertex, False)]
    while stack:
        current, expanded = stack.pop()
        if expanded:
            order.append(current)
            continue
        if current.digest in seen:
            continue
        seen.add(current.digest)
        stack.append((current, True))
        stack.extend((i, False) for i in reversed(current.inputs) if i is not None)
    return order


def derive_key(vertex: Vertex, parts: Sequence[str]) -> str:
    """The cache's index for a vertex over inputs of these keys or checksums."""
    state = hashlib.sha256(vertex.definition)
    for part in parts:
        state.update(b"\n" + part.encode())
    return state.hexdigest()


def description(vertex: Vertex) -> str:
    """What ``system df`` shows of a record; secrets are no part of an operation."""
    op = vertex.op
    if isinstance(op, Exec):
        return "mount / from exec " + " ".join(op.args)
    if isinstance(op, File):
        return "files " + " ".join(
            getattr(a, "dest", "") or getattr(a, "path", "") for a in op.actions
        )
    if isinstance(op, Merge):
        return "merge"
    return op.identifier
