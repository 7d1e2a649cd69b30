"""The API's answers, field by field, beside those of Docker's own engine to the same requests."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from typing import Any

import pytest
from answers import FOLDER, ask, differences, document
from api_rows import DIFFERS, MATCHED, SCENES, VERSION, Ask
from dockerd import PEERS, Dockerd
from harness import Daemon, running

WRITE = os.environ.get("SAMPAN_GOLDEN") == "write"


@pytest.fixture(scope="module")
def world() -> Iterator[Daemon]:
    """A daemon that holds nothing but the image ``busybox``."""
    yield from running(kind=Dockerd if WRITE else Daemon)


@pytest.mark.parametrize("scene", SCENES)
def test_scene(world: Daemon, scene: str) -> None:
    golden = FOLDER / f"{scene}.json"
    answers = Session(world).play(SCENES[scene])
    tidy(world)
    if WRITE:
        FOLDER.mkdir(exist_ok=True)
        golden.write_text(json.dumps(answers, indent=1) + "\n")
        return
    wanted = json.loads(golden.read_text())
    assert [each["request"] for each in wanted] == [each["request"] for each in answers]
    found = [
        f"{left['request']}\n    {at}: {what}"
        for left, right in zip(wanted, answers, strict=True)
        for at, what in compare(left["request"], left["answer"], right["answer"])
    ]
    assert not found, "\n".join(found)


def compare(request: str, wanted: dict[str, Any], ours: dict[str, Any]) -> list[tuple[str, str]]:
    """Differences that are not meant, as places and what is there."""
    allowed = [re.compile(place) for pattern, place, _ in DIFFERS if re.search(pattern, request)]
    found = [
        (at, what)
        for at, what in differences(wanted, ours)
        if not any(place.search(at) for place in allowed)
    ]
    if request.startswith("POST /build?") and wanted["status"] == ours["status"] == 200:
        left, right = printed(wanted), printed(ours)
        if left != right and not any(place.search("/printed") for place in allowed):
            found.append(("/printed", f"Docker's {left}, ours {right}"))
    if wanted["status"] >= 400 and ours["status"] >= 400:
        # A client's mistake that Docker's engine takes for its own has a status of its own here.
        if wanted["status"] == 500:
            found = [(at, what) for at, what in found if at != "/status"]
        text = wanted.get("body", {})
        said = text.get("message", "") if isinstance(text, dict) else ""
        if said and not any(re.search(pattern, said) for pattern in MATCHED):
            found = [(at, what) for at, what in found if at != "/body/message"]
    elif wanted["status"] != ours["status"] and any(p.search("/status") for p in allowed):
        return []
    return found


def printed(answer: dict[str, Any]) -> tuple[list[str], bool]:
    """What the commands of a build have printed, and whether it failed."""
    body = answer["body"] if isinstance(answer["body"], list) else [answer["body"]]
    text = "".join(message.get("stream", "") for message in body)
    own = re.compile("Step | ---> |Successfully|Removed intermediate|\\[Warning\\]|$")
    lines = [line for line in text.splitlines() if not own.match(line)]
    return lines, any("error" in message for message in body)


class Session:
    """Sends requests one after the other; later ones may name what earlier ones were answered."""

    def __init__(self, daemon: Daemon) -> None:
        self._socket = daemon.url.removeprefix("unix://")
        self._places: dict[str, str] = {}

    def play(self, asks: list[Ask]) -> list[dict[str, Any]]:
        return [{"request": each.title, "answer": self._play(each)} for each in asks]

    def _play(self, each: Ask) -> dict[str, Any]:
        target = each.target
        for name, value in self._places.items():
            target = target.replace(f"{{{name}}}", value).replace(f"%7B{name}%7D", value)
        prefix = f"/v{each.version or VERSION}"
        answer = ask(self._socket, each.method, prefix + target, each.data(), each.headers())
        if each.keep:
            self._places[each.keep] = str(json.loads(answer.body)["Id"])
        return document(answer, {"target": each.target})


def tidy(daemon: Daemon) -> None:
    """Remove what a scene has made."""
    daemon.remove_containers()
    for network in daemon.client.networks.list():
        if network.name not in ("bridge", "host", "none"):
            network.remove()
    for volume in daemon.client.volumes.list():
        volume.remove(force=True)
    for image in daemon.client.images.list():
        for tag in image.tags:
            if tag != "busybox:latest":
                daemon.client.images.remove(tag, force=True)
    daemon.client.images.prune(filters={"dangling": True})


def test_every_scene_has_a_golden_file() -> None:
    assert {path.stem for path in FOLDER.glob("*.json")} == set(SCENES)
    assert PEERS.is_absolute()
