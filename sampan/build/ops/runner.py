"""Carries out operations for the scheduler, with the daemon's stores, spawner and networks."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack

from sampan.build.context import Context
from sampan.build.graph.ops import Exec, File, Merge, Source, Vertex
from sampan.build.ops.checksum import checksum
from sampan.build.ops.direct import DirectCopy, Unsuitable
from sampan.build.ops.exec import ExecRunner, Job, new_container_id
from sampan.build.ops.file import FileRunner, selections
from sampan.build.ops.frames import Stream
from sampan.build.ops.mounts import MountSetup
from sampan.build.ops.remote import Remote
from sampan.build.ops.replay import replay
from sampan.build.ops.tree import Folder, Tree, folder, mounted
from sampan.build.solver.cache import PREFIX, UNFINISHED
from sampan.build.solver.scheduler import Coming, Done, Result
from sampan.errors import NotFound, Unsupported
from sampan.image.config import chain_id
from sampan.store.images import Image, ImageStore
from sampan.store.snapshots import Snapshotter

FindImage = Callable[[str, str], Awaitable[Image]]


class OperationRunner:
    """One build's runner.

    ``find_image`` gives an image by name and platform; ``locals_`` are its folders by name.
    ``describe`` gives an exec's instruction as written; ``on_start`` and ``on_output`` hear of
    its container and its output.
    """

    def __init__(
        self,
        images: ImageStore,
        snapshots: Snapshotter,
        execs: ExecRunner,
        mounts: MountSetup,
        remote: Remote,
        find_image: FindImage,
        locals_: Mapping[str, Context],
        describe: Callable[[Vertex], str],
        on_start: Callable[[Vertex, str], None],
        on_output: Callable[[Vertex, Stream, bytes], None],
    ) -> None:
        self._images = images
        self._snapshots = snapshots
        self._execs = execs
        self._mounts = mounts
        self._remote = remote
        self._find_image = find_image
        self._locals = locals_
        self._describe = describe
        self._on_start = on_start
        self._on_output = on_output
        self._unpacking: dict[str, Image] = {}

    # sources

    async def source(self, vertex: Vertex, op: Source) -> Result:
        """Images are keyed by their layers, folders by what is read of them."""
        if op.scheme == "docker-image":
            image = await self._find_image(
                op.identifier.removeprefix("docker-image://"), op.attr("platform")
            )
            chain = chain_id(image.config.rootfs.diff_ids)
            if chain is None:
                return Result("scratch", None)
            self._unpacking[chain] = image
            return Result(chain, chain)
        if op.scheme == "local":
            return Result("", None, local=op.identifier.removeprefix("local://"))
        name = await self._remote.fetch(op)
        return Result("", None, local=name)

    async def ready(self, result: Result) -> None:
        image = self._unpacking.get(result.snapshot or "")
        if image is not None:
            await self._images.unpack(image)

    # keys

    async def contents(self, vertex: Vertex, inputs: Sequence[Result | None]) -> list[str] | None:
        op = vertex.op
        if isinstance(op, File):
            others = {number: result for number, result in enumerate(inputs) if number}
            if not others:
                return None
            for result in others.values():
                if result is not None:
                    await self.ready(result)
            return await asyncio.to_thread(self._selections, op, others)
        if isinstance(op, Exec) and any(result and result.local for result in inputs):
            return await asyncio.to_thread(self._bound, op, inputs)
        return None

    def _selections(self, op: File, inputs: Mapping[int, Result | None]) -> list[str]:
        with ExitStack() as stack:
            trees = {n: stack.enter_context(self._tree(r)) for n, r in inputs.items()}
            return selections(op, trees)

    def _bound(self, op: Exec, inputs: Sequence[Result | None]) -> list[str]:
        """Keys of an exec's inputs, checksums for those that are folders."""
        found = []
        for number, result in enumerate(inputs):
            if not number or result is None:
                continue
            if not result.local:
                found.append(result.key)
                continue
            selector = next(m.selector for m in op.mounts if m.input == number)
            with self._tree(result) as tree:
                found.append(checksum(tree, selector))
        return found

    def _tree(self, result: Result | None) -> _Opened:
        return _Opened(self, result)

    # work

    async def run(
        self, vertex: Vertex, inputs: Sequence[Result | None], key: str, coming: Coming
    ) -> Done:
        op = vertex.op
        if isinstance(op, Exec):
            return await self._exec(vertex, op, inputs, PREFIX + key, coming)
        if isinstance(op, File):
            return await asyncio.to_thread(self._file, op, inputs, key)
        assert isinstance(op, Merge)
        return await asyncio.to_thread(self._merge, inputs, key)

    async def _exec(
        self, vertex: Vertex, op: Exec, inputs: Sequence[Result | None], name: str, coming: Coming
    ) -> Done:
        container_id = new_container_id()
        async with AsyncExitStack() as stack:
            mounts, env = await self._mounts.prepare(op, inputs, container_id, stack)
            job = Job(
                op,
                container_id,
                inputs[0].snapshot if inputs[0] else None,
                name,
                vertex.hidden_env,
                mounts,
                tuple(env),
                self._describe(vertex),
                lambda container: self._on_start(vertex, container),
                lambda stream, data: self._on_output(vertex, stream, data),
                coming,
            )
            ran = await self._execs.run(job)
        return Done(ran.active, container_id, ahead=ran.ahead)

    def _file(self, op: File, inputs: Sequence[Result | None], key: str) -> Done:
        parent = inputs[0].snapshot if inputs[0] else None
        with ExitStack() as stack:
            trees = {
                number: stack.enter_context(self._tree(result))
                for number, result in enumerate(inputs)
                if number
            }
            if self._snapshots.keeps_tars and parent is not None:
                try:
                    return self._direct(op, trees, parent, PREFIX + key)
                except Unsuitable:
                    pass
            active = f"{UNFINISHED}{key}"
            mounts = self._snapshots.prepare(active, parent, volatile=True)
            try:
                with mounted(mounts) as target:
                    FileRunner(target, trees).run(op)
            except BaseException:
                self._discard(active)
                raise
        return Done(active)

    def _direct(self, op: File, trees: Mapping[int, Tree], parent: str, name: str) -> Done:
        """Write the layer's tar and make it the snapshot ``name``; raises Unsuitable."""
        with mounted(self._snapshots.mounts(parent)) as target:
            copy = DirectCopy(op, trees, target)
        layer = self._images.layers.written(copy.write)
        path = self._images.content.path(layer.diff_id)
        with path.open("rb") as stream:
            self._snapshots.apply(name, parent, stream, path, apart=copy.usage)
        return Done(None, made=layer)

    def _merge(self, inputs: Sequence[Result | None], key: str) -> Done:
        """Lay what later inputs hold over the first one (they lie on the empty tree)."""
        parent = inputs[0].snapshot if inputs[0] else None
        active = f"{UNFINISHED}{key}"
        mounts = self._snapshots.prepare(active, parent, volatile=True)
        try:
            with mounted(mounts) as target:
                for result in inputs[1:]:
                    if result is not None and result.snapshot is not None:
                        replay(self._snapshots, result.snapshot, target)
        except BaseException:
            self._discard(active)
            raise
        return Done(active)

    def _discard(self, key: str) -> None:
        try:
            self._snapshots.remove(key)
        except NotFound:
            pass

    def open_tree(self, result: Result | None, stack: ExitStack) -> Tree:
        """The result's files; closed with ``stack``.  Blocking."""
        if result is not None and result.local:
            remote = self._remote.folder(result.local)
            if remote is not None:
                return stack.enter_context(folder(remote))
            local = self._locals.get(result.local)
            if local is None:
                raise Unsupported("this build has no context: give a folder to build from")
            return stack.enter_context(local.opened())
        if result is None or result.snapshot is None:
            fd = os.open(self._remote.empty(), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            stack.callback(os.close, fd)
            return Folder(fd)
        return stack.enter_context(mounted(self._snapshots.mounts(result.snapshot)))


class _Opened:
    """A result's tree for the length of a block."""

    def __init__(self, runner: OperationRunner, result: Result | None) -> None:
        self._runner = runner
        self._result = result
        self._stack = ExitStack()

    def __enter__(self) -> Tree:
        return self._runner.open_tree(self._result, self._stack)

    def __exit__(self, *_: object) -> None:
        self._stack.close()
