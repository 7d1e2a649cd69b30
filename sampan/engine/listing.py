"""The list of containers: filters, order and limits as Docker's ``ps`` has them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from sampan.durations import human_duration
from sampan.engine.containers import Containers
from sampan.engine.filters import Filters
from sampan.engine.inspect import Inspector, endpoint_document, mount_document
from sampan.engine.ports import normal
from sampan.engine.state import Container, ContainerRecord, State
from sampan.errors import InvalidParameter, NotFound
from sampan.store.images import ImageStore

ACCEPTED = (
    "ancestor",
    "before",
    "exited",
    "expose",
    "health",
    "id",
    "is-task",
    "isolation",
    "label",
    "name",
    "network",
    "publish",
    "since",
    "status",
    "volume",
)
STATUSES = ("created", "running", "paused", "restarting", "removing", "exited", "dead")
HEALTHS = ("starting", "healthy", "unhealthy", "none")

_Test = Callable[[Container], bool]


class Listing:
    """Answers ``GET /containers/json``."""

    def __init__(self, containers: Containers, images: ImageStore, inspector: Inspector) -> None:
        self._containers = containers
        self._images = images
        self._inspector = inspector

    def documents(
        self,
        filters: Filters,
        *,
        everything: bool = False,
        limit: int = 0,
        size: bool = False,
    ) -> list[dict[str, Any]]:
        """Summaries of the containers that pass, newest first.

        ``everything`` includes those that do not run; a ``limit`` > 0 takes the newest so many of
        all.  Raises InvalidParameter for a filter that is unknown or malformed.
        """
        filters.only(*ACCEPTED)
        tests = self._tests(filters)
        stopped_too = everything or limit > 0 or "status" in filters
        names: dict[str, str] = {}
        found: list[dict[str, Any]] = []
        for container in self._containers.all():
            if not stopped_too and not container.running:
                continue
            if all(test(container) for test in tests):
                found.append(self._summary(container, names, size))
                if limit > 0 and len(found) == limit:
                    break
        return found

    def _summary(self, container: Container, names: dict[str, str], size: bool) -> dict[str, Any]:
        record = container.record
        document = {
            "Id": record.id,
            "Names": [f"/{record.name}"],
            "Image": self._image_name(record, names),
            "ImageID": record.image_id,
            "Command": command_text(record),
            "Created": record.created // 10**9,
            "Ports": port_documents(record),
            "Labels": record.labels,
            "State": record.state.status,
            "Status": status_text(record.state),
            "HostConfig": {"NetworkMode": record.host.network_mode},
            "NetworkSettings": {
                "Networks": {n: endpoint_document(e) for n, e in record.networks.items()}
            },
            "Mounts": [mount_document(mount) for mount in record.mounts if mount.shown],
        }
        if size:
            sizes = self._inspector.sizes(record)
            document.update({name: size for name, size in sizes.items() if size})
        return document

    def _image_name(self, record: ContainerRecord, names: dict[str, str]) -> str:
        """What the user wrote, unless that means another image now."""
        written = record.config.image
        if written not in names:
            try:
                names[written] = self._images.get(written).id
            except (NotFound, InvalidParameter):
                names[written] = ""
        return written if names[written] == record.image_id else record.image_id

    # -- filters ---------------------------------------------------------------------------

    def _tests(self, filters: Filters) -> list[_Test]:
        tests: list[_Test] = []
        if "id" in filters:
            tests.append(lambda c: filters.prefix("id", c.id))
        if "name" in filters:
            tests.append(
                lambda c: filters.pattern("name", c.name) or filters.pattern("name", f"/{c.name}")
            )
        if "label" in filters:
            tests.append(lambda c: filters.labels(c.record.labels))
        tests += self._state_tests(filters)
        tests += self._relation_tests(filters)
        if filters.get("is-task") and filters.boolean("is-task", False):
            tests.append(lambda _: False)
        for key, host_side in (("publish", True), ("expose", False)):
            if key in filters:
                wanted = {port for text in filters.get(key) for port in _ports(text)}
                tests.append(_port_test(wanted, host_side))
        return tests

    def _state_tests(self, filters: Filters) -> list[_Test]:
        tests: list[_Test] = []
        for text in filters.get("status"):
            if text not in STATUSES:
                raise InvalidParameter(f"invalid filter 'status={text}'")
        if "status" in filters:
            tests.append(lambda c: filters.exact("status", c.record.state.status))
        if "exited" in filters:
            try:
                codes = {int(text) for text in filters.get("exited")}
            except ValueError:
                bad = " ".join(filters.get("exited"))
                raise InvalidParameter(f"invalid filter 'exited=[{bad}]'") from None
            tests.append(
                lambda c: (
                    not c.running
                    and c.record.state.finished_at > 0
                    and c.record.state.exit_code in codes
                )
            )
        for text in filters.get("health"):
            if text not in HEALTHS:
                raise InvalidParameter(f"invalid filter 'health={text}'")
        if "health" in filters:
            tests.append(lambda c: filters.exact("health", _health(c.record.state)))
        return tests

    def _relation_tests(self, filters: Filters) -> list[_Test]:
        tests: list[_Test] = []
        for ref in filters.get("before"):
            before = self._containers.get(ref).record.created
            tests.append(lambda c, before=before: c.record.created < before)  # type: ignore[misc]
        for ref in filters.get("since"):
            since = self._containers.get(ref).record.created
            tests.append(lambda c, since=since: c.record.created > since)  # type: ignore[misc]
        if "ancestor" in filters:
            wanted = self._descendants(filters.get("ancestor"))
            tests.append(lambda c: c.record.image_id in wanted)
        if "volume" in filters:
            volumes = set(filters.get("volume"))
            tests.append(
                lambda c: any(
                    {mount.point.name, mount.destination} & volumes for mount in c.record.mounts
                )
            )
        if "network" in filters:
            networks = filters.get("network")
            tests.append(lambda c: any(_on_network(c.record, name) for name in networks))
        return tests

    def _descendants(self, refs: tuple[str, ...]) -> set[str]:
        """The images of those names and all that were made from them."""
        found: set[str] = set()
        queue: list[str] = []
        for ref in refs:
            try:
                queue.append(self._images.get(ref).id)
            except (NotFound, InvalidParameter):
                continue
        while queue:
            image = queue.pop()
            if image not in found:
                found.add(image)
                queue += self._images.children(image)
        return found


def _health(state: State) -> str:
    return state.health.status if state.health is not None else "none"


def _on_network(record: ContainerRecord, wanted: str) -> bool:
    return any(
        name == wanted or (settings.network_id and settings.network_id.startswith(wanted))
        for name, settings in record.networks.items()
    )


def _ports(text: str) -> list[str]:
    """``80``, ``80/udp`` or ``8000-8010/tcp`` as normal port names."""
    numbers, separator, protocol = text.partition("/")
    first, _, last = numbers.partition("-")
    try:
        low, high = int(first), int(last or first)
    except ValueError:
        raise InvalidParameter(f"invalid port specification: {text!r}") from None
    return [normal(f"{number}{separator}{protocol}") for number in range(low, high + 1)]


def _port_test(wanted: set[str], host_side: bool) -> _Test:
    def test(container: Container) -> bool:
        record = container.record
        if host_side:
            numbers = {
                f"{binding.host_port}/{port.partition('/')[2]}"
                for port, bindings in record.ports.items()
                for binding in bindings or ()
            }
            return bool((numbers | {p for p, b in record.ports.items() if b}) & wanted)
        return bool(wanted & {*record.ports, *(record.config.exposed_ports or {})})

    return test


def port_documents(record: ContainerRecord) -> list[dict[str, Any]]:
    """``Ports`` of the list: one entry a binding, or one for a port that is only exposed."""
    found: list[dict[str, Any]] = []
    for port, bindings in record.ports.items():
        number, _, protocol = port.partition("/")
        if not bindings:
            found.append({"PrivatePort": int(number), "Type": protocol})
        for binding in bindings or ():
            found.append(
                {
                    "IP": binding.host_ip,
                    "PrivatePort": int(number),
                    "PublicPort": int(binding.host_port),
                    "Type": protocol,
                }
            )
    return found


def command_text(record: ContainerRecord) -> str:
    """The command line; arguments with a space are quoted."""
    path, *arguments = record.command
    return " ".join([path, *(f"'{a}'" if " " in a else a for a in arguments)])


def status_text(state: State) -> str:
    """Docker's ``Status``: ``Up 5 minutes (healthy)``, ``Exited (0) 2 hours ago``."""
    now = time.time_ns()
    if state.status == "restarting":
        ago = human_duration((now - state.finished_at) / 1e9)
        return f"Restarting ({state.exit_code}) {ago} ago"
    if state.running:
        up = f"Up {human_duration((now - state.started_at) / 1e9)}"
        if state.status == "paused":
            return f"{up} (Paused)"
        if state.health is not None:
            text = state.health.status
            return f"{up} ({'health: starting' if text == 'starting' else text})"
        return up
    if state.status == "removing":
        return "Removal In Progress"
    if state.status == "dead":
        return "Dead"
    if not state.started_at:
        return "Created"
    return f"Exited ({state.exit_code}) {human_duration((now - state.finished_at) / 1e9)} ago"
