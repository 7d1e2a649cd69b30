"""Builds: a request with its context, to an image; and the cache that builds leave."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Callable,
    Collection,
    Iterator,
    Mapping,
    Sequence,
    Set,
)
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sampan.build import BuildDeps, BuildEvent, BuildRequest, BuildResult, annotation, build
from sampan.build import context as contexts
from sampan.build.ops.archive import ArchiveTree
from sampan.build.retained import RetainedContexts, parse_name
from sampan.build.solver.cache import CacheRecord
from sampan.engine import remotes
from sampan.engine.buildindex import Attest, build_index
from sampan.engine.distribution import Auths, credentials_for
from sampan.engine.events import Events
from sampan.engine.filters import Filters
from sampan.engine.images import event_attributes
from sampan.errors import DiskFull, InvalidParameter, NotFound
from sampan.linux import memory
from sampan.linux.trees import remove_tree
from sampan.progress import Report

NO_ATTESTATIONS = Attest()
INSECURE = "security.insecure"
_QUIET = 1.0  # seconds after a build


@dataclass(frozen=True, slots=True)
class Context:
    """What a build reads: a directory or an archive, or just a Dockerfile."""

    directory: Path | ArchiveTree | None = None
    dockerfile: bytes | None = None

    def applied(self, request: BuildRequest) -> BuildRequest:
        """The request with this context."""
        return replace(request, context=self.directory, dockerfile_text=self.dockerfile)


class Builds:
    """Runs builds and keeps their cache in bounds."""

    def __init__(self, deps: BuildDeps, events: Events, entitlements: Collection[str] = ()) -> None:
        """``entitlements`` are what builds may ask for beyond the ordinary."""
        self._deps = deps
        self._entitlements = entitlements
        self._cache = deps.shared.cache
        self._events = events
        self._retained = RetainedContexts()
        self._trimming: asyncio.TimerHandle | None = None
        self._giving_back: asyncio.TimerHandle | None = None
        self._contexts = deps.state_dir / "tmp" / "contexts"
        remove_tree(self._contexts, ignore_errors=True)

    async def build(
        self,
        request: BuildRequest,
        auths: Auths,
        report: Callable[[BuildEvent], None],
        attest: Attest = NO_ATTESTATIONS,
    ) -> BuildResult:
        """Build; ``auths`` has credentials by registry.  For several platforms (with commas in
        between), and with attestations, the result is an index.

        Raises what :func:`sampan.build.build` raises.  Cancelling ends the running steps.
        """
        if request.allow_insecure and INSECURE not in self._entitlements:
            raise InvalidParameter(
                f"granting entitlement {INSECURE} is not allowed by build daemon configuration"
            )
        platforms = [part.strip() for part in request.platform.split(",") if part.strip()]
        async with self._named(request) as named:
            with credentials_for(auths), self._disk_full_frees_contexts():
                several = len(platforms) > 1 or request.on("BUILDKIT_MULTI_PLATFORM")
                annotation.check(request.annotations, index=several or bool(attest))
                if several or (attest and not request.call):
                    result = await build_index(named, platforms, attest, self._deps, report)
                else:
                    result = await build(named, self._deps, report)
        if result.image_id:
            try:
                image = self._deps.images.get(result.image_id)
            except NotFound:
                return result  # somebody has removed it since
            for tag in result.tags:
                self._events.publish("image", "tag", image.id, event_attributes(image, tag))
        return result

    @asynccontextmanager
    async def context(self, stream: AsyncIterable[bytes]) -> AsyncIterator[Context]:
        """A tar (compressed or not) as a directory that lives as long as the block.

        Raises InvalidParameter for a malformed or hostile tar, DiskFull.
        """
        async with self._directory() as place:
            with self._disk_full_frees_contexts():
                await contexts.receive(stream, place)
            yield Context(place)

    @asynccontextmanager
    async def _named(self, request: BuildRequest) -> AsyncIterator[BuildRequest]:
        """The request with its named contexts here: repositories cloned, archives fetched."""
        found: dict[str, Path | ArchiveTree | str] = dict(request.named_contexts)
        async with AsyncExitStack() as stack:
            for name, value in request.named_contexts.items():
                if not isinstance(value, str) or value.startswith("docker-image://"):
                    continue
                if value.startswith("retained://"):
                    found[name] = self._retained.tree(*parse_name(value[11:]))
                    continue
                if not remotes.is_git(value) and not value.startswith(("http://", "https://")):
                    raise InvalidParameter(
                        f"unsupported context source {value!r} for {name}: use a folder, a Git"
                        " repository, the address of a tar, docker-image://NAME or"
                        " oci-layout://FOLDER"
                    )
                context = await stack.enter_async_context(
                    self.remote_context(
                        value, lambda _: None, keep_git=request.on("BUILDKIT_CONTEXT_KEEP_GIT_DIR")
                    )
                )
                if context.directory is None:
                    raise InvalidParameter(f"what is at {value} is no tar: {name} needs one")
                found[name] = context.directory
            yield replace(request, named_contexts=found)

    async def upload_context(self, retained: str, stream: AsyncIterable[bytes]) -> None:
        """Take what of an offered context has changed; it is retained for a build to use."""
        async with self.retained_context(retained, stream):
            pass

    def knows_context(self, retained: str) -> bool:
        """Whether the context ``NAME:FINGERPRINT`` need not be sent.  Raises InvalidParameter."""
        return self._retained.knows(*parse_name(retained))

    async def offer_context(self, retained: str, rows: bytes) -> list[int]:
        """Which files of a context to send, as :meth:`RetainedContexts.offer` says."""
        needed = await asyncio.to_thread(self._retained.offer, *parse_name(retained), rows)
        self._trim()
        return needed

    @asynccontextmanager
    async def retained_context(
        self, retained: str, stream: AsyncIterable[bytes]
    ) -> AsyncIterator[Context]:
        """A context of which only what has changed is in the stream.

        Raises NotFound if what has not is not here any more; InvalidParameter, DiskFull.
        """
        name, fingerprint = parse_name(retained)
        async with self._directory() as place:
            with self._disk_full_frees_contexts():
                await contexts.receive(stream, place)
            sent = await asyncio.to_thread(ArchiveTree, place / contexts.SPOOL)
        tree = await asyncio.to_thread(self._retained.complete, name, fingerprint, sent)
        self._trim()
        try:
            yield Context(tree)
        finally:
            tree.rest()
            self._give_back_soon()

    @contextmanager
    def _disk_full_frees_contexts(self) -> Iterator[None]:
        """Contexts are retained to save time, not to fill a disk."""
        try:
            yield
        except DiskFull:
            self._retained.clear()
            raise

    def _trim(self) -> None:
        """Forget contexts that have not been used for long, now and when the next one is due."""
        if self._trimming is not None:
            self._trimming.cancel()
        wait = self._retained.trim()
        self._give_back_soon()
        loop = asyncio.get_running_loop()
        self._trimming = None if wait is None else loop.call_later(wait + 1, self._trim)

    def _give_back_soon(self) -> None:
        """Return what a build has freed to the kernel, unless the next one comes at once."""
        loop = asyncio.get_running_loop()
        if self._giving_back is not None:
            self._giving_back.cancel()
        self._giving_back = loop.call_later(_QUIET, loop.run_in_executor, None, memory.give_back)

    @asynccontextmanager
    async def remote_context(
        self, url: str, report: Report, *, keep_git: bool = False
    ) -> AsyncIterator[Context]:
        """The context at an address: a Git repository (``keep_git``: with its own folder), a tar,
        or a Dockerfile.

        Raises InvalidParameter, NotFound, Unavailable.
        """
        async with self._directory() as place:
            if remotes.is_git(url):
                yield Context(await remotes.clone(url, place, keep_git=keep_git))
                return
            head, stream = await remotes.fetch(url, report)
            if remotes.is_archive(head):
                await contexts.receive(stream, place)
                yield Context(place)
            else:
                yield Context(dockerfile=await remotes.text(stream))

    async def cache(self) -> Sequence[dict[str, Any]]:
        """The records of the build cache, as ``system df`` shows them."""
        return await asyncio.to_thread(self._documents)

    async def prune(
        self,
        filters: Filters,
        until: int | None = None,
        *,
        everything: bool = False,
        keep_storage: int = 0,
    ) -> tuple[Sequence[str], int]:
        """Remove what no running build uses; returns the records' ids and the bytes freed.

        Without ``everything``, what images have in common with the cache stays.  Filters:
        description, id, inuse, label, parent, private, shared, type, until and unused-for (whose time the
        caller gives as ``until``, nanoseconds since the epoch).
        """
        filters.only(
            *("description", "id", "inuse", "label", "parent", "private", "shared", "type"),
            *("until", "unused-for"),
        )
        # `system prune` sends its label filter here too; nothing in the cache has a label.
        if "label" in filters:
            return [], 0
        in_images = await asyncio.to_thread(self._image_layers)

        def wanted(record: CacheRecord) -> bool:
            shared = _is_shared(record, in_images)
            if until is not None and record.last_used * 1e9 >= until:
                return False
            if not everything and shared:
                return False
            in_use = self._cache.in_use[record.id] > 0
            for key, truth in (("inuse", in_use), ("shared", shared), ("private", not shared)):
                if key in filters and filters.boolean(key, truth) != truth:
                    return False
            return (
                filters.prefix("id", record.id)
                and filters.pattern("description", record.description)
                and filters.exact("type", record.kind)
                and filters.exact("parent", record.parent or "")
            )

        removed, freed = await asyncio.to_thread(
            self._cache.prune, wanted, keep_storage=keep_storage
        )
        freed += await self._deps.images.gc()
        self._events.publish("builder", "prune", "", {"reclaimed": str(freed)})
        return removed, freed

    def _documents(self) -> Sequence[dict[str, Any]]:
        records = self._cache.records()
        by_snapshot = {record.snapshot: record.id for record in records}
        in_images = self._image_layers()
        return [self._document(record, by_snapshot, in_images) for record in records]

    def _image_layers(self) -> Set[str]:
        """Diff IDs of the layers of all images."""
        images = self._deps.images
        return {layer.diff_id for image in images.list() for layer in images.layers_of(image.id)}

    def _document(
        self, record: CacheRecord, by_snapshot: Mapping[str | None, str], in_images: Set[str]
    ) -> dict[str, Any]:
        parent = by_snapshot.get(record.parent) if record.parent else None
        return {
            "ID": record.id,
            "Parents": [parent] if parent else None,
            "Type": record.kind,
            "Description": record.description,
            "InUse": self._cache.in_use[record.id] > 0,
            "Shared": _is_shared(record, in_images),
            "Size": self._cache.size_of(record),
            "CreatedAt": _time(record.created),
            "LastUsedAt": _time(record.last_used),
            "UsageCount": record.uses,
        }

    @asynccontextmanager
    async def _directory(self) -> AsyncIterator[Path]:
        place = self._contexts / secrets.token_hex(8)
        await asyncio.to_thread(place.mkdir, parents=True, mode=0o700)
        try:
            yield place
        finally:
            await asyncio.shield(asyncio.to_thread(remove_tree, place, True))


def _is_shared(record: CacheRecord, in_images: Set[str]) -> bool:
    """Whether an image has the record's layer too."""
    return record.layer is not None and record.layer.diff_id in in_images


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")
