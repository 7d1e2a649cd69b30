"""From a solved plan to an image: layers, configuration, history, registration."""

from __future__ import annotations

import asyncio
import datetime
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec

from sampan.build.graph.draft import Record
from sampan.build.graph.plan import StagePlan
from sampan.build.ops.replay import replay
from sampan.build.ops.tree import mounted
from sampan.build.solver.cache import UNFINISHED, BuildCache
from sampan.build.solver.inline import InlineStep, add_to_config
from sampan.build.solver.scheduler import Result, Solver
from sampan.errors import NotFound
from sampan.image import config as image_config
from sampan.image import manifest as media
from sampan.image.config import History, ImageConfig, RootFS, chain_id, chain_ids
from sampan.image.digest import sha256
from sampan.image.manifest import Descriptor, Manifest
from sampan.image.reference import Reference
from sampan.store.images import Image, ImageStore
from sampan.store.layers import LayerRef
from sampan.store.snapshots import Snapshotter

COMMENT = "sampan.dockerfile.v0"


@dataclass(frozen=True, slots=True)
class Assembled:
    """An image that is not registered yet; ``new`` unless it is its base as it was."""

    config: bytes
    layers: tuple[LayerRef, ...]
    manifest: bytes | None
    new: bool


class Exporter:
    """Makes images of solved stages.  ``epoch`` (seconds) fixes all times."""

    def __init__(
        self,
        images: ImageStore,
        cache: BuildCache,
        epoch: int | None,
    ) -> None:
        self._images = images
        self._cache = cache
        self._epoch = epoch
        self._early: dict[str, tuple[Result, asyncio.Task[LayerRef]]] = {}

    def begin(self, result: Result) -> None:
        """Make the layer of a result now, while later steps run."""
        record = result.record
        if self._epoch is not None or record is None or record.empty or record.layer is not None:
            return
        if record.id not in self._early:
            self._early[record.id] = result, asyncio.create_task(self._layer(result))

    async def close(self) -> None:
        """Stop what was begun and is not needed any more; what is made is kept for a next build."""
        if not self._early:
            return
        tasks = [task for _, task in self._early.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        made = []
        for result, task in self._early.values():
            record = result.record
            failed = task.cancelled() or task.exception() is not None
            if not failed and record is not None and record.layer is None:
                record.layer = task.result()
                made.append(record)
        self._early.clear()
        self._cache.save(made)

    async def assemble(
        self,
        plan: StagePlan,
        base: Image | None,
        solver: Solver,
        annotations: Mapping[str, str],
        *,
        inline_cache: bool = False,
        squash: bool = False,
    ) -> Assembled:
        """Make the missing layers' tars in parallel, and the configuration over them.

        ``inline_cache`` puts the steps' cache keys into the configuration; ``squash`` makes one
        layer of all that the build added.
        """
        draft = plan.draft
        base_layers = list(self._images.layers_of(base.id)) if base is not None else []
        results = [None if r.vertex is None else solver.result(r.vertex) for r in draft.history]
        layered = [result for result in results if _has_layer(result)]
        new = [result for result in layered if result is not None]
        lines = self._history(draft.history, results, base)
        if squash and len(new) > 1:
            made = [await self._squashed(new, base_layers)]
            lines = [msgspec.structs.replace(line, empty_layer=True) for line in lines]
            lines.append(
                History(lines[-1].created, comment=f"merge of {len(new)} layers by --squash")
            )
        else:
            made = await self.layers(new)
        layers = tuple(base_layers + made)
        history = draft.base_history() + lines
        created = history[-1].created if history else self._time(0.0)
        if self._epoch is not None:
            created = self._time(0.0)
        config = ImageConfig(
            architecture=draft.platform.architecture,
            os=draft.platform.os or "linux",
            variant=draft.platform.variant,
            config=draft.run_config(),
            rootfs=RootFS(diff_ids=[layer.diff_id for layer in layers]),
            history=history,
            created=created,
            author=draft.author,
        )
        data = image_config.encode(config)
        if len(made) == len(new):
            self._name_snapshots(new, layers, len(base_layers))
            if inline_cache:
                data = add_to_config(data, _inline(results, len(base_layers)))
        manifest = self._manifest(data, layers, annotations) if annotations else None
        return Assembled(data, layers, manifest, new=bool(lines))

    def register(self, assembled: Assembled, tags: Sequence[Reference]) -> Image:
        """Put the image into the image store under its tags, in one transaction."""
        images = self._images
        image = images.register(assembled.config, assembled.layers, assembled.manifest, tags)
        if assembled.new and assembled.manifest is None and images.annotations(image):
            # An earlier build of the same has had them.
            images.forget_manifest(image.id)
            image = images.get(image.id)
        return image

    async def layers(self, results: Sequence[Result]) -> list[LayerRef]:
        """The layers of the results, made in parallel where there is none yet."""
        layers = await asyncio.gather(*(self._layer(result) for result in results))
        if self._epoch is None:
            made = [r.record for r in results if r.record is not None and r.record.layer is None]
            for result, layer in zip(results, layers, strict=True):
                if result.record is not None:
                    result.record.layer = layer
            self._cache.save(made)
        return layers

    async def _layer(self, result: Result) -> LayerRef:
        record = result.record
        assert record is not None and result.snapshot is not None
        if self._epoch is not None:
            return await self._images.commit_layer(result.snapshot, clamp_mtime=self._epoch)
        begun = self._early.get(record.id)
        if begun is not None and begun[1] is not asyncio.current_task():
            return await begun[1]
        # Another build may be making, or have made, the same layer.
        async with self._cache.lock(record.id):
            known = record.layer or self._cache.layer(record.id)
            if known is not None and self._images.content.has(known.blob.digest):
                return known
            layer = await self._images.commit_layer(result.snapshot)
            self._cache.made[record.id] = layer
            return layer

    async def _squashed(
        self, results: Sequence[Result], base_layers: Sequence[LayerRef]
    ) -> LayerRef:
        """One layer with the changes of all."""
        snapshots = self._images.snapshotter
        key = f"{UNFINISHED}{secrets.token_hex(16)}"
        parent = chain_id(layer.diff_id for layer in base_layers)

        def make() -> None:
            mounts = snapshots.prepare(key, parent, volatile=True)
            with mounted(mounts) as target:
                for result in results:
                    replay(snapshots, result.snapshot or "", target)

        try:
            await asyncio.to_thread(make)
            return await self._images.commit_layer(key, clamp_mtime=self._epoch)
        finally:
            await asyncio.to_thread(_discard, snapshots, key)

    def _name_snapshots(
        self, results: Sequence[Result], layers: Sequence[LayerRef], below: int
    ) -> None:
        """Let the steps' snapshots be known by their chain IDs: nothing is ever unpacked."""
        chains = chain_ids(layer.diff_id for layer in layers)
        pairs = zip(chains[below:], results, strict=True)
        self._cache.link({chain: result.snapshot or "" for chain, result in pairs})

    def _history(
        self,
        records: Sequence[Record],
        results: Sequence[Result | None],
        base: Image | None,
    ) -> list[History]:
        """The new lines.  A line without a layer has the time of the layer before it, the first
        ones that of the first layer after them; so a cached build has the same history."""
        times = [r.record.created if _has_layer(r) and r and r.record else None for r in results]
        first = next((when for when in times if when is not None), None)
        text = self._time(first) if first is not None else (base.created if base else "")
        lines = []
        for record, result, when in zip(records, results, times, strict=True):
            if when is not None:
                text = self._time(when)
            lines.append(
                History(
                    created=text or self._time(0.0),
                    created_by=record.created_by,
                    comment=COMMENT,
                    empty_layer=not _has_layer(result),
                )
            )
        return lines

    def _time(self, seconds: float) -> str:
        """RFC 3339; the fixed time of a reproducible build."""
        if self._epoch is not None:
            seconds = self._epoch
        moment = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
        return moment.isoformat().replace("+00:00", "Z")

    def _manifest(
        self, config: bytes, layers: Sequence[LayerRef], annotations: Mapping[str, str]
    ) -> bytes:
        return media.encode(
            Manifest(
                schema_version=2,
                config=Descriptor(media.OCI_CONFIG, sha256(config), len(config)),
                layers=tuple(layer.blob for layer in layers),
                annotations=dict(annotations),
            )
        )


def _discard(snapshots: Snapshotter, key: str) -> None:
    try:
        snapshots.remove(key)
    except NotFound:
        pass


def _inline(results: Sequence[Result | None], depth: int) -> list[InlineStep]:
    steps = []
    for result in results:
        if result is None or result.record is None:
            continue
        record = result.record
        depth += not record.empty
        steps.append(
            InlineStep(
                record.id, record.keys, record.created, depth, record.empty, record.description
            )
        )
    return steps


def _has_layer(result: Result | None) -> bool:
    return result is not None and result.record is not None and not result.record.empty
