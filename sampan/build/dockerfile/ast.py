"""The tree: one frozen type an instruction.

Words are unexpanded, as written.  ``span``, ``line``, ``text`` (the statement on one line, as
progress shows it) and ``comments`` say where an instruction came from and take no part in equality.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from sampan.build.dockerfile.lexer import LogicalLine
from sampan.build.dockerfile.source import Source, Span
from sampan.build.dockerfile.words import Heredoc


@dataclass(frozen=True, slots=True)
class ShellForm:
    """A command line for the stage's shell."""

    line: str


@dataclass(frozen=True, slots=True)
class ExecForm:
    """Arguments given as a JSON list; no shell."""

    args: tuple[str, ...]


Command = ShellForm | ExecForm


@dataclass(frozen=True, slots=True)
class Pair:
    """``key=value``; ``value`` None for ``ARG name``; ``spaced`` for the old ``ENV key value``."""

    key: str
    value: str | None
    spaced: bool = False


@dataclass(frozen=True, slots=True)
class MountFlag:
    """One ``--mount=…`` of a RUN: its comma-separated options in order; flags have value None.

    ``written`` is all of it."""

    options: tuple[tuple[str, str | None], ...]
    written: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Instruction:
    span: Span = field(default=Span(0, 0), compare=False)
    line: LogicalLine | None = field(default=None, compare=False, repr=False)
    text: str = field(default="", compare=False)
    comments: tuple[str, ...] = field(default=(), compare=False)
    keyword: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class From(Instruction):
    image: str
    platform: str = ""
    name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run(Instruction):
    command: Command
    mounts: tuple[MountFlag, ...] = ()
    network: str = ""
    security: str = ""
    devices: tuple[str, ...] = ()
    heredocs: tuple[Heredoc, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Cmd(Instruction):
    command: Command


@dataclass(frozen=True, slots=True, kw_only=True)
class Entrypoint(Instruction):
    command: Command


@dataclass(frozen=True, slots=True, kw_only=True)
class Shell(Instruction):
    args: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Label(Instruction):
    pairs: tuple[Pair, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Env(Instruction):
    pairs: tuple[Pair, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Arg(Instruction):
    pairs: tuple[Pair, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Maintainer(Instruction):
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Expose(Instruction):
    ports: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy(Instruction):
    """COPY and ADD; ``is_add`` tells them apart, and only ADD has the flags of the last group.

    ``link``, ``parents``, ``keep_git_dir`` and ``unpack`` are None when not given.
    """

    is_add: bool
    sources: tuple[str, ...]
    dest: str
    json: bool = False
    source_stage: str = ""
    chown: str = ""
    chmod: str = ""
    link: bool | None = None
    parents: bool | None = None
    exclude: tuple[str, ...] = ()
    heredocs: tuple[Heredoc, ...] = ()
    checksum: str = ""
    keep_git_dir: bool | None = None
    unpack: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume(Instruction):
    paths: tuple[str, ...]
    json: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class User(Instruction):
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Workdir(Instruction):
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Onbuild(Instruction):
    """``trigger`` is the inner instruction; its text goes into the image unexpanded."""

    trigger: Instruction
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Stopsignal(Instruction):
    signal: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Healthcheck(Instruction):
    """``command`` is None for ``HEALTHCHECK NONE``; durations in nanoseconds, 0 when not given."""

    command: Command | None
    interval: int = 0
    timeout: int = 0
    start_period: int = 0
    start_interval: int = 0
    retries: int = 0


@dataclass(frozen=True, slots=True)
class Stage:
    """A FROM and what follows it; ``number`` from 0."""

    number: int
    origin: From
    body: tuple[Instruction, ...]

    @property
    def name(self) -> str:
        return self.origin.name.lower()


@dataclass(frozen=True, slots=True)
class Dockerfile:
    """A whole file: parser directives, the ARGs before the first FROM, and the stages."""

    directives: dict[str, str]
    escape: str
    global_args: tuple[Arg, ...]
    stages: tuple[Stage, ...]
    source: Source = field(compare=False)
    empty_continuations: tuple[Span, ...] = field(default=(), compare=False)
