"""Which stages a target needs, and in what order they can be planned."""

from __future__ import annotations

from collections.abc import Iterator

from sampan.build.dockerfile import ast
from sampan.build.dockerfile.errors import DockerfileError
from sampan.errors import InvalidParameter


class Stages:
    """The stages of a Dockerfile by name and number."""

    def __init__(self, tree: ast.Dockerfile) -> None:
        self.tree = tree
        self._by_name = {stage.name: stage for stage in tree.stages if stage.name}

    def target(self, name: str) -> ast.Stage:
        """The stage to build: by name, by number, or the last one."""
        if not name:
            return self.tree.stages[-1]
        found = self._by_name.get(name.lower())
        if found is None and name.isdecimal() and int(name) < len(self.tree.stages):
            found = self.tree.stages[int(name)]
        if found is None:
            known = ", ".join(self._by_name) or "no stage has a name"
            raise InvalidParameter(
                f"target stage {name!r} could not be found (known stages: {known})"
            )
        return found

    def base_of(self, stage: ast.Stage, image: str) -> ast.Stage | None:
        """The earlier stage that ``FROM image`` means, or None for an image."""
        wanted = image.lower()
        for earlier in reversed(self.tree.stages[: stage.number]):
            if earlier.name == wanted:
                return earlier
        return None

    def source(self, name: str, user: ast.Stage, at: ast.Instruction) -> ast.Stage | None:
        """The stage that ``--from=name`` means, or None for an image or a named context."""
        found = self._by_name.get(name.lower())
        if found is None and name.isdecimal():
            number = int(name)
            if number >= user.number:
                raise DockerfileError(
                    f"invalid from flag value {name}: there is no earlier stage of that number",
                    self.tree.source,
                    at.span,
                )
            found = self.tree.stages[number]
        if found is user:
            raise DockerfileError(
                f"circular dependency detected on stage: {name}", self.tree.source, at.span
            )
        return found


def sources_named(instruction: ast.Instruction) -> Iterator[str]:
    """The names that an instruction's ``--from`` and mounts refer to."""
    if isinstance(instruction, ast.Onbuild):
        return
    if isinstance(instruction, ast.Copy) and instruction.source_stage:
        yield instruction.source_stage
    if isinstance(instruction, ast.Run):
        for mount in instruction.mounts:
            for key, value in mount.options:
                if key == "from" and value:
                    yield value
