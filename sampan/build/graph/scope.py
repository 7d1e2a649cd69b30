"""Variables: build arguments, the predefined ones, and what a stage sees of them."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec

from sampan.errors import InvalidParameter
from sampan.image.manifest import Platform
from sampan.registry.platforms import variant_of

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
PROXIES = tuple(
    name
    for upper in ("HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY")
    for name in (upper, upper.lower())
)
# Arguments with a meaning of their own: giving them is never "not consumed".
BUILTIN = frozenset(
    {
        "BUILDKIT_BUILD_NAME",
        "BUILDKIT_CACHE_MOUNT_NS",
        "BUILDKIT_CONTEXT_KEEP_GIT_DIR",
        "BUILDKIT_DOCKERFILE_CHECK",
        "BUILDKIT_INLINE_CACHE",
        "BUILDKIT_MULTI_PLATFORM",
        "BUILDKIT_SANDBOX_HOSTNAME",
        "BUILDKIT_SYNTAX",
        "SOURCE_DATE_EPOCH",
    }
)
_MACHINES = {
    "x86_64": ("amd64", ""),
    "aarch64": ("arm64", ""),
    "armv7l": ("arm", "v7"),
    "armv6l": ("arm", "v6"),
    "i686": ("386", ""),
    "ppc64le": ("ppc64le", ""),
    "s390x": ("s390x", ""),
    "riscv64": ("riscv64", ""),
    "loongarch64": ("loong64", ""),
}


_PART = re.compile(r"^[a-z0-9_-]+$")
_KNOWN = frozenset(
    [
        "386",
        "amd64",
        "arm",
        "arm64",
        "loong64",
        "mips",
        "mips64",
        "mips64le",
        "mipsle",
        "ppc64",
        "ppc64le",
        "riscv64",
        "s390x",
    ]
)
_OTHER_NAMES = {
    "x86_64": ("amd64", ""),
    "x86-64": ("amd64", ""),
    "aarch64": ("arm64", ""),
    "armhf": ("arm", "v7"),
    "armel": ("arm", "v6"),
    "i386": ("386", ""),
}


def host_platform() -> Platform:
    """The platform of this machine."""
    machine = os.uname().machine
    architecture, variant = _MACHINES.get(machine, (machine, ""))
    return Platform(architecture=architecture, os="linux", variant=variant)


def parse_platform(text: str) -> Platform | None:
    """``os/arch[/variant]``, ``arch`` or ``os``; None for an empty string.

    Other names of an architecture (``x86_64``) stand for Go's.  Raises InvalidParameter.
    """
    if not text:
        return None
    parts = text.lower().split("/")
    if len(parts) > 3 or not all(_PART.match(part) for part in parts):
        raise InvalidParameter(f"invalid platform {text!r}: write it like linux/arm64")
    if len(parts) == 1:
        name = parts[0]
        if name in ("linux", "windows", "darwin", "freebsd"):
            return msgspec.structs.replace(host_platform(), os=name)
        if name not in _KNOWN and name not in _OTHER_NAMES:
            raise InvalidParameter(
                f"invalid platform {text!r}: unknown operating system or architecture"
            )
        parts = ["linux", name]
    architecture, variant = parts[1], "".join(parts[2:])
    architecture, implied = _OTHER_NAMES.get(architecture, (architecture, ""))
    variant = variant_of(architecture, variant or implied)
    return Platform(os=parts[0], architecture=architecture, variant=variant)


def platform_args(build: Platform, target: Platform, stage: str) -> dict[str, str]:
    """The arguments that BuildKit predefines in the global scope."""
    found = {}
    for prefix, platform in (("BUILD", build), ("TARGET", target)):
        found[prefix + "PLATFORM"] = str(platform)
        found[prefix + "OS"] = platform.os
        found[prefix + "ARCH"] = platform.architecture
        found[prefix + "VARIANT"] = platform.variant
    found["TARGETSTAGE"] = stage or "default"
    return found


@dataclass(slots=True)
class GlobalScope:
    """What is declared before the first FROM, and what the user gave.

    ``given`` are the user's arguments, ``values`` all that FROM lines can see, ``declared`` those
    that a stage may take over by a bare ``ARG name``.
    """

    given: Mapping[str, str]
    predefined: Mapping[str, str]
    values: dict[str, str] = field(default_factory=dict)
    declared: dict[str, str] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.values = dict(self.predefined)
        for name in self.predefined:
            if name in self.given:
                self.values[name] = self.given[name]

    def declare(self, name: str, default: str | None) -> None:
        """An ARG before the first FROM."""
        self.used.add(name)
        value = self.given.get(name, default)
        if value is not None:
            self.values[name] = value
            self.declared[name] = value

    def value_for_stage(self, name: str, default: str | None) -> str | None:
        """The value that ``ARG name[=default]`` has inside a stage."""
        self.used.add(name)
        if name in self.given:
            return self.given[name]
        if default is not None:
            return default
        if name in self.declared:
            return self.declared[name]
        return self.values.get(name) if name in self.predefined else None

    def unused(self) -> tuple[str, ...]:
        """Arguments that the user gave and no ARG declared."""
        known = self.used | BUILTIN | set(PROXIES) | set(self.predefined)
        return tuple(sorted(set(self.given) - known))


class StageScope:
    """The variables of one stage: ENV wins over ARG."""

    __slots__ = ("args", "declared", "env", "merged")

    def __init__(self, env: Mapping[str, str], args: Mapping[str, str | None]) -> None:
        self.env = dict(env)
        self.args: dict[str, str | None] = dict(args)
        self.declared: dict[str, str | None] = {}
        self.merged: dict[str, str] = {}
        self._merge()

    def _merge(self) -> None:
        self.merged = {k: v for k, v in self.args.items() if v is not None}
        self.merged.update(self.env)

    def set_env(self, pairs: Mapping[str, str]) -> None:
        self.env.update(pairs)
        self.merged.update(pairs)

    def set_arg(self, name: str, value: str | None) -> None:
        self.args[name] = self.declared[name] = value
        if value is not None and name not in self.env:
            self.merged[name] = value

    def shown_args(self) -> list[str]:
        """``name=value`` of the arguments that this stage declares, as history lists them."""
        return [f"{name}={value or ''}" for name, value in self.declared.items()]

    def run_env(self) -> tuple[str, ...]:
        """The whole environment of a RUN, arguments first."""
        env = [f"{k}={v}" for k, v in self.env.items()]
        if "PATH" not in self.env:
            env.insert(0, f"PATH={DEFAULT_PATH}")
        args = self.args.items()
        return (*(f"{k}={v}" for k, v in args if v is not None and k not in self.env), *env)
