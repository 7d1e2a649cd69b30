"""Referrers: manifests that name another one as their ``subject`` (distribution-spec 1.1).

A registry without the list keeps them under a tag made of the subject's digest, an index that its
clients maintain.
"""

from __future__ import annotations

from dataclasses import replace
from urllib.parse import quote

import msgspec

from sampan.errors import InvalidParameter, NotFound, Unavailable
from sampan.image import digest as digests
from sampan.image import manifest as media
from sampan.image.manifest import Descriptor, Index, InvalidManifest, Manifest
from sampan.image.reference import Reference
from sampan.registry import failures, manifests
from sampan.registry.authorizer import repository_scope
from sampan.registry.manifests import Document
from sampan.registry.transport import Remote


async def find(remote: Remote, ref: Reference, artifact_type: str) -> tuple[Descriptor, bytes]:
    """The index of what refers to ``ref`` (a digest), empty when nothing does.

    Raises Unauthorized, Unavailable, InvalidParameter (the registry's list is none).
    """
    assert ref.digest is not None
    query = f"?artifactType={quote(artifact_type, safe='')}" if artifact_type else ""
    answer = await remote.call(
        "GET",
        f"v2/{ref.path}/referrers/{ref.digest}{query}",
        scopes=manifests.pull_scopes(ref.path),
        headers={"Accept": media.OCI_INDEX},
    )
    if answer.status == 200:
        filtered = "artifactType" in answer.headers.get("OCI-Filters-Applied", "")
        return _kept(answer.body, "" if filtered else artifact_type)
    if answer.status != 404:
        raise failures.of_status(answer.status, answer.body, f"referrers of {ref.familiar()}")
    try:
        found = await manifests.get(remote, replace(ref, digest=None, tag=fallback_tag(ref.digest)))
    except NotFound:
        return _kept(media.encode(Index(schema_version=2)), "")
    return _kept(found.data, artifact_type)


def fallback_tag(digest: str) -> str:
    """The tag under which referrers are kept where there is no list: ``sha256-<hex>``."""
    algorithm, encoded = digests.split(digest)
    return f"{algorithm[:32]}-{encoded[:64]}"


async def announce(remote: Remote, ref: Reference, document: Document) -> None:
    """Add a pushed manifest to the list of its subject's referrers, in a registry that did not
    do so itself.  Raises as a push."""
    subject = document.value.subject
    assert subject is not None
    tag = fallback_tag(subject.digest)
    index = Index(schema_version=2)
    try:
        known = await manifests.get(remote, replace(ref, digest=None, tag=tag))
        if isinstance(known.value, Index):
            index = known.value
    except NotFound:
        pass
    if any(entry.digest == document.descriptor.digest for entry in index.manifests):
        return
    value = document.value
    kind = value.artifact_type
    if not kind and isinstance(value, Manifest):
        kind = value.config.media_type
    entry = msgspec.structs.replace(
        document.descriptor, artifact_type=kind, annotations=value.annotations
    )
    data = media.encode(msgspec.structs.replace(index, manifests=(*index.manifests, entry)))
    answer = await remote.call(
        "PUT",
        f"v2/{ref.path}/manifests/{tag}",
        scopes=(repository_scope(ref.path, "pull,push"),),
        headers={"Content-Type": media.OCI_INDEX},
        body=lambda: data,
    )
    if answer.status not in (200, 201, 202):
        raise failures.of_status(answer.status, answer.body, f"push of the referrers tag {tag}")


def _kept(data: bytes, artifact_type: str) -> tuple[Descriptor, bytes]:
    try:
        value = media.decode(data)
    except InvalidManifest as error:
        raise Unavailable(f"the registry's list of referrers is not understood: {error}") from None
    if not isinstance(value, Index):
        raise InvalidParameter("the registry's list of referrers is no index")
    if artifact_type:
        entries = tuple(e for e in value.manifests if e.artifact_type == artifact_type)
        data = media.encode(msgspec.structs.replace(value, manifests=entries))
    return Descriptor(media.OCI_INDEX, digests.sha256(data), len(data)), data
