"""A build's events as the classic builder's text, and as BuildKit's raw JSON.

Steps run in parallel, but the classic text is a list of steps in order: what a later step says is
kept until its turn comes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

from sampan.api import progress
from sampan.build import (
    BuildEvent,
    BuildResult,
    BuildWarning,
    StepCached,
    StepDone,
    StepFailed,
    StepLog,
    StepProgress,
    StepRunning,
    StepStarted,
    Vertex,
)
from sampan.image.digest import short

Message = dict[str, Any]
_LAST = (StepCached, StepDone, StepFailed)


class ClassicText:
    """Turns events into messages ``{"stream": …}`` in the order of the steps."""

    def __init__(self, send: Callable[[Message], None]) -> None:
        self._send = send
        self._turn = 1
        self._waiting: dict[int, deque[BuildEvent]] = {}
        self._finished: set[int] = set()

    def __call__(self, event: BuildEvent) -> None:
        if isinstance(event, BuildWarning):
            return
        number = event.vertex.number
        if number == 0:
            self._show_internal(event)
        elif number <= self._turn:
            self._show(event)
            self._advance()
        else:
            self._waiting.setdefault(number, deque()).append(event)

    def close(self) -> None:
        """Show what is still waiting: a step before it was never finished."""
        for number in sorted(self._waiting):
            for event in self._waiting[number]:
                self._show(event)
        self._waiting.clear()

    def _advance(self) -> None:
        while self._turn in self._finished:
            self._turn += 1
            for event in self._waiting.pop(self._turn, ()):
                self._show(event)

    def _show(self, event: BuildEvent) -> None:
        if isinstance(event, BuildWarning):
            return
        if isinstance(event, _LAST):
            self._finished.add(event.vertex.number)
        if isinstance(event, StepProgress):
            self._send(progress.message(event.progress))
            return
        for line in _lines(event):
            self._send({"stream": line})

    def _show_internal(self, event: BuildEvent) -> None:
        """Of steps that stand for no instruction only transfers are worth showing."""
        if isinstance(event, StepProgress):
            self._send(progress.message(event.progress))


def _lines(event: BuildEvent) -> Iterator[str]:
    if isinstance(event, StepStarted):
        vertex = event.vertex
        yield f"Step {vertex.number}/{vertex.total} : {vertex.text}"
        yield "\n"
    elif isinstance(event, StepRunning):
        yield f" ---> Running in {event.container_id[:12]}\n"
    elif isinstance(event, StepLog):
        yield event.data.decode(errors="replace")
    elif isinstance(event, StepCached):
        if not event.vertex.text.upper().startswith("FROM "):
            yield " ---> Using cache\n"
        yield f" ---> {_result(event)}\n"
    elif isinstance(event, StepDone):
        if event.container_id:
            yield f" ---> Removed intermediate container {event.container_id[:12]}\n"
        yield f" ---> {_result(event)}\n"


def _result(event: StepCached | StepDone) -> str:
    """The short identifier of what a step has made; nothing is of nothing."""
    words = [word for word in event.vertex.text.split() if not word.startswith("--")]
    nothing = words[0].upper() == "FROM" and words[1:2] == ["scratch"] if words else False
    return "" if nothing else event.result[:12]


def conclusion(result: BuildResult) -> Iterator[Message]:
    """The last messages of the classic text."""
    for warning in result.warnings:
        yield {"stream": f"[Warning] {warning.rule}: {warning.message} (line {warning.line})\n"}
    if result.unused_build_args:
        names = " ".join(result.unused_build_args)
        yield {"stream": f"[Warning] One or more build-args [{names}] were not consumed\n"}
    if result.image_id:
        yield {"aux": {"ID": result.image_id}}
        yield {"stream": f"Successfully built {short(result.image_id)}\n"}
    for tag in result.tags:
        yield {"stream": f"Successfully tagged {tag}\n"}


def trace(event: BuildEvent) -> Message:
    """One event in the form of BuildKit's ``rawjson`` progress, as an ``aux`` message."""
    return {"id": "sampan.trace", "aux": _status(event)}


def _status(event: BuildEvent) -> dict[str, Any]:
    if isinstance(event, BuildWarning):
        return {
            "warnings": [
                {
                    "rule": event.rule,
                    "short": event.message,
                    "detail": event.description,
                    "url": event.url,
                    "line": event.line,
                    "excerpt": event.excerpt,
                }
            ]
        }
    vertex = _vertex(event.vertex)
    if isinstance(event, StepLog):
        return {
            "logs": [
                {
                    "vertex": event.vertex.id,
                    "stream": 1 if event.stream == "stdout" else 2,
                    "data": event.data,
                    "timestamp": _time(event.at),
                }
            ]
        }
    if isinstance(event, StepProgress):
        given = event.progress
        return {
            "statuses": [
                {
                    "id": f"{given.id} {given.status}".strip(),
                    "vertex": event.vertex.id,
                    "name": given.status,
                    "current": given.current,
                    "total": given.total,
                }
            ]
        }
    if isinstance(event, StepRunning):
        vertex["container"] = event.container_id
    elif isinstance(event, StepStarted):
        vertex["started"] = _time(event.at)
    else:
        vertex["completed"] = _time(event.at)
        if isinstance(event, StepCached):
            vertex["cached"] = True
        elif isinstance(event, StepFailed):
            vertex["error"] = event.error
    return {"vertexes": [vertex]}


def _vertex(vertex: Vertex) -> dict[str, Any]:
    return {
        "digest": vertex.id,
        "inputs": list(vertex.inputs),
        "name": vertex.name,
        "number": vertex.number,
        "total": vertex.total,
        "text": vertex.text,
        "stage": vertex.stage,
    }


def _time(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat().replace("+00:00", "Z")
