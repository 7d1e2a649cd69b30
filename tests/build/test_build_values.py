"""What the options of a build say: platforms, annotations, names of contexts."""

from __future__ import annotations

import asyncio

import pytest

from sampan.build.annotation import check, select
from sampan.build.dockerfile import parse
from sampan.build.graph.ops import Source
from sampan.build.graph.plan import Planner, plain_name
from sampan.build.graph.scope import host_platform, parse_platform
from sampan.errors import InvalidParameter, Unsupported
from sampan.image.config import ImageConfig


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("linux/amd64", "linux/amd64"),
        ("linux/x86_64", "linux/amd64"),
        ("Linux/AMD64", "linux/amd64"),
        ("aarch64", "linux/arm64"),
        ("linux/arm64/v8", "linux/arm64"),
        ("linux/arm64/9", "linux/arm64/v9"),
        ("arm", "linux/arm/v7"),
        ("linux/armel", "linux/arm/v6"),
        ("linux/arm/6", "linux/arm/v6"),
        ("riscv64", "linux/riscv64"),
        ("windows/amd64", "windows/amd64"),
        ("linux", f"linux/{host_platform().architecture}"),
    ],
)
def test_platforms(text: str, found: str) -> None:
    assert str(parse_platform(text)).startswith(found)


@pytest.mark.parametrize(
    "text", ["foo", "a/b/c/d", "linux/", "/amd64", "linux/a b", "linux/amd64,x"]
)
def test_no_platforms(text: str) -> None:
    with pytest.raises(InvalidParameter, match="invalid platform"):
        parse_platform(text)
    assert parse_platform("") is None


def test_annotations_by_what_they_are_for() -> None:
    given = {
        "a": "1",
        "index:b": "2",
        "manifest,index:c:d": "3",
        "manifest-descriptor[linux/arm64]:e": "4",
        "manifest[linux/amd64]:a": "5",
    }
    assert select(given, "manifest", "linux/arm64") == {"a": "1", "c:d": "3"}
    assert select(given, "manifest", "linux/amd64") == {"a": "5", "c:d": "3"}
    assert select(given, "index") == {"b": "2", "c:d": "3"}
    assert select(given, "manifest-descriptor", "linux/amd64") == {}
    assert select(given, "manifest-descriptor", "linux/arm64") == {"e": "4"}
    check(given, index=True)
    check({"a": "b"}, index=False)
    for wrong in ("index:a", "manifest-descriptor[linux/arm64]:a"):
        with pytest.raises(InvalidParameter, match="need an index"):
            check({wrong: "b"}, index=False)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("what:a", "unknown annotation type 'what'"),
        ("index[:a", "expected format"),
        ("index:", "no key"),
    ],
)
def test_annotations_that_are_none(name: str, message: str) -> None:
    with pytest.raises(InvalidParameter, match=message):
        check({name: "x"}, index=True)
    with pytest.raises(Unsupported):
        check({"index-descriptor:a": "x"}, index=True)


def test_contexts_stand_for_images_by_any_of_their_names() -> None:
    assert plain_name("docker.io/library/Base:latest") == plain_name("base") == "base"
    assert plain_name("base:1") == "base:1" and plain_name("a/../b") == "a/../b"

    async def resolve(name: str, platform: str) -> ImageConfig:
        raise AssertionError(name)

    for name in ("base", "base:latest", "docker.io/library/base"):
        tree = parse(f"FROM {name}\nCOPY --from={name} / /\n")
        contexts = {"base:latest": "local://base"}
        planner = Planner(tree, resolve, build_args={}, named_contexts=contexts)
        base = asyncio.run(planner.plan()).target.draft.base_vertex
        assert base is not None and base.op == Source("local://base")
