"""Garbage collection by reachability.

Roots are the images, what their blobs and chains need, whatever else the callers name, and what an
open lease holds.  Snapshots in use (of containers, of build steps) keep their parents.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from sampan.errors import Conflict, NotFound
from sampan.store.content import ContentStore
from sampan.store.metadata import Metadata
from sampan.store.snapshots import Snapshotter

_ROOTS = (
    "SELECT id FROM images UNION SELECT manifest_digest FROM images"
    " UNION SELECT digest FROM image_layers UNION SELECT chain_id FROM image_layers"
    " UNION SELECT digest FROM layer_blobs WHERE diff_id IN (SELECT diff_id FROM image_layers)"
)


def collect(
    metadata: Metadata,
    content: ContentStore,
    snapshotter: Snapshotter,
    more: Sequence[Callable[[], Iterable[str]]] = (),
) -> int:
    """Remove what nothing reaches; returns the bytes freed.  Blocks."""
    freed = 0
    with content.leases.collecting() as held:
        roots = {name for (name,) in metadata.query(_ROOTS)}
        for source in more:
            roots.update(source())

        def wanted(name: str) -> bool:
            with content.leases.lock:
                return held(name)

        for name in snapshotter.unreached(roots):
            try:
                size = snapshotter.usage(name).size
                snapshotter.remove(name, unless=wanted)
            except (Conflict, NotFound):
                continue
            freed += size
        for digest in list(content.walk()):
            if digest not in roots:
                with content.leases.lock:
                    if held(digest):
                        continue
                    size = content.set_aside(digest)
                freed += size
        content.clean()
    with metadata.transaction() as connection:
        connection.execute(
            "DELETE FROM layer_blobs WHERE diff_id NOT IN (SELECT diff_id FROM image_layers)"
        )
    return freed
