"""Builds from end to end, with the real store, runtime and networks."""

from __future__ import annotations

from conftest import Workshop


async def test_simple_image(workshop: Workshop) -> None:
    context = workshop.context(app__main_py="print('hi')\n", Dockerfile="")
    result = await workshop.build(
        """
FROM busybox
ENV GREETING=hello
WORKDIR /srv/app
RUN echo $GREETING > made; echo to-stdout; echo to-stderr >&2
COPY app .
EXPOSE 8000
CMD ["sh", "-c", "cat made"]
""",
        context,
        tags=("app:1",),
    )
    image = workshop.image(result)
    assert image.repo_tags == ("app:1",)
    assert await workshop.read(result, "/srv/app/made") == "hello\n"
    assert await workshop.read(result, "/srv/app/main_py") == "print('hi')\n"
    assert image.config.config.working_dir == "/srv/app"
    assert "to-stdout" in workshop.output() and "to-stderr" in workshop.output()
    assert [h.empty_layer for h in image.config.history] == [
        False,
        True,
        False,
        False,
        False,
        True,
        True,
    ]
    assert len(image.config.rootfs.diff_ids) == 4


async def test_cached(workshop: Workshop) -> None:
    text = "FROM busybox\nRUN echo a > /a\nRUN echo b > /b\nENV x=y\n"
    first = await workshop.build(text)
    assert "StepRunning" in workshop.kinds()
    second = await workshop.build(text)
    assert "StepRunning" not in workshop.kinds()
    assert first.image_id == second.image_id
