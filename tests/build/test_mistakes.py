"""Mistakes in Dockerfiles: each is shown with its file, line and excerpt, and a caret below it."""

from __future__ import annotations

import asyncio

import pytest

from sampan.build.dockerfile import DockerfileError, parse
from sampan.build.dockerfile.errors import MissingSource
from sampan.build.graph import Plan, Planner
from sampan.errors import DiskFull, InvalidParameter, NotFound, Unauthorized, Unavailable
from sampan.image.config import ImageConfig, RunConfig

# ‸ stands before the character that the caret is below.
PARSED = [
    ("‸", "file with no instructions"),
    ("‸# only a comment\n", "file with no instructions"),
    ("‸ARG x\n", "contains no stages"),
    ("ARG a\n  ‸RUN x\nFROM y\n", "no build stage in current context"),
    ("# syntax=a\n# ‸syntax=b\nFROM x\n", "only one syntax parser directive"),
    ("# escape=‸x\nFROM x\n", "invalid escape token 'x'"),
    ("FROM x\n\t‸RUNN y\n", "unknown instruction: RUNN (did you mean RUN?)"),
    ("FROM x ‸AS\n", "FROM requires either one argument"),
    ("‸FROM\n", "FROM requires either one argument"),
    ("FROM 1st  AS\t‸1st\n", "invalid name for build stage"),
    ("FROM x\n\n‸COPY a\n", "COPY requires at least two arguments"),
    ("FROM x\n‸ENV\n", "ENV requires at least one argument"),
    ("FROM x\nENV ‸a\n", "ENV must have two arguments"),
    ("FROM x\nENV a=b \\\n  ‸c\n", "can't find = in 'c'"),
    ("FROM x\nLABEL a=b ‸=b\n", "names can not be blank"),
    ("FROM x\nARG a ‸=b\n", "ARG names can not be blank"),
    ("FROM x\nRUN --network=none ‸--nope y\n", "unknown flag: RUN --nope"),
    ("FROM x\nUSER ‸--from=y x\n", "unknown flag: USER --from"),
    ("FROM x\nCOPY ‸--form=y a b\n", "did you mean --from?"),
    ("FROM x\nCOPY --from=a \\\n  ‸--from=b a b\n", "duplicate flag specified: --from"),
    ("FROM x\nCOPY ‸--link=maybe a b\n", "expecting boolean value"),
    ("FROM x\nCOPY ‸--chown a b\n", "missing a value on flag: --chown"),
    ("FROM x\nCOPY ‸--exclude a b\n", "missing a value on flag: --exclude"),
    ("FROM x\nRUN ‸--mount y\n", "missing a value on flag: --mount"),
    ('FROM x\nRUN ‸--mount=\\"a\\"b,target=/x y\n', "invalid mount options"),
    ("FROM x\nRUN cat a ‸<<E\nabc\n", "unterminated heredoc"),
    ("FROM x\nRUN\tcat <<A \\\n  ‸<<-B\nA\nabc\n", "unterminated heredoc"),
    ("FROM x\nCOPY a ‸<<E\nE\n", "cannot accept a heredoc as a destination"),
    ("FROM x\n‸SHELL\n", "SHELL requires the arguments to be in JSON form"),
    ("FROM x\nSHELL ‸/bin/sh\n", "SHELL requires the arguments to be in JSON form"),
    ("FROM x\nCMD ‸[1]\n", "arrays must be comprised of strings only"),
    ("FROM x\nCOPY --link ‸[1, 2]\n", "arrays must be comprised of strings only"),
    ("FROM x\nRUN ‸[1]\n", "arrays must be comprised of strings"),
    ("FROM x\nRUN ‸[]\n", "RUN requires at least one argument"),
    ("FROM x\n‸RUN --network=none\n", "RUN requires at least one argument"),
    ("FROM x\nRUN ‸--network=lan y\n", "invalid network mode 'lan'"),
    ("FROM x\nRUN --network=none ‸--security=lax y\n", "security 'lax' is not valid"),
    ("FROM x\nONBUILD ‸FROM y\n", "FROM isn't allowed as an ONBUILD trigger"),
    ("FROM x\nONBUILD ‸ONBUILD RUN y\n", "Chaining ONBUILD"),
    ("FROM x\nONBUILD ‸RUNN y\n", "unknown instruction: RUNN"),
    ("FROM x\nONBUILD COPY ‸--form=x y z\n", "unknown flag: COPY --form"),
    ("FROM x\n‸ONBUILD\n", "ONBUILD requires at least one argument"),
    ("FROM x\n‸HEALTHCHECK\n", "HEALTHCHECK requires at least one argument"),
    ("FROM x\nHEALTHCHECK ‸FOO\n", "Unknown type 'FOO' in HEALTHCHECK"),
    ("FROM x\nHEALTHCHECK ‸CMD\n", "Missing command after HEALTHCHECK CMD"),
    ("FROM x\nHEALTHCHECK CMD ‸[2]\n", "arrays must be comprised of strings only"),
    ("FROM x\nHEALTHCHECK NONE ‸x\n", "HEALTHCHECK NONE takes no arguments"),
    ("FROM x\nHEALTHCHECK ‸--interval=5 CMD y\n", "invalid duration '5'"),
    ("FROM x\nHEALTHCHECK ‸--timeout=5us CMD y\n", "cannot be less than 1ms"),
    ("FROM x\nHEALTHCHECK ‸--retries=two CMD y\n", "--retries must be a number"),
    ("FROM x\n‸VOLUME\n", "VOLUME requires at least one argument"),
    ('FROM x\nVOLUME ‸["/a", " "]\n', "VOLUME specified can not be an empty string"),
    ("FROM x\n‸WORKDIR\n", "WORKDIR requires exactly one argument"),
    ("FROM x\n‸EXPOSE\n", "EXPOSE requires at least one argument"),
]

EXPANSIONS = ["USER", "WORKDIR", "STOPSIGNAL", "EXPOSE 80", "VOLUME /a", "ENV a=", "ENV a b ",
              "LABEL x=y a=", "ARG x a=", "COPY a b ", "ADD a ", "COPY --chown=",
              "COPY --link --chmod="]  # fmt: skip

PLANNED = [
    *((f"FROM scratch\n{text}{'' if text[-1] in '= ' else ' '}‸${{x{' b c' if '--' in text else ''}\n",
       "missing '}'") for text in EXPANSIONS),
    ("ARG a=1 b=‸${x\nFROM scratch\n", "missing '}'"),
    ("FROM a‸${x\n", "missing '}'"),
    ("FROM --platform=‸${x a\n", "missing '}'"),
    ("FROM ‸$x\n", "should not be blank"),
    ("FROM --platform=‸a/b/c/d scratch\n", "invalid platform 'a/b/c/d'"),
    ("FROM scratch\nENV a='${x' b=‸${x\n", "missing '}'"),
    ("FROM scratch\nENV a='${x' \\\n  # said\n  b=\"o‸${x\"\n", "unsupported modifier"),
    ("FROM scratch\nENV a=‸'b\n", "matching single-quote"),
    ('FROM scratch\nENV a=${x}‸"b\n', "matching double-quote"),
    ("FROM scratch\nENV a=1${x}‸${x:?wanted}\n", "x: wanted"),
    ("FROM scratch\nENV a=${x:-‸${y!}}\n", "unsupported modifier"),
    ("FROM scratch\nENV a=‸${x#\\\n", "missing '}'"),
    ("FROM scratch\nUSER 1‸${}\n", "bad substitution"),
    ('FROM scratch\nVOLUME ["/a", "/b‸${x"]\n', "missing '}'"),
    ('FROM scratch\nCOPY ["a\\u0020b", "‸\\u0020${x", "/c/"]\n', "missing '}'"),
    ("FROM scratch\nCOPY ‸--chown=\"${x\" a b\n", "missing '}'"),
    ("FROM scratch\nCOPY --exclude=a --exclude=b‸${x a b\n", "missing '}'"),
    ("FROM scratch\nCOPY <<A <<-B /d/\na\nA\n\tb\n\t\tc ‸${y d\n\tB\n", "missing '}'"),
    ("FROM scratch\nADD --checksum=‸${x https://a.example/b c\n", "missing '}'"),
    ("FROM scratch\nADD --checksum=‸md5:1 https://a.example/b c\n", "invalid checksum 'md5:1'"),
    ("FROM scratch\nADD --checksum=‸sha256:1 a c\n", "non-HTTP(S) sources"),
    ("FROM scratch\nADD --checksum=‸sha256:1 <<E c\nE\n", "more than one source"),
    ("FROM scratch\nCOPY a b ‸c\n", "must be a directory and end with a /"),
    ("FROM scratch\nCOPY --from=‸$x a b\n", "expansion is not supported for --from"),
    ("FROM scratch\nRUN --mount=target=/a,from=‸$x a\n", "expansion is not supported for --from"),
    ("FROM scratch\nCOPY --from=‸7 a b\n", "no earlier stage of that number"),
    ("FROM scratch AS b\nCOPY --from=‸b a c\n", "circular dependency detected on stage: b"),
    ("FROM scratch AS a\nCOPY --from=b x y\nFROM a AS ‸b\n", "circular dependency"),
    ("FROM scratch\nWORKDIR ‸$x\n", "WORKDIR requires a path"),
    ("FROM scratch\nENV a=b ‸$x=c\n", "ENV names can not be blank"),
    ("FROM scratch\nVOLUME /a ‸$x\n", "VOLUME specified can not be an empty string"),
    ("FROM scratch\nSTOPSIGNAL ‸SIGNOT\n", "invalid signal: SIGNOT"),
    ("FROM scratch\nEXPOSE 80 ‸http\n", "invalid containerPort: http"),
    ("FROM scratch\nEXPOSE ‸80/ip\n", "invalid proto: ip"),
    ("FROM scratch\nEXPOSE ‸0-70000\n", "ports go up to 65535"),
    ("FROM scratch\nRUN --device=‸a.b/c=d true\n", "no device provider"),
    ("FROM scratch\nRUN --mount=target=/a,‸type=net true\n", "unsupported mount type 'net'"),
    ("FROM scratch\nRUN --mount=target=/a,‸size=1 true\n", "unexpected key 'size'"),
    ("FROM scratch\nRUN --mount=‸type=cache true\n", "target is required"),
    ("FROM scratch\nRUN --mount=type=cache,‸dst=/ true\n", "must not be the root"),
    ("FROM scratch\nRUN --mount=type=cache,target=/a,‸sharing=no true\n", "sharing mode 'no'"),
    ("FROM scratch\nRUN --mount=id=9,type=cache,target=/a,‸mode=9 true\n", "'9' is not octal"),
    ("FROM scratch\nRUN --mount=type=cache,target=/a,‸uid=me true\n", "'me' is not a number"),
    ("FROM scratch\nRUN --mount=type=bind,target=/a,‸RW=on true\n", "neither true nor false"),
    ("FROM scratch\nRUN --mount=type=tmpfs,target=/a,‸size=9x true\n", "is not a size"),
    ("FROM scratch\nRUN --mount=‸type=secret true\n", "a secret mount needs an id or a target"),
    ("FROM scratch\nRUN --mount=target=/‸${x,type=cache true\n", "missing '}'"),
    ('FROM scratch\nRUN ‸--mount="target=/${x",type=cache true\n', "missing '}'"),
    ("FROM scratch\nRUN a && \\\n b\nRUN --network=none \\\n --mount=target=/a,from=‸no true\n",
     "there is no stage or build context 'no', and no image of that name can be had: no no"),
    ("FROM scratch AS builder\nFROM scratch\nCOPY --chown=1 --from=‸bilder /a /b\n",
     "'bilder' (did you mean 'builder'?)"),
    ("FROM ‸later\nFROM scratch AS later\nCOPY --from=0 a b\n", "is not before this line"),
    ("FROM scratch AS tools\nFROM ‸tool AS b\n", "no earlier stage or build context 'tool' (did you"),
    ("FROM ‸a.example/b:1\n", "the image a.example/b:1 cannot be had: no a.example/b:1"),
    ("FROM scratch\nCOPY --from=‸code / /\n", "there is no stage or build context 'code', and no"),
    ("FROM scratch\nCOPY --from=‸doc / /\n", "(did you mean 'docs'?)"),
    ("FROM scratch\nCOPY --from=‸base / /\n", "build context 'base': the image x.example/y cannot"),
    ("FROM scratch\nRUN true\nFROM ‸triggers\n", "ONBUILD 'COPY a b c' of triggers: When using"),
]  # fmt: skip


async def resolve(name: str, platform: str) -> ImageConfig:
    if name == "triggers":
        return ImageConfig(config=RunConfig(on_build=["ENV a=b", "COPY a b c"]))
    raise NotFound(f"no {name}")


def plan(text: str) -> Plan:
    contexts = {"docs": "local://docs", "base": "docker-image://x.example/y"}
    planner = Planner(
        parse(text, "app/Dockerfile"), resolve, build_args={}, named_contexts=contexts
    )
    return asyncio.run(planner.plan())


def check(marked: str, error: DockerfileError, message: str) -> None:
    text = marked.replace("‸", "")
    before = marked.partition("‸")[0]
    line = before.count("\n") + 1
    column = len(before) - (before.rfind("\n") + 1)
    assert message in error.reason
    shown = str(error).split("\n")
    assert f"app/Dockerfile:{line}" in shown
    caret = next(number for number, row in enumerate(shown) if row.startswith("     |     "))
    number, mark, source = shown[caret - 1][:4], shown[caret - 1][7:10], shown[caret - 1][11:]
    assert (int(number), mark) == (line, ">>>")
    assert source == (text.split("\n")[line - 1]).rstrip()
    assert shown[caret].strip(" |\t") == "^"
    assert shown[caret].index("^") - len("     |     ") == column


@pytest.mark.parametrize(("marked", "message"), PARSED)
def test_of_the_language(marked: str, message: str) -> None:
    with pytest.raises(DockerfileError) as caught:
        parse(marked.replace("‸", ""), "app/Dockerfile")
    check(marked, caught.value, message)


@pytest.mark.parametrize(("marked", "message"), PLANNED)
def test_of_the_plan(marked: str, message: str) -> None:
    with pytest.raises(DockerfileError) as caught:
        plan(marked.replace("‸", ""))
    check(marked, caught.value, message)


@pytest.mark.parametrize("kind", [NotFound, Unauthorized, Unavailable, InvalidParameter])
def test_missing_images_keep_their_status(kind: type[NotFound]) -> None:
    async def refuse(name: str, platform: str) -> ImageConfig:
        raise kind("it is gone")

    with pytest.raises(MissingSource) as caught:
        asyncio.run(Planner(parse("FROM a"), refuse, build_args={}).plan())
    assert caught.value.status == kind.status
    assert str(caught.value).startswith("there is no earlier stage or build context 'a', and no")


def test_a_full_disk_is_told_as_it_is() -> None:
    async def full(name: str, platform: str) -> ImageConfig:
        raise DiskFull("no space left")

    with pytest.raises(DiskFull, match=r"^no space left$"):
        asyncio.run(Planner(parse("FROM a"), full, build_args={}).plan())


def test_a_target_that_is_nearly_a_stage() -> None:
    with pytest.raises(InvalidParameter, match=r"'relase' could not be found \(did you mean 'rel"):
        Planner(parse("FROM a AS release"), resolve, build_args={}, target="relase")
