"""Blobs of layers: decompressed, compressed, and made from a snapshot.

A layer is known by its diff ID (of the uncompressed tar).  Several blobs may hold it: as pulled,
as committed (the tar itself), compressed for a push.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import BinaryIO, cast

import msgspec

from sampan.errors import InvalidParameter, NotFound
from sampan.image import manifest as media
from sampan.image.compression import (
    Algorithm,
    CorruptStream,
    TooLarge,
    compressor,
    decompressed,
)
from sampan.image.digest import Digest
from sampan.image.layer import clamp, write_diff
from sampan.image.manifest import Descriptor
from sampan.image.streams import Wrapped
from sampan.store.content import ContentStore, DigestMismatch, Ingest
from sampan.store.metadata import Metadata
from sampan.store.readahead import ReadAhead

_CHUNK = 1 << 20
MAX_LAYER_SIZE = 100 << 30
"""Bytes that a layer may unpack to unless a setting says otherwise."""


class LayerRef(msgspec.Struct, frozen=True):
    """A layer of an image: the digest of its uncompressed tar, and the blob that holds it (which
    may be compressed, or the tar itself)."""

    diff_id: Digest
    blob: Descriptor


class LayerStore:
    """Calls that read or write whole layers block: make them in a thread."""

    def __init__(
        self, content: ContentStore, metadata: Metadata, max_size: int = MAX_LAYER_SIZE
    ) -> None:
        self.max_size = max_size
        self._content = content
        self._metadata = metadata

    def open(self, layer: LayerRef, progress: Callable[[int], None] | None = None) -> BinaryIO:
        """The uncompressed tar as a stream.  Its last read raises DigestMismatch when it is not
        the layer that the diff ID promises.  ``progress`` gets the bytes of the blob read so far.
        Raises errors.NotFound when no blob of it is here."""
        blob = self.present(layer)
        raw = self._content.open(blob.digest)
        stream = cast(BinaryIO, _Counted(raw, progress)) if progress is not None else raw
        plain = decompressed(stream, self.max_size)
        if blob.digest != layer.diff_id:
            plain = cast(BinaryIO, ReadAhead(plain))
        return cast(BinaryIO, _Verified(plain, layer.diff_id))

    def follow(self, layer: LayerRef) -> BinaryIO | None:
        """The same of a layer whose blob is being received, as it comes; None when it is not, or
        when its blob is the tar itself, which can serve as it is.  Reads also raise Interrupted."""
        raw = self._content.follow(layer.blob.digest) if _is_packed(layer) else None
        if raw is None:
            return None
        try:
            plain = decompressed(cast(BinaryIO, raw), self.max_size)
        except BaseException:
            raw.close()
            raise
        ahead = ReadAhead(plain, raw.interrupt)
        return cast(BinaryIO, _Verified(cast(BinaryIO, ahead), layer.diff_id))

    def present(self, layer: LayerRef) -> Descriptor:
        """A blob of the layer that is here: the layer's own, else any; raises errors.NotFound."""
        if self._content.has(layer.blob.digest):
            return layer.blob
        for blob in self.blobs(layer.diff_id):
            if self._content.has(blob.digest):
                return blob
        raise NotFound(
            f"the layer {layer.diff_id} has no content here any more: pull or load its image again"
        )

    def uncompressed(self, layer: LayerRef) -> Path | None:
        """The layer's tar as a file, when a blob of it is the tar itself."""
        return self._content.path(layer.diff_id) if self._content.has(layer.diff_id) else None

    def blobs(self, diff_id: Digest) -> list[Descriptor]:
        """The blobs that are known to hold a layer (whether they are here or not)."""
        rows = self._metadata.query(
            "SELECT media_type, digest, size FROM layer_blobs WHERE diff_id = ? ORDER BY digest",
            (diff_id,),
        )
        return [Descriptor(row[0], row[1], int(row[2])) for row in rows]

    def known(self, digest: Digest) -> Digest | None:
        """The diff ID of a blob that was seen before."""
        rows = self._metadata.query(
            "SELECT diff_id FROM layer_blobs WHERE digest = ? LIMIT 1", (digest,)
        )
        return rows[0][0] if rows else None

    def remember(self, diff_id: Digest, blob: Descriptor, size: int | None = None) -> None:
        """Record that a blob holds a layer, and the sum of the sizes of the layer's files.

        The registration of an image with the layer makes this durable.
        """
        with self._metadata.transaction(durable=False) as connection:
            self.remember_blobs([LayerRef(diff_id, blob)])
            if size is not None:
                connection.execute(
                    "INSERT OR REPLACE INTO layer_sizes VALUES (?, ?)", (diff_id, size)
                )

    def remember_blobs(self, layers: Iterable[LayerRef]) -> None:
        """Record that the layers' own blobs hold them."""
        with self._metadata.transaction(durable=False) as connection:
            connection.executemany(
                "INSERT OR IGNORE INTO layer_blobs VALUES (?, ?, ?, ?)",
                [(x.diff_id, x.blob.digest, x.blob.media_type, x.blob.size) for x in layers],
            )

    def compressed(self, layer: LayerRef, algorithm: Algorithm = "gzip") -> Descriptor:
        """A compressed blob of the layer, made now if there is none (the same bytes each time)."""
        if media.is_compressed(layer.blob.media_type) and self._content.has(layer.blob.digest):
            return layer.blob
        for blob in self.blobs(layer.diff_id):
            if blob.media_type.endswith(algorithm) and self._content.has(blob.digest):
                return blob
        squeeze = compressor(algorithm)
        with self.open(layer) as stream, self._content.ingest() as ingest:
            while chunk := stream.read(_CHUNK):
                ingest.write(squeeze.compress(chunk))
            ingest.write(squeeze.flush())
            size = ingest.offset
            digest = ingest.commit()
        kind = media.OCI_LAYER_GZIP if algorithm == "gzip" else media.OCI_LAYER_ZSTD
        blob = Descriptor(kind, digest, size)
        self.remember(layer.diff_id, blob)
        return blob

    def from_upper(
        self,
        upper: Path,
        clamp_mtime: int | None = None,
        exclude: Collection[str] = (),
        progress: Callable[[int], None] | None = None,
    ) -> LayerRef:
        """The diff in an overlay's upper directory as a layer tar in the content store."""
        return self.written(
            lambda sink: write_diff(upper, sink, clamp_mtime=clamp_mtime, exclude=exclude),
            progress,
        )

    def from_tar(self, path: Path, clamp_mtime: int | None) -> LayerRef:
        """A layer's tar that this program wrote, with times up to ``clamp_mtime`` (seconds)."""
        with path.open("rb") as stream:
            if clamp_mtime is None:
                return self.from_stream(stream)
            return self.written(lambda sink: clamp(stream, sink, clamp_mtime))

    def written(
        self,
        write: Callable[[BinaryIO], int],
        progress: Callable[[int], None] | None = None,
    ) -> LayerRef:
        """A layer whose uncompressed tar ``write`` writes; it returns the sum of the sizes of the
        regular files.  ``progress`` gets the bytes written so far."""
        with self._content.ingest() as ingest:
            size = write(cast(BinaryIO, _Sink(ingest, progress)))
            length = ingest.offset
            diff_id = ingest.commit()
        blob = Descriptor(media.OCI_LAYER, diff_id, length)
        self.remember(diff_id, blob, size)
        return LayerRef(diff_id, blob)

    def from_stream(self, stream: BinaryIO) -> LayerRef:
        """A layer tar of unknown digest (compressed or not), stored uncompressed."""
        with decompressed(stream, self.max_size) as plain, self._content.ingest() as ingest:
            while chunk := plain.read(_CHUNK):
                ingest.write(chunk)
            length = ingest.offset
            diff_id = ingest.commit()
        blob = Descriptor(media.OCI_LAYER, diff_id, length)
        self.remember(diff_id, blob)
        return LayerRef(diff_id, blob)


def _is_packed(layer: LayerRef) -> bool:
    return layer.blob.digest != layer.diff_id


class _Counted(Wrapped):
    """A stream that tells how far it was read."""

    def __init__(self, stream: BinaryIO, progress: Callable[[int], None]) -> None:
        super().__init__(stream)
        self._progress = progress
        self._position = 0

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(size)
        self._position += len(data)
        self._progress(self._position)
        return data


class _Verified(Wrapped):
    """A stream that checks its digest when it ends."""

    def __init__(self, stream: BinaryIO, expected: Digest) -> None:
        super().__init__(stream)
        self._expected = expected
        self._hash = hashlib.new(expected.partition(":")[0])

    def read(self, size: int = -1) -> bytes:
        try:
            data = self._stream.read(size)
        except TooLarge as error:
            raise InvalidParameter(f"the layer {self._expected} is refused: {error}") from error
        except CorruptStream as error:
            raise DigestMismatch(f"the layer {self._expected} is damaged: {error}") from error
        if data:
            self._hash.update(data)
            return data
        if size and self._hash.hexdigest() != self._expected.partition(":")[2]:
            raise DigestMismatch(
                f"the layer's content has digest sha256:{self._hash.hexdigest()}"
                f" where its image says {self._expected}"
            )
        return data


class _Sink(io.RawIOBase):
    """An ingest as a file to write to."""

    def __init__(self, ingest: Ingest, progress: Callable[[int], None] | None = None) -> None:
        self._ingest = ingest
        self._progress = progress

    def writable(self) -> bool:
        return True

    def write(self, data: object, /) -> int:
        view = memoryview(data)  # type: ignore[arg-type]
        self.write_pieces([view])
        return view.nbytes

    def write_pieces(self, pieces: Sequence[bytes | memoryview]) -> None:
        self._ingest.write_pieces(pieces)
        if self._progress is not None:
            self._progress(self._ingest.offset)
