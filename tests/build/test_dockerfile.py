"""The Dockerfile language: parsing, errors, round trip, fuzzing."""

from __future__ import annotations

import os
import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sampan.build.dockerfile import DockerfileError, ast, format_dockerfile, parse
from sampan.build.dockerfile.flags import format_duration, parse_duration


def one(text: str) -> ast.Instruction:
    return parse("FROM x\n" + text).stages[0].body[0]


def test_continuations_and_comments() -> None:
    tree = parse(
        "FROM x\nRUN a && \\\n  # comment\n\n  b \\  \n  c\n# after\nRUN d \\\\\nRUN e\\\n\nUSER u\n"
    )
    first, second, third = tree.stages[0].body
    assert isinstance(first, ast.Run) and isinstance(second, ast.Run) and isinstance(third, ast.Run)
    assert first.command == ast.ShellForm("a &&   b   c")
    assert (first.span.line, first.span.end) == (2, 6)
    assert second.command == ast.ShellForm("d \\\\")
    assert second.comments == ("after",)
    # An empty line does not end a continued statement; it is warned about.
    assert third.command == ast.ShellForm("eUSER u")
    assert tree.empty_continuations == (third.span, first.span)[::-1]


def test_directives() -> None:
    tree = parse("# syntax=docker/dockerfile:1\n# escape=`\nFROM x\nRUN a `\n  b\nCOPY c:\\ d\n")
    assert tree.directives == {"syntax": "docker/dockerfile:1", "escape": "`"}
    run = tree.stages[0].body[0]
    assert isinstance(run, ast.Run) and run.command == ast.ShellForm("a   b")
    # After anything else a directive is a comment.
    assert parse("# hello\n# escape=`\nFROM x\n").directives == {}


def test_forms_of_commands() -> None:
    assert one('CMD ["a", "b c"]') == ast.Cmd(command=ast.ExecForm(("a", "b c")))
    assert one("CMD ['a']") == ast.Cmd(command=ast.ShellForm("['a']"))
    assert one('RUN [ "$x" = y ]') == ast.Run(command=ast.ShellForm('[ "$x" = y ]'))
    assert one("ENV a b  c") == ast.Env(pairs=(ast.Pair("a", "b  c", True),))
    assert one("ENV a=1 b='x y' c=d\\ e") == ast.Env(
        pairs=(ast.Pair("a", "1"), ast.Pair("b", "'x y'"), ast.Pair("c", "d\\ e"))
    )
    assert one("ARG a b=c") == ast.Arg(pairs=(ast.Pair("a", None), ast.Pair("b", "c")))
    assert one("RUN --mount=type=cache,target=/a,ro --network=none cmd -x --y") == ast.Run(
        command=ast.ShellForm("cmd -x --y"),
        mounts=(ast.MountFlag((("type", "cache"), ("target", "/a"), ("ro", None))),),
        network="none",
    )
    assert one("HEALTHCHECK NONE") == ast.Healthcheck(command=None)
    assert one("HEALTHCHECK --interval=1m30s CMD x") == ast.Healthcheck(
        command=ast.ShellForm("x"), interval=90_000_000_000
    )


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("", 1, "file with no instructions"),
        ("# only a comment\n", 1, "file with no instructions"),
        ("RUN x\n", 1, "no build stage in current context"),
        ("FROM x\nRUNN y\n", 2, "unknown instruction: RUNN (did you mean RUN?)"),
        ("FROM x\n\nCOPY a\n", 3, "COPY requires at least two arguments"),
        ("FROM x AS\n", 1, "FROM requires either one argument, or three"),
        ("FROM x AS 1st\n", 1, "invalid name for build stage"),
        ("FROM x\nENV\n", 2, "ENV requires at least one argument"),
        ("FROM x\nENV a\n", 2, "ENV must have two arguments"),
        ("FROM x\nENV a=b c\n", 2, "can't find = in 'c'"),
        ("FROM x\nLABEL =b\n", 2, "names can not be blank"),
        ("FROM x\nRUN --nope y\n", 2, "unknown flag: RUN --nope"),
        ("FROM x\nCOPY --form=y a b\n", 2, "did you mean --from?"),
        ("FROM x\nCOPY --from=a --from=b a b\n", 2, "duplicate flag specified: --from"),
        ("FROM x\nCOPY --link=maybe a b\n", 2, "expecting boolean value"),
        ("FROM x\nCOPY --chown a b\n", 2, "missing a value on flag: --chown"),
        ("FROM x\nRUN cat <<E\nabc\n", 2, "unterminated heredoc"),
        ("FROM x\nCOPY a <<E\nE\n", 2, "cannot accept a heredoc as a destination"),
        ("FROM x\nSHELL /bin/sh\n", 2, "SHELL requires the arguments to be in JSON form"),
        ("FROM x\nCMD [1]\n", 2, "arrays must be comprised of strings only"),
        ("FROM x\nONBUILD FROM y\n", 2, "FROM isn't allowed as an ONBUILD trigger"),
        ("FROM x\nONBUILD ONBUILD RUN y\n", 2, "Chaining ONBUILD"),
        ("FROM x\nHEALTHCHECK FOO\n", 2, "Unknown type 'FOO' in HEALTHCHECK"),
        ("FROM x\nHEALTHCHECK CMD\n", 2, "Missing command after HEALTHCHECK CMD"),
        ("FROM x\nHEALTHCHECK --interval=5 CMD y\n", 2, "invalid duration '5'"),
        ("FROM x\nRUN --network=lan y\n", 2, "invalid network mode 'lan'"),
        ("# escape=x\nFROM x\n", 1, "invalid escape token"),
        ("# syntax=a\n# syntax=b\nFROM x\n", 2, "only one syntax parser directive"),
        ("FROM x\nVOLUME\n", 2, "VOLUME requires at least one argument"),
        ("FROM x\nWORKDIR\n", 2, "WORKDIR requires exactly one argument"),
    ],
)
def test_mistakes(text: str, line: int, message: str) -> None:
    with pytest.raises(DockerfileError) as caught:
        parse(text)
    assert message in str(caught.value)
    assert caught.value.line == line


def test_excerpt_marks_line_and_column() -> None:
    with pytest.raises(DockerfileError) as caught:
        parse("FROM x\nENV a=1 \\\n    b\nUSER u\n", "docker/App.Dockerfile")
    assert str(caught.value) == (
        "dockerfile parse error on line 3: Syntax error - can't find = in 'b'. Must be of the"
        " form: name=value\n"
        "docker/App.Dockerfile:3\n"
        "--------------------\n"
        "   1 |     FROM x\n"
        "   2 |     ENV a=1 \\\n"
        "   3 | >>>     b\n"
        "     |         ^\n"
        "   4 |     USER u\n"
        "--------------------"
    )


def test_large_file_is_quick() -> None:
    text = "FROM x\n" + "RUN --mount=type=cache,target=/x a && b\nCOPY a b /c/\nENV a=b c=d\n" * 400
    begin = time.perf_counter()
    assert len(parse(text).stages[0].body) == 1200
    assert time.perf_counter() - begin < 1.0


WORD = st.text("abcxyz019_./:-=${}\"'\\<>~#[],é", min_size=1, max_size=12)
LINES = st.builds(
    lambda keyword, words: " ".join([keyword, *words]),
    st.sampled_from(
        [
            "FROM",
            "RUN",
            "COPY",
            "ADD",
            "ENV",
            "ARG",
            "LABEL",
            "CMD",
            "ENTRYPOINT",
            "EXPOSE",
            "USER",
            "WORKDIR",
            "VOLUME",
            "ONBUILD",
            "SHELL",
            "HEALTHCHECK",
            "STOPSIGNAL",
            "MAINTAINER",
            "#",
            "--from=a",
            "RUN\\",
            "<<E",
            "E",
        ]
    ),
    st.lists(
        WORD | st.sampled_from(["--from=a", "--chown=1:2", "<<E", "CMD", "AS", '["a","b"]']),
        max_size=5,
    ),
)


@given(st.lists(LINES | WORD, max_size=12).map("\n".join))
@settings(max_examples=300, deadline=2000)
def test_what_parses_round_trips(text: str) -> None:
    try:
        tree = parse(text)
    except DockerfileError:
        return
    printed = format_dockerfile(tree)
    again = parse(printed)
    assert again == tree
    assert format_dockerfile(again) == printed


@given(st.text(max_size=200) | st.binary(max_size=200).map(lambda b: b.decode("latin-1")))
@settings(max_examples=300, deadline=2000)
def test_no_text_breaks_the_parser(text: str) -> None:
    for source in (text, "FROM x\nRUN " + text, "FROM x\nENV " + text, "FROM x\nCOPY " + text):
        try:
            parse(source)
        except DockerfileError as error:
            assert str(error)


@given(st.integers(0, 10**16))
def test_durations_round_trip(nanoseconds: int) -> None:
    text = format_duration(nanoseconds)
    assert parse_duration(text) == nanoseconds or nanoseconds > 2**53


@given(st.integers(0, 10_000))
def test_duration_milliseconds(milliseconds: int) -> None:
    assert parse_duration(f"{milliseconds}ms") == milliseconds * 1_000_000


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # What stands after a JSON list is ignored; what is no JSON is shell.
        ('CMD ["a"] b', ast.Cmd(command=ast.ExecForm(("a",)))),
        ("CMD [NaN]", ast.Cmd(command=ast.ShellForm("[NaN]"))),
        ('CMD ["\\ud800"]', ast.Cmd(command=ast.ExecForm(("\ufffd",)))),
        # Blanks of all kinds end a keyword.
        ("RUN\tcat <<E\nx\nE", None),
        ("USER -- --name", ast.User(name="--name")),
        ("HEALTHCHECK --retries=+2 CMD x", ast.Healthcheck(command=ast.ShellForm("x"), retries=2)),
        # A quote that is not closed leaves no here-document.
        ("RUN cat <<E it's", ast.Run(command=ast.ShellForm("cat <<E it's"))),
    ],
)
def test_as_buildkit_reads_it(text: str, expected: ast.Instruction | None) -> None:
    found = one(text)
    if expected is None:
        assert isinstance(found, ast.Run) and found.heredocs[0].content == "x\n"
        assert found.text == "RUN cat <<E"
    else:
        assert found == expected
    assert parse(format_dockerfile(parse("FROM x\n" + text))) == parse("FROM x\n" + text)


def test_here_documents_keep_carriage_returns() -> None:
    text = "FROM x\r\nENV a=b \\\r\n  c=d\r\nCOPY <<-E /f\r\n\tone\r\n\ttwo\n\tE\r\nUSER u\r\n"
    env, copy, user = parse(text).stages[0].body
    assert env == ast.Env(pairs=(ast.Pair("a", "b"), ast.Pair("c", "d")))
    assert isinstance(copy, ast.Copy) and copy.heredocs[0].data == "one\r\ntwo\n"
    assert user == ast.User(name="u")
    assert parse(format_dockerfile(parse(text))) == parse(text)


@pytest.mark.parametrize(
    ("text", "escape"),
    [
        ("  # escape=`\n", "`"),
        ("# hello=world\n# escape=`\n", "\\"),
        ("#!/usr/bin/env x\n# escape=`\n", "\\"),
        ("#!/usr/bin/env x\n# check=skip=all\n", "\\"),
        ("\n# escape=`\n", "\\"),
    ],
)
def test_where_directives_are(text: str, escape: str) -> None:
    tree = parse(text + "FROM x\n")
    assert tree.escape == escape
    assert ("check" in tree.directives) == ("check" in text)
    assert parse(format_dockerfile(tree)) == tree


BLANK = st.sampled_from(
    [" ", " ", " ", "\t", "  ", " \\\n", "\\\n", " \\ \n# c\n", "\\\n\n", "\\\r\n"]
)
PIECE = st.sampled_from(
    [
        *("a", "b=c", "$x", "${x:-y}", '"q r"', "'s t'", "/d/", "\\ z", "é", "[", '["a"]'),
        *('["a","b"] c', "#h", "<<E", "<<-E", '<<"E"', "3<<F", "--", "--from=a", "--chown=1:2"),
        *("--link", "AS", "NONE", "--mount=type=cache,target=/x", "80/tcp", "CMD", "=x", "'", '"'),
        *("--interval=3s", "`", "\\"),
    ]
)
KEYWORD = st.sampled_from(
    [
        *(
            "FROM",
            "RUN",
            "run",
            "COPY",
            "ADD",
            "ENV",
            "LABEL",
            "ARG",
            "CMD",
            "ENTRYPOINT",
            "EXPOSE",
        ),
        *("USER", "WORKDIR", "VOLUME", "ONBUILD RUN", "ONBUILD COPY", "SHELL", "HEALTHCHECK"),
        *("STOPSIGNAL", "MAINTAINER", "FOO", "#", "E", ""),
    ]
)
DOCUMENT = st.sampled_from(["", "", "x $y\nE\n", "\ttab\n\tE\n", "E\nF\n", "F\nE\n", "# c\n\n E\n"])


@st.composite
def files(draw: st.DrawFn) -> str:
    """Dockerfiles of instructions with continuations, here-documents and directives."""
    top = st.sampled_from(["# escape=`\n", "# check=skip=all\n", "#!x\n", "# c\n", "\n", "\ufeff"])
    out = draw(st.lists(top, max_size=2))
    out.append(
        draw(st.sampled_from(["FROM x\n", "ARG a=b\nFROM x AS y\n", "FROM x\\\n AS z\n", ""]))
    )
    for keyword in draw(st.lists(KEYWORD, max_size=4)):
        out.append(keyword)
        for piece in draw(st.lists(PIECE, max_size=5)):
            out += [draw(BLANK), piece]
        out += ["\n", draw(DOCUMENT)]
    return "".join(out)


@given(files())
@settings(max_examples=int(os.environ.get("SAMPAN_FUZZ_DOCKERFILES", "300")), deadline=2000)
def test_files_round_trip_or_say_where_they_are_wrong(text: str) -> None:
    try:
        tree = parse(text, "D")
    except DockerfileError as error:
        lines = error.source.lines or ("",)
        assert 1 <= error.span.column <= len(lines[error.line - 1]) + 1
        assert re.search(rf"\nD:{error.line}\n-+\n(.*\n)*.*>>>.*\n     \|\s*\^\n", str(error))
        return
    continued = False
    for instruction in (i for stage in tree.stages for i in (stage.origin, *stage.body)):
        line = instruction.line
        assert line is not None and instruction.span.line <= instruction.span.end
        for offset in range(len(line.text)):
            spot = line.at(offset)
            assert tree.source.lines[spot.line - 1][spot.column - 1] == line.text[offset]
        continued |= line.text.rstrip().endswith(tree.escape)
    # An escape character in the end cannot be written on one line.
    assert continued or parse(format_dockerfile(tree)) == tree
