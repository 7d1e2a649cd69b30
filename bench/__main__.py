"""Print the table of timings: ``python -m bench [--engines sampan,docker,podman] [WORD …]``."""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Iterator

from . import api as api
from . import build as build
from . import containers as containers
from . import first as first
from . import network as network
from . import scenarios
from . import storage as storage
from .engines import KINDS, CommandFailed, Engine, Sampan, running
from .scenarios import ALL, Scenario


def measure(scenario: Scenario, engines: list[Engine], runs: int | None) -> dict[str, float]:
    """The median of each engine, in the scenario's unit; the engines take turns."""
    figures: dict[str, float] = {}
    timed: dict[str, tuple[Iterator[object], object]] = {}
    for engine in engines:
        if scenario.sampan_only and not isinstance(engine, Sampan):
            continue
        steps = iter(scenario.prepare(engine))
        try:
            first = next(steps)
        except CommandFailed as error:
            print(f"  {scenario.name}: {error}", file=sys.stderr)
            continue
        if isinstance(first, float | int):
            figures[engine.name] = float(first)
            list(steps)
        else:
            timed[engine.name] = (steps, first)
    times: dict[str, list[float]] = {name: [] for name in timed}
    count = runs or scenario.runs
    for turn in range(count + 1):
        for name, (_, call) in list(timed.items()):
            try:
                if before := getattr(call, "before", None):
                    before()
                begin = time.perf_counter()
                call()  # type: ignore[operator]
                spent = (time.perf_counter() - begin) * 1000
                if after := getattr(call, "after", None):
                    after()
            except CommandFailed as error:
                print(f"  {scenario.name}: {error}", file=sys.stderr)
                del timed[name]
                continue
            if turn:  # the first turn warms up
                times[name].append(spent)
    for name, (steps, _) in timed.items():
        list(steps)
        figures[name] = statistics.median(times[name])
    return figures


def show(scenario: Scenario, figures: dict[str, float], names: list[str]) -> None:
    own = figures.get("sampan")
    cells = [f"{scenario.name:<42}"]
    for name in names:
        value = figures.get(name)
        if value is None:
            cells.append(f"{'-':>18}")
            continue
        text = f"{value:,.1f} {scenario.unit}" if value < 100 else f"{value:,.0f} {scenario.unit}"
        if name != "sampan" and own:
            text += f" ({value / own:.1f}x)"
        cells.append(f"{text:>18}")
    target = "" if scenario.target is None else f"{round(scenario.target, 1):,.10g} {scenario.unit}"
    verdict = ""
    if own is not None and scenario.target is not None:
        verdict = "met" if own <= scenario.target else "MISSED"
    print("  ".join([*cells, f"{target:>10}", verdict]), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("--engines", default="sampan,docker,podman", help="comma-separated")
    parser.add_argument("--runs", type=int, help="counted runs of each figure")
    parser.add_argument(
        "words", nargs="*", help="only figures whose name or group has one of these"
    )
    options = parser.parse_args()
    wanted = [
        s
        for s in ALL
        if not options.words or any(w in f"{s.name} {s.group}" for w in options.words)
    ]
    names = [name for name in options.engines.split(",") if name in KINDS]
    with running(names) as engines:
        for engine in engines:
            scenarios.load_image(engine)
        names = [engine.name for engine in engines]
        head = "  ".join(f"{name:>18}" for name in names)
        print(f"{'median of whole client commands':<42}  {head}  {'target':>10}")
        for scenario in wanted:
            show(scenario, measure(scenario, engines, options.runs), names)


if __name__ == "__main__":
    main()
