"""Statements to typed instructions."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from sampan.build.dockerfile import ast
from sampan.build.dockerfile.errors import DockerfileError, SyntaxProblem
from sampan.build.dockerfile.flags import Flags
from sampan.build.dockerfile.lexer import LogicalLine, lex
from sampan.build.dockerfile.source import Source, Span
from sampan.build.dockerfile.words import (
    Heredoc,
    parse_heredoc,
    parse_json_list,
    split_flags,
    split_words,
)

STAGE_NAME = re.compile(r"^[a-z][a-z0-9-_.]*$")
_BLANKS = re.compile(r"\s+")
_WORD = re.compile(r"\S+")


class _Statement:
    """What an instruction's parser sees: flags, arguments and here-documents."""

    __slots__ = ("escape", "flags", "heredocs", "keyword", "name", "offset", "rest")

    def __init__(
        self, keyword: str, text: str, offset: int, escape: str, heredocs: tuple[Heredoc, ...]
    ) -> None:
        self.keyword = keyword
        self.name = keyword.upper()
        flags, self.rest, start = split_flags(text)
        self.offset = offset + start
        self.flags = Flags(self.name, flags, offset)
        self.escape = escape
        self.heredocs = heredocs

    def json_or_words(self) -> tuple[list[str], bool]:
        found = parse_json_list(self.rest, self.offset)
        if found is not None:
            return found, True
        return _BLANKS.split(self.rest) if self.rest else [], False

    def command(self) -> ast.Command:
        found = parse_json_list(self.rest, self.offset)
        if found is not None:
            return ast.ExecForm(tuple(found))
        return ast.ShellForm(self.rest)

    def require(self) -> None:
        if not self.rest:
            raise SyntaxProblem(f"{self.name} requires at least one argument")

    def exactly_one(self) -> str:
        if not self.rest:
            raise SyntaxProblem(f"{self.name} requires exactly one argument")
        return self.rest

    def word(self, number: int) -> int:
        """The offset of a word of the arguments; without so many, of the last one."""
        words = list(_WORD.finditer(self.rest))
        return self.offset + (words[min(number, len(words) - 1)].start() if words else 0)

    def pairs(self) -> tuple[ast.Pair, ...]:
        """``name=value …``, or the old ``name value``."""
        self.require()
        words = split_words(self.rest, self.escape)
        if "=" not in words[0][0]:
            parts = _BLANKS.split(self.rest, maxsplit=1)
            if len(parts) < 2:
                raise SyntaxProblem(f"{self.name} must have two arguments", self.offset)
            return (ast.Pair(parts[0], parts[1], True),)
        found = []
        for word, at in words:
            key, equals, value = word.partition("=")
            if not equals:
                raise SyntaxProblem(
                    f"Syntax error - can't find = in {word!r}. Must be of the form: name=value",
                    self.offset + at,
                )
            if not key:
                raise SyntaxProblem(f"{self.name} names can not be blank", self.offset + at)
            found.append(ast.Pair(key, value))
        return tuple(found)


def parse(text: str, name: str = "Dockerfile") -> ast.Dockerfile:
    """Parse a whole Dockerfile; ``name`` is what messages call it.

    Raises :class:`DockerfileError`.
    """
    lexed = lex(text, name)
    source, escape = lexed.source, lexed.escape
    if not lexed.lines:
        raise DockerfileError("file with no instructions", source, Span(1, 1, 1))
    global_args: list[ast.Arg] = []
    stages: list[tuple[ast.From, list[ast.Instruction]]] = []
    for line in lexed.lines:
        instruction = _instruction(line, source, escape)
        if isinstance(instruction, ast.From):
            stages.append((instruction, []))
        elif stages:
            stages[-1][1].append(instruction)
        elif isinstance(instruction, ast.Arg):
            global_args.append(instruction)
        else:
            raise DockerfileError(
                f"no build stage in current context: {instruction.keyword.upper()} stands "
                "before the first FROM",
                source,
                line.at(None),
            )
    if not stages:
        last = lexed.lines[-1].at(None)
        raise DockerfileError("dockerfile contains no stages to build", source, last)
    return ast.Dockerfile(
        lexed.directives,
        escape,
        tuple(global_args),
        tuple(ast.Stage(i, origin, tuple(body)) for i, (origin, body) in enumerate(stages)),
        source,
        tuple(line.span for line in lexed.lines if line.empty_continuation),
    )


def parse_instruction(text: str, name: str = "ONBUILD trigger") -> ast.Instruction:
    """Parse one statement, as an image's ONBUILD triggers and ``--change`` hold them."""
    lexed = lex(text, name)
    if len(lexed.lines) != 1:
        place = lexed.lines[1].at(None) if lexed.lines else Span(1, 1, 1)
        raise DockerfileError("one instruction is expected here", lexed.source, place)
    return _instruction(lexed.lines[0], lexed.source, "\\")


def _instruction(line: LogicalLine, source: Source, escape: str) -> ast.Instruction:
    try:
        return _parse_statement(
            line.text,
            0,
            escape,
            line.heredocs,
            {"span": line.span, "line": line, "comments": line.comments},
        )
    except SyntaxProblem as problem:
        raise DockerfileError(problem.reason, source, line.at(problem.offset)) from None


def _parse_statement(
    text: str,
    base: int,
    escape: str,
    heredocs: tuple[Heredoc, ...],
    origin: Mapping[str, Any] = MappingProxyType({}),
) -> ast.Instruction:
    """``origin`` are the fields of an instruction that say where it is from."""
    lead = len(text) - len(text.lstrip())
    text = text.strip()
    parts = _BLANKS.split(text, maxsplit=1)
    written = parts[0]
    keyword = written.lower()
    parser = _PARSERS.get(keyword)
    if parser is None:
        raise SyntaxProblem(_unknown(written), base + lead)
    rest = parts[1] if len(parts) == 2 else ""
    offset = base + lead + len(text) - len(rest)
    statement = _Statement(keyword, rest, offset, escape, heredocs)
    instruction = parser(statement)
    statement.flags.finish()
    return replace(instruction, text=_one_line(text), keyword=written, **origin)


def _one_line(text: str) -> str:
    keyword, *rest = _BLANKS.split(text, maxsplit=1)
    return " ".join([keyword.upper(), *rest]).rstrip().replace("\t", " ")


def _unknown(word: str) -> str:
    if not word:
        return "unknown instruction: nothing follows the continued line"
    near = difflib.get_close_matches(word.lower(), _PARSERS, n=1, cutoff=0.6)
    hint = f" (did you mean {near[0].upper()}?)" if near else ""
    return f"unknown instruction: {word}{hint}"


def _from(s: _Statement) -> ast.From:
    words = _BLANKS.split(s.rest) if s.rest else []
    platform = s.flags.text("platform")
    if len(words) == 1:
        return ast.From(image=words[0], platform=platform)
    if len(words) != 3 or words[1].lower() != "as":
        raise SyntaxProblem(
            "FROM requires either one argument, or three: FROM <source> [AS <name>]",
            s.word(1) if words else None,
        )
    if not STAGE_NAME.match(words[2].lower()):
        raise SyntaxProblem(
            f"invalid name for build stage: {words[2]!r}, name can't start with a number or "
            "contain symbols",
            s.word(2),
        )
    return ast.From(image=words[0], platform=platform, name=words[2])


def _run(s: _Statement) -> ast.Run:
    s.require()
    command = s.command()
    if isinstance(command, ast.ExecForm) and not command.args:
        raise SyntaxProblem("RUN requires at least one argument", s.offset)
    network = s.flags.text("network")
    if network and network not in ("default", "none", "host"):
        raise SyntaxProblem(
            f"invalid network mode {network!r}: use default, none or host", s.flags.at("network")
        )
    security = s.flags.text("security")
    if security and security not in ("sandbox", "insecure"):
        raise SyntaxProblem(
            f"security {security!r} is not valid: use sandbox or insecure", s.flags.at("security")
        )
    return ast.Run(
        command=command,
        mounts=s.flags.mounts(),
        network=network,
        security=security,
        devices=s.flags.many("device"),
        heredocs=s.heredocs,
    )


def _copy(s: _Statement) -> ast.Copy:
    words, is_json = s.json_or_words()
    heredocs = s.heredocs
    if not is_json and heredocs:
        words = [word for word, _ in split_words(s.rest, s.escape)]
    if len(words) < 2:
        raise SyntaxProblem(
            f"{s.name} requires at least two arguments, but only one was provided. "
            "Destination could not be determined"
            if words
            else f"{s.name} requires at least two arguments: a source and a destination"
        )
    dest = words[-1]
    if "<<" in dest and parse_heredoc(dest, s.escape) is not None:
        raise SyntaxProblem(f"{s.name} cannot accept a heredoc as a destination", s.word(-1))
    is_add = s.keyword == "add"
    flags = s.flags
    return ast.Copy(
        is_add=is_add,
        sources=tuple(words[:-1]),
        dest=dest,
        json=is_json,
        source_stage="" if is_add else flags.text("from"),
        chown=flags.text("chown"),
        chmod=flags.text("chmod"),
        link=flags.boolean("link"),
        parents=None if is_add else flags.boolean("parents"),
        exclude=flags.many("exclude"),
        heredocs=heredocs,
        checksum=flags.text("checksum") if is_add else "",
        keep_git_dir=flags.boolean("keep-git-dir") if is_add else None,
        unpack=flags.boolean("unpack") if is_add else None,
    )


def _cmd(s: _Statement) -> ast.Cmd:
    return ast.Cmd(command=s.command())


def _entrypoint(s: _Statement) -> ast.Entrypoint:
    return ast.Entrypoint(command=s.command())


def _shell(s: _Statement) -> ast.Shell:
    args = parse_json_list(s.rest, s.offset)
    if not args:
        raise SyntaxProblem(
            'SHELL requires the arguments to be in JSON form: ["/bin/sh", "-c"]',
            s.offset if s.rest else None,
        )
    return ast.Shell(args=tuple(args))


def _label(s: _Statement) -> ast.Label:
    return ast.Label(pairs=s.pairs())


def _env(s: _Statement) -> ast.Env:
    return ast.Env(pairs=s.pairs())


def _arg(s: _Statement) -> ast.Arg:
    s.require()
    pairs = []
    for word, at in split_words(s.rest, s.escape):
        key, equals, value = word.partition("=")
        if not key:
            raise SyntaxProblem("ARG names can not be blank", s.offset + at)
        pairs.append(ast.Pair(key, value if equals else None))
    return ast.Arg(pairs=tuple(pairs))


def _maintainer(s: _Statement) -> ast.Maintainer:
    return ast.Maintainer(name=s.exactly_one())


def _expose(s: _Statement) -> ast.Expose:
    s.require()
    return ast.Expose(ports=tuple(_BLANKS.split(s.rest)))


def _volume(s: _Statement) -> ast.Volume:
    paths, is_json = s.json_or_words()
    if not paths:
        raise SyntaxProblem("VOLUME requires at least one argument")
    if any(not path.strip() for path in paths):
        raise SyntaxProblem("VOLUME specified can not be an empty string", s.offset)
    return ast.Volume(paths=tuple(paths), json=is_json)


def _user(s: _Statement) -> ast.User:
    return ast.User(name=s.exactly_one())


def _workdir(s: _Statement) -> ast.Workdir:
    return ast.Workdir(path=s.exactly_one())


def _stopsignal(s: _Statement) -> ast.Stopsignal:
    return ast.Stopsignal(signal=s.exactly_one())


def _onbuild(s: _Statement) -> ast.Onbuild:
    s.require()
    word = _BLANKS.split(s.rest, maxsplit=1)[0].lower()
    if word == "onbuild":
        raise SyntaxProblem("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed", s.offset)
    if word in ("from", "maintainer"):
        raise SyntaxProblem(f"{word.upper()} isn't allowed as an ONBUILD trigger", s.offset)
    trigger = _parse_statement(s.rest, s.offset, s.escape, s.heredocs)
    body = "".join(f"\n{doc.content}{doc.name}" for doc in s.heredocs)
    return ast.Onbuild(trigger=trigger, source=s.rest + body)


def _healthcheck(s: _Statement) -> ast.Healthcheck:
    s.require()
    parts = _BLANKS.split(s.rest, maxsplit=1)
    kind = parts[0].upper()
    rest = parts[1] if len(parts) == 2 else ""
    if kind == "NONE":
        if rest:
            raise SyntaxProblem("HEALTHCHECK NONE takes no arguments", s.word(1))
        return ast.Healthcheck(command=None)
    if kind != "CMD":
        raise SyntaxProblem(f"Unknown type {parts[0]!r} in HEALTHCHECK (try CMD)", s.offset)
    args = parse_json_list(rest, s.word(1))
    command: ast.Command = ast.ShellForm(rest) if args is None else ast.ExecForm(tuple(args))
    if command in (ast.ShellForm(""), ast.ExecForm(())):
        raise SyntaxProblem("Missing command after HEALTHCHECK CMD", s.word(1))
    return ast.Healthcheck(
        command=command,
        interval=s.flags.duration("interval"),
        timeout=s.flags.duration("timeout"),
        start_period=s.flags.duration("start-period"),
        start_interval=s.flags.duration("start-interval"),
        retries=s.flags.count("retries"),
    )


_PARSERS: dict[str, Callable[[_Statement], ast.Instruction]] = {
    "from": _from,
    "run": _run,
    "copy": _copy,
    "add": _copy,
    "cmd": _cmd,
    "entrypoint": _entrypoint,
    "shell": _shell,
    "label": _label,
    "env": _env,
    "arg": _arg,
    "maintainer": _maintainer,
    "expose": _expose,
    "volume": _volume,
    "user": _user,
    "workdir": _workdir,
    "stopsignal": _stopsignal,
    "onbuild": _onbuild,
    "healthcheck": _healthcheck,
}
