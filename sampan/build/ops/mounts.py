"""The mounts of a RUN: what each kind needs before the command, and gives back after it."""

from __future__ import annotations

import asyncio
import hashlib
import os
import posixpath
import socket
import stat
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sampan.build.context import Context
from sampan.build.graph.ops import Exec, ExecMount
from sampan.build.ops.copy import Copier
from sampan.build.ops.select import select
from sampan.build.ops.specs import bind
from sampan.build.ops.tree import Tree, folder, mounted
from sampan.build.solver.cache import UNFINISHED, BuildCache, CacheRecord
from sampan.build.solver.scheduler import Result
from sampan.errors import InvalidParameter, NotFound
from sampan.linux.mount import move_mount_to, open_tree, stacked, umount
from sampan.linux.openat2 import make_directories
from sampan.linux.trees import remove_tree
from sampan.runtime.types import Mount
from sampan.store.snapshots import Snapshotter


@dataclass(slots=True)
class CacheMounts:
    """Which cache directories are taken; shared by all builds of a daemon."""

    locks: dict[str, asyncio.Lock] = field(default_factory=dict)
    private: set[str] = field(default_factory=set)


class MountSetup:
    """Sets up the mounts of one build's commands."""

    def __init__(
        self,
        snapshots: Snapshotter,
        cache: BuildCache,
        taken: CacheMounts,
        run_dir: Path,
        locals_: Mapping[str, Context],
        secrets: Mapping[str, bytes],
        agents: Mapping[str, str],
    ) -> None:
        self._snapshots = snapshots
        self._cache = cache
        self._taken = taken
        self._run_dir = run_dir
        self._locals = locals_
        self._secrets = secrets
        self._agents = agents

    async def prepare(
        self,
        op: Exec,
        inputs: Sequence[Result | None],
        container_id: str,
        stack: AsyncExitStack,
    ) -> tuple[list[dict[str, Any]], list[str]]:
        """OCI mounts and variables for the command; what must be undone goes on ``stack``.

        Raises InvalidParameter for a missing secret, agent or source path.
        """
        mounts: list[dict[str, Any]] = []
        env: list[str] = []
        directory = self._run_dir / "build-mounts" / container_id
        if op.mounts:
            directory.mkdir(parents=True, mode=0o700)
            stack.callback(remove_tree, directory, ignore_errors=True)
        for number, mount in enumerate(op.mounts):
            place = directory / str(number)
            if mount.type == "tmpfs":
                options = ["nosuid", "nodev", *([f"size={mount.size}"] if mount.size else [])]
                mounts.append(_mount("tmpfs", "tmpfs", mount.dest, options))
            elif mount.type == "secret":
                self._secret(mount, place, mounts, env)
            elif mount.type == "ssh":
                self._agent(mount, mounts)
            elif mount.type == "cache":
                source = await self._cache_dir(mount, inputs, place, stack)
                mounts.append(bind(source, mount.dest, *(["ro"] if mount.readonly else [])))
            else:
                given = None if mount.input is None else inputs[mount.input]
                source = await self._bind(mount, given, place, stack)
                mounts.append(bind(source, mount.dest, "ro" if mount.readonly else "rw"))
        return mounts, env

    def _secret(
        self, mount: ExecMount, place: Path, mounts: list[dict[str, Any]], env: list[str]
    ) -> None:
        value = self._secrets.get(mount.id)
        if value is None:
            if mount.required:
                raise InvalidParameter(
                    f"secret {mount.id}: not found: give it with --secret id={mount.id},src=FILE"
                )
            return
        if mount.env:
            env.append(f"{mount.env}={value.decode(errors='surrogateescape')}")
        if mount.dest:
            fd = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                os.write(fd, value)
                os.fchown(fd, mount.uid, mount.gid)
                os.fchmod(fd, mount.mode)
            finally:
                os.close(fd)
            mounts.append(bind(place, mount.dest, "ro", "nosuid", "nodev", "noexec"))

    def _agent(self, mount: ExecMount, mounts: list[dict[str, Any]]) -> None:
        path = self._agents.get(mount.id)
        if path is None:
            if mount.required:
                raise InvalidParameter(
                    f"ssh agent {mount.id}: not found: give it with --ssh {mount.id}"
                )
            return
        probe = socket.socket(socket.AF_UNIX)
        try:
            probe.connect(path)
        except OSError as error:
            raise InvalidParameter(
                f"ssh agent {mount.id}: {path} cannot be reached: {error.strerror}"
            ) from None
        finally:
            probe.close()
        mounts.append(bind(path, mount.dest))

    # binds

    async def _bind(
        self, mount: ExecMount, given: Result | None, place: Path, stack: AsyncExitStack
    ) -> Path:
        """A host path that shows the input; changes to it are thrown away."""
        if given is None or (given.snapshot is None and not given.local):
            place.mkdir()
            return place
        if given.local:
            root = await self._local(self._locals[given.local], mount, place, stack)
        else:
            assert given.snapshot is not None
            if mount.readonly:
                mounts = self._snapshots.mounts(given.snapshot)
            else:
                key = f"{UNFINISHED}{place.parent.name}-{place.name}"
                mounts = self._snapshots.prepare(key, given.snapshot, volatile=True)
                stack.callback(self._remove, key)
            root = self._attach(mounts, place, stack)
        return self._inside(root, mount, place, stack)

    async def _local(
        self, context: Context, mount: ExecMount, place: Path, stack: AsyncExitStack
    ) -> Path:
        root = context.path
        if context.needs_copy:
            # The context is an archive, or holds what .dockerignore leaves out.
            root = place.with_name(place.name + "-context")
            root.mkdir()
            await asyncio.to_thread(_copy_context, context, root)
        if mount.readonly:
            return root
        upper, work = (place.with_name(f"{place.name}-{part}") for part in ("upper", "work"))
        upper.mkdir()
        work.mkdir()
        options = [f"lowerdir={root}", f"upperdir={upper}", f"workdir={work}"]
        return self._attach([Mount("overlay", "overlay", options)], place, stack)

    def _attach(self, mounts: Sequence[Mount], place: Path, stack: AsyncExitStack) -> Path:
        place.mkdir()
        fd = stacked(mounts)
        try:
            move_mount_to(fd, str(place))
        finally:
            os.close(fd)
        stack.callback(umount, str(place))
        return place

    def _remove(self, key: str) -> None:
        try:
            self._snapshots.remove(key)
        except NotFound:
            pass

    def _inside(self, root: Path, mount: ExecMount, place: Path, stack: AsyncExitStack) -> Path:
        """A host path that shows the selected part of ``root``; links are followed inside only.

        The part is mounted on a directory of ours: its own path could be another thing by the time
        the command is started, as other commands write to the same cache.
        """
        if mount.selector == "/":
            return root
        with folder(root) as tree:
            try:
                fd = tree.open(mount.selector)
            except OSError:
                raise InvalidParameter(
                    f"the source {mount.selector!r} of the mount on {mount.dest} does not exist"
                ) from None
            shown = place.with_name(f"{place.name}-source")
            try:
                copy = open_tree(fd, "", recursive=True)
                if stat.S_ISDIR(os.fstat(fd).st_mode):
                    shown.mkdir()
                else:
                    shown.touch()
            finally:
                os.close(fd)
        try:
            move_mount_to(copy, str(shown))
        finally:
            os.close(copy)
        stack.callback(umount, str(shown))
        return shown

    # caches

    async def _cache_dir(
        self,
        mount: ExecMount,
        inputs: Sequence[Result | None],
        place: Path,
        stack: AsyncExitStack,
    ) -> Path:
        base = hashlib.sha256(mount.id.encode()).hexdigest()[:24]
        if mount.sharing == "locked":
            lock = self._taken.locks.setdefault(base, asyncio.Lock())
            await stack.enter_async_context(lock)
        name = base
        if mount.sharing == "private":
            number = 0
            while name in self._taken.private:
                number += 1
                name = f"{base}-{number}"
            self._taken.private.add(name)
            stack.callback(self._taken.private.discard, name)
        record_id = f"mount-{name}"
        self._cache.in_use[record_id] += 1
        stack.callback(self._cache.in_use.subtract, [record_id])
        path = self._cache.mounts_dir / name
        if not path.exists():
            await asyncio.to_thread(self._new_cache_dir, path, mount, inputs)
        self._note(record_id, name, mount)
        if mount.selector != "/":
            return self._inside(path, mount, place, stack)
        return path

    def _note(self, record_id: str, name: str, mount: ExecMount) -> None:
        now = time.time()
        known = self._cache.record(record_id)
        if known is None:
            known = CacheRecord(
                record_id,
                name,
                None,
                now,
                now,
                f"cached mount {mount.dest} with id {mount.id!r}",
                kind="exec.cachemount",
                uses=0,
            )
        self._cache.touch([known])

    def _new_cache_dir(self, path: Path, mount: ExecMount, inputs: Sequence[Result | None]) -> None:
        """Make the directory, with the initial content of its input when it has one."""
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.{time.monotonic_ns()}")
        temporary.mkdir()
        given = None if mount.input is None else inputs[mount.input]
        if given is not None and given.snapshot is not None:
            with mounted(self._snapshots.mounts(given.snapshot)) as source:
                _copy_all(source, mount.selector, temporary)
        elif mount.selector != "/":
            inside = os.open(temporary, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.close(make_directories(inside, mount.selector))
            finally:
                os.close(inside)
        os.chown(temporary, mount.uid, mount.gid)
        temporary.chmod(mount.mode)
        try:
            temporary.rename(path)
        except OSError:
            remove_tree(temporary, ignore_errors=True)  # Another command was quicker.


def _copy_context(context: Context, root: Path) -> None:
    with context.opened() as source:
        _copy_all(source, "/", root)


def _copy_all(source: Tree, selector: str, root: Path) -> None:
    with folder(root, local=False) as target:
        copier = Copier(source, target)
        for chosen in select(source, posixpath.join("/", selector)):
            copier.copy(chosen, "/", into=True)


def _mount(kind: str, source: str, destination: str, options: list[str]) -> dict[str, Any]:
    return {"destination": destination, "type": kind, "source": source, "options": options}
