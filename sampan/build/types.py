"""What goes into a build and what comes out: requests, dependencies, events, results."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from sampan.runtime.cgroups.naming import PLAIN, GroupNames

if TYPE_CHECKING:
    from sampan.build.ops.archive import ArchiveTree
    from sampan.build.shared import BuildShared
    from sampan.image.manifest import Platform
    from sampan.image.reference import Reference
    from sampan.network.manager import NetworkManager
    from sampan.progress import Progress, Report
    from sampan.runtime.spawner import Spawner
    from sampan.store.content import ContentStore
    from sampan.store.images import Image, ImageStore
    from sampan.store.metadata import Metadata
    from sampan.store.snapshots import Snapshotter

    Pull = Callable[[Reference, Platform | None, Report], Awaitable[Image]]


@dataclass(frozen=True, slots=True)
class Output:
    """Where a result goes.

    ``image`` (the default) registers it in the image store; ``local`` writes the files below the
    directory ``dest``; ``tar`` writes them as a tar file ``dest``; ``oci`` and ``docker`` write an
    image archive to the file ``dest``; ``cacheonly`` keeps only the cache.
    """

    type: Literal["image", "local", "tar", "oci", "docker", "cacheonly"]
    dest: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildRequest:
    """One build, as a client asked for it; every value is validated by :func:`sampan.build.build`.

    ``context`` is a directory, or an open archive (None: the build has no local context).
    ``dockerfile`` is the file's path below the context; ``dockerfile_text`` overrides it, for a
    Dockerfile from elsewhere.  ``build_args`` maps to None for "given without a value", which
    Docker treats as not given.  ``network_mode`` is ``default``, ``none``, ``host`` or a network's
    name.  ``shm_size`` and ``resources`` (OCI ``linux.resources``) are applied to each RUN.
    ``ulimits`` are OCI ``process.rlimits`` entries.  ``secrets`` maps ids to values, ``ssh`` maps
    ids to agent socket paths, ``named_contexts`` maps names to a directory or to a string
    (``docker-image://REF``).  ``no_cache_filter`` names the stages built without cache.
    ``cache_export`` makes an image of the cache of the target's stage (``min``) or of all stages
    (``max``); ``keep_failed_state`` one of what a failed command found.
    ``call`` asks for what is to be said of the Dockerfile instead of a build.
    ``source_date_epoch`` (seconds) sets the times in the image and its layers.
    """

    context: Path | ArchiveTree | None = None
    dockerfile: str = "Dockerfile"
    dockerfile_text: bytes | None = None
    build_args: Mapping[str, str | None] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    """With what they are for in front, as :mod:`sampan.build.annotation` reads it."""
    target: str = ""
    tags: tuple[str, ...] = ()
    no_cache: bool = False
    no_cache_filter: tuple[str, ...] = ()
    pull: bool = False
    network_mode: str = "default"
    platform: str = ""
    extra_hosts: tuple[str, ...] = ()
    shm_size: int = 64 << 20
    ulimits: tuple[Mapping[str, object], ...] = ()
    resources: Mapping[str, object] = field(default_factory=dict)
    cgroup_parent: str = ""
    security_opt: tuple[str, ...] = ()
    cache_from: tuple[str, ...] = ()
    squash: bool = False
    secrets: Mapping[str, bytes] = field(default_factory=dict)
    ssh: Mapping[str, str] = field(default_factory=dict)
    named_contexts: Mapping[str, Path | ArchiveTree | str] = field(default_factory=dict)
    allow_insecure: bool = False
    outputs: tuple[Output, ...] = (Output("image"),)
    call: Literal["", "check", "outline", "targets"] = ""
    cache_export: Literal["", "min", "max"] = ""
    keep_failed_state: bool = False
    source_date_epoch: int | None = None

    def on(self, name: str) -> bool:
        """Whether a build argument that switches something (``BUILDKIT_…``) is on."""
        return self.build_args.get(name) in ("1", "true")


@dataclass(frozen=True, slots=True)
class BuildDeps:
    """What a build works with; made once by the daemon.

    ``shared`` is what concurrent builds share; it makes the cache a root of the store's collector.
    """

    images: ImageStore
    content: ContentStore
    snapshots: Snapshotter
    metadata: Metadata
    spawner: Spawner
    networks: NetworkManager
    pull: Pull
    state_dir: Path
    run_dir: Path
    groups: GroupNames = PLAIN
    apparmor: str = ""
    shared: BuildShared = field(init=False)

    def __post_init__(self) -> None:
        from sampan.build.shared import BuildShared

        object.__setattr__(self, "shared", BuildShared.open(self))


@dataclass(frozen=True, slots=True)
class Vertex:
    """One step as progress shows it.

    ``id`` is a digest, unique in the build.  ``name`` is BuildKit's (``[2/5] RUN make``, with
    ``[stage 2/5]`` when there are several stages).  ``number`` counts the Dockerfile's
    instructions from 1 over all needed stages, of ``total``; ``text`` is the instruction as
    written on one line: together they are the classic ``Step 2/5 : RUN make``.  Steps that stand
    for no instruction (``[internal] load build context``) have number 0.
    """

    id: str
    name: str
    number: int
    total: int
    text: str
    stage: str = ""
    inputs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class StepStarted:
    vertex: Vertex
    at: float


@dataclass(frozen=True, slots=True)
class StepRunning:
    """A RUN's container (64 hex digits) has started."""

    vertex: Vertex
    container_id: str


@dataclass(frozen=True, slots=True)
class StepLog:
    """Output of a step's command, in the chunks it came in."""

    vertex: Vertex
    stream: Literal["stdout", "stderr"]
    data: bytes
    at: float


@dataclass(frozen=True, slots=True)
class StepProgress:
    """Progress of a pull or of another long transfer inside a step."""

    vertex: Vertex
    progress: Progress


@dataclass(frozen=True, slots=True)
class StepCached:
    """The step's result was there already; ``result`` is 64 hex digits (show the first 12)."""

    vertex: Vertex
    result: str
    at: float


@dataclass(frozen=True, slots=True)
class StepDone:
    """The step was executed; ``result`` is 64 hex digits; ``container_id`` is a RUN's, or empty."""

    vertex: Vertex
    result: str
    container_id: str
    at: float


@dataclass(frozen=True, slots=True)
class StepFailed:
    """The step has failed, or was cancelled; ``excerpt`` shows a failed one in the Dockerfile."""

    vertex: Vertex
    error: str
    at: float
    excerpt: str = ""


@dataclass(frozen=True, slots=True)
class BuildWarning:
    """A linter's finding: ``rule`` as documented (``StageNameCasing``), ``line`` from 1."""

    rule: str
    message: str
    description: str
    url: str
    line: int
    excerpt: str


BuildEvent = (
    StepStarted
    | StepRunning
    | StepLog
    | StepProgress
    | StepCached
    | StepDone
    | StepFailed
    | BuildWarning
)


@dataclass(frozen=True, slots=True)
class BuildResult:
    """``materials`` are the images built on, with digests; ``cache_id`` is the exported cache;
    ``answer`` is what ``call`` asked for.
    ``image_id`` is ``sha256:…``, or None when no image was asked for (check, local, tar)."""

    image_id: str | None
    tags: tuple[str, ...] = ()
    warnings: tuple[BuildWarning, ...] = ()
    unused_build_args: tuple[str, ...] = ()
    cache_id: str = ""
    materials: tuple[tuple[str, str], ...] = ()
    answer: Mapping[str, object] | None = None
