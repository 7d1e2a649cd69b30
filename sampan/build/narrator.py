"""Progress: what happens to vertices, told as the steps of the Dockerfile."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from sampan.build.dockerfile import ast
from sampan.build.dockerfile.source import Source
from sampan.build.graph import ops
from sampan.build.graph.plan import Plan, StagePlan, Step
from sampan.build.solver.scheduler import Result
from sampan.build.types import (
    BuildEvent,
    StepCached,
    StepDone,
    StepFailed,
    StepLog,
    StepRunning,
    StepStarted,
    Vertex,
)

Report = Callable[[BuildEvent], None]


@dataclass(slots=True)
class _Told:
    """A step with the steps after it that change only the configuration."""

    vertex: Vertex
    at: ast.Instruction
    followers: list[Vertex] = field(default_factory=list)
    started: bool = False
    finished: bool = False


class Narrator:
    """Turns the scheduler's vertices into events; implements its ``Watcher``."""

    def __init__(self, plan: Plan, source: Source, report: Report) -> None:
        """``source`` is the Dockerfile's text, to show what fails."""
        self._report = report
        self._source = source
        self._told: dict[str, list[_Told]] = {}
        self._immediate: list[_Told] = []
        self._steps: list[tuple[ops.Vertex, _Told]] = []
        self._last = plan.target.steps[-1]
        self._last_number = 0
        self._held: list[StepCached | StepDone] = []
        total = sum(len(stage.steps) for stage in plan.stages)
        number = 0
        for stage in plan.stages:
            number = self._stage(stage, number, total, len(plan.stages) > 1)

    def _stage(self, stage: StagePlan, number: int, total: int, several: bool) -> int:
        name = stage.stage.name or f"stage-{stage.stage.number}"
        layers = [step for step in stage.steps if _makes_layer(step)]
        current: _Told | None = None
        position = 0
        for step in stage.steps:
            number += 1
            if _makes_layer(step):
                position += 1
                prefix = f"{name} " if several else ""
                title = f"[{prefix}{position}/{len(layers)}] {step.text}"
            else:
                title = step.text
            identity = hashlib.sha256(f"{number}\0{step.text}".encode()).hexdigest()
            inputs = (current.vertex.id,) if current else ()
            vertex = Vertex(f"sha256:{identity}", title, number, total, step.text, name, inputs)
            if step is self._last:
                self._last_number = number
            if not _makes_layer(step) and current is not None:
                current.followers.append(vertex)
                continue
            current = _Told(vertex, step.at)
            if step.vertex is not None:
                self._steps.append((step.vertex, current))
            if step.vertex is None:
                self._immediate.append(current)
            else:
                self._told.setdefault(step.vertex.digest, []).append(current)
        return number

    def begin(self) -> None:
        """Tell the steps that need no work at all (``FROM scratch``)."""
        for told in self._immediate:
            self._finish(told, "", cached=True, container_id="")

    def text(self, vertex: ops.Vertex) -> str:
        """The instruction that a vertex stands for, as written."""
        told = self._told.get(vertex.digest)
        return told[0].vertex.text if told else type(vertex.op).__name__

    # the scheduler's Watcher

    def started(self, vertex: ops.Vertex) -> None:
        for told in self._told.get(vertex.digest, ())[:1]:
            self._start(told)

    def cached(self, vertex: ops.Vertex, result: Result) -> None:
        for told in self._told.get(vertex.digest, ()):
            self._finish(told, result.key, cached=True, container_id="")

    def done(self, vertex: ops.Vertex, result: Result, container_id: str) -> None:
        source = isinstance(vertex.op, ops.Source)
        for told in self._told.get(vertex.digest, ()):
            self._finish(told, result.key, cached=source, container_id=container_id)
            container_id = ""  # It is the first one's; others only begin on its result.

    def failed(self, vertex: ops.Vertex, error: BaseException) -> None:
        cancelled = isinstance(error, asyncio.CancelledError)
        told = self._told[vertex.digest][0] if vertex.digest in self._told else None
        if not cancelled:
            told = told or self._step_with(vertex)
            if told is not None:
                self._start(told)
        if told is not None and told.started and not told.finished:
            told.finished = True
            excerpt = "" if cancelled else self._source.excerpt(told.at.span)
            self._report(StepFailed(told.vertex, str(error), time.time(), excerpt))

    def _step_with(self, vertex: ops.Vertex) -> _Told | None:
        """The step that wants what is no step of its own: a download, the files of a merge."""
        for top, told in self._steps:
            below = [top]
            while below:
                for item in below.pop().inputs:
                    if item is vertex:
                        return told
                    if item is not None and item.digest not in self._told:
                        below.append(item)
        return None

    def running(self, vertex: ops.Vertex, container_id: str) -> None:
        for told in self._told.get(vertex.digest, ())[:1]:
            self._report(StepRunning(told.vertex, container_id))

    def output(self, vertex: ops.Vertex, stream: str, data: bytes) -> None:
        for told in self._told.get(vertex.digest, ())[:1]:
            kind = "stderr" if stream == "stderr" else "stdout"
            self._report(StepLog(told.vertex, kind, data, time.time()))  # type: ignore[arg-type]

    def _start(self, told: _Told) -> None:
        if not told.started:
            told.started = True
            self._report(StepStarted(told.vertex, time.time()))

    def _finish(self, told: _Told, key: str, *, cached: bool, container_id: str) -> None:
        if told.finished:
            return
        self._start(told)
        told.finished = True
        result = key.rpartition(":")[2] or "0" * 64
        if cached and not _is_from(told.vertex):
            self._end(StepCached(told.vertex, result, time.time()))
        else:
            self._end(StepDone(told.vertex, result, container_id, time.time()))
        for follower in told.followers:
            now = time.time()
            result = hashlib.sha256(f"{result}\0{follower.text}".encode()).hexdigest()
            self._report(StepStarted(follower, now))
            if cached:
                self._end(StepCached(follower, result, now))
            else:
                self._end(StepDone(follower, result, "", now))

    def _end(self, event: StepCached | StepDone) -> None:
        """Tell the end of a step; that of the last one waits for the image."""
        if event.vertex.number == self._last_number:
            self._held.append(event)
        else:
            self._report(event)

    def finish(self, image_id: str | None) -> None:
        """Tell the end of the last step: the image is its result."""
        for event in self._held:
            result = event.result if image_id is None else image_id.rpartition(":")[2]
            self._report(replace(event, result=result))
        self._held.clear()


def _is_from(vertex: Vertex) -> bool:
    """Whether the step is a FROM, which is never "from the cache"."""
    return vertex.text.startswith("FROM ")


def _makes_layer(step: Step) -> bool:
    return step.vertex is not None or isinstance(step.instruction, ast.From)
