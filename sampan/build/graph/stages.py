"""Which stages a target needs, and in what order they can be planned."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator

from sampan.build.dockerfile import ast
from sampan.build.dockerfile.locate import mistake
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
            near = nearest(name, self._by_name)
            raise InvalidParameter(
                f"target stage {name!r} could not be found{near} (known stages: {known})"
            )
        return found

    def near(self, name: str, at: ast.Instruction, contexts: Iterable[str]) -> str:
        """What may have been meant by a name in ``at`` that is neither a stage's nor a context's."""
        stages = self.tree.stages
        if isinstance(at, ast.From):
            number = next((s.number for s in stages if s.origin is at), len(stages))
            if any(stage.name == name.lower() for stage in stages[number:]):
                return " (the stage of that name is not before this line)"
            stages = stages[:number]
        return nearest(name, [*(stage.name for stage in stages if stage.name), *contexts])

    def base_of(self, stage: ast.Stage, image: str) -> ast.Stage | None:
        """The earlier stage that ``FROM image`` means, or None for an image."""
        wanted = image.lower()
        for earlier in reversed(self.tree.stages[: stage.number]):
            if earlier.name == wanted:
                return earlier
        return None

    def source(self, name: str, user: ast.Stage, at: ast.Instruction) -> ast.Stage | None:
        """The stage that ``--from=name`` means, or None for an image or a named context.

        Raises DockerfileError.
        """
        if "$" in name:
            raise mistake(
                "variable expansion is not supported for --from: define a new stage with FROM "
                "using an ARG of the global scope instead",
                self.tree.source,
                at,
                name,
            )
        found = self._by_name.get(name.lower())
        if found is None and name.isdecimal():
            number = int(name)
            if number >= user.number:
                raise mistake(
                    f"invalid from flag value {name}: there is no earlier stage of that number",
                    self.tree.source,
                    at,
                    name,
                )
            found = self.tree.stages[number]
        if found is user:
            raise mistake(
                f"circular dependency detected on stage: {name}", self.tree.source, at, name
            )
        return found


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint at the known name that is most like the one that was given; empty without one."""
    match = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.7)
    return f" (did you mean {match[0]!r}?)" if match else ""


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
