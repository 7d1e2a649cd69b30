"""The cache inside an image: what ``--cache-from IMAGE`` reads, written on BUILDKIT_INLINE_CACHE=1.

The image configuration gets a member ``sampan.cache.v0``: for each step its result key, the keys
that lead to it, its time, and how many of the image's layers lie below and in it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import msgspec

from sampan.build.solver.cache import BuildCache, CacheRecord
from sampan.image.config import chain_ids
from sampan.image.digest import Digest
from sampan.store.layers import LayerRef

MEMBER = "sampan.cache.v0"


class InlineStep(msgspec.Struct):
    """``depth`` counts the image's layers up to this step."""

    result: str
    keys: list[str]
    created: float
    depth: int
    empty: bool = False
    description: str = ""


def add_to_config(config: bytes, steps: Sequence[InlineStep]) -> bytes:
    """The configuration with the steps in it."""
    document = msgspec.json.decode(config)
    document[MEMBER] = [msgspec.to_builtins(step) for step in steps]
    return msgspec.json.encode(document, order="deterministic")


def steps_of(config: bytes) -> list[InlineStep]:
    """The steps in a configuration; none if it has no cache, or a malformed one."""
    try:
        document = msgspec.json.decode(config, type=dict[str, msgspec.Raw])
        raw = document.get(MEMBER)
        return msgspec.json.decode(raw, type=list[InlineStep]) if raw is not None else []
    except (msgspec.DecodeError, UnicodeDecodeError):
        return []


def import_steps(cache: BuildCache, steps: Sequence[InlineStep], layers: Sequence[LayerRef]) -> int:
    """Add the steps to the cache; the layers' snapshots must be there under their chain IDs.

    Returns how many were new.
    """
    chains: list[Digest] = chain_ids(layer.diff_id for layer in layers)
    now = time.time()
    added = 0
    for step in steps:
        if not 0 <= step.depth <= len(chains) or not step.keys:
            continue
        if all(cache.find(key) is not None for key in step.keys):
            continue
        snapshot = chains[step.depth - 1] if step.depth else None
        below = step.depth - (not step.empty)
        record = CacheRecord(
            step.result,
            snapshot,
            chains[below - 1] if below > 0 else None,
            step.created,
            now,
            step.description,
            empty=step.empty,
            layer=layers[step.depth - 1] if step.depth and not step.empty else None,
        )
        cache.add(record, step.keys)
        added += 1
    return added
