"""The linter's rules, each with a finding and without."""

from __future__ import annotations

import pytest

from sampan.build.dockerfile import parse
from sampan.build.dockerfile.check import CheckOptions, check, options_of
from sampan.build.graph import Planner
from sampan.image.config import ImageConfig
from sampan.image.ignore import IgnoreMatcher


async def findings(text: str, options: CheckOptions | None = None) -> list[tuple[str, int]]:
    async def resolve(name: str, platform: str) -> ImageConfig:
        return ImageConfig()

    tree = parse(text)
    plan = await Planner(tree, resolve, build_args={}).plan()
    ignored = IgnoreMatcher(["*.secret"]).excludes
    chosen = options or options_of(tree.directives.get("check", ""))
    return [(f.rule, f.span.line) for f in check(tree, plan.undefined, ignored, chosen)]


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
    ],
)
async def test_rules(text: str, rule: str, line: int) -> None:
    assert (rule, line) in await findings(text)
    assert await findings(text, options_of(f"skip={rule}")) == [
        f for f in await findings(text) if f[0] != rule
    ]
    assert await findings(f"# check=skip=all\n{text}") == []


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
