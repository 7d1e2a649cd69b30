"""Images as users see them: listed, inspected, named and removed by Docker's rules.

Bringing images in and out is :mod:`sampan.engine.distribution` (registries) and
:mod:`sampan.engine.transfers` (archives).
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import msgspec

from sampan.engine import image_documents as documents
from sampan.engine.events import Events
from sampan.engine.filters import EVERYTHING, Filters
from sampan.engine.removal import Removal
from sampan.engine.uses import Uses
from sampan.errors import Conflict, InvalidParameter, NotFound
from sampan.image.digest import short
from sampan.image.manifest import Platform
from sampan.image.reference import InvalidReference, Reference
from sampan.store.images import Image, ImageStore

ImageList = list[Image]


class Images:
    """Lists, inspects, tags and removes images."""

    def __init__(self, store: ImageStore, events: Events, uses: Uses) -> None:
        self._store = store
        self._events = events
        self._uses = uses
        self._removing = asyncio.Lock()

    def get(self, name: str, platform: Platform | None = None) -> Image:
        """An image by reference, ID or unique prefix of an ID.

        Raises NotFound: ``No such image: NAME``, or that it is not for ``platform``.
        """
        image = self._store.get(name)
        if platform is not None:
            for variant in self._store.family(image):
                if provides(variant, platform):
                    return variant
            raise NotFound(
                f"image with reference {name} was found but does not provide the specified "
                f"platform ({platform})"
            )
        return image

    def list(
        self, filters: Filters = EVERYTHING, *, everything: bool = False, until: int | None = None
    ) -> ImageList:
        """Images, newest first, without the intermediate ones unless ``everything``.

        Filters: before, dangling, label, label!, reference, since, until (whose time the caller
        gives as ``until``, nanoseconds since the epoch).
        """
        filters.only("before", "dangling", "label", "label!", "reference", "since", "until")
        dangling = filters.boolean("dangling", False) if "dangling" in filters else None
        before = [created_ns(self.get(name)) for name in filters.get("before")]
        since = [created_ns(self.get(name)) for name in filters.get("since")]
        patterns = [pattern_of(text) for text in filters.get("reference")]
        by_labels = "label" in filters or "label!" in filters
        images = self._store.list()
        parents = {image.parent for image in images if image.parent}
        variants = set[str]() if everything else self._store.indexes.only_variants()
        found = []
        for image in images:
            named = bool(image.repo_tags or image.repo_digests)
            if not named and not everything and image.id in parents:
                continue
            if image.id in variants:
                continue
            if dangling is not None and dangling == bool(image.repo_tags):
                continue
            if before or since or until is not None:
                created = created_ns(image)
                if any(created >= limit for limit in before):
                    continue
                if any(created <= limit for limit in since):
                    continue
                if until is not None and created >= until:
                    continue
            if by_labels:
                labels = documents.labels(image)
                if not filters.labels(labels) or not filters.no_labels(labels):
                    continue
            if patterns:
                matching = _only_matching(image, patterns)
                if matching is None:
                    continue
                image = matching
            found.append(image)
        found.sort(key=created_ns, reverse=True)
        return found

    def summaries(self, images: Iterable[Image], shared: bool = False) -> Sequence[dict[str, Any]]:
        """The images as ``GET /images/json`` shows them; ``shared`` computes the shared sizes."""
        sizes = self.shared_sizes() if shared else {}
        users = Counter(use.image_id for use in self._uses()) if shared else Counter[str]()
        indexes = self._store.indexes.described()
        return [
            documents.summary(
                image,
                indexes.get(image.id) or image.manifest,
                shared_size=sizes.get(image.id, 0) if shared else -1,
                containers=users[image.id] if shared else -1,
            )
            for image in images
        ]

    def inspect(self, name: str, platform: Platform | None = None) -> dict[str, Any]:
        """The image as ``GET /images/NAME/json`` shows it."""
        image = self.get(name, platform)
        index = None if platform else self._store.indexes.described().get(image.id)
        driver = self._store.snapshotter.driver
        return documents.inspect(image, index or image.manifest, driver)

    def manifests(self, image: Image) -> Sequence[dict[str, Any]]:
        """The ``Manifests`` of an image: those of its index, here or not, or its own one."""
        store = self._store
        described = store.indexes.described().get(image.id)
        index = store.indexes.document(described) if described else None
        if index is None:
            return documents.manifests([(None, image)], self.users, self._blobs_size)
        here = {member.manifest.digest: member for member in store.family(image) if member.manifest}
        entries = [(entry, here.get(entry.digest)) for entry in index.manifests]
        return documents.manifests(entries, self.users, self._blobs_size)

    def _blobs_size(self, image: Image) -> int:
        return sum(layer.blob.size for layer in self._store.layers_of(image.id))

    def history(self, name: str, platform: Platform | None = None) -> Sequence[dict[str, Any]]:
        """What made the image, newest first."""
        image = self.get(name, platform)
        sizes = [size for _, _, size in self._store.layer_sizes(image.id)]
        rows = documents.history(image, sizes)
        current: Image | None = image
        for row in rows:
            if current is None:
                break
            row["Id"] = current.id
            row["Tags"] = list(current.repo_tags) or None
            current = self._parent(current)
        return rows

    def users(self, image: Image) -> Sequence[str]:
        """Ids of the containers made from the image."""
        return [use.id for use in self._uses() if image.id in use.images]

    def shared_sizes(self) -> dict[str, int]:
        """For each image the bytes of its layers that other images have too."""
        layers = self._store.layer_sizes()
        owners = Counter(chain for _, chain, _ in layers)
        sizes: Counter[str] = Counter()
        for image, chain, size in layers:
            sizes[image] += size if owners[chain] > 1 else 0
        return sizes

    def layers_size(self) -> int:
        """Bytes of all layers, each counted once."""
        return sum({chain: size for _, chain, size in self._store.layer_sizes()}.values())

    def tag(self, name: str, repository: str, tag: str = "") -> Reference:
        """Give an image one more name; the image that had it keeps its others.

        Raises NotFound, or InvalidParameter for a name that is none.
        """
        reference = parse_name(repository, tag)
        image = self.get(name)
        source = _tag_meant(name, image)
        if source != reference:
            self._store.tag(image.id, reference)
            if source is not None:
                self._store.indexes.copy(source, reference)
        self._events.publish(
            "image", "tag", image.id, event_attributes(image, reference.familiar())
        )
        return reference

    async def remove(
        self, name: str, *, force: bool = False, prune_parents: bool = True
    ) -> Sequence[dict[str, str]]:
        """Remove a name, or the image when it was its last one.

        Returns Docker's records, ``{"Untagged": …}`` and ``{"Deleted": …}``, in order.  Raises
        NotFound, or Conflict with Docker's explanation.
        """
        async with self._removing:
            removal = Removal(self._store, self._events, self._uses)
            removal.remove(name, force=force, prune_parents=prune_parents)
            if removal.deleted:
                await self._store.gc()
        return removal.records

    async def remove_variants(
        self, name: str, platforms: Sequence[Platform], *, force: bool = False
    ) -> Sequence[dict[str, str]]:
        """Remove the images for some platforms from a tag, which keeps its others.

        Raises NotFound, Conflict (a container uses one), InvalidParameter for a name that is none.
        """
        async with self._removing:
            removal = Removal(self._store, self._events, self._uses)
            for platform in platforms:
                image = self.get(name, platform)
                tag = _tag_meant(name, self.get(name))
                if tag is None or len(self._store.indexes.variants(tag)) < 2:
                    removal.remove(name, force=force, prune_parents=True)
                else:
                    removal.remove_variant(tag, image, force=force)
            await self._store.gc()
        return removal.records

    async def prune(
        self, filters: Filters, until: int | None = None
    ) -> tuple[Sequence[dict[str, str]], int]:
        """Remove images without a name (``dangling=false``: without a container).

        Filters: dangling, label, label!, until.  Returns the records and the bytes freed.
        """
        filters.only("dangling", "label", "label!", "until")
        dangling = filters.boolean("dangling", True)
        wanted = filters.without("dangling")
        records = []
        async with self._removing:
            uses = [*self._uses()]
            used = {image_id for use in uses for image_id in use.images}
            for image in self.list(wanted, until=until):
                family = {member.id for member in self._store.family(image)}
                if family & used or (dangling and (image.repo_tags or image.repo_digests)):
                    continue
                removal = Removal(self._store, self._events, lambda: uses)
                names = [*image.repo_tags, *image.repo_digests] or [image.id]
                for name in names:
                    try:
                        removal.remove(name, force=False, prune_parents=True)
                    except (Conflict, NotFound):
                        continue
                records += removal.records
                await asyncio.sleep(0)  # others are served between two images
            freed = await self._store.gc()
        self._events.publish("image", "prune", "", {"reclaimed": str(freed)})
        return records, freed

    def _parent(self, image: Image) -> Image | None:
        if not image.parent:
            return None
        try:
            return self._store.get(image.parent)
        except NotFound:
            return None


def parse_name(repository: str, tag: str = "") -> Reference:
    """A name for an image from its two parts.  Raises InvalidParameter."""
    try:
        if tag:
            reference = Reference.parse_name(repository)
            if reference.tag or reference.digest:
                reference = Reference(reference.domain, reference.path)
            reference = reference.with_tag(tag)
        else:
            reference = Reference.parse(repository)
    except InvalidReference as error:
        raise InvalidParameter(str(error)) from None
    if reference.digest:
        raise InvalidParameter("refusing to create a tag with a digest reference")
    if reference.familiar_name == "sha256":
        raise InvalidParameter("refusing to create an ambiguous tag using digest algorithm as name")
    return reference


def _tag_meant(name: str, image: Image) -> Reference | None:
    """The tag that ``name`` is, or the only one that the image has."""
    try:
        reference = Reference.parse(name)
    except InvalidReference:
        reference = None
    if reference is not None and reference.familiar() in image.repo_tags:
        return reference
    return Reference.parse(image.repo_tags[0]) if len(image.repo_tags) == 1 else None


def provides(image: Image, platform: Platform) -> bool:
    """Whether the image can be said to be for ``platform`` (empty parts match everything)."""
    config = image.config
    return (
        platform.os in ("", config.os)
        and platform.architecture in ("", config.architecture)
        and platform.variant in ("", config.variant)
    )


def event_attributes(image: Image, name: str) -> dict[str, str]:
    """Attributes of an image event: its labels and the name it is about."""
    return {**(image.config.config.labels or {}), "name": name}


def created_ns(image: Image) -> int:
    """When the image was made, in nanoseconds since the epoch; 0 when it does not say."""
    return timestamp_ns(image.created)


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def timestamp_ns(text: str) -> int:
    """Nanoseconds since the epoch of an RFC 3339 time, to the microsecond; 0 for anything else."""
    try:
        age = datetime.fromisoformat(text) - _EPOCH
    except (ValueError, TypeError):  # TypeError: a time without a zone
        return 0
    return max(0, (age.days * 86400 + age.seconds) * 10**9 + age.microseconds * 1000)


def pattern_of(text: str) -> re.Pattern[str]:
    """A shell pattern as Go's ``path.Match`` reads it: ``*`` and ``?`` stop at slashes."""
    parts = []
    for part in re.split(r"(\\.|\*|\?|\[[^]]+\])", text):
        if part == "*":
            parts.append("[^/]*")
        elif part == "?":
            parts.append("[^/]")
        elif part.startswith("[") and part.endswith("]"):
            inner = re.sub(r"([\[&|~])", r"\\\1", part[1:-1]).replace("--", r"-\-")
            parts.append(f"[{inner}]")
        else:
            parts.append(re.escape(part[1:] if part.startswith("\\") else part))
    try:
        return re.compile("".join(parts))
    except re.error:
        raise InvalidParameter(f"invalid reference filter {text!r}") from None


def _only_matching(image: Image, patterns: Sequence[re.Pattern[str]]) -> Image | None:
    """The image with just those names that match a pattern; None when none does."""

    def matches(name: str) -> bool:
        reference = Reference.parse_name(name)
        short_name = reference.familiar_name
        tagged = f"{short_name}:{reference.tag}" if reference.tag else short_name
        forms = {name, reference.familiar(), tagged, short_name}
        return any(pattern.fullmatch(form) for pattern in patterns for form in forms)

    tags = tuple(name for name in image.repo_tags if matches(name))
    digests = tuple(name for name in image.repo_digests if matches(name))
    if not tags and not digests:
        return None
    return replace(image, repo_tags=tags, repo_digests=digests)


def describe(image: Image) -> str:
    """The shortest name a person would use for the image."""
    return image.repo_tags[0] if image.repo_tags else short(image.id)


def platform_of(text: str | None) -> Platform | None:
    """A platform from ``os/arch[/variant]`` or the API's JSON object; None when there is none."""
    if not text:
        return None
    if text.startswith("{"):
        try:
            return msgspec.json.decode(text, type=Platform)
        except msgspec.DecodeError as error:
            raise InvalidParameter(f"invalid platform: {error}") from None
    parts = text.split("/")
    if len(parts) > 3 or not all(re.fullmatch(r"[A-Za-z0-9_.-]+", part) for part in parts):
        raise InvalidParameter(f'"{text}": unknown operating system or architecture')
    if len(parts) == 1:
        if parts[0] == "linux":
            return Platform(os="linux")
        return Platform(os="linux", architecture=parts[0])
    return Platform(os=parts[0], architecture=parts[1], variant=(*parts, "")[2])
