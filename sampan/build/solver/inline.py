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
    """``depth`` counts the image's layers up to this step.  ``layers`` are their numbers where
    they are not the image's lowest ones."""

    result: str
    keys: list[str]
    created: float
    depth: int
    empty: bool = False
    description: str = ""
    layers: list[int] | None = None

    def stack(self, layers: Sequence[LayerRef]) -> list[LayerRef] | None:
        """The layers that the step's result consists of; None if the image does not have them."""
        if self.layers is None:
            return list(layers[: self.depth]) if 0 <= self.depth <= len(layers) else None
        if not all(0 <= number < len(layers) for number in self.layers):
            return None
        return [layers[number] for number in self.layers]


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


def import_step(cache: BuildCache, step: InlineStep, stack: Sequence[LayerRef]) -> None:
    """Add a step to the cache; the snapshot of ``stack`` must be there under its chain ID."""
    chains: list[Digest] = chain_ids(layer.diff_id for layer in stack)
    below = len(chains) - (not step.empty)
    record = CacheRecord(
        step.result,
        chains[-1] if chains else None,
        chains[below - 1] if below > 0 else None,
        step.created,
        time.time(),
        step.description,
        empty=step.empty,
        layer=stack[-1] if stack and not step.empty else None,
    )
    cache.add(record, step.keys)


def is_new(cache: BuildCache, step: InlineStep) -> bool:
    """Whether a step tells something that the cache does not know."""
    return bool(step.keys) and any(cache.find(key) is None for key in step.keys)
