"""What images, volumes, networks and pruning need to know of containers.

It is supplied as a plain function (see :func:`of`), so that no noun depends on another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from sampan.engine.state import Container


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerUse:
    """One container as others see it.

    ``image`` is the reference it was created with, ``image_id`` the ``sha256:…`` behind it;
    ``volumes`` are the names of the volumes it mounts, ``images`` the ids of all images it needs; ``pid`` is its first process (0 when it
    does not run); ``created`` is in nanoseconds since the epoch.
    """

    id: str
    name: str
    image: str
    image_id: str
    running: bool
    pid: int = 0
    created: int = 0
    labels: Mapping[str, str] = field(default_factory=dict)
    volumes: frozenset[str] = frozenset()
    images: frozenset[str] = frozenset()


Uses = Callable[[], Iterable[ContainerUse]]
"""All containers there are, running or not."""


def of(containers: Iterable[Container]) -> list[ContainerUse]:
    """The uses that these containers make of images and volumes."""
    return [
        ContainerUse(
            id=container.id,
            name=container.name,
            image=container.record.config.image,
            image_id=container.record.image_id,
            running=container.running,
            pid=container.pid,
            created=container.record.created,
            labels=container.record.labels,
            volumes=frozenset(
                mount.point.name
                for mount in container.record.mounts
                if mount.point.type == "volume"
            ),
            images=frozenset(
                (container.record.image_id, *(m.image_id for m in container.record.mounts))
            ),
        )
        for container in containers
    ]
