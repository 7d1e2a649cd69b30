"""Images for several platforms under one tag.

An index is kept as it came, byte for byte, beside the tag that it was brought under, with those
of its images that are here (its *variants*).  The tag's row in ``tags`` names the variant that is
meant when nobody says a platform.  A tag that is pointed elsewhere loses its index.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import msgspec

from sampan.image import manifest as media
from sampan.image.digest import Digest
from sampan.image.manifest import Descriptor, Index, InvalidManifest, Manifest
from sampan.image.reference import Reference
from sampan.store.content import ContentStore
from sampan.store.metadata import Metadata

MAX_DEPTH = 3


@dataclass(frozen=True, slots=True)
class Variant:
    """An image of an index: its ID and the digest of its manifest."""

    image: Digest
    manifest: Digest


class Indexes:
    """Short queries, save for :meth:`roots`, which reads every index that is kept."""

    def __init__(self, content: ContentStore, metadata: Metadata) -> None:
        self._content = content
        self._metadata = metadata

    def of(self, tag: Reference) -> Descriptor | None:
        """The index under a tag, None when the tag is of a single image."""
        rows = self._metadata.query(
            "SELECT media_type, digest, size FROM tag_indexes WHERE name = ?", (tag.familiar(),)
        )
        return Descriptor(rows[0][0], rows[0][1], int(rows[0][2])) if rows else None

    def of_image(self, image: Digest) -> list[tuple[str, Descriptor]]:
        """The tags under which the image is a variant of an index, with those indexes."""
        rows = self._metadata.query(
            "SELECT x.name, x.media_type, x.digest, x.size FROM tag_indexes x"
            " JOIN variants v ON v.name = x.name WHERE v.image = ? ORDER BY x.name",
            (image,),
        )
        return [(row[0], Descriptor(row[1], row[2], int(row[3]))) for row in rows]

    def variants(self, tag: Reference | str) -> list[Variant]:
        """The images of the tag's index that are here."""
        name = tag if isinstance(tag, str) else tag.familiar()
        rows = self._metadata.query(
            "SELECT image, manifest FROM variants WHERE name = ? ORDER BY rowid", (name,)
        )
        return [Variant(*row) for row in rows]

    def only_variants(self) -> set[Digest]:
        """The images that are here as a variant and have no tag of their own."""
        rows = self._metadata.query(
            "SELECT DISTINCT image FROM variants WHERE image NOT IN (SELECT image FROM tags)"
        )
        return {image for (image,) in rows}

    def described(self) -> dict[Digest, Descriptor]:
        """The index of each image that a tag with an index names."""
        rows = self._metadata.query(
            "SELECT t.image, x.media_type, x.digest, x.size FROM tag_indexes x"
            " JOIN tags t ON t.name = x.name"
        )
        return {row[0]: Descriptor(row[1], row[2], int(row[3])) for row in rows}

    def set(self, tag: Reference, index: Descriptor, variants: Iterable[Variant]) -> None:
        """Keep ``index`` under the tag, which is there already.  Variants that were known of the
        same index stay."""
        name = tag.familiar()
        with self._metadata.transaction() as connection:
            before = self.of(tag)
            if before is not None and before.digest != index.digest:
                connection.execute("DELETE FROM variants WHERE name = ?", (name,))
            connection.execute(
                "INSERT OR REPLACE INTO tag_indexes VALUES (?, ?, ?, ?)",
                (name, index.media_type, index.digest, index.size),
            )
            for variant in variants:
                connection.execute(
                    "INSERT OR IGNORE INTO variants (name, image, manifest) VALUES (?, ?, ?)",
                    (name, variant.image, variant.manifest),
                )

    def copy(self, source: Reference, target: Reference) -> None:
        """Keep the index of one tag under another too."""
        index = self.of(source)
        if index is not None and source != target:
            self.set(target, index, self.variants(source))

    def document(self, index: Descriptor) -> Index | None:
        """The index itself; None when it is not here or damaged."""
        value = self._read(index.digest)
        return value if isinstance(value, Index) else None

    def complete(self, index: Descriptor) -> bool:
        """Whether everything that the index names is here."""
        return all(self._content.has(digest) for digest in self._reached(index.digest, 0))

    def roots(self) -> Iterator[Digest]:
        """Every blob that an index reaches, here or not."""
        rows = self._metadata.query(
            "SELECT DISTINCT digest FROM tag_indexes"
            " UNION SELECT substr(name, instr(name, '@') + 1) FROM repo_digests"
        )
        for (digest,) in rows:
            yield from self._reached(digest, 0)

    def _reached(self, digest: Digest, depth: int) -> Iterator[Digest]:
        yield digest
        document = self._read(digest)
        if isinstance(document, Manifest):
            yield document.config.digest
            yield from (layer.digest for layer in document.layers)
        elif document is not None and depth < MAX_DEPTH:
            for child in document.manifests:
                yield from self._reached(child.digest, depth + 1)

    def _read(self, digest: Digest) -> Manifest | Index | None:
        if not self._content.has(digest):
            return None
        try:
            return media.decode(self._content.read_bytes(digest))
        except (InvalidManifest, msgspec.MsgspecError):
            return None


def images_of(index: Index) -> Sequence[Descriptor]:
    """The entries that are images, and not statements about them (attestations)."""
    return [
        entry
        for entry in index.manifests
        if entry.platform is None or entry.platform.architecture != "unknown"
    ]
