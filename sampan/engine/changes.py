"""``--change``: Dockerfile instructions applied to an image's configuration (commit, import)."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from sampan.build.dockerfile import DockerfileError, ast, parse_instruction
from sampan.build.dockerfile.errors import SyntaxProblem
from sampan.build.graph.dispatch import Dispatcher
from sampan.build.graph.draft import Draft
from sampan.build.graph.ops import Merge, Vertex
from sampan.build.graph.scope import DEFAULT_PATH, GlobalScope, host_platform
from sampan.errors import InvalidParameter
from sampan.image.config import ImageConfig, RunConfig

_ALLOWED = (
    ast.Cmd,
    ast.Entrypoint,
    ast.Env,
    ast.Expose,
    ast.Healthcheck,
    ast.Label,
    ast.Onbuild,
    ast.Stopsignal,
    ast.User,
    ast.Volume,
    ast.Workdir,
)


class _NoInputs:
    """None of the instructions allowed here reads files."""

    def local(self) -> Vertex:
        raise SyntaxProblem("there is no build context here")

    def named(self, name: str, at: ast.Instruction) -> Vertex | None:
        raise SyntaxProblem(f"there is no stage {name} here")


def apply(config: RunConfig, changes: Iterable[str]) -> RunConfig:
    """``config`` as the instructions change it.

    Raises InvalidParameter for a malformed one, or one that does more than change configuration.
    """
    texts = [text for change in changes for text in _statements(change)]
    if not texts:
        return config
    draft = Draft.on_image(ImageConfig(config=config), Vertex(Merge()), host_platform())
    dispatcher = Dispatcher(
        draft, "\\", GlobalScope({}, {}), _NoInputs(), no_cache=False, network="default"
    )
    for text in texts:
        try:
            instruction = parse_instruction(text, "change")
            if not isinstance(instruction, _ALLOWED):
                raise InvalidParameter(
                    f"{instruction.keyword.lower()} is not a valid change command"
                )
            dispatcher.apply(instruction)
        except SyntaxProblem as problem:
            raise InvalidParameter(f"invalid change {text!r}: {problem.reason}") from None
        except DockerfileError as problem:
            raise InvalidParameter(f"invalid change {text!r}: {problem}") from None
    changed = draft.run_config()
    triggers = [*(config.on_build or ()), *(changed.on_build or ())]
    env = changed.env or []
    if not any(entry.startswith("PATH=") for entry in config.env or ()):
        # A build begins with one; a change does not bring it.
        env = [entry for entry in env if entry != f"PATH={DEFAULT_PATH}"]
    working_dir = changed.working_dir
    if working_dir == "/" and not config.working_dir:
        working_dir = ""
    return msgspec.structs.replace(
        config,
        user=changed.user,
        exposed_ports=changed.exposed_ports,
        env=env or None,
        cmd=changed.cmd,
        healthcheck=changed.healthcheck,
        volumes=changed.volumes,
        working_dir=working_dir,
        entrypoint=changed.entrypoint,
        on_build=triggers or None,
        labels=changed.labels,
        stop_signal=changed.stop_signal,
    )


def _statements(change: str) -> list[str]:
    """The instructions of one parameter, which may hold several lines."""
    if not change.strip():
        return []
    lines = change.splitlines()
    if any(line.rstrip().endswith("\\") for line in lines):
        return [change]
    return [line for line in lines if line.strip()]
