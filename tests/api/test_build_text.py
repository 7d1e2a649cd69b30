"""A build's events as text: in the order of the steps, whatever order they come in."""

from __future__ import annotations

import random
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from sampan.api.build_text import ClassicText, conclusion, trace
from sampan.build import (
    BuildEvent,
    BuildResult,
    StepCached,
    StepDone,
    StepFailed,
    StepLog,
    StepProgress,
    StepRunning,
    StepStarted,
    Vertex,
)
from sampan.progress import Progress


def step(number: int, text: str) -> Vertex:
    return Vertex(f"sha256:{number:064x}", f"[{number}/3] {text}", number, 3, text)


FROM, RUN, COPY = step(1, "FROM x"), step(2, "RUN a"), step(3, "COPY b b")
EVENTS: dict[Vertex, list[BuildEvent]] = {
    FROM: [StepStarted(FROM, 1.0), StepCached(FROM, "1" * 64, 1.0)],
    RUN: [
        StepStarted(RUN, 1.0),
        StepRunning(RUN, "c" * 64),
        StepLog(RUN, "stdout", b"out\n", 1.0),
        StepLog(RUN, "stderr", b"err\n", 1.0),
        StepDone(RUN, "2" * 64, "c" * 64, 2.0),
    ],
    COPY: [StepStarted(COPY, 1.0), StepCached(COPY, "3" * 64, 1.0)],
}
TEXT = (
    "Step 1/3 : FROM x\n ---> 111111111111\n"
    "Step 2/3 : RUN a\n ---> Running in cccccccccccc\nout\nerr\n"
    " ---> Removed intermediate container cccccccccccc\n ---> 222222222222\n"
    "Step 3/3 : COPY b b\n ---> Using cache\n ---> 333333333333\n"
)


def shown(events: list[BuildEvent]) -> str:
    messages: list[dict[str, Any]] = []
    text = ClassicText(messages.append)
    for event in events:
        text(event)
    text.close()
    return "".join(message.get("stream", "") for message in messages)


@given(st.randoms(use_true_random=False))
def test_any_interleaving_reads_the_same(order: random.Random) -> None:
    queues = [list(events) for events in EVENTS.values()]
    mixed: list[BuildEvent] = []
    while any(queues):
        mixed.append(order.choice([queue for queue in queues if queue]).pop(0))
    assert shown(mixed) == TEXT


def test_current_step_is_live() -> None:
    messages: list[dict[str, Any]] = []
    text = ClassicText(messages.append)
    for event in (*EVENTS[FROM], *EVENTS[RUN][:3]):
        text(event)
    assert messages[-1] == {"stream": "out\n"}


def test_what_waits_for_a_failed_step_is_shown_at_the_end() -> None:
    events = [EVENTS[FROM][0], *EVENTS[COPY], StepFailed(FROM, "no", 1.0)]
    assert shown([EVENTS[FROM][0], *EVENTS[COPY]]).endswith("333333333333\n")
    assert "Step 3/3" in shown(events)


def test_transfers_are_progress() -> None:
    messages: list[dict[str, Any]] = []
    internal = Vertex("pull", "[internal] load metadata", 0, 0, "pull x")
    ClassicText(messages.append)(StepProgress(internal, Progress("Downloading", "a", 1, 2)))
    assert messages[0]["progressDetail"] == {"current": 1, "total": 2}


def test_conclusion() -> None:
    result = BuildResult("sha256:" + "a" * 64, ("x:1",), (), ("UNUSED",))
    assert list(conclusion(result)) == [
        {"stream": "[Warning] One or more build-args [UNUSED] were not consumed\n"},
        {"aux": {"ID": result.image_id}},
        {"stream": "Successfully built aaaaaaaaaaaa\n"},
        {"stream": "Successfully tagged x:1\n"},
    ]


def test_traces_name_their_vertex() -> None:
    for events in EVENTS.values():
        for event in events:
            aux = trace(event)["aux"]
            if "logs" in aux:
                assert aux["logs"][0]["vertex"] == RUN.id
            else:
                assert aux["vertexes"][0]["digest"] == event.vertex.id  # type: ignore[union-attr]


def test_scratch_has_no_identifier() -> None:
    for text in ("FROM scratch", "FROM --platform=linux/amd64 scratch AS x"):
        vertex = step(1, text)
        events: list[BuildEvent] = [StepStarted(vertex, 1.0), StepDone(vertex, "1" * 64, "", 2.0)]
        assert shown(events) == f"Step 1/3 : {text}\n ---> \n"
