"""The use cases and their state machines, one class a noun.

Vocabulary: a *container* is a record (configuration, host configuration, state) plus, while it
runs, a keeper process; an *exec* is a further process in a running container; a *noun class*
(:class:`~sampan.engine.containers.Containers` and its siblings) holds the operations on one kind
of object and is given just the stores it needs.  The :class:`Engine` is only the record of them,
made by ``sampan.daemon.compose``.  Nothing here knows HTTP.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sampan.engine.archive import Archive
    from sampan.engine.attach import Attach
    from sampan.engine.builds import Builds
    from sampan.engine.check import Check
    from sampan.engine.commit import Commits
    from sampan.engine.containers import Containers
    from sampan.engine.distribution import Distribution
    from sampan.engine.events import Events
    from sampan.engine.execs import Execs
    from sampan.engine.images import Images
    from sampan.engine.inspect import Inspector
    from sampan.engine.lifecycle import Lifecycle
    from sampan.engine.listing import Listing
    from sampan.engine.logs import Logs
    from sampan.engine.networks import Networks
    from sampan.engine.processes import Processes
    from sampan.engine.prune import Prune
    from sampan.engine.stats import Stats
    from sampan.engine.system import System
    from sampan.engine.system_df import DiskUsage
    from sampan.engine.transfers import Transfers
    from sampan.engine.volumes import Volumes


@dataclass(slots=True, kw_only=True)
class Engine:
    """The nouns of the engine, for the API's routes."""

    events: Events
    containers: Containers
    lifecycle: Lifecycle
    execs: Execs
    attach: Attach
    logs: Logs
    inspector: Inspector
    listing: Listing
    processes: Processes
    stats: Stats
    images: Images
    volumes: Volumes
    networks: Networks
    builds: Builds
    commits: Commits
    archive: Archive
    distribution: Distribution
    transfers: Transfers
    prune: Prune
    disk_usage: DiskUsage
    check: Check
    system: System
