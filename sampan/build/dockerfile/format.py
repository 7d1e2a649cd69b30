"""The tree back to text, such that parsing gives an equal tree."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import singledispatch

from sampan.build.dockerfile import ast
from sampan.build.dockerfile.flags import format_duration
from sampan.build.dockerfile.lexer import DIRECTIVE
from sampan.build.dockerfile.words import Heredoc


def format_dockerfile(tree: ast.Dockerfile) -> str:
    """``tree`` as a Dockerfile: directives first, a blank line before each FROM."""
    out = [f"# {key}={value}" for key, value in tree.directives.items()]
    first = (*tree.global_args, tree.stages[0].origin)[0]
    if any(DIRECTIVE.match(f"# {comment}") for comment in first.comments):
        out.append("")  # what is a comment must not become a directive
    out.extend(_with_comments(arg) for arg in tree.global_args)
    for stage in tree.stages:
        if out and out[-1]:
            out.append("")
        out.append(_with_comments(stage.origin))
        out.extend(_with_comments(instruction) for instruction in stage.body)
    return "\n".join(out) + "\n"


def _with_comments(instruction: ast.Instruction) -> str:
    lines = [f"# {comment}".rstrip() for comment in instruction.comments]
    lines.append(format_instruction(instruction))
    return "\n".join(lines)


def _flags(pairs: Iterator[tuple[str, str | None]]) -> str:
    """Flags with a trailing blank; a value that needs it is quoted."""
    out = []
    for name, value in pairs:
        word = f"--{name}" if value is None else f"--{name}={value}"
        if any(c.isspace() or c in "'\"\\" for c in word):
            escaped = word.replace("\\", "\\\\").replace('"', '\\"')
            word = f'--"{escaped[2:]}"'
        out.append(word + " ")
    return "".join(out)


def _rest(text: str) -> str:
    """What follows the flags, so that it is not taken for one."""
    return f"-- {text}" if text.startswith("--") else text


def _command(command: ast.Command) -> str:
    if isinstance(command, ast.ExecForm):
        return json.dumps(list(command.args), ensure_ascii=False)
    return command.line


def _pairs(pairs: tuple[ast.Pair, ...]) -> str:
    out = []
    for pair in pairs:
        if pair.value is None:
            out.append(pair.key)
        else:
            out.append(f"{pair.key}{' ' if pair.spaced else '='}{pair.value}")
    return " ".join(out)


def _documents(heredocs: tuple[Heredoc, ...]) -> str:
    return "".join(f"\n{doc.content}{doc.name}" for doc in heredocs)


def _boolean(value: bool | None) -> str | None:
    return None if value is None else str(value).lower()


def _option(key: str, value: str | None) -> str:
    text = key if value is None else f"{key}={value}"
    if any(c in text for c in ',"\n'):
        return '"' + text.replace('"', '""') + '"'
    return text


@singledispatch
def format_instruction(instruction: ast.Instruction) -> str:
    """One instruction as text, here-documents included."""
    raise TypeError(f"{type(instruction).__name__} is no instruction")


@format_instruction.register
def _from(i: ast.From) -> str:
    flags = _flags(iter([("platform", i.platform)] if i.platform else []))
    return f"FROM {flags}{_rest(i.image)}" + (f" AS {i.name}" if i.name else "")


@format_instruction.register
def _run(i: ast.Run) -> str:
    def flags() -> Iterator[tuple[str, str | None]]:
        for mount in i.mounts:
            yield "mount", ",".join(_option(k, v) for k, v in mount.options)
        if i.network:
            yield "network", i.network
        if i.security:
            yield "security", i.security
        for device in i.devices:
            yield "device", device

    return f"RUN {_flags(flags())}{_rest(_command(i.command))}{_documents(i.heredocs)}"


@format_instruction.register
def _copy(i: ast.Copy) -> str:
    def flags() -> Iterator[tuple[str, str | None]]:
        for name, value in (
            ("from", i.source_stage),
            ("chown", i.chown),
            ("chmod", i.chmod),
            ("checksum", i.checksum),
        ):
            if value:
                yield name, value
        for name, flag in (
            ("link", i.link),
            ("parents", i.parents),
            ("keep-git-dir", i.keep_git_dir),
            ("unpack", i.unpack),
        ):
            if flag is not None:
                yield name, _boolean(flag)
        for pattern in i.exclude:
            yield "exclude", pattern

    words = [*i.sources, i.dest]
    text = json.dumps(words, ensure_ascii=False) if i.json else " ".join(words)
    return f"{'ADD' if i.is_add else 'COPY'} {_flags(flags())}{_rest(text)}{_documents(i.heredocs)}"


@format_instruction.register
def _cmd(i: ast.Cmd) -> str:
    return f"CMD {_rest(_command(i.command))}"


@format_instruction.register
def _entrypoint(i: ast.Entrypoint) -> str:
    return f"ENTRYPOINT {_rest(_command(i.command))}"


@format_instruction.register
def _shell(i: ast.Shell) -> str:
    return f"SHELL {json.dumps(list(i.args), ensure_ascii=False)}"


@format_instruction.register
def _label(i: ast.Label) -> str:
    return f"LABEL {_rest(_pairs(i.pairs))}"


@format_instruction.register
def _env(i: ast.Env) -> str:
    return f"ENV {_rest(_pairs(i.pairs))}"


@format_instruction.register
def _arg(i: ast.Arg) -> str:
    return f"ARG {_rest(_pairs(i.pairs))}"


@format_instruction.register
def _maintainer(i: ast.Maintainer) -> str:
    return f"MAINTAINER {_rest(i.name)}"


@format_instruction.register
def _expose(i: ast.Expose) -> str:
    return f"EXPOSE {_rest(' '.join(i.ports))}"


@format_instruction.register
def _volume(i: ast.Volume) -> str:
    if i.json:
        return f"VOLUME {json.dumps(list(i.paths), ensure_ascii=False)}"
    return f"VOLUME {_rest(' '.join(i.paths))}"


@format_instruction.register
def _user(i: ast.User) -> str:
    return f"USER {_rest(i.name)}"


@format_instruction.register
def _workdir(i: ast.Workdir) -> str:
    return f"WORKDIR {_rest(i.path)}"


@format_instruction.register
def _onbuild(i: ast.Onbuild) -> str:
    return f"ONBUILD {i.source}"


@format_instruction.register
def _stopsignal(i: ast.Stopsignal) -> str:
    return f"STOPSIGNAL {_rest(i.signal)}"


@format_instruction.register
def _healthcheck(i: ast.Healthcheck) -> str:
    if i.command is None:
        return "HEALTHCHECK NONE"

    def flags() -> Iterator[tuple[str, str | None]]:
        for name, value in (
            ("interval", i.interval),
            ("timeout", i.timeout),
            ("start-period", i.start_period),
            ("start-interval", i.start_interval),
        ):
            if value:
                yield name, format_duration(value)
        if i.retries:
            yield "retries", str(i.retries)

    return f"HEALTHCHECK {_flags(flags())}CMD {_command(i.command)}"
