"""Computes a graph's results: from the cache where it can, in parallel where it must.

*key*
    Digest of a vertex's definition, its inputs' result keys and the checksums of what it reads.
*record*
    What the cache keeps under a key: the snapshot, when it was made, its layer once there is one.
    Several keys may lead to one record.
*result key*
    Random, given when work is done, and inherited by every later hit.  What is built on a result
    is cached under that result's key, so that a snapshot always lies on the one it was made on.

Work that is wanted twice at the same time, by one build or several, is done once.
"""

from __future__ import annotations

from sampan.build.solver.cache import BuildCache, CacheRecord
from sampan.build.solver.scheduler import Result, Solver

__all__ = ["BuildCache", "CacheRecord", "Result", "Solver"]
