"""Builds from end to end, with the real store, runtime and networks."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import io
import os
import select
import socket
import stat
import tarfile
from pathlib import Path

import pytest
from build_workshop import Workshop, busybox_tar, opened

from sampan.build import (
    BuildEvent,
    BuildRequest,
    Output,
    StepFailed,
    StepRunning,
    StepStarted,
    build,
)
from sampan.build.context import extract
from sampan.build.errors import StepError
from sampan.build.graph.scope import host_platform
from sampan.build.shared import recover
from sampan.errors import InvalidParameter, SampanError
from sampan.runtime.cgroups import layout
from sampan.runtime.control import read_state


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


async def test_stages_copy_only_what_is_needed(workshop: Workshop) -> None:
    result = await workshop.build(
        """
FROM busybox AS unused
RUN false
FROM busybox AS made
RUN mkdir -p /out/deep && echo one > /out/deep/file && chown 33:44 /out/deep/file
RUN ln -s deep/file /out/link && ln /out/deep/file /out/hard
FROM scratch
COPY --from=made /out /data
COPY --from=1 --chown=5:6 /out/deep/file /renamed
COPY --from=busybox /etc/passwd /passwd
"""
    )
    assert await workshop.read(result, "/data/deep/file") == "one\n"
    info = await workshop.stat(result, "/data/deep/file")
    assert (info.st_uid, info.st_gid) == (33, 44)
    assert info.st_nlink == 2
    info = await workshop.stat(result, "/renamed")
    assert (info.st_uid, info.st_gid) == (5, 6)
    assert stat.S_ISLNK((await workshop.stat(result, "/data/link")).st_mode)
    assert "root:x" in await workshop.read(result, "/passwd")


async def test_failed_step_tells_code_and_output(workshop: Workshop) -> None:
    with pytest.raises(StepError) as caught:
        await workshop.build("FROM busybox\nRUN echo before; exit 7\n")
    assert caught.value.exit_code == 7
    assert "returned a non-zero code: 7" in str(caught.value)
    assert "before" in caught.value.output
    assert workshop.kinds()[-1] == "StepFailed"


async def test_command_that_does_not_exist(workshop: Workshop) -> None:
    with pytest.raises(StepError, match="no such file") as caught:
        await workshop.build('FROM busybox\nRUN ["/nosuch"]\n')
    assert caught.value.exit_code == 127


async def test_copy_rules(workshop: Workshop) -> None:
    context = workshop.context(
        **{"a.txt": "a", "b.txt": "b", "c.md": "c", "d__x.txt": "x", "d__e__y.txt": "y"}
    )
    (context / "link").symlink_to("d/x.txt")
    os.link(context / "c.md", context / "hard.md")
    result = await workshop.build(
        """
FROM busybox
COPY *.txt /glob/
COPY d /dir
COPY a.txt /single
COPY a.txt /existing/
COPY b.txt /existing
COPY link /followed
COPY . /all
COPY --exclude=*.txt . /some
COPY --parents d/./e/y.txt d/x.txt /parents/
COPY --chmod=640 --chown=web:staff a.txt /owned
COPY --chmod=u=rwX,go=rX d /symbolic
COPY --link c.md /linked/c.md
COPY ["a.txt", "/with space/"]
""",
        context,
    )
    read = workshop.read
    assert await read(result, "/glob/b.txt") == "b"
    assert await read(result, "/dir/e/y.txt") == "y"
    assert await read(result, "/single") == "a"
    assert await read(result, "/existing/b.txt") == "b"
    assert await read(result, "/followed") == "x"
    assert stat.S_ISREG((await workshop.stat(result, "/followed")).st_mode)
    assert stat.S_ISLNK((await workshop.stat(result, "/all/link")).st_mode)
    assert (await workshop.stat(result, "/all/hard.md")).st_nlink == 2
    assert await read(result, "/some/c.md") == "c"
    with pytest.raises(FileNotFoundError):
        await read(result, "/some/a.txt")
    assert await read(result, "/parents/e/y.txt") == "y"
    assert await read(result, "/parents/d/x.txt") == "x"
    info = await workshop.stat(result, "/owned")
    assert (info.st_uid, info.st_gid, stat.S_IMODE(info.st_mode)) == (33, 50, 0o640)
    assert stat.S_IMODE((await workshop.stat(result, "/symbolic")).st_mode) == 0o755
    assert stat.S_IMODE((await workshop.stat(result, "/symbolic/x.txt")).st_mode) == 0o644
    assert await read(result, "/linked/c.md") == "c"
    assert await read(result, "/with space/a.txt") == "a"


async def test_copy_cannot_leave_the_context(workshop: Workshop) -> None:
    context = workshop.context(ok="1")
    (context / "out").symlink_to("/etc/hostname")
    (context / "up").symlink_to("../../../../etc")
    with pytest.raises(InvalidParameter, match="file not found in build context"):
        await workshop.build("FROM busybox\nCOPY out /x\n", context)
    with pytest.raises(InvalidParameter, match="file not found in build context"):
        await workshop.build("FROM busybox\nCOPY up/hostname /x\n", context)
    with pytest.raises(InvalidParameter, match="file not found in build context"):
        await workshop.build("FROM busybox\nCOPY ../../etc/hostname /x\n", context)


async def test_dockerignore(workshop: Workshop) -> None:
    context = workshop.context(
        **{".dockerignore": "*.log\nsecret\n!keep.log\n", "a.log": "1", "keep.log": "2"},
        secret__key="k",
        b="3",
    )
    result = await workshop.build("FROM busybox\nCOPY . /all/\nRUN ls /all > /list\n", context)
    assert await workshop.read(result, "/list") == "b\nkeep.log\n"
    with pytest.raises(InvalidParameter, match=r"excluded by \.dockerignore"):
        await workshop.build("FROM busybox\nCOPY secret /x\n", context)


async def test_add_unpacks_archives(workshop: Workshop) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        info = tarfile.TarInfo("in/side")
        info.size, info.uid, info.gid, info.mode = 3, 7, 8, 0o600
        archive.addfile(info, io.BytesIO(b"abc"))
    context = workshop.context(**{"a.tgz": out.getvalue()})
    result = await workshop.build("FROM busybox\nADD a.tgz /un/\nCOPY a.tgz /kept/\n", context)
    assert await workshop.read(result, "/un/in/side") == "abc"
    assert (await workshop.stat(result, "/un/in/side")).st_uid == 7
    assert (await workshop.stat(result, "/kept/a.tgz")).st_size == len(out.getvalue())


async def test_context_archive_with_escapes_is_refused(tmp_path: Path) -> None:
    for name, kind in (("../evil", tarfile.REGTYPE), ("a/../../evil", tarfile.REGTYPE)):
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w") as archive:
            info = tarfile.TarInfo(name)
            info.type = kind
            archive.addfile(info)
        out.seek(0)
        dest = tmp_path / "dest"
        dest.mkdir(exist_ok=True)
        with pytest.raises(InvalidParameter, match="leads out"):
            extract(out, dest)
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        link = tarfile.TarInfo("l")
        link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path)
        archive.addfile(link)
        info = tarfile.TarInfo("l/evil")
        archive.addfile(info)
    out.seek(0)
    (tmp_path / "second").mkdir()
    with contextlib.suppress(InvalidParameter):
        extract(out, tmp_path / "second")
    assert not (tmp_path / "evil").exists()


async def test_touching_changes_nothing(workshop: Workshop) -> None:
    text = "FROM busybox\nCOPY . /x/\nRUN echo ran\n"
    first = await workshop.build(text, workshop.context(a="1", b__c="2"))
    again = workshop.context(a="1", b__c="2")
    os.utime(again / "a", (1, 1))
    second = await workshop.build(text, again)
    assert first.image_id == second.image_id
    assert "StepRunning" not in workshop.kinds()
    await workshop.build(text, workshop.context(a="1", b__c="changed"))
    assert "StepRunning" in workshop.kinds()


async def test_arguments_and_scopes(workshop: Workshop) -> None:
    result = await workshop.build(
        """
ARG BASE=busybox
ARG GLOBAL=global
FROM ${BASE} AS one
ARG GLOBAL
ARG LOCAL=default
ARG TARGETARCH
ENV FROM_ENV=${LOCAL:+set}
ARG FROM_ENV=overridden
RUN echo "$GLOBAL $LOCAL $FROM_ENV ${UNDECLARED:-none}" > /values; test -n "$TARGETARCH"
FROM one
RUN echo "$LOCAL" > /inherited
""",
        build_args={"LOCAL": "given", "UNDECLARED": "x", "HTTP_PROXY": "http://proxy"},
    )
    assert await workshop.read(result, "/values") == "global given set none\n"
    assert await workshop.read(result, "/inherited") == "given\n"
    assert result.unused_build_args == ("UNDECLARED",)
    history = workshop.image(result).config.history
    assert not any("proxy" in line.created_by for line in history)


async def test_heredocs(workshop: Workshop) -> None:
    result = await workshop.build(
        """
FROM busybox
ENV WHO=world
RUN <<EOT
echo one > /one
echo two >> /one
EOT
RUN <<EOT
#!/bin/sh
echo "from script" > /script
EOT
RUN cat <<A > /a && cat <<B > /b
in a
A
in b
B
COPY <<EOT /hello
hello $WHO "quoted" \\$WHO
EOT
COPY --chmod=700 <<-"RAW" <<OTHER /dir/
	raw $WHO
RAW
other
OTHER
"""
    )
    read = workshop.read
    assert await read(result, "/one") == "one\ntwo\n"
    assert await read(result, "/script") == "from script\n"
    assert await read(result, "/a") + await read(result, "/b") == "in a\nin b\n"
    assert await read(result, "/hello") == 'hello world "quoted" $WHO\n'
    assert await read(result, "/dir/RAW") == "raw $WHO\n"
    assert await read(result, "/dir/OTHER") == "other\n"


async def test_mounts(workshop: Workshop, tmp_path: Path) -> None:
    agent = socket.socket(socket.AF_UNIX)
    agent.bind(str(tmp_path / "agent"))
    agent.listen()
    context = workshop.context(src__file="from context")
    result = await workshop.build(
        """
FROM busybox AS other
RUN echo from-stage > /stage-file
FROM busybox
RUN --mount=type=secret,id=token cat /run/secrets/token > /seen; ls -l /run/secrets/token
RUN --mount=type=secret,id=token,env=TOKEN test "$TOKEN" = "s3"cret
RUN --mount=type=cache,target=/cache echo x >> /cache/count
RUN --mount=type=cache,target=/cache,sharing=locked cat /cache/count > /count
RUN --mount=type=tmpfs,target=/scratch,size=1m echo x > /scratch/f && df /scratch
RUN --mount=target=/src cat /src/src/file > /context-file
RUN --mount=type=bind,from=other,source=/stage-file,target=/mnt/f cat /mnt/f > /stage
RUN --mount=type=bind,from=other,target=/rw,rw echo x > /rw/new && ls /rw > /rw-list
RUN --mount=type=ssh test -S "$SSH_AUTH_SOCK"
""",
        context,
        secrets={"token": b"s3cret"},
        ssh={"default": str(tmp_path / "agent")},
    )
    agent.close()
    read = workshop.read
    assert await read(result, "/seen") == "s3cret"
    assert await read(result, "/count") == "x\n"
    assert await read(result, "/context-file") == "from context"
    assert await read(result, "/stage") == "from-stage\n"
    assert "new" in await read(result, "/rw-list")
    for path in ("/scratch", "/src", "/mnt", "/rw", "/cache", "/run", "/etc/resolv.conf"):
        with pytest.raises(FileNotFoundError):
            await read(result, path)
    records = workshop.deps.shared.cache.records()
    assert not any(b"s3cret" in repr(record).encode() for record in records)
    assert b"s3cret" not in workshop.image(result).raw_config
    with pytest.raises(InvalidParameter, match="secret nope: not found"):
        await workshop.build("FROM busybox\nRUN --mount=type=secret,id=nope,required=true true\n")
    assert not list((workshop.deps.run_dir / "build-mounts").glob("*"))


async def test_caches_of_one_id_may_be_private_and_have_a_namespace(workshop: Workshop) -> None:
    both = "FROM busybox AS base\n"
    for name, other in (("one", "two"), ("two", "one")):
        # Each waits for the other, so both have their caches at the same time.
        wait = f"n=0; until test -e /meet/{other} || test $((n+=1)) = 100; do sleep 0.05; done"
        both += (
            f"FROM base AS {name}\nRUN --mount=type=cache,target=/c,sharing=private"
            f" --mount=type=cache,target=/meet touch /c/{name} /meet/{name}; {wait};"
            f" ls /c > /{name}\n"
        )
    both += "FROM scratch\nCOPY --from=one /one /\nCOPY --from=two /two /\n"
    result = await workshop.build(both)
    assert await workshop.read(result, "/one") == "one\n"
    assert await workshop.read(result, "/two") == "two\n"
    count = "FROM busybox\nRUN --mount=type=cache,target=/c echo x >> /c/n; cat /c/n > /n\n"
    for namespace, seen in (("", "x\n"), ("", "x\nx\n"), ("apart", "x\n")):
        arguments = {"BUILDKIT_CACHE_MOUNT_NS": namespace} if namespace else {}
        result = await workshop.build(count, build_args=arguments, no_cache=True)
        assert await workshop.read(result, "/n") == seen


async def test_stages_that_are_not_to_be_cached(workshop: Workshop) -> None:
    text = (
        "FROM busybox AS one\nRUN cat /proc/sys/kernel/random/uuid > /one\n"
        "FROM busybox AS two\nRUN cat /proc/sys/kernel/random/uuid > /two\n"
        "FROM scratch\nCOPY --from=one /one /\nCOPY --from=two /two /\n"
    )
    before = await workshop.build(text)
    after = await workshop.build(text, no_cache_filter=("two",))
    assert await workshop.read(before, "/one") == await workshop.read(after, "/one")
    assert await workshop.read(before, "/two") != await workshop.read(after, "/two")


async def test_onbuild(workshop: Workshop) -> None:
    await workshop.build(
        "FROM busybox\nONBUILD COPY f /f\nONBUILD RUN cat /f > /g\n", tags=("parent:1",)
    )
    result = await workshop.build("FROM parent:1\nRUN cat /g > /h\n", workshop.context(f="data"))
    assert await workshop.read(result, "/h") == "data"
    assert workshop.image(result).config.config.on_build is None


async def test_configuration(workshop: Workshop) -> None:
    result = await workshop.build(
        """
FROM busybox
LABEL a=1 b="two words"
SHELL ["/bin/sh", "-ec"]
ENTRYPOINT ["/bin/echo"]
CMD hello $X
USER web:staff
VOLUME /data ["x"]
EXPOSE 80 443/udp
STOPSIGNAL SIGINT
HEALTHCHECK --interval=5s --retries=2 CMD true
MAINTAINER somebody
WORKDIR rel
WORKDIR path
RUN id -u > /tmp/id; pwd > /tmp/pwd
""".replace('/data ["x"]', "/data"),
        labels={"c": "3"},
    )
    config = workshop.image(result).config
    run = config.config
    assert run.labels == {"a": "1", "b": "two words", "c": "3"}
    assert run.entrypoint == ["/bin/echo"]
    assert run.cmd == ["/bin/sh", "-ec", "hello $X"]
    assert run.user == "web:staff"
    assert run.volumes == {"/data": {}}
    assert run.exposed_ports == {"80/tcp": {}, "443/udp": {}}
    assert run.stop_signal == "SIGINT"
    assert run.healthcheck is not None and run.healthcheck.test == ["CMD-SHELL", "true"]
    assert run.healthcheck.interval == 5_000_000_000
    assert config.author == "somebody"
    assert run.working_dir == "/rel/path"
    assert await workshop.read(result, "/tmp/id") == "33\n"
    assert await workshop.read(result, "/tmp/pwd") == "/rel/path\n"


async def test_target_and_parallel_stages(workshop: Workshop) -> None:
    # Each stage waits for the other one: only side by side do they end.
    meet = "RUN --mount=type=cache,target=/c : > /c/{}; until [ -e /c/{} ]; do sleep 0.02; done\n"
    text = (
        f"FROM busybox AS a\n{meet.format('a', 'b')}FROM busybox AS b\n{meet.format('b', 'a')}"
        "FROM busybox AS c\nCOPY --from=a /bin/busybox /a\nCOPY --from=b /bin/busybox /b\n"
    )
    async with asyncio.timeout(20):
        await workshop.build(text)
    result = await workshop.build("FROM busybox AS x\nENV a=1\nFROM x\nENV b=2\n", target="X")
    assert workshop.image(result).config.config.env == ["PATH=/bin", "a=1"]
    with pytest.raises(InvalidParameter, match="target stage 'nope' could not be found"):
        await workshop.build("FROM busybox AS x\n", target="nope")


async def test_equal_work_of_concurrent_builds_is_done_once(workshop: Workshop) -> None:
    text = "FROM busybox\nRUN sleep 0.3; cat /proc/sys/kernel/random/uuid > /id\n"
    one, two = await asyncio.gather(workshop.build(text), workshop.build(text))
    assert one.image_id == two.image_id
    assert workshop.kinds().count("StepRunning") == 1


async def test_cancelling_leaves_nothing(workshop: Workshop) -> None:
    sleeping = asyncio.Event()

    def report(event: BuildEvent) -> None:
        if isinstance(event, StepRunning) and "sleep" in event.vertex.text:
            sleeping.set()

    request = BuildRequest(
        context=workshop.context(),
        dockerfile_text=b"FROM busybox\nRUN echo first\nRUN sleep 60\n",
    )
    task = asyncio.create_task(build(request, workshop.deps, report))
    await asyncio.wait_for(sleeping.wait(), 20)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not list((workshop.deps.run_dir / "build").glob("*"))
    rows = workshop.deps.metadata.query("SELECT kind FROM snapshots WHERE kind = 'active'")
    assert rows == []
    await workshop.build("FROM busybox\nRUN echo first\n")
    assert "StepRunning" not in workshop.kinds()


async def test_no_cache(workshop: Workshop) -> None:
    text = "FROM busybox\nRUN cat /proc/sys/kernel/random/uuid > /id\nRUN cp /id /copy\n"
    first = await workshop.build(text)
    second = await workshop.build(text, no_cache=True)
    assert await workshop.read(first, "/id") != await workshop.read(second, "/id")
    third = await workshop.build(text)
    assert await workshop.read(third, "/copy") == await workshop.read(second, "/copy")


async def test_networks(workshop: Workshop) -> None:
    await workshop.build(
        "FROM busybox\nRUN --network=none test ! -e /sys/class/net/eth0\n"
        "RUN test -e /sys/class/net/eth0\nRUN --network=host true\n"
    )
    await workshop.build(
        "FROM busybox\nRUN test ! -e /sys/class/net/eth0; echo none\n", network_mode="none"
    )


async def test_reproducible_with_source_date_epoch(workshop: Workshop) -> None:
    text = "FROM scratch\nCOPY . /\nWORKDIR /made\nLABEL a=b\n"
    first = await workshop.build(text, workshop.context(f="1"), source_date_epoch=1_600_000_000)
    second = await workshop.build(
        text, workshop.context(f="1"), source_date_epoch=1_600_000_000, no_cache=True
    )
    assert first.image_id == second.image_id
    assert workshop.image(first).created.startswith("2020-09-13T12:26:40")


async def test_two_machines_make_the_same_image(tmp_path: Path) -> None:
    text = """
FROM scratch
ADD root.tar.gz /
COPY --chmod=640 d /d/
RUN mkdir -p /made/b /made/a; echo x > /made/a/f; ln /made/a/f /made/b/g; ln -s f /made/a/l; rm -r /d/gone
WORKDIR /work/here
COPY <<one /one
of the file
one
RUN --mount=type=cache,target=/c chown 7:8 /one; chmod 4755 /one; touch /made/a/z
RUN chmod 711 /etc
USER 7
LABEL a=b
"""
    root = busybox_tar()
    found = []
    for number, kind in enumerate(("folder-overlay", "archive-erofs", "folder-plain")):
        place = tmp_path / f"machine{number}"
        place.mkdir()
        async with opened(place, kind) as workshop:
            context = workshop.context(d__f=f"{1}", d__gone__x="")
            (context / "root.tar.gz").write_bytes(gzip.compress(root, mtime=number))
            for path in context.rglob("*"):
                os.utime(path, (2_000_000_000 + number, 2_000_000_000 + number))
            result = await workshop.build(text, context, source_date_epoch=1_600_000_000)
            image = workshop.image(result)
            found.append((result.image_id, image.config.rootfs.diff_ids))
    assert found[0] == found[1] == found[2]


async def test_bad_dockerfiles(workshop: Workshop) -> None:
    cases = {
        "FROM busybox\nRUNN x\n": "unknown instruction: RUNN",
        "FROM busybox\nCOPY --from=x.y/z:nope a b\n": "not found",
        "FROM nosuch\n": "build context 'nosuch', and no image of that name can be had: manifest for",
        "FROM busybox AS a\nCOPY --from=a x y\n": "circular dependency",
        "FROM busybox AS a\nCOPY --from=b x y\nFROM a AS b\n": "circular dependency",
        "FROM busybox\nCOPY missing /x\n": "file not found in build context",
        "FROM busybox\nCOPY --chown=ghost f /x\n": "unable to find user ghost",
        "FROM busybox\nRUN --security=insecure true\n": "security.insecure is not allowed",
        "": "file with no instructions",
    }
    context = workshop.context(f="1")
    for text, message in cases.items():
        with pytest.raises(SampanError) as caught:
            await workshop.build(text, context)
        assert message in str(caught.value), text


async def test_the_platform_of_a_from_is_honoured(workshop: Workshop) -> None:
    own = host_platform()
    await workshop.build(f"FROM --platform={own} busybox\nRUN true\n")
    with pytest.raises(SampanError, match="no image of that name can be had for linux/s390x: mani"):
        await workshop.build("FROM --platform=linux/s390x busybox\nRUN true\n")


async def test_a_step_that_fails_is_shown_in_the_file(workshop: Workshop) -> None:
    trigger = await workshop.build("FROM busybox\nONBUILD COPY nothing /\n", tags=("triggers",))
    assert trigger.image_id
    for text, line in {
        "FROM busybox\nRUN true\nRUN exit 3\n": "   3 | >>> RUN exit 3",
        "FROM busybox AS a\nFROM busybox\nCOPY --from=a /no /\n": "   3 | >>> COPY --from=a /no /",
        "FROM busybox\nCOPY --link no /\n": "   2 | >>> COPY --link no /",
        "FROM busybox\nADD http://127.0.0.1:1/x /\n": "   2 | >>> ADD http://127.0.0.1:1/x /",
        "FROM busybox\nRUN --mount=from=busybox,source=/no,target=/m :\n": "   2 | >>> RUN --mount",
        "FROM triggers\nRUN true\n": "   1 | >>> FROM triggers",
    }.items():
        with pytest.raises(SampanError):
            await workshop.build(text)
        (failed,) = (e for e in workshop.events if isinstance(e, StepFailed) and e.excerpt)
        assert f"\n{line}" in failed.excerpt
        started = [e.vertex for e in workshop.events if isinstance(e, StepStarted)]
        assert failed.vertex in started


async def test_a_command_is_cached_with_the_settings_that_it_sees(workshop: Workshop) -> None:
    text = "FROM busybox\nRUN cat /etc/hosts > /h; ulimit -n > /n; df -k /dev/shm > /s\n"
    plain = await workshop.build(text)
    settings = {
        "extra_hosts": ("there:192.0.2.7",),
        "shm_size": 1 << 20,
        "ulimits": ({"type": "RLIMIT_NOFILE", "soft": 77, "hard": 77},),
    }
    for name, value in settings.items():
        other = await workshop.build(text, **{name: value})
        assert other.image_id != plain.image_id, name
    assert (await workshop.build(text, shm_size=0)).image_id == plain.image_id
    assert "there" not in await workshop.read(plain, "/h")


async def test_arguments_with_a_meaning_of_their_own(workshop: Workshop) -> None:
    text = "FROM busybox\nRUN hostname > /name\n"
    result = await workshop.build(text)
    assert await workshop.read(result, "/name") == "buildkitsandbox\n"
    named = {"BUILDKIT_SANDBOX_HOSTNAME": "elsewhere"}
    result = await workshop.build(text, build_args=named)
    assert await workshop.read(result, "/name") == "elsewhere\n"
    checked = {"BUILDKIT_DOCKERFILE_CHECK": "error=true"}
    with pytest.raises(InvalidParameter, match="lint violation found for rules: MaintainerDepre"):
        await workshop.build("FROM busybox\nMAINTAINER a\n", build_args=checked)
    checked = {"BUILDKIT_DOCKERFILE_CHECK": "skip=all;error=true"}
    await workshop.build("FROM busybox\nMAINTAINER a\n", build_args=checked)
    with pytest.raises(InvalidParameter, match=r"--device=vendor\.test/x: no device provider"):
        await workshop.build("FROM busybox\nRUN --device=vendor.test/x true\n")


async def test_prune(workshop: Workshop) -> None:
    cache = workshop.deps.shared.cache
    result = await workshop.build("FROM busybox\nRUN echo a > /a\nRUN echo b > /b\n")
    assert len(cache.records()) == 2
    workshop.deps.images.delete(result.image_id or "")
    removed, _ = cache.prune()
    await workshop.deps.images.gc()
    assert len(removed) == 2
    assert cache.records() == []


async def test_prune_keeps_what_was_used_last(workshop: Workshop) -> None:
    cache = workshop.deps.shared.cache
    made = []
    for number in range(3):
        text = f"FROM busybox\nRUN head -c {1 << 20} /dev/urandom > /f{number}\n"
        made.append(await workshop.build(text))
    await workshop.build("FROM busybox\nRUN head -c 1048576 /dev/urandom > /f0\n")
    for result in made:
        workshop.deps.images.delete(result.image_id or "")
    removed, freed = cache.prune(keep_storage=(5 << 20) // 2)
    assert len(removed) == 1 and freed >= 1 << 20
    assert sorted(record.description[-2:] for record in cache.records()) == ["f0", "f2"]
    assert cache.prune(keep_storage=10 << 20) == ([], 0)


async def test_squash(workshop: Workshop) -> None:
    text = (
        "FROM busybox\nRUN mkdir /d && echo a > /d/a && echo b > /d/b\nRUN rm /d/a /etc/group\n"
        "RUN rm -r /d && mkdir /d && echo c > /d/c\nENV x=y\n"
    )
    result = await workshop.build(text, squash=True)
    image = workshop.image(result)
    assert len(image.config.rootfs.diff_ids) == 2
    assert sum(not line.empty_layer for line in image.config.history) == 2
    assert await workshop.read(result, "/d/c") == "c\n"
    for gone in ("/d/a", "/d/b", "/etc/group"):
        with pytest.raises(FileNotFoundError):
            await workshop.read(result, gone)
    assert "root" in await workshop.read(result, "/etc/passwd")


async def test_inline_cache_moves_with_the_image(workshop: Workshop) -> None:
    text = "FROM busybox\nRUN cat /proc/sys/kernel/random/uuid > /id\nCOPY f /f\nWORKDIR /tmp\n"
    first = await workshop.build(
        text,
        workshop.context(f="1"),
        tags=("cached:1",),
        build_args={"BUILDKIT_INLINE_CACHE": "1"},
    )
    cache = workshop.deps.shared.cache
    for record in cache.records():
        cache.drop(record)
    second = await workshop.build(text, workshop.context(f="1"), cache_from=("cached:1", "gone:1"))
    assert "StepRunning" not in workshop.kinds()
    assert await workshop.read(first, "/id") == await workshop.read(second, "/id")
    assert second.unused_build_args == ()


async def test_security_options(workshop: Workshop) -> None:
    await workshop.build(
        "FROM busybox\nRUN grep -q 'NoNewPrivs:.1' /proc/self/status\n",
        security_opt=("no-new-privileges",),
    )
    await workshop.build(
        "FROM busybox\nRUN grep -q 'Seccomp:.0' /proc/self/status\n",
        security_opt=("seccomp=unconfined",),
    )
    with pytest.raises(InvalidParameter, match="invalid security option 'x=y'"):
        await workshop.build("FROM busybox\nRUN true\n", security_opt=("x=y",))
    await workshop.build(
        "FROM busybox\nRUN --security=insecure grep -q 'Seccomp:.0' /proc/self/status\n",
        allow_insecure=True,
    )


async def test_outputs(workshop: Workshop, tmp_path: Path) -> None:
    await workshop.build("FROM busybox\n", tags=("b:1",))
    before = {image.id for image in workshop.deps.images.list()}
    text = "FROM busybox AS made\nRUN echo out > /f\nFROM scratch\nCOPY --from=made /f /bin/busybox /o/\n"
    result = await workshop.build(
        text,
        outputs=(
            Output("local", tmp_path / "folder"),
            Output("tar", tmp_path / "files.tar"),
            Output("oci", tmp_path / "image.tar"),
        ),
        tags=("o:1",),
    )
    assert result.image_id is None
    assert {image.id for image in workshop.deps.images.list()} == before
    assert (tmp_path / "folder/o/f").read_text() == "out\n"
    with tarfile.open(tmp_path / "files.tar") as archive:
        names = {name.removeprefix("./") for name in archive.getnames()}
        assert {"o", "o/f", "o/busybox"} <= names
    with tarfile.open(tmp_path / "image.tar") as archive:
        assert {"oci-layout", "index.json", "manifest.json"} <= set(archive.getnames())
    with pytest.raises(InvalidParameter, match="dest is required"):
        await workshop.build(text, outputs=(Output("tar"),))
    kept = await workshop.build(text, outputs=(Output("cacheonly"),))
    assert kept.image_id is None


async def test_recovery_after_a_killed_daemon(workshop: Workshop) -> None:
    sleeping = asyncio.Event()
    container = ""

    def report(event: BuildEvent) -> None:
        nonlocal container
        if isinstance(event, StepRunning):
            container = event.container_id
            sleeping.set()

    request = BuildRequest(
        context=workshop.context(), dockerfile_text=b"FROM busybox\nRUN sleep 1000\n"
    )
    task = asyncio.create_task(build(request, workshop.deps, report))
    await asyncio.wait_for(sleeping.wait(), 20)
    (directory,) = (workshop.deps.run_dir / "build").glob("*/keeper")
    state = read_state(directory)
    assert state is not None
    # What a new daemon does at its start, with the old one's command still running.
    pidfd = os.pidfd_open(state.pid)
    recover(workshop.deps)
    await asyncio.to_thread(select.select, [pidfd], [], [], 20)
    os.close(pidfd)
    assert not (workshop.deps.run_dir / "build").exists()
    rows = workshop.deps.metadata.query("SELECT kind FROM snapshots WHERE kind = 'active'")
    assert rows == []
    with pytest.raises(SampanError):
        await task


async def test_groups_above_commands_go_with_the_last_build(workshop: Workshop) -> None:
    parent = f"/sampan-build-{os.getpid()}/b"
    points = {*layout().points.values(), layout().unified} - {""}
    groups = [Path(point, parent[1:]) for point in points]
    made = f"FROM busybox\nRUN grep {parent}/ /proc/self/cgroup\n"
    await workshop.build(made, cgroup_parent=parent, no_cache=True)
    assert parent in workshop.output()
    assert not any(group.exists() or group.parent.exists() for group in groups)
    kept = groups[0]
    kept.parent.mkdir()
    try:
        await asyncio.gather(
            *(
                build(
                    BuildRequest(
                        dockerfile_text=made.encode(), cgroup_parent=parent, no_cache=True
                    ),
                    workshop.deps,
                    workshop.events.append,
                )
                for _ in range(2)
            )
        )
        assert not any(group.exists() for group in groups) and kept.parent.exists()
    finally:
        kept.parent.rmdir()
    with pytest.raises(InvalidParameter, match="invalid cgroup-parent"):
        await workshop.build(made, cgroup_parent="/a/../../b")
