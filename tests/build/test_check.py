"""The linter's rules, each with a finding and without."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from sampan.build.dockerfile import parse
from sampan.build.dockerfile.check import CheckOptions, Finding, check, options_of
from sampan.build.graph import Planner
from sampan.image.config import ImageConfig
from sampan.image.ignore import IgnoreMatcher


async def messages(text: str) -> list[str]:
    """What is said about a file whose bases are for arm64."""

    async def resolve(name: str, platform: str) -> ImageConfig:
        return ImageConfig(architecture="arm64", os="linux")

    return [f.message for f in await checked(text, resolve, None)]


async def findings(text: str, options: CheckOptions | None = None) -> list[tuple[str, int]]:
    async def resolve(name: str, platform: str) -> ImageConfig:
        return ImageConfig(architecture="arm64", os="linux") if name == "arm" else ImageConfig()

    return [(f.rule, f.span.line) for f in await checked(text, resolve, options)]


Resolve = Callable[[str, str], Awaitable[ImageConfig]]


async def checked(text: str, resolve: Resolve, options: CheckOptions | None) -> list[Finding]:
    tree = parse(text)
    plan = await Planner(tree, resolve, build_args={}).plan()
    ignored = IgnoreMatcher(["*.secret"]).excludes
    chosen = options or options_of(tree.directives.get("check", ""))
    return check(tree, plan.undefined, ignored, chosen, plan.foreign)


@pytest.mark.parametrize(
    ("text", "rule", "line"),
    [
        ("FROM x AS Base\n", "StageNameCasing", 1),
        ("FROM x as base\n", "FromAsCasing", 1),
        ("FROM x\nRUN a \\\n\n b\n", "NoEmptyContinuation", 2),
        ("FROM x\nrun a\nRUN b\n", "ConsistentInstructionCasing", 2),
        ("FROM x AS a\nFROM x AS a\n", "DuplicateStageName", 2),
        ("FROM x AS scratch\n", "ReservedStageName", 1),
        ("FROM x\nCMD a\n", "JSONArgsRecommended", 2),
        ("FROM x\nMAINTAINER a\n", "MaintainerDeprecated", 2),
        ("FROM x:${V:-1}$W\n", "UndefinedArgInFrom", 1),
        ("FROM x\nCOPY $foo /\n".replace("$foo", "$foo/a"), "UndefinedVar", 2),
        ("FROM x\nWORKDIR app\n", "WorkdirRelativePath", 2),
        ("FROM --platform=$TARGETPLATFORM x\n", "RedundantTargetPlatform", 1),
        ("FROM --platform=linux/amd64 x\n", "FromPlatformFlagConstDisallowed", 1),
        ("FROM x\nENV SECRET_KEY=a\n", "SecretsUsedInArgOrEnv", 2),
        ("FROM x\nENV a b\n", "LegacyKeyValueFormat", 2),
        ('FROM x\nCMD ["a"]\nCMD ["b"]\n', "MultipleInstructionsDisallowed", 2),
        ("FROM x\nEXPOSE 80/TCP\n", "ExposeProtoCasing", 2),
        ("FROM x\nEXPOSE 127.0.0.1:80:80\n", "ExposeInvalidFormat", 2),
        ("ARG V\nFROM x:$V\n", "InvalidDefaultArgInFrom", 2),
        ("FROM --platform=linux/s390x arm\n", "InvalidBaseImagePlatform", 1),
    ],
)
async def test_rules(text: str, rule: str, line: int) -> None:
    assert (rule, line) in await findings(text)
    assert await findings(text, options_of(f"skip={rule}")) == [
        f for f in await findings(text) if f[0] != rule
    ]
    assert await findings(f"# check=skip=all\n{text}") == []


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("FROM x AS base2-a\n", "StageNameCasing"),
        ("from x as base\n", "FromAsCasing"),
        ("FROM x\nRUN a \\\n# note\n b\n", "NoEmptyContinuation"),
        ("FROM x\nRUN a <<E\n\nE\n", "NoEmptyContinuation"),
        ("from x\nrun a\n", "ConsistentInstructionCasing"),
        ("FROM x AS a\nFROM x AS b\n", "DuplicateStageName"),
        ("FROM scratch AS scratch2\n", "ReservedStageName"),
        ('FROM x\nCMD ["a"]\nENTRYPOINT ["a"]\n', "JSONArgsRecommended"),
        ('FROM x\nSHELL ["/bin/sh", "-c"]\nCMD a\n', "JSONArgsRecommended"),
        ("FROM x\nLABEL maintainer=a\n", "MaintainerDeprecated"),
        ("ARG V=1\nFROM x:$V\n", "UndefinedArgInFrom"),
        ("FROM --platform=$BUILDPLATFORM x\n", "UndefinedArgInFrom"),
        ("FROM x\nARG foo\nCOPY $foo /\n", "UndefinedVar"),
        ("FROM x\nCOPY a${foo:-b} /\n", "UndefinedVar"),
        ("FROM x\nRUN echo $foo\n", "UndefinedVar"),
        ("FROM x\nENV PATH=/a:$PATH\n", "UndefinedVar"),
        ("FROM x\nWORKDIR /app\nWORKDIR sub\n", "WorkdirRelativePath"),
        ("FROM --platform=$BUILDPLATFORM x\n", "RedundantTargetPlatform"),
        ("FROM --platform=$BUILDPLATFORM x\n", "FromPlatformFlagConstDisallowed"),
        ("FROM x\nENV PUBLIC_KEY=a KEYBOARD=b\nARG TOKEN_FILE\n", "SecretsUsedInArgOrEnv"),
        ("FROM x\nENV a=b\nLABEL c=d\n", "LegacyKeyValueFormat"),
        ('FROM x AS a\nCMD ["a"]\nFROM x\nCMD ["b"]\n', "MultipleInstructionsDisallowed"),
        ("FROM x\nRUN a\nRUN b\n", "MultipleInstructionsDisallowed"),
        ("FROM x\nEXPOSE 80/tcp 81 82/udp\n", "ExposeProtoCasing"),
        ("FROM x\nEXPOSE 80 8000-8010/tcp\n", "ExposeInvalidFormat"),
        ("ARG V=1\nFROM x:$V\n", "InvalidDefaultArgInFrom"),
        ("ARG V\nFROM x:${V:-1}\n", "InvalidDefaultArgInFrom"),
        ("FROM --platform=linux/arm64 arm\n", "InvalidBaseImagePlatform"),
        ("FROM --platform=linux/s390x not-said\n", "InvalidBaseImagePlatform"),
        ("# check=experimental=all\nFROM x\nCOPY a.open /\n", "CopyIgnoredFile"),
        ("# check=experimental=all\nFROM x\nCOPY --from=y a.secret /\n", "CopyIgnoredFile"),
        (
            "# check=experimental=all\n\n# base is for all\nFROM x AS base\n",
            "InvalidDefinitionDescription",
        ),
        (
            "# check=experimental=all\n\n# Of all.\n\nFROM x AS base\n",
            "InvalidDefinitionDescription",
        ),
    ],
)
async def test_what_a_rule_is_not_about(text: str, rule: str) -> None:
    assert rule not in {found for found, _ in await findings(text)}


async def test_wording() -> None:
    told = await messages("FROM --platform=$BUILDPLATFORM x\nENV PATH=/a:$PAHT\n")
    assert "Usage of undefined variable '$PAHT' (did you mean $PATH?)" in told
    told = await messages("ARG VERSION=1\nFROM --platform=linux/s390x x:$VERSIN-1\n")
    assert "FROM argument 'VERSIN' is not declared (did you mean VERSION?)" in told
    assert (
        'Base image x:-1 was pulled with platform "linux/arm64", expected "linux/s390x" for'
        " current build"
    ) in told


def test_every_rule_has_its_address() -> None:
    span = parse("FROM x\n").stages[0].origin.span
    address = Finding("JSONArgsRecommended", "", span).url
    assert address == "https://docs.docker.com/go/dockerfile/rule/json-args-recommended/"
    address = Finding("FromAsCasing", "", span).url
    assert address == "https://docs.docker.com/go/dockerfile/rule/from-as-casing/"


async def test_a_clean_file_has_no_findings() -> None:
    text = """
ARG V=1
FROM x:$V AS base
ARG TARGETARCH
WORKDIR /app
WORKDIR sub
ENV PUBLIC_KEY=a B=$TARGETARCH
COPY --from=other a.secret /
EXPOSE 80/tcp
SHELL ["/bin/sh", "-c"]
CMD echo
"""
    assert await findings(text) == []


@pytest.mark.parametrize(
    ("text", "rule", "line"),
    [
        ("FROM x\nCOPY a.secret /\n", "CopyIgnoredFile", 2),
        ("FROM x\nADD a.secret /\n", "CopyIgnoredFile", 2),
        ("# of all\nFROM x AS base\n", "InvalidDefinitionDescription", 2),
        ("# a says what\nARG a\n\n# b\nARG b\nFROM x\n", "InvalidDefinitionDescription", 5),
    ],
)
async def test_experimental_rules_are_to_be_asked_for(text: str, rule: str, line: int) -> None:
    assert await findings(text) == []
    for wanted in ("all", rule, f"Other,{rule}"):
        assert await findings(f"# check=experimental={wanted}\n{text}") == [(rule, line + 1)]
    assert await findings(text, options_of("experimental=Other")) == []
    assert await findings(text, options_of(f"experimental=all;skip={rule}")) == []
