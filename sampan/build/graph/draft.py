"""The image configuration of a stage while its instructions change it."""

from __future__ import annotations

from dataclasses import dataclass, field

from sampan.build.graph.ops import Vertex
from sampan.build.graph.scope import DEFAULT_PATH, StageScope
from sampan.image.config import Healthcheck, History, ImageConfig, RunConfig
from sampan.image.manifest import Platform


@dataclass(slots=True)
class Record:
    """A line of history to be: ``vertex`` made the layer, or None for an empty one."""

    created_by: str
    vertex: Vertex | None


@dataclass(slots=True)
class Draft:
    """``vertex`` is the tree so far (None: empty); ``base`` the image below, if there is one.

    ``args_escaped`` means nothing here; it is in every image with a CMD of Docker's builders.
    """

    platform: Platform
    scope: StageScope
    vertex: Vertex | None = None
    base: ImageConfig | None = None
    base_vertex: Vertex | None = None
    author: str = ""
    user: str = ""
    workdir: str = ""
    cmd: list[str] | None = None
    cmd_set: bool = False
    args_escaped: bool = False
    entrypoint: list[str] | None = None
    shell: list[str] | None = None
    labels: dict[str, str] = field(default_factory=dict)
    exposed: dict[str, dict[str, object]] = field(default_factory=dict)
    volumes: dict[str, dict[str, object]] = field(default_factory=dict)
    healthcheck: Healthcheck | None = None
    stop_signal: str = ""
    on_build: list[str] = field(default_factory=list)
    history: list[Record] = field(default_factory=list)

    @classmethod
    def scratch(cls, platform: Platform) -> Draft:
        return cls(platform, StageScope({"PATH": DEFAULT_PATH}, {}), workdir="/")

    @classmethod
    def on_image(cls, config: ImageConfig, vertex: Vertex, platform: Platform) -> Draft:
        run = config.config
        env = dict(item.partition("=")[::2] for item in run.env or ())
        env.setdefault("PATH", DEFAULT_PATH)
        return cls(
            platform,
            StageScope(env, {}),
            vertex=vertex if config.rootfs.diff_ids else None,
            base=config,
            base_vertex=vertex,
            author=config.author,
            user=run.user,
            workdir=run.working_dir,
            cmd=run.cmd,
            args_escaped=run.args_escaped,
            entrypoint=run.entrypoint,
            shell=run.shell,
            labels=dict(run.labels or {}),
            exposed=dict(run.exposed_ports or {}),
            volumes=dict(run.volumes or {}),
            healthcheck=run.healthcheck,
            stop_signal=run.stop_signal,
        )

    def child(self) -> Draft:
        """The state that ``FROM stage`` begins with: arguments are inherited, triggers are not."""
        return Draft(
            self.platform,
            StageScope(self.scope.env, self.scope.args),
            vertex=self.vertex,
            base=self.base,
            base_vertex=self.base_vertex,
            author=self.author,
            user=self.user,
            workdir=self.workdir,
            cmd=self.cmd,
            args_escaped=self.args_escaped,
            entrypoint=self.entrypoint,
            shell=self.shell,
            labels=dict(self.labels),
            exposed=dict(self.exposed),
            volumes=dict(self.volumes),
            healthcheck=self.healthcheck,
            stop_signal=self.stop_signal,
            history=list(self.history),
        )

    def with_shell(self, line: str) -> list[str]:
        return [*(self.shell or ("/bin/sh", "-c")), line]

    def run_config(self) -> RunConfig:
        return RunConfig(
            user=self.user,
            exposed_ports=self.exposed or None,
            env=[f"{key}={value}" for key, value in self.scope.env.items()],
            cmd=self.cmd or None,
            args_escaped=self.args_escaped,
            healthcheck=self.healthcheck,
            volumes=self.volumes or None,
            working_dir=self.workdir,
            entrypoint=self.entrypoint or None,
            on_build=self.on_build or None,
            labels=self.labels or None,
            stop_signal=self.stop_signal,
            shell=self.shell,
        )

    def base_history(self) -> list[History]:
        return list(self.base.history) if self.base else []
