"""Figures of the builder: contexts of many and of large files, stages, long Dockerfiles."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

from sampan.build.dockerfile import parse
from sampan.build.graph import Planner
from sampan.image.config import ImageConfig

from .engines import Engine
from .scenarios import IMAGE, Timed, scenario

_FILES = 5_000
_SIZE = 20 << 10
_MANY = 100_000


def _build(engine: Engine, folder: Path, *flags: str) -> None:
    engine.call(
        "build", *engine.build_flags, "-q", *flags, "-t", "bench-build:1", engine.path(folder)
    )


def _five_thousand(engine: Engine) -> Path:
    """A context of 5,000 files and 100 MB that one COPY takes."""
    folder = engine.work / "five-thousand"
    if folder.exists():
        return folder
    folder.mkdir()
    (folder / "Dockerfile").write_text(f"FROM {IMAGE}\nCOPY . /data/\n")
    for number in range(_FILES):
        place = folder / f"d{number % 50}"
        place.mkdir(exist_ok=True)
        (place / f"f{number}").write_bytes(os.urandom(_SIZE))
    return folder


@scenario("build, COPY 5,000 files of 100 MB", target=900, group="build", runs=3)
def copy_all(engine: Engine) -> Iterator[Timed]:
    folder = _five_thousand(engine)
    yield lambda: _build(engine, folder, "--no-cache")


@scenario("build, one file of 5,000 changed", target=300, group="build", runs=5)
def copy_one_changed(engine: Engine) -> Iterator[Timed]:
    folder = _five_thousand(engine)
    _build(engine, folder)

    def change() -> None:
        (folder / "d7" / "f7").write_bytes(os.urandom(_SIZE))

    def run() -> None:
        _build(engine, folder)

    run.before = change  # type: ignore[attr-defined]
    yield run


@scenario("build, two stages sleep 2 s", target=2200, group="build", runs=2)
def two_stages(engine: Engine) -> Iterator[Timed]:
    folder = engine.work / "two-stages"
    folder.mkdir(exist_ok=True)
    (folder / "Dockerfile").write_text(
        f"FROM {IMAGE} AS one\nRUN sleep 2; echo 1 > /one\n"
        f"FROM {IMAGE} AS two\nRUN sleep 2; echo 2 > /two\n"
        "FROM scratch\nCOPY --from=one /one /\nCOPY --from=two /two /\n"
    )
    yield lambda: _build(engine, folder, "--no-cache")


@scenario("build, context of 100,000 files unchanged", target=1000, group="build", runs=3)
def unchanged(engine: Engine) -> Iterator[Timed]:
    folder = engine.work / "many"
    folder.mkdir(exist_ok=True)
    (folder / "Dockerfile").write_text(f"FROM {IMAGE}\nCOPY . /data/\n")
    for number in range(_MANY):
        place = folder / f"d{number % 500}"
        place.mkdir(exist_ok=True)
        (place / f"f{number}").write_text(f"file {number}\n")
    _build(engine, folder)
    yield lambda: _build(engine, folder)


def _long() -> str:
    """A Dockerfile of 200 instructions."""
    lines = [f"FROM {IMAGE}"]
    for number in range(66):
        lines += [f"ENV V{number}={number}", f"LABEL l{number}=$V{number}", f"ARG A{number}=x"]
    return "\n".join([*lines, "USER root"]) + "\n"


@scenario("build, 200 instructions, cached", target=80, group="build", runs=5)
def long_file(engine: Engine) -> Iterator[Timed]:
    folder = engine.work / "long"
    folder.mkdir(exist_ok=True)
    (folder / "Dockerfile").write_text(_long())
    _build(engine, folder)
    yield lambda: _build(engine, folder)


@scenario("build, 200 instructions parsed and planned", target=20, group="build", sampan_only=True)
def planned(engine: Engine) -> Iterator[Timed]:
    text = _long()

    async def base(name: str, platform: str) -> ImageConfig:
        return ImageConfig()

    yield lambda: asyncio.run(Planner(parse(text), base, build_args={}).plan())
