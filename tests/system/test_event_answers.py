"""The events of each step, beside those that Docker's own engine publishes."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from api_rows import Ask, delete, get, post
from dockerd import Dockerd
from event_rows import DIFFERS, FILTERED_STEPS, FILTERS, STEPS, Scene, Step
from harness import DEADLINE, Daemon, running, until

from tests.registry.servers import docker_registry

GOLDEN = Path(__file__).parent / "golden" / "events.json"
FILTERED = GOLDEN.with_name("event_filters.json")
WRITE = os.environ.get("SAMPAN_GOLDEN") == "write"


@pytest.fixture(scope="module")
def world() -> Iterator[Daemon]:
    yield from running(kind=Dockerd if WRITE else Daemon)


class Stream:
    """The engine's events, read as they come."""

    def __init__(self, path: str) -> None:
        self._sock = socket.socket(socket.AF_UNIX)
        self._sock.connect(path)
        self._sock.sendall(b"GET /v1.45/events HTTP/1.0\r\nHost: docker\r\n\r\n")
        self._file = self._sock.makefile("rb")
        while self._file.readline().strip():
            pass
        self._events: list[dict[str, Any]] = []
        self._more = threading.Condition()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            for line in self._file:
                event = json.loads(line)
                if event["Action"] == "destroy" and event["Actor"]["ID"].startswith("mark-"):
                    continue
                with self._more:
                    self._events.append(event)
                    self._more.notify_all()

    def until(self, count: int, seconds: float) -> None:
        """Return when there are ``count`` events, or the time is over."""
        with self._more:
            self._more.wait_for(lambda: len(self._events) >= count, seconds)

    def before(self, mark: str) -> list[dict[str, Any]]:
        """Take the events before the creation of the volume ``mark``."""

        def there() -> bool:
            return any(event["Actor"]["ID"] == mark for event in self._events)

        with self._more:
            assert self._more.wait_for(there, DEADLINE)
            at = [event["Actor"]["ID"] for event in self._events].index(mark)
            found = self._events[:at]
            del self._events[: at + 1]
        return found

    def close(self) -> None:
        self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()


def play(scene: Scene, stream: Stream, step: Step, number: int, wanted: int) -> list[str]:
    """The events of a step; they may come a little later than the answers."""
    for act in step.acts:
        if isinstance(act, Ask):
            scene.send(act)
        else:
            act(scene)
    if WRITE:
        time.sleep(0.5)
    else:
        stream.until(wanted, 5)
    mark = f"mark-{number}"
    scene.send(post("/volumes/create", {"Name": mark}))
    found = [normal(event) for event in stream.before(mark)]
    scene.send(delete(f"/volumes/{mark}"))
    return found


def normal(event: dict[str, Any]) -> str:
    """One event as text, without what differs from run to run."""
    assert event["timeNano"] // 10**9 == event["time"]
    kept = {key: value for key, value in event.items() if key not in ("time", "timeNano")}
    text = json.dumps(kept, sort_keys=True)
    text = re.sub(r"sha256:[0-9a-f]{64}", "<digest>", text)
    text = re.sub(r"\b[0-9a-f]{64}\b", "<id>", text)
    return re.sub(r'("(?:reclaimed|execDuration)": )"\d+"', r'\1"<number>"', text)


def actions(events: list[str]) -> list[str]:
    return [json.loads(event)["Action"] for event in events]


def of_containers(events: list[str]) -> list[str]:
    """The events whose order is fixed; ``stop`` comes before or after ``die``."""
    found = [event for event in events if '"Type": "container"' in event]
    return [event for event in found if '"Action": "stop"' not in event]


def compared(title: str, events: list[str]) -> list[str]:
    """The events of a step without those that differ on purpose."""
    parts = [f'"(Action|Type)": "[^"]*{part}' for place, part, _ in DIFFERS if place == title]
    return [event for event in events if not any(re.search(part, event) for part in parts)]


def test_events(world: Daemon) -> None:
    scene = Scene(world.url.removeprefix("unix://"))
    stream = Stream(scene.path)
    golden = {} if WRITE else json.loads(GOLDEN.read_text())
    found = {}
    for number, step in enumerate(STEPS):
        count = len(compared(step.title, golden.get(step.title, [])))
        found[step.title] = play(scene, stream, step, number, count)
    stream.close()
    if WRITE:
        GOLDEN.write_text(json.dumps(found, indent=1) + "\n")
        return
    assert golden.keys() == found.keys()
    wrong = []
    for title in found:
        ours, docker = compared(title, found[title]), compared(title, golden[title])
        wrong += [f"{title}: missing {e}" for e in (Counter(docker) - Counter(ours)).elements()]
        wrong += [f"{title}: more {e}" for e in (Counter(ours) - Counter(docker)).elements()]
        if of_containers(docker) != of_containers(ours):
            wrong += [f"{title}: order {actions(ours)}, Docker's {actions(docker)}"]
    assert not wrong, "\n".join(wrong)


def test_filters(world: Daemon) -> None:
    scene = Scene(world.url.removeprefix("unix://"))
    begin = time.time()
    for each in FILTERED_STEPS:
        assert scene.send(each).status < 300
    until(lambda: scene.state("web")["Status"] == "exited")
    time.sleep(0.5 if WRITE else 0)
    end = time.time()
    found = {}
    for filters in FILTERS:
        text = json.dumps(filters)
        target = f"/events?since={begin:.9f}&until={end:.9f}&filters={quote(text)}"
        answer = scene.send(get(target))
        lines = answer.body.splitlines() if answer.status == 200 else []
        events = [json.loads(line) for line in lines]
        found[text] = [answer.status, [f"{e['Type']} {e['Action']}" for e in events]]
    for each in (delete("/containers/web"), delete("/containers/website"), delete("/images/web:1")):
        scene.send(each)
    scene.send(delete("/networks/web-net"))
    scene.send(delete("/volumes/web"))
    if WRITE:
        FILTERED.write_text(json.dumps(found, indent=1) + "\n")
        return
    golden = json.loads(FILTERED.read_text())
    wrong = [
        f"{text}: {found[text]}, Docker's {golden[text]}"
        for text in golden
        if sorted(golden[text][1]) != sorted(found[text][1]) or golden[text][0] != found[text][0]
    ]
    assert not wrong, "\n".join(wrong)


def test_images_of_a_registry(world: Daemon, tmp_path: Path) -> None:
    """What Docker's engine said to the same, recorded by hand: the name has no tag, and digests go
    without a word with the last tag of their repository."""
    client = world.client
    with docker_registry(tmp_path) as registry:
        name = f"{registry.host}/events"
        client.api.import_image_from_data(
            b"\0" * 1024, repository=name, tag="1", changes=["LABEL k=v"]
        )
        stream = Stream(world.url.removeprefix("unix://"))
        client.images.push(name, "1")
        client.images.remove(f"{name}:1")
        image = client.images.pull(name, "1")
        image.tag("other", "1")
        client.images.remove(image.id, force=True)
        client.volumes.create("mark-images")
        events = stream.before("mark-images")
        client.volumes.get("mark-images").remove()
        stream.close()
    found = [(e["Action"], e["Actor"]["ID"], e["Actor"]["Attributes"]["name"]) for e in events]
    assert found == [
        ("push", f"{name}:1", name),
        ("untag", image.id, image.id),
        ("delete", image.id, image.id),
        ("pull", f"{name}:1", name),
        ("tag", image.id, "other:1"),
        *[("untag", image.id, image.id)] * 3,
        ("delete", image.id, image.id),
    ]
    labels = [event["Actor"]["Attributes"].get("k") for event in events]
    assert labels == [None if action == "delete" else "v" for action, _, _ in found]
