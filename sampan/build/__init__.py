"""Dockerfile to image.

Vocabulary
----------

*instruction*
    One statement of a Dockerfile, a typed value with its position (``build.dockerfile``).
*stage*
    What one ``FROM`` begins.  Stages are numbered from 0 and may have a name.
*operation*
    One node of the graph (``build.graph``), in the vocabulary of BuildKit's LLB: *source* brings
    an image or the local context, *exec* runs a command, *file* copies, *merge* and *diff* combine.
    Instructions that only change the image's configuration make no operation.
*key*
    The digest of an operation's definition, of the keys of its inputs and of the checksums of the
    files it reads.  Equal keys, equal results: the key is the cache's only index.
*snapshot*
    A committed state of a root file system in the snapshotter; an operation's result.  The name
    of a build's snapshot is its key.  Layers' tars are made at the end, from the snapshots.
*vertex*
    An operation as progress shows it: name, times, log.

Life cycle of a build
---------------------

1. ``dockerfile.parse(text)`` gives the tree; mistakes raise
   :class:`~sampan.build.dockerfile.errors.DockerfileError` with the line marked.
2. ``graph.plan(...)`` expands variables, picks the stages that the target needs and makes the
   graph; nothing is read but the tree.
3. ``solver.solve(...)`` computes keys, takes what the cache has, and runs the rest in parallel.
4. The exporter writes the layers' tars and registers the image (or writes a folder or a tar).

Everything that happens is told through ``report``, from the event loop's thread, as values of
:data:`BuildEvent`.
"""

from __future__ import annotations

from collections.abc import Callable

from sampan.build.types import (
    BuildDeps,
    BuildEvent,
    BuildRequest,
    BuildResult,
    BuildWarning,
    Output,
    StepCached,
    StepDone,
    StepFailed,
    StepLog,
    StepProgress,
    StepRunning,
    StepStarted,
    Vertex,
)

__all__ = [
    "BuildDeps",
    "BuildEvent",
    "BuildRequest",
    "BuildResult",
    "BuildWarning",
    "Output",
    "StepCached",
    "StepDone",
    "StepFailed",
    "StepLog",
    "StepProgress",
    "StepRunning",
    "StepStarted",
    "Vertex",
    "build",
]


async def build(
    request: BuildRequest, deps: BuildDeps, report: Callable[[BuildEvent], None]
) -> BuildResult:
    """Build ``request`` and register the image; tags are applied in the same transaction.

    Raises :class:`sampan.errors.InvalidParameter` for a Dockerfile or context that is wrong (the
    message holds the source excerpt), :class:`sampan.build.errors.StepError` for a command that
    failed (its ``exit_code`` is the command's), and the errors of pulling a base image.
    Cancelling the task kills the running steps and leaves nothing behind but the cache.
    """
    from sampan.build.builder import run

    return await run(request, deps, report)
