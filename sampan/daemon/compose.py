"""The composition root: every part of the engine is made here and handed what it needs.

The order is that of the processes: the spawner is forked before anything makes a thread; then the
stores, the networks, the nouns; then what ran before this daemon is found again.
"""

from __future__ import annotations

import asyncio
import stat
import uuid
from collections.abc import Iterable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from sampan.build import BuildDeps
from sampan.daemon.config import Settings
from sampan.engine import Engine, apparmor, uses
from sampan.engine import remap as remaps
from sampan.engine.archive import Archive
from sampan.engine.attach import Attach
from sampan.engine.attachments import Attachments
from sampan.engine.builds import Builds
from sampan.engine.cdi import Registry
from sampan.engine.check import Check
from sampan.engine.commit import Commits
from sampan.engine.connect import Connector
from sampan.engine.containers import Containers, Defaults
from sampan.engine.distribution import Distribution
from sampan.engine.events import Events
from sampan.engine.execs import Execs
from sampan.engine.images import Images
from sampan.engine.inspect import Inspector
from sampan.engine.launch import Launcher, Places
from sampan.engine.lifecycle import Lifecycle
from sampan.engine.listing import Listing
from sampan.engine.logs import Logs
from sampan.engine.networks import Networks
from sampan.engine.processes import Processes
from sampan.engine.prune import Prune
from sampan.engine.roots import Roots
from sampan.engine.runtimes import Runtimes
from sampan.engine.stats import Stats
from sampan.engine.system import Facts, System
from sampan.engine.system_df import DiskUsage
from sampan.engine.transfers import Transfers
from sampan.engine.volumes import Volumes
from sampan.network.manager import NetworkManager, NetworkSettings
from sampan.network.runfiles import RunCollection
from sampan.network.types import Endpoint, Network, NetworkEvent
from sampan.registry.client import RegistryClient
from sampan.registry.config import Proxies, RegistryConfig
from sampan.runtime.spawner import Spawner
from sampan.store import probe
from sampan.store.archives import Archives
from sampan.store.content import ContentStore
from sampan.store.images import ImageStore
from sampan.store.metadata import Metadata

KEEPER_SERVICES = ("sampan.network.dns", "sampan.network.relay")


@dataclass(frozen=True, slots=True)
class _Stores:
    """What lies on disk."""

    metadata: Metadata
    images: ImageStore
    why: str


async def compose(settings: Settings, stack: AsyncExitStack) -> Engine:
    """Build the engine; what must be closed at the end is pushed on ``stack``, in order."""
    spawner = await Spawner.start([*KEEPER_SERVICES, *settings.groups.modules])
    stack.push_async_callback(spawner.close)
    stores = _stores(settings, stack)
    events = Events()
    manager = _network_manager(settings, stores, events)
    images, snapshotter = stores.images, stores.images.snapshotter
    runtimes = Runtimes(settings.runtimes, settings.default_runtime)
    remap = remaps.read(settings.userns_remap, Path(settings.subid_dir))
    profiles = await asyncio.to_thread(apparmor.load)
    places = Places(
        settings.state,
        settings.run,
        settings.groups,
        profiles,
        settings.journal_socket,
        runtimes,
        remap,
        Registry(settings.cdi_spec_dirs),
        settings.realtime,
    )
    roots = Roots(snapshotter)
    defaults = _defaults(settings, runtimes, remap)
    containers = Containers(stores.metadata, images, events, roots.snapshot, defaults)

    def in_use() -> Iterable[uses.ContainerUse]:
        return uses.of(containers.all())

    volumes = Volumes(stores.metadata, settings.state / "volumes", events, in_use)
    attachments = Attachments(volumes, images, settings.run, events)
    containers.volumes = attachments
    images.add_roots(containers.snapshot_keys)
    execs = Execs(containers, profiles)
    launcher = Launcher(places, spawner, snapshotter, manager, attachments, containers.get)
    lifecycle = Lifecycle(
        containers, execs, launcher, attachments, snapshotter, places, settings.default_stop_timeout
    )
    stack.push_async_callback(lifecycle.close)
    connector = Connector(manager, launcher)
    processes = Processes(containers, snapshotter, roots, places)
    inspector = Inspector(images, execs, launcher, places)
    registry = RegistryClient(_registry_config(settings))
    stack.push_async_callback(registry.close)
    image_noun = Images(images, events, in_use)
    listing = Listing(containers, images, inspector)
    distribution = Distribution(images, registry, events)
    build_deps = BuildDeps(
        images=images,
        content=images.content,
        snapshots=snapshotter,
        metadata=stores.metadata,
        spawner=spawner,
        networks=manager,
        pull=distribution.pull_for_build,
        state_dir=settings.state,
        run_dir=settings.run,
        groups=settings.groups,
        apparmor=profiles.default,
    )
    builds = Builds(build_deps, events, settings.insecure_entitlements)
    engine = Engine(
        events=events,
        containers=containers,
        lifecycle=lifecycle,
        execs=execs,
        attach=Attach(containers),
        logs=Logs(launcher),
        inspector=inspector,
        listing=listing,
        processes=processes,
        stats=Stats(processes),
        images=image_noun,
        volumes=volumes,
        networks=Networks(manager, containers, events, connector.connect, connector.disconnect),
        builds=builds,
        prune=Prune(containers, lifecycle, snapshotter, events),
        check=Check(stores.metadata, images, manager, containers),
        disk_usage=DiskUsage(image_noun, listing, volumes, builds),
        commits=Commits(images, containers, roots, events),
        archive=Archive(containers, roots),
        distribution=distribution,
        transfers=Transfers(Archives(images), image_noun, events),
        system=System(
            _facts(settings, stores, runtimes, profiles),
            containers,
            events,
            lambda: len(images.list()),
        ),
    )
    await _find_again(lifecycle, containers, manager, attachments, connector, stack)
    return engine


def _close_to_others(directory: Path) -> None:
    """Whoever is neither root nor of the directory's group gets no further than here: below are
    the files of containers, with programs that give root's rights, and what they keep secret."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    directory.chmod(stat.S_IMODE(directory.stat().st_mode) & ~stat.S_IRWXO)


def _stores(settings: Settings, stack: AsyncExitStack) -> _Stores:
    _close_to_others(settings.state)
    _close_to_others(settings.run / "mounts")
    for directory in ("containers", "tmp"):
        (settings.state / directory).mkdir(mode=0o710, parents=True, exist_ok=True)
    metadata = Metadata(settings.state / "meta.db")
    stack.callback(metadata.close)
    content = ContentStore(settings.state)
    content.clean()
    snapshotter, why = probe.choose(
        settings.state, settings.run, metadata, settings.storage_driver or None
    )
    stack.callback(snapshotter.close)
    images = ImageStore(
        content,
        metadata,
        snapshotter,
        discard_blobs=settings.discard_blobs,
        max_layer_size=settings.max_layer_size,
    )
    return _Stores(metadata, images, why)


def _network_manager(settings: Settings, stores: _Stores, events: Events) -> NetworkManager:
    def publish(event: NetworkEvent) -> None:
        attributes = {"name": event.network_name, "type": event.driver}
        if event.container_id:
            attributes["container"] = event.container_id
        events.publish("network", event.action, event.network_id, attributes)

    return NetworkManager(
        stores.metadata.collection("networks", Network),
        RunCollection(settings.run / "networks" / "endpoints", Endpoint),
        NetworkSettings(
            run_dir=settings.run_dir,
            bridge_name=settings.bridge,
            bip=settings.bip,
            fixed_cidr=settings.fixed_cidr,
            shortcuts=settings.bridge_shortcuts,
            firewall=settings.firewall_backend,
            ip_forward=settings.ip_forward,
            system_bus=settings.system_bus,
            mtu=settings.mtu,
            icc=settings.icc,
            default_host_ip=settings.ip,
            address_pools=[(pool.base, pool.size) for pool in settings.default_address_pools],
            dns=settings.dns,
            dns_search=settings.dns_search,
            dns_options=settings.dns_opts,
            resolv_conf=settings.resolv_conf,
        ),
        publish,
    )


async def _find_again(
    lifecycle: Lifecycle,
    containers: Containers,
    manager: NetworkManager,
    volumes: Attachments,
    connector: Connector,
    stack: AsyncExitStack,
) -> None:
    """Reconnect to what runs, make the kernel agree with the records, finish what ended."""
    alive = await lifecycle.reconnect()
    await manager.start({container.id for container in alive})

    async def close_networks() -> None:
        # Bridges and rules serve the containers that go on; without any, nothing is left behind.
        await manager.close(remove_all=not any(c.running for c in containers.all()))

    stack.push_async_callback(close_networks)
    await volumes.restore({container.id: container.record.mounts for container in alive})
    await connector.settle(alive)
    await lifecycle.settle(alive)


def _defaults(settings: Settings, runtimes: Runtimes, remap: remaps.Remap | None) -> Defaults:
    return Defaults(
        settings.log_driver,
        settings.log_opts,
        settings.default_shm_size,
        runtimes,
        remap,
        settings.groups,
    )


def _registry_config(settings: Settings) -> RegistryConfig:
    return RegistryConfig(
        insecure=tuple(settings.insecure_registries),
        mirrors=tuple(settings.registry_mirrors),
        default_endpoint=settings.default_registry or None,
        certs_dir=Path(settings.certs_dir),
        proxies=_proxies(settings),
        max_downloads=settings.max_concurrent_downloads,
        max_uploads=settings.max_concurrent_uploads,
        attempts=settings.max_download_attempts,
    )


def _proxies(settings: Settings) -> Proxies:
    """The settings, and where one is not given the environment's."""
    found = Proxies.from_environment()
    bypass = tuple(part.strip() for part in settings.no_proxy.split(",") if part.strip())
    return Proxies(
        settings.http_proxy or found.http,
        settings.https_proxy or found.https,
        bypass or found.no_proxy,
    )


def _facts(
    settings: Settings, stores: _Stores, runtimes: Runtimes, profiles: apparmor.Profiles
) -> Facts:
    """The facts that ``info`` reports; the host's id is made once and kept."""
    identity = settings.state / "engine-id"
    if not identity.exists():
        identity.write_text(str(uuid.uuid4()))
    return Facts(
        state_dir=settings.state_dir,
        storage_driver=stores.images.snapshotter.driver,
        storage_status=[["Chosen because", stores.why]],
        log_driver=settings.log_driver,
        labels=settings.labels,
        insecure_registries=settings.insecure_registries,
        registry_mirrors=settings.registry_mirrors,
        default_registry=settings.default_registry,
        debug=settings.debug,
        host_id=identity.read_text().strip(),
        default_address_pools=[
            {"Base": pool.base, "Size": pool.size} for pool in settings.default_address_pools
        ],
        runtimes=runtimes,
        cdi_directories=settings.cdi_spec_dirs,
        remapped=bool(settings.userns_remap),
        cgroup_driver=settings.groups.driver,
        apparmor=bool(profiles.default),
    )
