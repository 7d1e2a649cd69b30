"""``RUN --mount`` options to mounts, as the Dockerfile reference lists them for each type."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, cast

from sampan.build.dockerfile.ast import MountFlag
from sampan.build.dockerfile.errors import SyntaxProblem
from sampan.build.graph.ops import ExecMount

_ALIASES = {"src": "source", "dst": "target", "destination": "target", "ro": "readonly"}
_KNOWN: dict[str, frozenset[str]] = {
    "bind": frozenset({"type", "target", "source", "from", "rw", "readwrite", "readonly"}),
    "cache": frozenset(
        {
            "type", "target", "source", "from", "id", "readonly", "rw", "readwrite", "sharing",
            "mode", "uid", "gid",
        }
    ),
    "tmpfs": frozenset({"type", "target", "size"}),
    "secret": frozenset({"type", "id", "target", "source", "required", "mode", "uid", "gid", "env"}),
    "ssh": frozenset({"type", "id", "target", "required", "mode", "uid", "gid"}),
}  # fmt: skip
_SIZE = re.compile(r"^(\d+)([bkmgt]?)(?:i?b)?$", re.IGNORECASE)
_UNITS = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


@dataclass(frozen=True, slots=True)
class ParsedMount:
    """A mount before its ``from`` is looked up; None means the build context for ``bind``."""

    mount: ExecMount
    origin: str | None
    needs_input: bool


def parse_mount(
    flag: MountFlag, cwd: str, expand: Callable[[str], str], number: int
) -> ParsedMount:
    """Check one ``--mount``; ``number`` tells the ssh agents' default paths apart.

    Raises :class:`SyntaxProblem`, with the option as written where one is to blame.
    """
    given: dict[str, str | None] = {}
    written: dict[str, str] = {}
    for key, value in flag.options:
        name = _ALIASES.get(key, key)
        given[name] = None if value is None else expand(value)
        written[name] = key if value is None else f"{key}={value}"
    options = _Options(given, written)
    kind = given.get("type") or "bind"
    if kind not in _KNOWN:
        raise options.problem(
            "type", f"unsupported mount type {kind!r}: use bind, cache, tmpfs, secret or ssh"
        )
    for name in given:
        if name not in _KNOWN[kind]:
            raise options.problem(name, f"unexpected key {name!r} for mount type {kind!r}")
    target = options.text("target")
    dest = posixpath.normpath(posixpath.join(cwd, target)) if target else ""
    if kind == "secret":
        return ParsedMount(_secret(options, dest), None, False)
    if kind == "ssh":
        path = dest or f"/run/buildkit/ssh_agent.{number}"
        mount = ExecMount(
            "ssh",
            path,
            id=options.text("id") or "default",
            required=options.flag("required"),
            mode=options.octal("mode", 0o600),
            uid=options.number("uid"),
            gid=options.number("gid"),
        )
        return ParsedMount(mount, None, False)
    if not dest:
        raise options.problem("target", f"target is required for mount type {kind!r}")
    if dest == "/":
        raise options.problem("target", f"invalid mount target {target!r}: it must not be the root")
    if kind == "tmpfs":
        return ParsedMount(ExecMount("tmpfs", dest, size=options.size("size")), None, False)
    selector = posixpath.normpath("/" + options.text("source"))
    if kind == "cache":
        sharing = options.text("sharing") or "shared"
        if sharing not in ("shared", "private", "locked"):
            raise options.problem(
                "sharing", f"unsupported sharing mode {sharing!r}: use shared, private or locked"
            )
        mount = ExecMount(
            "cache",
            dest,
            selector=selector,
            readonly=options.readonly(default=False),
            id=options.text("id") or dest,
            sharing=cast(Literal["shared", "private", "locked"], sharing),
            mode=options.octal("mode", 0o755),
            uid=options.number("uid"),
            gid=options.number("gid"),
        )
        origin = options.text("from")
        return ParsedMount(mount, origin or None, bool(origin))
    mount = ExecMount("bind", dest, selector=selector, readonly=options.readonly(default=True))
    return ParsedMount(mount, options.text("from") or None, True)


def _secret(options: _Options, dest: str) -> ExecMount:
    identity = options.text("id") or posixpath.basename(options.text("source") or dest)
    if not identity:
        raise SyntaxProblem("a secret mount needs an id or a target")
    env = options.text("env")
    if not dest and not env:
        dest = f"/run/secrets/{identity}"
    return ExecMount(
        "secret",
        dest,
        readonly=True,
        id=identity,
        required=options.flag("required"),
        mode=options.octal("mode", 0o400),
        uid=options.number("uid"),
        gid=options.number("gid"),
        env=env,
    )


class _Options:
    """Typed access to the options of one mount."""

    def __init__(self, given: dict[str, str | None], written: dict[str, str]) -> None:
        self._given = given
        self._written = written

    def problem(self, name: str, reason: str) -> SyntaxProblem:
        """A mistake in an option."""
        return SyntaxProblem(reason, word=self._written.get(name))

    def text(self, name: str) -> str:
        return self._given.get(name) or ""

    def flag(self, name: str) -> bool:
        if name not in self._given:
            return False
        value = self._given[name]
        if value is None or value.lower() in ("true", "1"):
            return True
        if value.lower() in ("false", "0"):
            return False
        raise self.problem(name, f"invalid value for {name}: {value!r} is neither true nor false")

    def readonly(self, *, default: bool) -> bool:
        if "readonly" in self._given:
            return self.flag("readonly")
        for name in ("rw", "readwrite"):
            if name in self._given:
                return not self.flag(name)
        return default

    def number(self, name: str) -> int:
        value = self.text(name)
        if value and not value.isdecimal():
            raise self.problem(name, f"invalid value for {name}: {value!r} is not a number")
        return int(value or 0)

    def octal(self, name: str, default: int) -> int:
        value = self.text(name)
        if not value:
            return default
        try:
            return int(value, 8)
        except ValueError:
            raise self.problem(name, f"invalid value for {name}: {value!r} is not octal") from None

    def size(self, name: str) -> int:
        value = self.text(name)
        if not value:
            return 0
        match = _SIZE.match(value)
        if match is None:
            raise self.problem(
                name, f"invalid value for {name}: {value!r} is not a size such as 64m"
            )
        return int(match[1]) * _UNITS[match[2].lower()]
