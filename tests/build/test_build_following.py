"""Commands one after the other: the next one is started before the last one's result is put away."""

from __future__ import annotations

import tarfile

import pytest
from build_workshop import Workshop

from sampan.build import StepDone, StepLog, StepRunning, StepStarted
from sampan.build.errors import StepError
from sampan.build.solver.cache import UNFINISHED
from sampan.errors import Conflict, SampanError


def _unfinished(workshop: Workshop) -> list[tuple[str, ...]]:
    return workshop.deps.metadata.query(
        "SELECT name FROM snapshot_names WHERE name LIKE ?", (f"{UNFINISHED}%",)
    )


async def test_a_command_finds_what_the_one_before_left(workshop: Workshop) -> None:
    result = await workshop.build(
        "FROM busybox\n"
        "RUN chmod 711 / && chown 7:8 /\n"
        "RUN test $(stat -c %a:%u:%g /) = 711:7:8 && echo 1 > /one && mkdir /d && echo 2 > /d/two\n"
        "RUN test $(stat -c %a:%u:%g /) = 711:7:8 && cat /one /d/two > /both && rm -r /d\n"
        "RUN test ! -e /d && mkdir /d && echo 3 > /d/three\n"
    )
    assert await workshop.read(result, "/both") == "1\n2\n"
    assert await workshop.read(result, "/d/three") == "3\n"
    assert _unfinished(workshop) == []
    rows = workshop.deps.metadata.query("SELECT parent_name FROM snapshot_names")
    assert not any(name and name.startswith(UNFINISHED) for (name,) in rows)


async def test_several_commands_on_one_result(workshop: Workshop) -> None:
    result = await workshop.build(
        "FROM busybox AS base\nRUN echo base > /base\n"
        "FROM base AS one\nRUN cat /base > /one\n"
        "FROM base AS two\nRUN cat /base > /two\nRUN --mount=from=one,target=/m cat /m/one >> /two\n"
        "FROM base\nCOPY --from=one /one /\nCOPY --from=two /two /\nRUN cat /one /two > /all\n"
    )
    assert await workshop.read(result, "/all") == "base\n" * 3
    assert _unfinished(workshop) == []


async def test_steps_are_told_one_after_the_other(workshop: Workshop) -> None:
    text = "FROM busybox\n" + "".join(f"RUN echo {number}\n" for number in range(5))
    await workshop.build(text)
    shown = (StepStarted, StepRunning, StepLog, StepDone)
    told = [(e.vertex.number, type(e)) for e in workshop.events if isinstance(e, shown)]
    expected = [(number, kind) for number in range(2, 7) for kind in shown]
    assert told[2:] == expected


async def test_mount_points_leave_no_trace(workshop: Workshop) -> None:
    result = await workshop.build(
        "FROM busybox\nRUN echo 1 > /file\nRUN echo 2 > /etc/file; echo 3 >> /etc/hosts\n"
    )
    content = workshop.deps.content
    names = []
    for diff_id in workshop.image(result).config.rootfs.diff_ids[1:]:
        with tarfile.open(content.path(diff_id)) as archive:
            names.append(sorted(archive.getnames()))
    assert names == [["file"], ["etc", "etc/file"]]


async def test_a_command_that_fails_leaves_nothing_for_the_next_one(workshop: Workshop) -> None:
    with pytest.raises(StepError):
        await workshop.build("FROM busybox\nRUN true\nRUN false\nRUN echo never\n")
    assert _unfinished(workshop) == []


async def test_a_result_that_cannot_be_put_away(workshop: Workshop) -> None:
    """The command on it runs already: it ends with the build, and nothing is left of either."""
    with workshop.deps.metadata.transaction() as connection:
        connection.execute(
            "CREATE TEMP TRIGGER refused BEFORE INSERT ON objects"
            " WHEN new.collection = 'build_cache' BEGIN SELECT RAISE(ABORT, 'refused'); END"
        )
    with pytest.raises(Conflict):
        await workshop.build("FROM busybox\nRUN true\nRUN true\nRUN true\n")
    assert _unfinished(workshop) == []
    assert not list((workshop.deps.run_dir / "build").glob("*"))
    with workshop.deps.metadata.transaction() as connection:
        connection.execute("DROP TRIGGER refused")
    await workshop.build("FROM busybox\nRUN true\nRUN true\nRUN true\n")


@pytest.mark.parametrize("rest", ["RUN false", "ENV A=${B:?is missing}", "COPY --from=/ / /"])
async def test_the_place_of_the_first_command_goes_whatever_comes(
    workshop: Workshop, rest: str
) -> None:
    with pytest.raises(SampanError):
        await workshop.build(f"FROM busybox\nRUN true\n{rest}\n", no_cache=True)
    assert not list((workshop.deps.run_dir / "build").glob("*"))
    await workshop.build("FROM busybox\nRUN --network=none true\n", no_cache=True)
    assert not list((workshop.deps.run_dir / "build").glob("*"))
