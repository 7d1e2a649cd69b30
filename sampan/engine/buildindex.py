"""Builds whose result is an index: for several platforms, or with attestations."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import msgspec

from sampan.build import (
    BuildDeps,
    BuildEvent,
    BuildRequest,
    BuildResult,
    BuildWarning,
    annotation,
    build,
)
from sampan.build.attest import manifests, packages, predicates
from sampan.build.attest.manifests import Predicate
from sampan.build.ops.tree import mounted
from sampan.errors import InvalidParameter
from sampan.image import manifest as media
from sampan.image.config import chain_id
from sampan.image.digest import sha256
from sampan.image.manifest import Descriptor, Platform
from sampan.image.reference import Reference
from sampan.store.images import Image, Member


@dataclass(frozen=True, slots=True)
class Attest:
    """Which attestations to make.  ``provenance`` is ``min`` or ``max``, empty for none;
    ``version`` is SLSA's, ``v0.2`` or ``v1``; ``source`` and ``commit`` are where the context
    comes from.  ``artifact`` makes them referrers of the image as well."""

    sbom: bool = False
    provenance: str = ""
    version: str = "v0.2"
    builder: str = ""
    reproducible: bool = False
    source: str = ""
    commit: str = ""
    artifact: bool = False

    def __post_init__(self) -> None:
        """Raises InvalidParameter."""
        if self.provenance not in ("", "min", "max"):
            raise InvalidParameter(f"invalid provenance mode {self.provenance!r}: min or max")
        if self.version not in ("v0.2", "v1"):
            raise InvalidParameter(f"invalid provenance version {self.version!r}: v0.2 or v1")

    def __bool__(self) -> bool:
        return self.sbom or bool(self.provenance)


async def build_index(
    request: BuildRequest,
    platforms: Sequence[str],
    attest: Attest,
    deps: BuildDeps,
    report: Callable[[BuildEvent], None],
) -> BuildResult:
    """Build for each platform, and put the images with their attestations into an index, which
    gets the tags.

    Raises what :func:`sampan.build.build` raises; InvalidParameter without a tag.
    """
    tags = [Reference.parse(tag) for tag in request.tags]
    if not tags:
        raise InvalidParameter(
            "an image for several platforms, or with attestations, needs a name: give it with --tag"
        )
    images = deps.images
    with images.lease():
        entries: list[Descriptor] = []
        attestations: list[Descriptor] = []
        members: list[Member] = []
        results: list[BuildResult] = []
        for platform in platforms or [request.platform]:
            started = time.time()
            one = replace(request, platform=platform, tags=())
            told = _apart(report, platform) if len(platforms) > 1 else report
            result = await build(one, deps, told)
            if result.image_id is None:
                return result
            image = images.get(result.image_id)
            manifest = await images.transfer_manifest(image)
            entry = _entry(image, manifest)
            mine = annotation.select(
                request.annotations, "manifest-descriptor", str(entry.platform)
            )
            entries.append(msgspec.structs.replace(entry, annotations=mine))
            members.append(Member(image.raw_config, images.layers_of(image.id), manifest))
            results.append(result)
            if attest:
                about = await _predicates(one, result, image, entry, attest, deps, started)
                names = [predicates.subject(t.familiar(), str(entry.platform)) for t in tags]
                attestations.append(
                    await asyncio.to_thread(
                        manifests.attestation,
                        images.content,
                        names,
                        entry,
                        about,
                        artifact=attest.artifact,
                    )
                )
        about_all = annotation.select(request.annotations, "index")
        index = manifests.index_of([*entries, *attestations], about_all)
        first = results[0].image_id
        for tag in tags:
            await images.admit_index(index, members, tag, lambda found: _chosen(found, first))
    return replace(results[0], tags=tuple(tag.familiar() for tag in tags))


def _apart(report: Callable[[BuildEvent], None], platform: str) -> Callable[[BuildEvent], None]:
    """Tells of a build for one of several platforms, so that its steps are no other's."""

    def own(identity: str) -> str:
        return sha256(f"{platform}\0{identity}".encode())

    def tell(event: BuildEvent) -> None:
        if not isinstance(event, BuildWarning):
            vertex = event.vertex
            name = vertex.name
            if vertex.number and name.startswith("["):
                name = f"[{platform} {name[1:]}"
            inputs = tuple(own(identity) for identity in vertex.inputs)
            mine = replace(vertex, id=own(vertex.id), name=name, inputs=inputs)
            event = replace(event, vertex=mine)
        report(event)

    return tell


def _chosen(found: Sequence[Image], first: str | None) -> Image:
    return next((image for image in found if image.id == first), found[0])


def _entry(image: Image, manifest: bytes) -> Descriptor:
    config = image.config
    return Descriptor(
        media.media_type_of(manifest),
        sha256(manifest),
        len(manifest),
        platform=Platform(
            architecture=config.architecture, os=config.os, variant=config.variant or ""
        ),
    )


async def _predicates(
    request: BuildRequest,
    result: BuildResult,
    image: Image,
    entry: Descriptor,
    attest: Attest,
    deps: BuildDeps,
    started: float,
) -> list[Predicate]:
    found = []
    name = Reference.parse(request.tags[0]).familiar() if request.tags else image.id
    if attest.sbom:
        await deps.images.unpack(image)
        listed, distribution = await asyncio.to_thread(_packages, deps, image)
        created = request.source_date_epoch
        when = time.time() if created is None else float(created)
        document = predicates.spdx(name, entry.digest, listed, distribution, when)
        found.append(Predicate(predicates.SPDX, document))
    if attest.provenance:
        facts = predicates.BuildFacts(
            id=secrets.token_hex(16),
            dockerfile=request.dockerfile,
            source=attest.source,
            commit=attest.commit,
            target=request.target,
            platform=str(entry.platform),
            arguments={k: v for k, v in request.build_args.items() if v is not None},
            labels=request.labels,
            materials=result.materials,
            started=started,
            finished=time.time(),
            everything=attest.provenance == "max",
            builder=attest.builder,
            reproducible=attest.reproducible,
        )
        found.append(Predicate(*predicates.provenance(facts, attest.version)))
    return found


def _packages(deps: BuildDeps, image: Image) -> tuple[list[packages.Package], str]:
    chain = chain_id(image.config.rootfs.diff_ids)
    if chain is None:
        return [], ""
    with mounted(deps.snapshots.mounts(chain)) as tree:
        return packages.packages(tree), packages.distribution(tree)
