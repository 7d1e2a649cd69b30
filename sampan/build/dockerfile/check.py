"""The linter: the rules that Docker documents for ``build --check``.

``# check=skip=RULE,RULE;error=true`` on top of the file leaves rules out (``skip=all`` all of
them) and makes findings errors.
"""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from sampan.build.dockerfile import ast
from sampan.build.dockerfile.source import Span

_DESCRIPTIONS = {
    "StageNameCasing": "Stage names should be lowercase",
    "FromAsCasing": "The 'as' keyword should match the case of the 'from' keyword",
    "NoEmptyContinuation": "Empty continuation lines will become errors in a future release",
    "ConsistentInstructionCasing": (
        "All commands within the Dockerfile should use the same casing (either upper or lower)"
    ),
    "DuplicateStageName": "Stage names should be unique",
    "ReservedStageName": "Reserved words should not be used as stage names",
    "JSONArgsRecommended": (
        "JSON arguments recommended for ENTRYPOINT/CMD to prevent unintended behavior related to"
        " OS signals"
    ),
    "MaintainerDeprecated": (
        "The MAINTAINER instruction is deprecated, use a label instead to define an image author"
    ),
    "UndefinedArgInFrom": "FROM command must use declared ARGs",
    "UndefinedVar": "Variables should be defined before their use",
    "WorkdirRelativePath": (
        "Relative workdir without an absolute workdir declared within the build can have"
        " unexpected results if the base image changes"
    ),
    "RedundantTargetPlatform": (
        "Setting platform to predefined $TARGETPLATFORM in FROM is redundant as this is the"
        " default behavior"
    ),
    "SecretsUsedInArgOrEnv": "Sensitive data should not be used in the ARG or ENV commands",
    "LegacyKeyValueFormat": (
        "Legacy key/value format with whitespace separator should not be used"
    ),
    "MultipleInstructionsDisallowed": (
        "Multiple instructions of the same type should not be used in the same stage"
    ),
    "InvalidDefaultArgInFrom": (
        "Default value for global ARG results in an empty or invalid base image name"
    ),
    "FromPlatformFlagConstDisallowed": "FROM --platform flag should not use a constant value",
    "InvalidBaseImagePlatform": "Base image platform does not match expected target platform",
    "CopyIgnoredFile": ("Attempting to Copy file that is excluded by .dockerignore"),
    "InvalidDefinitionDescription": (
        "Comment for build stage or argument should follow the format: `# <arg/stage name>"
        " <description>`. If this is not intended to be a description comment, add an empty line"
        " or comment between the instruction and the comment."
    ),
    "ExposeProtoCasing": "Protocol in EXPOSE instruction should be lowercase",
    "ExposeInvalidFormat": (
        "IP address and host-port mapping should not be used in EXPOSE instruction"
    ),
}
EXPERIMENTAL = frozenset({"CopyIgnoredFile", "InvalidDefinitionDescription"})
"""Rules that count only where they are asked for."""
_SECRET = re.compile(
    r"(?:^|_)(apikey|auth|credential|credentials|key|password|pword|passwd|secret|token)(?:_|$)",
    re.IGNORECASE,
)
_NOT_SECRET = re.compile(r"(?:^|_)(public|file|version)(?:_|$)", re.IGNORECASE)
_HOST_PORT = re.compile(r"^[^/]*:[^/]*(/.*)?$")


@dataclass(frozen=True, slots=True)
class Finding:
    """``rule`` is the documented name; ``span`` where it applies."""

    rule: str
    message: str
    span: Span

    @property
    def description(self) -> str:
        return _DESCRIPTIONS[self.rule]

    @property
    def url(self) -> str:
        slug = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "-", self.rule).lower()
        return f"https://docs.docker.com/go/dockerfile/rule/{slug}/"


@dataclass(frozen=True, slots=True)
class CheckOptions:
    """What ``# check=…`` (or the build argument BUILDKIT_DOCKERFILE_CHECK) says."""

    skip: frozenset[str] = frozenset()
    skip_all: bool = False
    error: bool = False
    experimental: frozenset[str] = frozenset()

    def wants(self, rule: str) -> bool:
        """Whether findings of the rule count."""
        return rule not in self.skip and (rule not in EXPERIMENTAL or rule in self.experimental)


def options_of(text: str) -> CheckOptions:
    """Parse ``skip=A,B;error=true;experimental=C``; unknown settings are ignored as Docker does."""
    skip: frozenset[str] = frozenset()
    experimental: frozenset[str] = frozenset()
    skip_all = error = False
    for part in text.split(";"):
        key, _, value = part.strip().partition("=")
        if key.strip().lower() == "skip":
            names = {name.strip() for name in value.split(",")}
            skip_all = "all" in names
            skip = frozenset(names)
        elif key.strip().lower() == "error":
            error = value.strip().lower() in ("true", "1")
        elif key.strip().lower() == "experimental":
            names = {name.strip() for name in value.split(",")}
            experimental = EXPERIMENTAL if "all" in names else frozenset(names)
    return CheckOptions(skip, skip_all, error, experimental)


def check(
    tree: ast.Dockerfile,
    undefined: Iterable[tuple[str, ast.Instruction]],
    ignored: Callable[[str], bool],
    options: CheckOptions,
    foreign: Iterable[tuple[ast.From, str, str, str]] = (),
) -> list[Finding]:
    """The findings in the file's order.

    ``undefined`` are variables that planning found without a value, with their instruction;
    ``ignored`` tells whether ``.dockerignore`` leaves a path out; ``foreign`` are base images for
    another platform than was wanted: where, the image's name, its platform and the wanted one.
    """
    if options.skip_all:
        return []
    found = [
        *_casing(tree),
        *_stages(tree),
        *_instructions(tree, ignored),
        *_variables(tree, undefined),
        *_definitions(tree),
        *_foreign(foreign),
    ]
    for span in tree.empty_continuations:
        found.append(Finding("NoEmptyContinuation", "Empty continuation line", span))
    kept = [finding for finding in dict.fromkeys(found) if options.wants(finding.rule)]
    return sorted(kept, key=lambda finding: (finding.span.line, finding.rule))


def _all(tree: ast.Dockerfile) -> Iterator[ast.Instruction]:
    yield from tree.global_args
    for stage in tree.stages:
        yield stage.origin
        yield from stage.body


def _casing(tree: ast.Dockerfile) -> Iterator[Finding]:
    counts = Counter(
        "lower" if i.keyword.islower() else "upper"
        for i in _all(tree)
        if i.keyword.islower() or i.keyword.isupper()
    )
    lower = counts["lower"] > counts["upper"]
    wanted = "lowercase" if lower else "uppercase"
    for instruction in _all(tree):
        word = instruction.keyword
        if word != (word.lower() if lower else word.upper()):
            yield Finding(
                "ConsistentInstructionCasing",
                f"Command '{word}' should match the case of the command majority ({wanted})",
                instruction.span,
            )


def _stages(tree: ast.Dockerfile) -> Iterator[Finding]:
    seen: set[str] = set()
    for stage in tree.stages:
        origin = stage.origin
        name, span = origin.name, origin.span
        if name:
            if name != name.lower():
                yield Finding("StageNameCasing", f"Stage name '{name}' should be lowercase", span)
            if stage.name in seen:
                yield Finding(
                    "DuplicateStageName",
                    f"Duplicate stage name '{name}', stage names should be unique",
                    span,
                )
            if stage.name in ("scratch", "context"):
                yield Finding(
                    "ReservedStageName",
                    f"Stage name should not use the same name as reserved stage '{stage.name}'",
                    span,
                )
            written = tree.source.lines[span.line - 1]
            match = re.search(r"\s(as)\s", written, re.IGNORECASE)
            if match and match[1].islower() != origin.keyword.islower():
                yield Finding(
                    "FromAsCasing",
                    f"'{match[1]}' and '{origin.keyword}' keywords' casing do not match",
                    span,
                )
            seen.add(stage.name)
        yield from _platform(origin)


def _definitions(tree: ast.Dockerfile) -> Iterator[Finding]:
    for instruction in _all(tree):
        if isinstance(instruction, ast.From):
            what, name = "FROM", instruction.name or ""
        elif isinstance(instruction, ast.Arg) and len(instruction.pairs) == 1:
            what, name = "ARG", instruction.pairs[0].key
        else:
            continue
        comments = [comment.lower() for comment in instruction.comments]
        if name and comments and not any(c.startswith(f"{name.lower()} ") for c in comments):
            yield Finding(
                "InvalidDefinitionDescription",
                f"Comment for {what} should follow the format: `# {name} <description>`",
                instruction.span,
            )


def _platform(origin: ast.From) -> Iterator[Finding]:
    if origin.platform in ("$TARGETPLATFORM", "${TARGETPLATFORM}"):
        yield Finding(
            "RedundantTargetPlatform",
            "Setting platform to predefined $TARGETPLATFORM in FROM is redundant as this is the"
            " default behavior",
            origin.span,
        )
    elif origin.platform and "$" not in origin.platform:
        yield Finding(
            "FromPlatformFlagConstDisallowed",
            f'FROM --platform flag should not use constant value "{origin.platform}"',
            origin.span,
        )


def _instructions(tree: ast.Dockerfile, ignored: Callable[[str], bool]) -> Iterator[Finding]:
    for arg in tree.global_args:
        yield from _secrets(arg)
    for stage in tree.stages:
        absolute = False
        has_shell = False
        last: dict[type[ast.Instruction], ast.Instruction] = {}
        for i in stage.body:
            span = i.span
            if isinstance(i, ast.Shell):
                has_shell = True
            if isinstance(i, ast.Cmd | ast.Entrypoint | ast.Healthcheck):
                if type(i) in last:
                    name = i.keyword.upper()
                    yield Finding(
                        "MultipleInstructionsDisallowed",
                        f"Multiple {name} instructions should not be used in the same stage"
                        " because only the last one will be used",
                        last[type(i)].span,
                    )
                last[type(i)] = i
            if (
                isinstance(i, ast.Cmd | ast.Entrypoint)
                and isinstance(i.command, ast.ShellForm)
                and not has_shell
            ):
                yield Finding(
                    "JSONArgsRecommended",
                    f"JSON arguments recommended for {i.keyword.upper()} to prevent unintended"
                    " behavior related to OS signals",
                    span,
                )
            elif isinstance(i, ast.Maintainer):
                yield Finding(
                    "MaintainerDeprecated",
                    "Maintainer instruction is deprecated in favor of using label",
                    span,
                )
            elif isinstance(i, ast.Workdir):
                if not i.path.strip("'\"").startswith(("/", "$")) and not absolute:
                    yield Finding(
                        "WorkdirRelativePath",
                        f'Relative workdir "{i.path}" can have unexpected results if the base'
                        " image changes",
                        span,
                    )
                absolute = True
            elif isinstance(i, ast.Expose):
                yield from _expose(i)
            elif isinstance(i, ast.Copy) and not i.source_stage:
                yield from _ignored(i, ignored)
            if isinstance(i, ast.Env | ast.Label):
                for pair in i.pairs:
                    if pair.spaced:
                        name = i.keyword.upper()
                        yield Finding(
                            "LegacyKeyValueFormat",
                            f'"{name} key=value" should be used instead of legacy'
                            f' "{name} key value" format',
                            span,
                        )
            if isinstance(i, ast.Env | ast.Arg):
                yield from _secrets(i)


def _secrets(i: ast.Env | ast.Arg) -> Iterator[Finding]:
    for pair in i.pairs:
        if _SECRET.search(pair.key) and not _NOT_SECRET.search(pair.key):
            yield Finding(
                "SecretsUsedInArgOrEnv",
                "Do not use ARG or ENV instructions for sensitive data"
                f' ({i.keyword.upper()} "{pair.key}")',
                i.span,
            )


def _expose(i: ast.Expose) -> Iterator[Finding]:
    for port in i.ports:
        if "$" in port:
            continue
        if _HOST_PORT.match(port):
            yield Finding(
                "ExposeInvalidFormat",
                "EXPOSE instruction should not define an IP address or host-port mapping, found"
                f" '{port}'",
                i.span,
            )
        if port != port.lower():
            yield Finding(
                "ExposeProtoCasing",
                f"Defined protocol '{port}' in EXPOSE instruction should be lowercase",
                i.span,
            )


def _ignored(i: ast.Copy, ignored: Callable[[str], bool]) -> Iterator[Finding]:
    documents = {doc.word for doc in i.heredocs}
    for source in i.sources:
        path = source.strip("/").removeprefix("./")
        if source in documents or "$" in source or "://" in source or path in ("", "."):
            continue
        if ignored(path):
            yield Finding(
                "CopyIgnoredFile",
                f'Attempting to {i.keyword.upper()} file "{source}" that is excluded by'
                " .dockerignore",
                i.span,
            )


def _foreign(foreign: Iterable[tuple[ast.From, str, str, str]]) -> Iterator[Finding]:
    for origin, name, actual, wanted in foreign:
        yield Finding(
            "InvalidBaseImagePlatform",
            f'Base image {name} was pulled with platform "{actual}", expected "{wanted}" for'
            " current build",
            origin.span,
        )


def _variables(
    tree: ast.Dockerfile, undefined: Iterable[tuple[str, ast.Instruction]]
) -> Iterator[Finding]:
    known = {pair.key for i in _all(tree) if isinstance(i, ast.Arg | ast.Env) for pair in i.pairs}
    for name, i in undefined:
        if isinstance(i, ast.From):
            declared = any(pair.key == name for arg in tree.global_args for pair in arg.pairs)
            if declared:
                yield Finding(
                    "InvalidDefaultArgInFrom",
                    f"Default value for ARG {i.image} results in empty or invalid base image name",
                    i.span,
                )
                continue
            near = _near(name, known)
            yield Finding(
                "UndefinedArgInFrom", f"FROM argument '{name}' is not declared{near}", i.span
            )
        elif name not in _declared_before(tree, i):
            near = _near(name, known, "$")
            yield Finding("UndefinedVar", f"Usage of undefined variable '${name}'{near}", i.span)


def _declared_before(tree: ast.Dockerfile, at: ast.Instruction) -> set[str]:
    """Arguments that the stage has declared, with a value or without."""
    for stage in tree.stages:
        names: set[str] = set()
        for i in stage.body:
            if i is at:
                return names
            if isinstance(i, ast.Arg):
                names.update(pair.key for pair in i.pairs)
    return set()


def _near(name: str, known: Iterable[str], sign: str = "") -> str:
    match = difflib.get_close_matches(name, [*known, "PATH"], n=1, cutoff=0.7)
    return f" (did you mean {sign}{match[0]}?)" if match and match[0] != name else ""
