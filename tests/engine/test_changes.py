"""``--change`` of commit and import: each instruction that is allowed, and those that are not."""

from __future__ import annotations

import pytest

from sampan.engine import changes
from sampan.errors import InvalidParameter
from sampan.image.config import Healthcheck, RunConfig

BASE = RunConfig(
    cmd=["old"],
    entrypoint=["/entry"],
    env=["PATH=/bin", "A=1"],
    exposed_ports={"80/tcp": {}},
    labels={"a": "1"},
    on_build=["RUN first"],
    user="me",
    volumes={"/old": {}},
    working_dir="/work",
)
SHELL = ["/bin/sh", "-c"]


@pytest.mark.parametrize(
    ("change", "field", "value"),
    [
        ('CMD ["a", "b"]', "cmd", ["a", "b"]),
        ("CMD a b", "cmd", [*SHELL, "a b"]),
        ('ENTRYPOINT ["x"]', "entrypoint", ["x"]),
        ("ENTRYPOINT x y", "entrypoint", [*SHELL, "x y"]),
        ("ENV A=2 B='x y'", "env", ["PATH=/bin", "A=2", "B=x y"]),
        ("ENV PATH=$PATH:/more", "env", ["PATH=/bin:/more", "A=1"]),
        ("ENV old style", "env", ["PATH=/bin", "A=1", "old=style"]),
        ("EXPOSE 81 53/udp", "exposed_ports", {"80/tcp": {}, "81/tcp": {}, "53/udp": {}}),
        ("LABEL a=2 'b c'=d", "labels", {"a": "2", "b c": "d"}),
        ("ONBUILD RUN second", "on_build", ["RUN first", "RUN second"]),
        ("STOPSIGNAL SIGQUIT", "stop_signal", "SIGQUIT"),
        ("USER 1:2", "user", "1:2"),
        ("VOLUME /a /b", "volumes", {"/old": {}, "/a": {}, "/b": {}}),
        ('VOLUME ["/c"]', "volumes", {"/old": {}, "/c": {}}),
        ("WORKDIR /abs", "working_dir", "/abs"),
        ("WORKDIR rel", "working_dir", "/work/rel"),
        ("HEALTHCHECK NONE", "healthcheck", Healthcheck(test=["NONE"])),
        (
            "HEALTHCHECK --interval=5s --retries=2 CMD check it",
            "healthcheck",
            Healthcheck(test=["CMD-SHELL", "check it"], interval=5_000_000_000, retries=2),
        ),
        ('CMD ["a",', "cmd", [*SHELL, '["a",']),
        ("cmd true", "cmd", [*SHELL, "true"]),
        ("ENV X=1 \\\n Y=2", "env", ["PATH=/bin", "A=1", "X=1", "Y=2"]),
        ("USER a\nWORKDIR /b", "user", "a"),
        ("", "cmd", ["old"]),
    ],
)
def test_allowed(change: str, field: str, value: object) -> None:
    changed = changes.apply(BASE, [change])
    assert getattr(changed, field) == value


def test_several_are_applied_in_order() -> None:
    changed = changes.apply(RunConfig(), ["WORKDIR /a", "WORKDIR b", "ENV X=1", "ENV Y=${X}2"])
    assert (changed.working_dir, changed.env) == ("/a/b", ["X=1", "Y=12"])
    assert changes.apply(BASE, []) is BASE


@pytest.mark.parametrize(
    "change",
    [
        "FROM x",
        "RUN x",
        "COPY a b",
        "ADD a b",
        "ARG x",
        'SHELL ["x"]',
        "MAINTAINER x",
        "NOSUCH x",
        "ENV",
        "EXPOSE 99999",
        "STOPSIGNAL NOPE",
        "HEALTHCHECK --interval=x CMD y",
        "ONBUILD FROM x",
    ],
)
def test_refused(change: str) -> None:
    with pytest.raises(InvalidParameter, match="change"):
        changes.apply(BASE, [change])
