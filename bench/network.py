"""The network's figures: starts, traffic against a bare veth pair, many containers."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Iterator

from . import traffic
from .engines import Chroot, CommandFailed, Engine
from .scenarios import IMAGE, Timed, four_at_a_time, scenario, sleeper

PORT = 5001
SETTLED = 0.6
MANY = 200


@scenario("network create, rm", group="network")
def create_network(engine: Engine) -> Iterator[Timed]:
    def call() -> None:
        engine.call("network", "create", "bench-net")
        engine.call("network", "rm", "bench-net")

    yield call


@scenario("network connect, disconnect", group="network")
def connect(engine: Engine) -> Iterator[Timed]:
    engine.call("network", "create", "bench-net")
    with sleeper(engine) as name:

        def call() -> None:
            engine.call("network", "connect", "bench-net", name)
            engine.call("network", "disconnect", "bench-net", name)

        yield call
    engine.call("network", "rm", "bench-net")


def more_than_none(engine: Engine, *flags: str) -> float:
    """By how much a run is longer than one without a network: medians, taken in turns."""
    times: dict[bool, list[float]] = {True: [], False: []}
    for turn in range(31):
        for networked in times:
            chosen = flags if networked else ("--network", "none")
            begin = time.perf_counter()
            engine.call("run", "--rm", *chosen, IMAGE, "true")
            if turn:
                times[networked].append(time.perf_counter() - begin)
    return 1000 * (statistics.median(times[True]) - statistics.median(times[False]))


# Taking the container down is part of what a command line sees, and a good part of it.
@scenario("what a bridge adds to run --rm", group="network")
def bridge_part(engine: Engine) -> Iterator[float]:
    yield more_than_none(engine)


@scenario("what a bridge and a port add to run --rm", group="network")
def port_part(engine: Engine) -> Iterator[float]:
    yield more_than_none(engine, "-p", "127.0.0.1:28080:80")


@scenario("the 191st to 200th run -d on a network / 1st to 10th", group="network", unit="x")
def flatness(engine: Engine) -> Iterator[float]:
    engine.call("network", "create", "bench-net")
    names = [f"flat-{n}" for n in range(MANY)]
    times = []
    try:
        for name in names:
            begin = time.perf_counter()
            flags = ("--network", "bench-net", "--name", name)
            engine.call("run", "-d", *flags, IMAGE, "sleep", "9999")
            times.append(time.perf_counter() - begin)
        yield statistics.median(times[-10:]) / statistics.median(times[:10])
    finally:
        engine.remove(*names)
        engine.call("network", "rm", "bench-net")


@scenario("200 containers and their network: rm", target=2000, group="network", runs=1)
def remove_many(engine: Engine) -> Iterator[Timed]:
    names = [f"many-{n}" for n in range(MANY)]

    def start() -> None:
        engine.call("network", "create", "bench-net")
        four_at_a_time(
            engine,
            [
                ["run", "-d", "--network", "bench-net", "--name", n, IMAGE, "sleep", "9999"]
                for n in names
            ],
        )

    def remove() -> None:
        engine.remove(*names)
        engine.call("network", "rm", "bench-net")

    remove.before = start  # type: ignore[attr-defined]
    yield remove


def pid(engine: Engine, name: str) -> int:
    return int(engine.call("inspect", "-f", "{{.State.Pid}}", name))


def home(engine: Engine) -> int:
    """A process in the network namespace that is the engine's host."""
    return engine.holder.pid if isinstance(engine, Chroot) else os.getpid()


def address(engine: Engine, name: str) -> str:
    form = "{{range .NetworkSettings.Networks}}{{.IPAddress}} {{end}}"
    found = engine.call("inspect", "-f", form, name).split()
    if not found:
        raise CommandFailed(f"{engine.name}: the container has no address")
    return found[0]


def between(engine: Engine, kind: str) -> float:
    with sleeper(engine) as first, sleeper(engine) as second:
        ends = pid(engine, first), pid(engine, second)
        track = traffic.Track(*ends, address(engine, second), PORT, PORT)
        return compared(kind, track)


def published(engine: Engine, kind: str) -> float:
    with sleeper(engine, "-p", f"127.0.0.1:28081:{PORT}") as name:
        track = traffic.Track(home(engine), pid(engine, name), "127.0.0.1", 28081, PORT)
        return compared(kind, track)


def compared(kind: str, track: traffic.Track) -> float:
    """Percent by which it takes longer than through a bare veth pair."""
    with traffic.bare_pair(PORT) as bare:
        # What an engine does for containers that stay, it may do a moment after their start.
        time.sleep(SETTLED)
        return traffic.compare(kind, track, bare)


# The kernel's own bridge, with nothing else: what a figure below it saves, or above it adds.
@scenario("the kernel's path over a bare bridge", unit="%", group="network", sampan_only=True)
def bare_bridge(engine: Engine) -> Iterator[float]:
    del engine
    with traffic.bare_bridge(PORT) as bridge, traffic.bare_pair(PORT) as bare:
        yield traffic.compare("path", bridge, bare)


@scenario("the kernel's path between containers", unit="%", group="network")
def between_path(engine: Engine) -> Iterator[float]:
    yield between(engine, "path")


@scenario("a stream between containers, longer than a veth", target=3, unit="%", group="network")
def between_stream(engine: Engine) -> Iterator[float]:
    yield between(engine, "stream")


@scenario("a round trip between containers", target=3, unit="%", group="network")
def between_trips(engine: Engine) -> Iterator[float]:
    yield between(engine, "trips")


@scenario("the kernel's path to a published port", unit="%", group="network")
def published_path(engine: Engine) -> Iterator[float]:
    yield published(engine, "path")


@scenario("a stream to a published port", target=3, unit="%", group="network")
def published_stream(engine: Engine) -> Iterator[float]:
    yield published(engine, "stream")


@scenario("a round trip to a published port", target=3, unit="%", group="network")
def published_trips(engine: Engine) -> Iterator[float]:
    yield published(engine, "trips")
