"""The image database."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Protocol, TypeAlias

from sampan.errors import InvalidParameter, NotFound, Unsupported
from sampan.image import config as image_config
from sampan.image import manifest as media
from sampan.image.compression import Algorithm
from sampan.image.config import ImageConfig
from sampan.image.digest import Digest, is_digest, sha256, short
from sampan.image.manifest import Descriptor, Manifest
from sampan.image.reference import InvalidReference, Reference
from sampan.progress import Progress, Report, ignore
from sampan.store.collector import collect
from sampan.store.content import ContentStore, DamagedBlob, DigestMismatch
from sampan.store.indexes import Indexes, Variant
from sampan.store.layers import MAX_LAYER_SIZE, LayerStore
from sampan.store.layers import LayerRef as LayerRef
from sampan.store.metadata import Metadata
from sampan.store.snapshots import Snapshotter, Usage

_SELECT = (
    "SELECT i.id, i.manifest_type, i.manifest_digest, i.manifest_size, i.size, i.created,"
    " i.parent, i.config,"
    " (SELECT group_concat(name, ' ') FROM tags WHERE image = i.id),"
    " (SELECT group_concat(name, ' ') FROM repo_digests WHERE image = i.id)"
    " FROM images i"
)
_MAX_FOLLOWED = 4
"""How many layers are unpacked as they come; each has a thread that goes at the sender's pace."""
_KNOWN_CHAINS = 4096
_FOLLOWERS = ThreadPoolExecutor(_MAX_FOLLOWED, "arriving")
_ID_PREFIX = re.compile(r"(sha256:)?[0-9a-f]{1,64}")


@dataclass(frozen=True)
class Image:
    """An image as stored.  ``size`` is the sum of its layers' file sizes in bytes, ``created`` the
    configuration's RFC 3339 time (empty when it has none).  Names are familiar ones
    (``ubuntu:latest``, ``ubuntu@sha256:…``).  ``manifest`` is the one it came with, or was last
    pushed with."""

    id: Digest
    manifest: Descriptor | None
    size: int
    created: str
    parent: Digest | None
    repo_tags: tuple[str, ...]
    repo_digests: tuple[str, ...]
    raw_config: bytes

    @cached_property
    def config(self) -> ImageConfig:
        return image_config.decode(self.raw_config)


@dataclass(frozen=True, slots=True)
class Member:
    """An image that comes with an index: its documents, and its layers' blobs which are here."""

    config: bytes
    layers: Sequence[LayerRef]
    manifest: bytes


class Arrival(Protocol):
    """A blob that is being received."""

    async def begun(self) -> None:
        """Return when there is something to read, or nothing more to wait for."""
        ...

    async def here(self) -> None:
        """Return when it is in the content store; raises what kept it from coming."""
        ...


_Images: TypeAlias = list[Image]
_Layers: TypeAlias = list[LayerRef]
_LayerSizes: TypeAlias = list[tuple[Digest, Digest, int]]
_Digests: TypeAlias = list[Digest]
_Names: TypeAlias = list[str]


class ImageStore:
    """Methods that are not async make short queries and may be called on the event loop."""

    def __init__(
        self,
        content: ContentStore,
        metadata: Metadata,
        snapshotter: Snapshotter,
        *,
        discard_blobs: bool = False,
        max_layer_size: int = MAX_LAYER_SIZE,
    ) -> None:
        """``discard_blobs`` drops compressed layers once they are unpacked; a push makes them
        anew.  It needs a driver that keeps layers' tars: raises errors.Unsupported."""
        if discard_blobs and snapshotter.driver != "erofs":
            raise Unsupported(
                "discard-blobs needs the storage driver erofs, which keeps layers as tars; this is "
                f"{snapshotter.driver}"
            )
        self.content = content
        self.snapshotter = snapshotter
        self.discard_blobs = discard_blobs
        self.layers = LayerStore(content, metadata, max_layer_size)
        self.indexes = Indexes(content, metadata)
        self._metadata = metadata
        # Chains that were warmed; to warm one again that was removed meanwhile is only slower.
        self._warm: set[Digest] = set()
        # An image's ID says which layers it has.
        self._chains: dict[Digest, Digest] = {}
        self._applying: dict[Digest, asyncio.Task[None]] = {}
        self._following: dict[Digest, asyncio.Future[bool]] = {}
        self._roots: list[Callable[[], Iterable[str]]] = [self.indexes.roots]

    # Finding

    def get(self, name: str | Reference) -> Image:
        """An image by reference, ``name@digest``, ID or unique prefix of an ID.  Raises
        errors.NotFound, or errors.InvalidParameter when a prefix fits several."""
        image_id = self._find(name)
        rows = self._metadata.query(f"{_SELECT} WHERE i.id = ?", (image_id,))
        if not rows:
            raise NotFound(f"No such image: {name}")
        return _image(rows[0])

    def list(self) -> _Images:
        """All images, the newest first."""
        # Sorted here: SQLite would carry the configurations through its sorter.
        images = [_image(row) for row in self._metadata.query(_SELECT)]
        return sorted(images, key=lambda image: image.created, reverse=True)

    def children(self, image_id: Digest) -> _Digests:
        """The images that were built or committed on this one."""
        rows = self._metadata.query("SELECT id FROM images WHERE parent = ?", (image_id,))
        return [id for (id,) in rows]

    def family(self, image: Image) -> _Images:
        """The image, and the other variants of the indexes that its tags have."""
        found = {image.id: image}
        for name in image.repo_tags:
            for variant in self.indexes.variants(name):
                if variant.image not in found:
                    found[variant.image] = self.get(variant.image)
        return [*found.values()]

    def layer_sizes(self, image_id: Digest | None = None) -> _LayerSizes:
        """``(image, chain ID, bytes)`` of each layer, lowest first, of one image or of all.  The
        bytes are those of its files, or of its blob while it was never unpacked."""
        where = "" if image_id is None else " WHERE l.image = ?"
        rows = self._metadata.query(
            "SELECT l.image, l.chain_id, coalesce(s.size, l.size) FROM image_layers l"
            f" LEFT JOIN layer_sizes s ON s.diff_id = l.diff_id{where}"
            " ORDER BY l.image, l.position",
            () if image_id is None else (image_id,),
        )
        return [(image, chain, int(size)) for image, chain, size in rows]

    def own_chains(self, image_id: Digest) -> _Digests:
        """Chain IDs of the layers that no other image has, uppermost first."""
        rows = self._metadata.query(
            "SELECT chain_id FROM image_layers l WHERE image = ? AND NOT EXISTS"
            " (SELECT 1 FROM image_layers o WHERE o.chain_id = l.chain_id AND o.image <> l.image)"
            " ORDER BY position DESC",
            (image_id,),
        )
        return [chain for (chain,) in rows]

    def layers_of(self, image_id: Digest) -> _Layers:
        """The layers, lowest first."""
        rows = self._metadata.query(
            "SELECT diff_id, media_type, digest, size FROM image_layers WHERE image = ?"
            " ORDER BY position",
            (image_id,),
        )
        return [LayerRef(row[0], Descriptor(row[1], row[2], int(row[3]))) for row in rows]

    def _find(self, name: str | Reference) -> Digest:
        """Docker's order: a whole ID, a name, then a prefix of an ID."""
        if isinstance(name, str):
            if is_digest(name):
                return name
            if re.fullmatch(r"[0-9a-f]{64}", name):
                return f"sha256:{name}"
            try:
                reference = Reference.parse(name)
            except InvalidReference as error:
                if _ID_PREFIX.fullmatch(name):
                    return self._by_prefix(name)
                raise InvalidParameter(str(error)) from None
        else:
            reference = name
        found = self._by_reference(reference)
        if found is None and isinstance(name, str) and _ID_PREFIX.fullmatch(name):
            return self._by_prefix(name)
        if found is None:
            raise NotFound(f"No such image: {reference.familiar()}")
        return found

    def _by_reference(self, reference: Reference) -> Digest | None:
        if reference.digest is None:
            sql, key = "SELECT image FROM tags WHERE name = ?", reference.familiar()
        else:
            sql = "SELECT image FROM repo_digests WHERE name = ?"
            key = f"{reference.familiar_name}@{reference.digest}"
        rows = self._metadata.query(sql, (key,))
        if rows:
            return rows[0][0]
        if reference.digest is not None:
            # ``name@ID``, of an image that has this name with any tag.
            rows = self._metadata.query(
                "SELECT image FROM tags WHERE image = ? AND name GLOB ?",
                (reference.digest, f"{reference.familiar_name}:*"),
            )
            if rows:
                return rows[0][0]
        return None

    def _by_prefix(self, text: str) -> Digest:
        prefix = text if text.startswith("sha256:") else f"sha256:{text}"
        rows = self._metadata.query(
            "SELECT id FROM images WHERE id >= ? AND id < ? LIMIT 2", (prefix, prefix + "g")
        )
        if not rows:
            raise NotFound(f"No such image: {text}")
        if len(rows) > 1:
            raise InvalidParameter(f"the image ID prefix {text} is ambiguous: give more of it")
        return rows[0][0]

    # Changing

    def tag(self, image_id: Digest, reference: Reference) -> Digest | None:
        """Point a name at an image; returns the ID of the image that had it before, if another."""
        if reference.digest is not None:
            raise InvalidParameter(f"cannot tag with a digest: {reference.familiar()}")
        name = _tag_name(reference)
        with self._metadata.transaction() as connection:
            self.get(image_id)
            before = self._metadata.query("SELECT image FROM tags WHERE name = ?", (name,))
            connection.execute("INSERT OR REPLACE INTO tags VALUES (?, ?)", (name, image_id))
        return before[0][0] if before and before[0][0] != image_id else None

    def untag(self, reference: Reference) -> Digest:
        """Remove a tag or a repository digest; returns the image's ID.  Raises errors.NotFound."""
        if reference.digest is not None:
            table, name = "repo_digests", f"{reference.familiar_name}@{reference.digest}"
        else:
            table, name = "tags", _tag_name(reference)
        with self._metadata.transaction() as connection:
            rows = self._metadata.query(f"SELECT image FROM {table} WHERE name = ?", (name,))
            if not rows:
                raise NotFound(f"No such image: {name}")
            connection.execute(f"DELETE FROM {table} WHERE name = ?", (name,))
        return rows[0][0]

    def add_repo_digest(self, image_id: Digest, reference: Reference) -> None:
        """Record that a repository has this image's manifest (after a push or a pull)."""
        if reference.digest is None:
            raise InvalidParameter(f"a repository digest needs a digest: {reference.familiar()}")
        name = f"{reference.familiar_name}@{reference.digest}"
        with self._metadata.transaction() as connection:
            self.get(image_id)
            connection.execute(
                "INSERT OR REPLACE INTO repo_digests VALUES (?, ?)", (name, image_id)
            )

    def delete(self, image_id: Digest) -> _Names:
        """Remove the image's record with all its names, which are returned.  Its content goes
        with the next :meth:`gc`."""
        with self._metadata.transaction() as connection:
            image = self.get(image_id)
            connection.execute("UPDATE images SET parent = NULL WHERE parent = ?", (image.id,))
            connection.execute("DELETE FROM images WHERE id = ?", (image.id,))
        return [*image.repo_tags, *image.repo_digests]

    def register(
        self,
        config: bytes,
        layers: Iterable[LayerRef],
        manifest: bytes | None,
        refs: Iterable[Reference],
        parent: Digest | None = None,
    ) -> Image:
        """Record an image whose layers' blobs are in the content store, in one transaction.

        A reference with a tag becomes its tag, one with a digest a repository digest.  The same
        image again only adds to what is known of it.  Raises errors.InvalidParameter when
        configuration and layers disagree, errors.NotFound when a layer's blob is missing.
        """
        layers = list(layers)
        try:
            decoded = image_config.decode(config)
        except image_config.InvalidConfig as error:
            raise InvalidParameter(str(error)) from error
        diff_ids = [layer.diff_id for layer in layers]
        if diff_ids != list(decoded.rootfs.diff_ids):
            raise InvalidParameter("the image's configuration and its layers disagree")
        for layer in layers:
            self.layers.present(layer)
        image_id = self.content.write_bytes(config)
        described = None
        if manifest is not None:
            digest = self.content.write_bytes(manifest)
            described = Descriptor(media.media_type_of(manifest), digest, len(manifest))
        with self._metadata.transaction() as connection:
            connection.execute(
                "INSERT INTO images (id, config, parent, created, size) VALUES (?, ?, ?, ?, 0)"
                " ON CONFLICT (id) DO UPDATE SET parent = coalesce(excluded.parent, parent)",
                (image_id, config, parent, decoded.created or ""),
            )
            if described is not None:
                self._set_manifest(image_id, described)
            chains = image_config.chain_ids(diff_ids)
            blobs = [layer.blob for layer in layers]
            connection.executemany(
                "INSERT OR REPLACE INTO image_layers VALUES (?, ?, ?, ?, ?, ?, ?)",
                [
                    (image_id, position, diff_id, chain, blob.digest, blob.media_type, blob.size)
                    for position, (diff_id, chain, blob) in enumerate(
                        zip(diff_ids, chains, blobs, strict=True)
                    )
                ],
            )
            self.layers.remember_blobs(layers)
            for reference in refs:
                if reference.digest is not None:
                    self.add_repo_digest(image_id, reference)
                if reference.tag is not None:
                    self.tag(image_id, reference.with_tag(reference.tag))
            self._update_size(image_id)
        return self.get(image_id)

    def _set_manifest(self, image_id: Digest, manifest: Descriptor) -> None:
        with self._metadata.transaction() as connection:
            connection.execute(
                "UPDATE images SET manifest_type = ?, manifest_digest = ?, manifest_size = ?"
                " WHERE id = ?",
                (manifest.media_type, manifest.digest, manifest.size, image_id),
            )

    def annotations(self, image: Image) -> dict[str, str]:
        """Those of the image's manifest, if it has one that is here."""
        if image.manifest is None or not self.content.has(image.manifest.digest):
            return {}
        return media.decode_manifest(self.content.read_bytes(image.manifest.digest)).annotations

    def forget_manifest(self, image_id: Digest) -> None:
        """The image's manifest is not here any more; a push will make one."""
        with self._metadata.transaction() as connection:
            connection.execute(
                "UPDATE images SET manifest_type = NULL, manifest_digest = NULL,"
                " manifest_size = NULL WHERE id = ?",
                (image_id,),
            )

    def _update_size(self, image_id: Digest) -> None:
        """The sum of what its layers' files take; of a layer never unpacked, of its blob."""
        with self._metadata.transaction() as connection:
            connection.execute(
                "UPDATE images SET size = (SELECT coalesce(sum(coalesce(s.size, l.size)), 0)"
                " FROM image_layers l LEFT JOIN layer_sizes s ON s.diff_id = l.diff_id"
                " WHERE l.image = images.id) WHERE id = ?",
                (image_id,),
            )

    # Layers

    async def unpack(self, image: Image, report: Report = ignore) -> Digest | None:
        """Apply the layers that the snapshotter does not have; returns the chain ID to prepare
        containers on, None for an image without layers.  Callers that want the same layer at the
        same time share the work."""
        ready = self._chains.get(image.id)
        if ready is not None and ready in self._warm:
            # A snapshot that is held keeps those below it.
            self.content.leases.touch(ready)
            if self._has_snapshot(ready):
                return ready
        layers = self.layers_of(image.id)
        chain, applied = await self._apply_all(layers, report)
        await self._warm_up(chain)
        if applied:
            self._update_size(image.id)
        if chain is not None:
            if len(self._chains) >= _KNOWN_CHAINS:
                self._chains.clear()
            self._chains[image.id] = chain
        return chain

    async def apply(self, layers: Sequence[LayerRef], report: Report = ignore) -> Digest | None:
        """Apply those of the layers (lowest first, from the bottom of a stack) that the
        snapshotter does not have; returns the chain ID.  Hold a lease."""
        chain, _ = await self._apply_all(layers, report)
        await self._warm_up(chain)
        return chain

    async def apply_arriving(
        self, layers: Sequence[LayerRef], arrival: Arrival, report: Report = ignore
    ) -> None:
        """As :meth:`apply`, for one layer after the other while their blobs are on their way:
        the uppermost of ``layers`` is unpacked as it comes, those below it have been.  Returns
        when its blob is here too.  Raises what ``arrival`` does."""
        await arrival.begun()
        followed = await self._follow(layers)
        await arrival.here()
        if followed:
            top = layers[-1]
            chain = image_config.chain_ids(layer.diff_id for layer in layers)[-1]
            await asyncio.to_thread(self._unpacked, chain, top, report)
        await self._apply_all(layers, report)

    async def _follow(self, layers: Sequence[LayerRef]) -> bool:
        """Unpack the uppermost layer as it comes.  False when that cannot be done, or went wrong:
        then it is to be unpacked when it is here, and what is wrong with it will be said."""
        *below, chain = image_config.chain_ids(layer.diff_id for layer in layers)
        self.content.leases.touch(chain)
        busy = chain in self._applying or chain in self._following
        if busy or len(self._following) >= _MAX_FOLLOWED or self._has_snapshot(chain):
            return False
        parent = below[-1] if below else None

        def work() -> bool:
            stream = self.layers.follow(layers[-1])
            if stream is None:
                return False
            with stream:
                self.snapshotter.apply(chain, parent, stream)
            return True

        task = asyncio.ensure_future(asyncio.get_running_loop().run_in_executor(_FOLLOWERS, work))
        self._following[chain] = task
        task.add_done_callback(partial(self._followed, chain))
        await asyncio.wait((task,))
        return task.exception() is None and task.result()

    def _followed(self, chain: Digest, task: asyncio.Future[bool]) -> None:
        del self._following[chain]
        if not task.cancelled():
            task.exception()

    async def admit(
        self,
        config: bytes,
        layers: Sequence[LayerRef],
        manifest: bytes | None,
        refs: Iterable[Reference],
        parent: Digest | None = None,
        report: Report = ignore,
    ) -> Image:
        """Apply the layers, then :meth:`register`: the image is there only when it can be run.
        Hold a lease."""
        await self.apply(layers, report)
        return self.register(config, layers, manifest, refs, parent)

    async def admit_index(
        self,
        index: bytes,
        members: Sequence[Member],
        tag: Reference,
        prefer: Callable[[Sequence[Image]], Image],
        names: Iterable[Reference] = (),
    ) -> Image:
        """Register images of an index under one tag, the index with them, in one transaction.

        Variants that are known of the same index stay.  ``prefer`` chooses among all of them the
        one that the tag (and the repository digests ``names``) shall name, which is returned;
        their layers are applied when they are first used.  Hold a lease.
        """
        described = Descriptor(
            media.media_type_of(index), self.content.write_bytes(index), len(index)
        )
        with self._metadata.transaction():
            before = self.indexes.of(tag)
            known = before is not None and before.digest == described.digest
            variants = self.indexes.variants(tag) if known else []
            for member in members:
                image = self.register(member.config, member.layers, member.manifest, ())
                variants.append(Variant(image.id, sha256(member.manifest)))
            images = {variant.image: self.get(variant.image) for variant in variants}
            chosen = prefer([*images.values()])
            self.tag(chosen.id, tag)
            self.indexes.set(tag, described, variants)
            for name in names:
                self.add_repo_digest(chosen.id, name)
        return self.get(chosen.id)

    def drop_variant(self, tag: Reference, image_id: Digest) -> None:
        """Take one variant from a tag that has others: the tag names another one if need be."""
        with self._metadata.transaction() as connection:
            others = [v.image for v in self.indexes.variants(tag) if v.image != image_id]
            if not others:
                raise InvalidParameter(f"{tag.familiar()} has no other variant")
            connection.execute(
                "UPDATE tags SET image = ? WHERE name = ? AND image = ?",
                (others[0], tag.familiar(), image_id),
            )
            connection.execute(
                "UPDATE repo_digests SET image = ? WHERE image = ? AND name GLOB ?",
                (others[0], image_id, f"{tag.familiar_name}@*"),
            )
            connection.execute(
                "DELETE FROM variants WHERE name = ? AND image = ?", (tag.familiar(), image_id)
            )

    async def _apply_all(
        self, layers: Sequence[LayerRef], report: Report
    ) -> tuple[Digest | None, int]:
        """Returns the chain ID and how many layers were missing."""
        chains = image_config.chain_ids(layer.diff_id for layer in layers)
        for chain in chains:
            self.content.leases.touch(chain)
        start = len(chains)
        while start and not self._has_snapshot(chains[start - 1]):
            start -= 1
        for position in range(start, len(chains)):
            chain = chains[position]
            parent = chains[position - 1] if position else None
            if chain in self._following:
                await asyncio.wait((self._following[chain],))
                if self._has_snapshot(chain):
                    continue
            task = self._applying.get(chain)
            if task is None:
                self._warm.discard(chains[-1])
                task = asyncio.create_task(
                    asyncio.to_thread(self._apply, chain, parent, layers[position], report)
                )
                self._applying[chain] = task
                task.add_done_callback(partial(self._applied, chain))
            await asyncio.shield(task)
        return (chains[-1] if chains else None), len(chains) - start

    async def _warm_up(self, chain: Digest | None) -> None:
        if chain is not None and chain not in self._warm:
            await asyncio.to_thread(self.snapshotter.warm, chain)
            self._warm.add(chain)

    def _applied(self, chain: Digest, task: asyncio.Task[None]) -> None:
        del self._applying[chain]
        if not task.cancelled():
            task.exception()  # Whoever still waits gets it; if nobody does, it is not news.

    def _has_snapshot(self, name: str) -> bool:
        try:
            return self.snapshotter.stat(name).kind == "committed"
        except NotFound:
            return False

    def _apply(self, chain: Digest, parent: Digest | None, layer: LayerRef, report: Report) -> None:
        row = short(layer.blob.digest)
        total = layer.blob.size
        try:
            with self.layers.open(
                layer,
                lambda position: report(Progress("Extracting", row, min(position, total), total)),
            ) as stream:
                self.snapshotter.apply(chain, parent, stream, self.layers.uncompressed(layer))
        except (DigestMismatch, InvalidParameter):
            if self.content.drop_damaged(layer.blob.digest):
                raise DamagedBlob(
                    f"the blob {layer.blob.digest} was damaged on disk and is removed: pull or "
                    "load its image again"
                ) from None
            raise
        self._unpacked(chain, layer, report)

    def _unpacked(self, chain: Digest, layer: LayerRef, report: Report) -> None:
        self.layers.remember(layer.diff_id, layer.blob, self.snapshotter.usage(chain).size)
        if self.discard_blobs:
            self._discard(chain, layer)
        report(Progress("Pull complete", short(layer.blob.digest)))

    def _discard(self, chain: Digest, layer: LayerRef) -> None:
        """Keep the layer as the tar that its snapshot has anyway, instead of its blob."""
        tar = self.snapshotter.layer_tar(chain)
        if tar is None or layer.blob.digest == layer.diff_id:
            return
        self.content.adopt(tar, layer.diff_id)
        plain = Descriptor(media.OCI_LAYER, layer.diff_id, tar.stat().st_size)
        self.layers.remember(layer.diff_id, plain)
        self.content.delete(layer.blob.digest)

    def discard_pushed(self, image_id: Digest) -> None:
        """Drop the compressed layers that were made for a push, if they are not to be kept."""
        if not self.discard_blobs:
            return
        for layer in self.layers_of(image_id):
            if self.content.has(layer.diff_id):
                for blob in (layer.blob, *self.layers.blobs(layer.diff_id)):
                    if blob.digest != layer.diff_id:
                        self.content.delete(blob.digest)

    async def commit_layer(
        self,
        key: str,
        *,
        clamp_mtime: int | None = None,
        exclude: Collection[str] = (),
        report: Report | None = None,
    ) -> LayerRef:
        """The diff of an active or committed snapshot as a layer tar in the content store.
        ``clamp_mtime`` (seconds since the epoch) is an upper limit of the times in it;
        ``exclude`` are absolute paths to leave out (mount points that running made).  ``report``
        is told the bytes written, of about as many as there are to write."""

        def make() -> LayerRef:
            tar = self.snapshotter.layer_tar(key)
            if tar is not None:
                return self.layers.from_tar(tar, clamp_mtime)
            progress = None if report is None else _written(report, self.snapshotter.usage(key))
            upper = self.snapshotter.upper(key)
            return self.layers.from_upper(upper, clamp_mtime, exclude, progress)

        return await asyncio.to_thread(make)

    def manifest_over(self, image: Image, layers: Sequence[Descriptor]) -> bytes:
        """A manifest of the image with these blobs as its layers, and the annotations it has."""
        return media.encode(
            Manifest(
                schema_version=2,
                config=Descriptor(media.OCI_CONFIG, image.id, len(image.raw_config)),
                layers=tuple(layers),
                annotations=self.annotations(image),
            )
        )

    async def transfer_manifest(self, image: Image, algorithm: Algorithm = "gzip") -> bytes:
        """The manifest to push: the one the image came with while its blobs are here, else a new
        one over compressed layers with its annotations, which is remembered."""
        if image.manifest is not None and self.content.has(image.manifest.digest):
            data = self.content.read_bytes(image.manifest.digest)
            layers = media.decode_manifest(data).layers
            # One that a registry has stays as it is; one of our own may list plain tars.
            fit = image.repo_digests or all(media.is_compressed(x.media_type) for x in layers)
            if fit and all(self.content.has(layer.digest) for layer in layers):
                return data

        def make() -> bytes:
            layers = tuple(
                self.layers.compressed(layer, algorithm) for layer in self.layers_of(image.id)
            )
            data = self.manifest_over(image, layers)
            self.content.write_bytes(data)
            self._set_manifest(image.id, Descriptor(media.OCI_MANIFEST, sha256(data), len(data)))
            return data

        return await asyncio.to_thread(make)

    # Garbage

    def lease(self) -> AbstractContextManager[None]:
        """What is added or found while it is open is safe from :meth:`gc`."""
        return self.content.leases.open()

    @asynccontextmanager
    async def attempt(self) -> AsyncIterator[None]:
        """A lease for work that may fail: then what it added is collected before the error goes
        on."""
        try:
            with self.lease():
                yield
        except BaseException:
            await asyncio.shield(self.gc())
            raise

    def add_roots(self, roots: Callable[[], Iterable[str]]) -> None:
        """Let ``roots`` name blobs and snapshots that :meth:`gc` must keep; it is called, in any
        thread, at each collection."""
        self._roots.append(roots)

    async def gc(self) -> int:
        """Free what no image, container, build or lease reaches; returns the bytes freed."""
        return await asyncio.to_thread(
            collect, self._metadata, self.content, self.snapshotter, tuple(self._roots)
        )


def _tag_name(reference: Reference) -> str:
    return reference.familiar() if reference.tag else f"{reference.familiar_name}:latest"


def _written(report: Report, usage: Usage) -> Callable[[int], None]:
    """Tells how much of a layer's tar is written, from what its files take: a member has a header
    of 512 bytes and half a block of padding, on average."""
    total = usage.size + usage.inodes * 768
    step, told = max(1 << 20, total // 200), 0

    def progress(position: int) -> None:
        nonlocal told
        if position - told >= step:
            told = position
            report(Progress("Committing", "", min(position, total), total))

    return progress


def _image(row: tuple[str, ...]) -> Image:
    id, kind, digest, manifest_size, size, created, parent, config, tags, digests = row
    return Image(
        id,
        Descriptor(kind, digest, int(manifest_size)) if digest else None,
        int(size),
        created,
        parent,
        tuple(sorted(tags.split(" "))) if tags else (),
        tuple(sorted(digests.split(" "))) if digests else (),
        config,  # type: ignore[arg-type]
    )
