"""What a Dockerfile offers: its targets, and what one of them takes.

A comment right above a ``FROM … AS name`` or an ``ARG name`` that begins with the name describes it.
The documents are BuildKit's, as ``--call`` prints them in JSON.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Sequence
from typing import Any

from sampan.build.dockerfile import ast
from sampan.build.graph.plan import Plan
from sampan.build.types import BuildWarning


def targets(tree: ast.Dockerfile) -> dict[str, Any]:
    """The stages that can be built by name, and the one that is built by default."""
    last = tree.stages[-1]
    found = []
    for stage in tree.stages:
        if not stage.name and stage is not last:
            continue
        entry: dict[str, Any] = {"name": stage.name or "default"}
        if stage is last:
            entry["default"] = True
        entry["base"] = stage.origin.image
        if stage.origin.platform:
            entry["platform"] = stage.origin.platform
        entry |= _described(stage.origin, stage.name)
        found.append(entry)
    return {"default": last.name or "default", "targets": found}


def outline(tree: ast.Dockerfile, plan: Plan) -> dict[str, Any]:
    """The build arguments, secrets and ssh agents that the target of the plan takes."""
    stage = plan.target.stage
    document: dict[str, Any] = {"name": stage.name or "default"}
    document |= _described(stage.origin, stage.name)
    args: dict[str, dict[str, Any]] = {}
    for arg in tree.global_args:
        for pair in arg.pairs:
            entry: dict[str, Any] = {"name": pair.key}
            if pair.key in plan.global_args:
                entry["value"] = plan.global_args[pair.key]
            args[pair.key] = entry | _described(arg, pair.key)
    secrets: dict[str, bool] = {}
    agents: dict[str, bool] = {}
    for needed in plan.stages:
        for step in needed.steps:
            instruction = step.instruction
            if isinstance(instruction, ast.Arg):
                for pair in instruction.pairs:
                    entry = args.setdefault(pair.key, {"name": pair.key})
                    value = needed.draft.scope.declared.get(pair.key)
                    entry |= {} if value is None else {"value": value}
                    entry |= _described(instruction, pair.key)
            elif isinstance(instruction, ast.Run):
                for kind, name, required in _asked(instruction):
                    asked = secrets if kind == "secret" else agents
                    asked[name] = asked.get(name, False) or required
    document["args"] = list(args.values())
    for key, asked in (("secrets", secrets), ("ssh", agents)):
        document[key] = [{"name": name, "required": needed} for name, needed in asked.items()]
    return document


def findings(warnings: Sequence[BuildWarning]) -> dict[str, Any]:
    """What the linter found."""
    return {
        "warnings": [
            {
                "ruleName": found.rule,
                "description": found.description,
                "url": found.url,
                "detail": found.message,
                "line": found.line,
                "excerpt": found.excerpt,
            }
            for found in warnings
        ]
    }


def _described(instruction: ast.Instruction, name: str) -> dict[str, str]:
    for comment in instruction.comments:
        first, _, rest = comment.partition(" ")
        if name and first.lower() == name.lower() and rest.strip():
            return {"description": rest.strip()}
    return {}


def _asked(run: ast.Run) -> Iterator[tuple[str, str, bool]]:
    """``(kind, id, required)`` of the secrets and agents that a command mounts."""
    for mount in run.mounts:
        options = dict(mount.options)
        kind = options.get("type")
        if kind not in ("secret", "ssh"):
            continue
        place = options.get("target") or options.get("dst") or options.get("destination") or ""
        name = options.get("id") or (posixpath.basename(place) if kind == "secret" else "default")
        required = "required" in options and (options["required"] or "true").lower() == "true"
        yield kind, name, required
