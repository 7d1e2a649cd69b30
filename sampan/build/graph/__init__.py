"""Graphs of operations, and the front end that makes one of a Dockerfile.

The vocabulary is that of BuildKit's LLB:

*vertex*
    An operation with its inputs, which are vertices.  Its digest covers both, so equal graphs have
    equal digests wherever they come from.  ``None`` as an input is the empty tree (``scratch``).
*source*
    Brings files from outside: ``docker-image://``, ``local://``, ``https://``, ``git://``.
*exec*
    Runs a command on its first input; the others are mounted.
*file*
    Copies, makes files or makes directories on its first input, from the others; no process.
*merge*
    Lays the changes of its later inputs over its first one.

``ops`` knows nothing of Dockerfiles.  ``plan`` makes a :class:`Plan` of a tree: it decides what
stages the target needs, follows variables through each, and keeps the image configuration.
"""

from __future__ import annotations

from sampan.build.graph.ops import Vertex
from sampan.build.graph.plan import Plan, Planner, StagePlan, Step

__all__ = ["Plan", "Planner", "StagePlan", "Step", "Vertex"]
