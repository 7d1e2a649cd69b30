"""Known attacks of a Dockerfile on its builder, tried on this one."""

from __future__ import annotations

import contextlib
import os
import threading
from pathlib import Path

import pytest
from build_workshop import Workshop

from sampan.build.errors import StepError
from sampan.errors import InvalidParameter, SampanError

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="containers need root")


async def test_clean_up_follows_no_link(workshop: Workshop, tmp_path: Path) -> None:
    """CVE-2024-23652: what is removed after a step is removed inside the step's tree."""
    outside = tmp_path / "outside"
    (outside / "point").mkdir(parents=True)
    (outside / "file").touch()
    context = workshop.context(file="x")
    await workshop.build(
        f"""
FROM busybox
RUN --mount=type=tmpfs,target=/made/point --mount=type=bind,target=/made/file,source=file \
    mv /made /gone && ln -s {outside} /made
""",
        context,
    )
    assert sorted(os.listdir(outside)) == ["file", "point"]


async def test_a_cache_is_mounted_as_it_was_found(workshop: Workshop, tmp_path: Path) -> None:
    """CVE-2024-23651: a part of a cache swapped for a link while a step is being started."""
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "key").write_text("host")
    context = workshop.context(file="x")
    await workshop.build(
        "FROM busybox\nRUN --mount=type=cache,id=raced,target=/c mkdir -p /c/part/sub", context
    )
    [part] = [path for path in tmp_path.rglob("part") if (path / "sub").is_dir()]
    ended = threading.Event()

    def swap() -> None:
        aside = part.with_name("aside")
        while not ended.is_set():
            part.rename(aside)
            part.symlink_to(secret)
            part.unlink()
            aside.rename(part)

    racing = threading.Thread(target=swap)
    racing.start()
    try:
        for number in range(8):
            with contextlib.suppress(StepError, InvalidParameter, SampanError):
                await workshop.build(
                    "FROM busybox\n"
                    "RUN --mount=type=cache,id=raced,source=part,target=/c"
                    f" ! test -e /c/key || echo stolen; echo {number}",
                    context,
                )
    finally:
        ended.set()
        racing.join()
    assert "stolen\n" not in workshop.output()


@pytest.mark.parametrize("source", ["../../../../../../..{}", "/../../../../../..{}"])
async def test_a_cache_makes_nothing_outside(
    workshop: Workshop, tmp_path: Path, source: str
) -> None:
    outside = tmp_path / "outside"
    context = workshop.context(file="x")
    with contextlib.suppress(StepError, InvalidParameter):
        await workshop.build(
            "FROM busybox\nRUN --mount=type=cache,id=up,target=/c,source="
            + source.format(outside)
            + " true",
            context,
        )
    assert not outside.exists()


async def test_privileges_must_be_asked_for(workshop: Workshop) -> None:
    """CVE-2024-23653: a step with privileges in a build that does not ask for them."""
    context = workshop.context(file="x")
    text = "FROM busybox\nRUN --security=insecure grep CapEff /proc/self/status"
    with pytest.raises(InvalidParameter, match=r"security\.insecure is not allowed"):
        await workshop.build(text, context)
    await workshop.build(text.replace("insecure ", "sandbox "), context)
    assert "CapEff:\t00000000a80425fb" in workshop.output()
    with pytest.raises(SampanError, match="is not valid"):
        await workshop.build("ARG HOW=insecure\n" + text.replace("insecure", "$HOW"), context)
