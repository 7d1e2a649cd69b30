"""File operations: COPY, ADD, here-documents and WORKDIR's directory, without a process."""

from __future__ import annotations

import os
import posixpath
import stat
from collections.abc import Mapping
from dataclasses import dataclass

from sampan.build.graph.ops import CopyAction, File, MkdirAction, MkfileAction
from sampan.build.ops import unpack
from sampan.build.ops.checksum import checksum, ignore_matcher
from sampan.build.ops.copy import Copier, ensure_directory, explained
from sampan.build.ops.owners import ModeChange, resolve_owner
from sampan.build.ops.select import Selected, select
from sampan.build.ops.tree import Folder, Tree, write_all


def selections(op: File, inputs: Mapping[int, Tree]) -> list[str]:
    """The checksums of what the copies read, in order.  Blocking."""
    return [
        checksum(inputs[a.input], a.source, parents=a.parents, exclude=a.exclude)
        for a in op.actions
        if isinstance(a, CopyAction)
    ]


@dataclass(slots=True)
class FileRunner:
    """Carries out the actions of one operation on ``target``.  Blocking."""

    target: Folder
    inputs: Mapping[int, Tree]

    def run(self, op: File) -> None:
        """Raises InvalidParameter for what the Dockerfile got wrong, DiskFull."""
        for action in op.actions:
            if isinstance(action, CopyAction):
                self._copy(action)
            elif isinstance(action, MkfileAction):
                self._mkfile(action)
            else:
                self._mkdir(action)

    def _copy(self, action: CopyAction) -> None:
        source = self.inputs[action.input]
        owner = resolve_owner(self.target, action.owner) if action.owner else None
        mode = ModeChange(action.mode) if action.mode else None
        chosen = select(source, action.source, parents=action.parents)
        into = action.into or len(chosen) > 1
        copier = Copier(source, self.target, owner, mode, ignore_matcher(action.exclude))
        for item in chosen:
            if action.unpack and not item.is_dir and self._unpack(source, item, action, owner):
                continue
            if action.parents and not item.is_dir:
                self._with_parents(copier, item, action)
                continue
            copier.copy(item, action.dest, into=into)

    def _with_parents(self, copier: Copier, item: Selected, action: CopyAction) -> None:
        holder = posixpath.join(action.dest, posixpath.dirname(item.target))
        alone = Selected(item.path, item.info, posixpath.basename(item.target))
        copier.copy(alone, holder, into=True)

    def _unpack(
        self, source: Tree, item: Selected, action: CopyAction, owner: tuple[int, int] | None
    ) -> bool:
        """Extract the file if it is an archive; tells whether it was."""
        if not stat.S_ISREG(item.info.st_mode):
            return False
        with source.open_file(item.path) as stream:
            if not unpack.is_archive(stream):
                return False
            # ``--chown`` is for the directory; what is in an archive has the archive's owners.
            plain = unpack.decompressed(stream, stream.read(512))
            os.close(ensure_directory(self.target, action.dest, owner))
            dest = action.dest.rstrip("/") or "/"
            unpack.extract(plain, self.target, dest)
            return True

    def _mkfile(self, action: MkfileAction) -> None:
        owner = resolve_owner(self.target, action.owner) if action.owner else None
        mode = ModeChange(action.mode).apply(0o644, directory=False) if action.mode else 0o644
        path = action.path
        if self.target.is_dir(path):
            path = posixpath.join(path, action.name)
        path = self.target.followed(path)
        try:
            holder = ensure_directory(self.target, posixpath.dirname(path), owner)
            try:
                self._write(action.data, posixpath.basename(path), holder, owner, mode)
            finally:
                os.close(holder)
        except OSError as error:
            raise explained(error, path) from error

    def _write(
        self, data: str, name: str, holder: int, owner: tuple[int, int] | None, mode: int
    ) -> None:
        try:
            os.unlink(name, dir_fd=holder)
        except FileNotFoundError:
            pass
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(name, flags, 0o600, dir_fd=holder)
        try:
            write_all(fd, data.encode(errors="surrogateescape"))
            if owner is not None:
                os.fchown(fd, *owner)
            os.fchmod(fd, mode)
        finally:
            os.close(fd)

    def _mkdir(self, action: MkdirAction) -> None:
        try:
            owner = resolve_owner(self.target, action.owner) if action.owner else None
            os.close(ensure_directory(self.target, action.path, owner))
        except OSError as error:
            raise explained(error, action.path) from error
