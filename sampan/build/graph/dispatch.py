"""What each instruction does to a stage: its configuration, its vertex, its history."""

from __future__ import annotations

import posixpath
import re
import signal
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Protocol

from sampan.build.dockerfile import ast
from sampan.build.dockerfile.errors import SyntaxProblem
from sampan.build.dockerfile.expand import expand, expand_words
from sampan.build.dockerfile.words import Heredoc, parse_heredoc
from sampan.build.graph import history
from sampan.build.graph.draft import Draft, Record
from sampan.build.graph.mounts import parse_mount
from sampan.build.graph.ops import (
    CopyAction,
    Exec,
    ExecMount,
    File,
    FileAction,
    Merge,
    MkdirAction,
    MkfileAction,
    Source,
    Vertex,
)
from sampan.build.graph.scope import PROXIES, GlobalScope
from sampan.image.config import Healthcheck

_PORT = re.compile(r"^(\d+)(?:-(\d+))?(?:/([A-Za-z]+))?$")
_URL = re.compile(r"^https?://", re.IGNORECASE)
_GIT = re.compile(r"^(git://|git@|ssh://|github\.com/|https?://[^#]+\.git(#|\?|$))")
_CHECKSUM = re.compile(r"^sha256:[0-9a-f]{64}$")
_SIGNALS = frozenset(name.removeprefix("SIG") for name in signal.Signals.__members__)


class Inputs(Protocol):
    """How an instruction reaches other trees."""

    def local(self) -> Vertex:
        """The build context."""
        ...

    def named(self, name: str, at: ast.Instruction) -> Vertex | None:
        """The stage, image or named context that ``--from=name`` means."""
        ...


class Dispatcher:
    """Applies instructions to the draft of one stage."""

    def __init__(
        self,
        draft: Draft,
        escape: str,
        outer: GlobalScope,
        inputs: Inputs,
        *,
        no_cache: bool,
        network: str,
        surroundings: tuple[str, ...] = (),
    ) -> None:
        self.draft = draft
        self.escape = escape
        self.outer = outer
        self.inputs = inputs
        self.no_cache = no_cache
        self.network = network
        self.surroundings = surroundings
        self.unset: set[str] = set()

    def apply(self, instruction: ast.Instruction) -> Vertex | None:
        """Apply one instruction; returns the vertex it made, if it made one.

        Raises :class:`SyntaxProblem`.
        """
        self.unset = set()
        return _HANDLERS[type(instruction)](self, instruction)

    # helpers

    def expand(self, word: str) -> str:
        return expand(word, self.draft.scope.merged, self.escape, unset=self.unset)

    def _expand_raw(self, text: str) -> str:
        return expand(
            text, self.draft.scope.merged, self.escape, keep_quotes=True, unset=self.unset
        )

    def _record(self, created_by: str, vertex: Vertex | None = None) -> Vertex | None:
        self.draft.history.append(Record(created_by, vertex))
        return vertex

    def _vertex(self, op: Exec | File | Merge, *inputs: Vertex | None) -> Vertex:
        vertex = Vertex(op, inputs, ignore_cache=self.no_cache)
        self.draft.vertex = vertex
        return vertex

    def _absolute(self, path: str) -> str:
        """``path`` against the working directory; a trailing slash stays."""
        joined = posixpath.normpath(posixpath.join(self.draft.workdir or "/", path))
        joined = "/" + joined.lstrip("/")
        return joined + "/" if path.endswith(("/", "/.")) and joined != "/" else joined

    # instructions that make layers

    def run(self, i: ast.Run) -> Vertex | None:
        draft = self.draft
        files: tuple[tuple[str, str], ...] = ()
        if isinstance(i.command, ast.ExecForm):
            args = list(i.command.args)
            shown = args
        else:
            line = i.command.line
            single = parse_heredoc(line, self.escape)
            if i.heredocs and single is not None and len(i.heredocs) == 1:
                data = i.heredocs[0].data
                if data.startswith("#!"):
                    path = f"/dev/pipes/{i.heredocs[0].name}"
                    files = ((path, data),)
                    line = path
                else:
                    line = data
            elif i.heredocs:
                line += "".join(f"\n{doc.content}{doc.name}" for doc in i.heredocs)
            args = draft.with_shell(line)
            shown = args
        others: list[Vertex | None] = []
        mounts = self._mounts(i, others)
        hidden = tuple(
            f"{name}={self.outer.given[name]}"
            for name in PROXIES
            if name in self.outer.given and name not in draft.scope.args
        )
        env = list(draft.scope.run_env())
        if any(mount.type == "ssh" for mount in mounts):
            first = next(mount for mount in mounts if mount.type == "ssh")
            env.append(f"SSH_AUTH_SOCK={first.dest}")
        if i.devices:
            raise SyntaxProblem(
                f"RUN --device={i.devices[0]}: no device provider is registered with this builder",
                word=i.devices[0],
            )
        op = Exec(
            args=tuple(args),
            env=tuple(env),
            cwd=draft.workdir or "/",
            user=draft.user,
            mounts=tuple(mounts),
            network=i.network if i.network not in ("", "default") else self.network,
            security=i.security or "sandbox",
            files=files,
            surroundings=self.surroundings,
        )
        vertex = Vertex(op, (draft.vertex, *others), self.no_cache, hidden)
        draft.vertex = vertex
        arguments = draft.scope.shown_args()
        prefix = f"|{len(arguments)} {' '.join(arguments)} " if arguments else ""
        return self._record(f"RUN {prefix}{' '.join(shown)}", vertex)

    def _mounts(self, i: ast.Run, others: list[Vertex | None]) -> list[ExecMount]:
        mounts = []
        agents = 0
        for flag in i.mounts:
            try:
                parsed = parse_mount(flag, self.draft.workdir or "/", self.expand, agents)
            except SyntaxProblem as problem:
                if problem.word is None:
                    problem.word = flag.written
                raise
            mount = parsed.mount
            agents += mount.type == "ssh"
            if mount.type == "cache" and self.outer.given.get("BUILDKIT_CACHE_MOUNT_NS"):
                mount = replace(
                    mount, id=f"{self.outer.given['BUILDKIT_CACHE_MOUNT_NS']}/{mount.id}"
                )
            if parsed.needs_input:
                source = (
                    self.inputs.local()
                    if parsed.origin is None
                    else self.inputs.named(parsed.origin, i)
                )
                others.append(source)
                mount = replace(mount, input=len(others))
            mounts.append(mount)
        return mounts

    def copy(self, i: ast.Copy) -> Vertex | None:
        name = "ADD" if i.is_add else "COPY"
        words = [*i.sources, i.dest]
        documents = {doc.word: doc for doc in i.heredocs}
        sources = [word if word in documents else self.expand(word) for word in words[:-1]]
        written = self.expand(i.dest)
        dest = self._absolute(written)
        into = written.endswith(("/", "/.")) or written in (".", "")
        if len(sources) > 1 and not into:
            raise SyntaxProblem(
                f"When using {name} with more than one source file, the destination must be a "
                "directory and end with a /",
                word=i.dest,
            )
        owner, mode = self.expand(i.chown), self.expand(i.chmod)
        exclude = tuple(self.expand(pattern) for pattern in i.exclude)
        below = self.draft.vertex
        # A name of a user is looked up in the tree below, so such a copy depends on it.
        linked = bool(i.link) and all(part.isdecimal() for part in owner.split(":") if part)
        base = None if linked else below
        others: list[Vertex | None] = []

        def index(vertex: Vertex | None) -> int:
            for position, known in enumerate(others):
                if known is vertex:
                    return position + 1
            others.append(vertex)
            return len(others)

        actions: list[FileAction] = []
        for word in sources:
            document = documents.get(word)
            if document is not None:
                actions.append(self._document(document, dest, into, owner, mode))
                continue
            remote = self._remote(i, word) if i.is_add else None
            if remote is not None:
                git = remote.scheme == "git"
                actions.append(
                    CopyAction(
                        index(Vertex(remote)),
                        "/" if git else "/" + remote.attr("filename"),
                        dest,
                        owner,
                        mode or ("" if git else "0600"),
                        unpack=bool(i.unpack),
                        into=into,
                        exclude=exclude,
                    )
                )
                continue
            source = self.inputs.named(i.source_stage, i) if i.source_stage else self.inputs.local()
            actions.append(
                CopyAction(
                    index(source),
                    word if i.parents else _inside(word),
                    dest,
                    owner,
                    mode,
                    unpack=i.is_add and i.unpack is not False,
                    into=into,
                    parents=bool(i.parents),
                    exclude=exclude,
                )
            )
        if i.checksum and (len(sources) != 1 or not isinstance(actions[0], CopyAction)):
            raise SyntaxProblem(
                "checksum can't be specified for more than one source", word=i.checksum
            )
        vertex = self._vertex(File(tuple(actions)), base, *others)
        if linked and below is not None:
            vertex = self._vertex(Merge(), below, vertex)
        flags = [f"--{key}={value}" for key, value in (("chown", owner), ("chmod", mode)) if value]
        shown = [f"<<{documents[word].name}" if word in documents else word for word in sources]
        return self._record(" ".join([name, *flags, *shown, written]), vertex)

    def _document(self, doc: Heredoc, dest: str, into: bool, owner: str, mode: str) -> MkfileAction:
        data = self._expand_raw(doc.data) if doc.expand else doc.data
        path = posixpath.join(dest, doc.name) if into else dest
        return MkfileAction(path, data, owner, mode, doc.name)

    def _remote(self, i: ast.Copy, word: str) -> Source | None:
        """The remote source that ``word`` of an ADD names, or None for a local path."""
        checksum = self.expand(i.checksum)
        if _GIT.match(word):
            attrs = [("keep-git-dir", "true")] if i.keep_git_dir else []
            if checksum:
                attrs.append(("checksum", checksum))
            return Source("git://" + word, tuple(attrs))
        if not _URL.match(word):
            if checksum:
                raise SyntaxProblem(
                    "checksum can't be specified for non-HTTP(S) sources", word=i.checksum
                )
            return None
        if checksum and not _CHECKSUM.match(checksum):
            raise SyntaxProblem(
                f"invalid checksum {checksum!r}: use sha256: and 64 hex digits", word=i.checksum
            )
        path = word.partition("?")[0].partition("#")[0]
        filename = posixpath.basename(path.split("://", 1)[1].partition("/")[2]) or "index.html"
        return Source(word, (("checksum", checksum), ("filename", filename)))

    def workdir(self, i: ast.Workdir) -> Vertex | None:
        draft = self.draft
        path = self.expand(i.path)
        if not path:
            raise SyntaxProblem("WORKDIR requires a path: the variable is empty", word=i.path)
        whole = posixpath.join(draft.workdir or "/", path)
        draft.workdir = "/" + posixpath.normpath(whole).lstrip("/")
        if draft.workdir == "/":
            return self._record(f"WORKDIR {draft.workdir}")
        vertex = self._vertex(File((MkdirAction(draft.workdir, draft.user),)), draft.vertex)
        return self._record(f"WORKDIR {draft.workdir}", vertex)

    # instructions that change the configuration alone

    def env(self, i: ast.Env) -> None:
        pairs: dict[str, str] = {}
        for pair in i.pairs:
            name = self.expand(pair.key)
            if not name:
                raise SyntaxProblem("ENV names can not be blank", word=pair.key)
            pairs[name] = self.expand(pair.value or "")
        self.draft.scope.set_env(pairs)
        self._record("ENV " + " ".join(f"{k}={v}" for k, v in pairs.items()))

    def label(self, i: ast.Label) -> None:
        pairs = {self.expand(p.key): self.expand(p.value or "") for p in i.pairs}
        self.draft.labels.update(pairs)
        self._record("LABEL " + " ".join(f"{k}={v}" for k, v in pairs.items()))

    def arg(self, i: ast.Arg) -> None:
        shown = []
        for pair in i.pairs:
            name = self.expand(pair.key)
            default = None if pair.value is None else self.expand(pair.value)
            value = self.outer.value_for_stage(name, default)
            self.draft.scope.set_arg(name, value)
            shown.append(name if default is None else f"{name}={default}")
        self._record("ARG " + " ".join(shown))

    def cmd(self, i: ast.Cmd) -> None:
        args, shown = self._args(i.command)
        self.draft.cmd = args
        self.draft.cmd_set = self.draft.args_escaped = True
        self._record(f"CMD {shown}")

    def entrypoint(self, i: ast.Entrypoint) -> None:
        args, shown = self._args(i.command)
        self.draft.entrypoint = args
        if not self.draft.cmd_set:
            self.draft.cmd = None
        self._record(f"ENTRYPOINT {shown}")

    def _args(self, command: ast.Command) -> tuple[list[str], str]:
        args = (
            list(command.args)
            if isinstance(command, ast.ExecForm)
            else self.draft.with_shell(command.line)
        )
        return args, history.quoted_list(args)

    def shell(self, i: ast.Shell) -> None:
        self.draft.shell = list(i.args)
        self._record("SHELL [" + " ".join(i.args) + "]")

    def maintainer(self, i: ast.Maintainer) -> None:
        self.draft.author = i.name
        self._record(f"MAINTAINER {i.name}")

    def expose(self, i: ast.Expose) -> None:
        ports: list[str] = []
        for word in i.ports:
            for port in expand_words(word, self.draft.scope.merged, self.escape):
                ports.extend(_ports(port, word))
        for port in ports:
            self.draft.exposed[port] = {}
        shown = sorted(dict.fromkeys(ports))
        self._record(f"EXPOSE map[{' '.join(f'{port}:{{}}' for port in shown)}]")

    def volume(self, i: ast.Volume) -> None:
        paths = [self.expand(path) for path in i.paths]
        for path, written in zip(paths, i.paths, strict=True):
            if not path.strip():
                raise SyntaxProblem("VOLUME specified can not be an empty string", word=written)
            self.draft.volumes[path] = {}
        self._record(f"VOLUME [{' '.join(paths)}]")

    def user(self, i: ast.User) -> None:
        name = self.draft.user = self.expand(i.name)
        self._record(f"USER {name}")

    def stopsignal(self, i: ast.Stopsignal) -> None:
        name = self.expand(i.signal)
        bare = name.upper().removeprefix("SIG")
        numeric = name.isdecimal() and 1 <= int(name) <= 64
        if not (numeric or bare in _SIGNALS or re.match(r"^RTM(IN|AX)([+-]\d+)?$", bare)):
            raise SyntaxProblem(f"invalid signal: {name}", word=i.signal)
        self.draft.stop_signal = name
        self._record(f"STOPSIGNAL {name}")

    def healthcheck(self, i: ast.Healthcheck) -> None:
        if i.command is None:
            test = ["NONE"]
        elif isinstance(i.command, ast.ExecForm):
            test = ["CMD", *i.command.args]
        else:
            test = ["CMD-SHELL", i.command.line]
        check = self.draft.healthcheck = Healthcheck(
            test=test,
            interval=i.interval,
            timeout=i.timeout,
            start_period=i.start_period,
            start_interval=i.start_interval,
            retries=i.retries,
        )
        self._record(f"HEALTHCHECK {history.healthcheck(check)}")

    def onbuild(self, i: ast.Onbuild) -> None:
        self.draft.on_build.append(i.source)


def _inside(path: str) -> str:
    """A source path from the tree's root; what climbs above it stays at it."""
    clean = "/" + posixpath.normpath("/" + path).lstrip("/")
    return clean + "/" if path.endswith("/") and clean != "/" else clean


def _ports(text: str, word: str) -> list[str]:
    """``8000-8002/udp``, which is of ``word``, as single ports with their protocol.  An address and
    a port of the host before them mean nothing to an image, and are a finding of the linter."""
    match = _PORT.match(text.rpartition(":")[2])
    if match is None:
        raise SyntaxProblem(f"invalid containerPort: {text}", word=word)
    first, last = int(match[1]), int(match[2] or match[1])
    protocol = (match[3] or "tcp").lower()
    if protocol not in ("tcp", "udp", "sctp"):
        raise SyntaxProblem(f"invalid proto: {match[3]} in EXPOSE {text}", word=word)
    if not first <= last <= 65535:
        raise SyntaxProblem(f"invalid containerPort: {text} (ports go up to 65535)", word=word)
    return [f"{port}/{protocol}" for port in range(first, last + 1)]


_HANDLERS: Mapping[type[ast.Instruction], Callable[[Dispatcher, Any], Vertex | None]] = {
    ast.Run: Dispatcher.run,
    ast.Copy: Dispatcher.copy,
    ast.Workdir: Dispatcher.workdir,
    ast.Env: Dispatcher.env,
    ast.Label: Dispatcher.label,
    ast.Arg: Dispatcher.arg,
    ast.Cmd: Dispatcher.cmd,
    ast.Entrypoint: Dispatcher.entrypoint,
    ast.Shell: Dispatcher.shell,
    ast.Maintainer: Dispatcher.maintainer,
    ast.Expose: Dispatcher.expose,
    ast.Volume: Dispatcher.volume,
    ast.User: Dispatcher.user,
    ast.Stopsignal: Dispatcher.stopsignal,
    ast.Healthcheck: Dispatcher.healthcheck,
    ast.Onbuild: Dispatcher.onbuild,
}
