"""The projects below tests/projects: how each is built, and what git cannot hold of them."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "projects"
EARLIER = 1_600_000_000


@dataclass(frozen=True)
class Project:
    """``flags`` are those of ``build``; ``{context}`` in them is the project's folder, ``{folder}``
    the one around it, ``{server}`` an HTTP server of the project's files, ``{settings}`` a folder
    with this machine's settings of package managers.  ``before`` are builds that it stands on,
    by tag.  ``tools`` says that it needs the image of compilers and package managers."""

    name: str
    flags: tuple[str, ...] = ()
    before: tuple[tuple[str, tuple[str, ...]], ...] = ()
    prepare: Callable[[Path], None] | None = None
    others: tuple[str, ...] = ()
    tools: bool = False
    debian: bool = False
    label: str = ""

    @property
    def id(self) -> str:
        return f"{self.name}-{self.label}" if self.label else self.name


def _links(path: Path) -> None:
    tree = path / "tree"
    for name, target in (
        ("to-file", "file"),
        ("to-dir", "dir"),
        ("dangling", "not/there"),
        ("absolute", "/etc/passwd"),
        ("upwards", "../file"),
        ("loop", "loop"),
    ):
        (tree / name).symlink_to(target)
    hard = path / "hard"
    hard.mkdir()
    (hard / "one").write_text("one file\n")
    os.link(hard / "one", hard / "two")
    (hard / "deeper").mkdir()
    os.link(hard / "one", hard / "deeper" / "three")
    (path / "empty").mkdir()


def _permissions(path: Path) -> None:
    tree = path / "tree"
    (tree / "link").symlink_to("file")
    (tree / "sticky").mkdir()
    (tree / "sticky").chmod(0o1777)
    (tree / "suid").write_bytes(b"#!/bin/sh\n")
    (tree / "suid").chmod(0o4755)
    (tree / "sgid-folder").mkdir()
    (tree / "sgid-folder").chmod(0o2750)
    (tree / "none").write_text("x")
    (tree / "none").chmod(0)
    os.setxattr(tree / "file", "user.note", b"kept?")
    capability = bytes.fromhex("0100000200040000000000000000000000000000")
    (tree / "capable").write_bytes(b"#!/bin/sh\n")
    (tree / "capable").chmod(0o755)
    os.setxattr(tree / "capable", "security.capability", capability)
    os.chown(tree / "none", 77, 78)
    (path / "scripts" / "one.sh").chmod(0o755)


def _tar(path: Path, files: dict[str, str], mode: str = "w", **fields: int) -> None:
    with tarfile.open(path, mode) as tar:
        for name, text in files.items():
            info = tarfile.TarInfo(name)
            info.mtime = EARLIER
            info.uid, info.gid = fields.get("uid", 0), fields.get("gid", 0)
            if name.endswith("/"):
                info.type, info.mode = tarfile.DIRTYPE, fields.get("folder", 0o750)
                tar.addfile(info)
            elif text.startswith("-> "):
                info.type, info.linkname = tarfile.SYMTYPE, text[3:]
                tar.addfile(info)
            elif text.startswith("= "):
                info.type, info.linkname, info.mode = tarfile.LNKTYPE, text[2:], 0o640
                tar.addfile(info)
            else:
                info.mode, info.size = 0o640, len(text)
                tar.addfile(info, io.BytesIO(text.encode()))


def _tarballs(path: Path) -> None:
    files = {"d/": "", "d/file": "x\n", "d/link": "-> file", "d/twin": "= d/file", "top": "top\n"}
    _tar(path / "plain.tar", files)
    _tar(
        path / "gz.tar.gz",
        {f"gz/{n}": t.replace("= d", "= gz/d") for n, t in files.items()},
        "w:gz",
    )
    _tar(path / "bz2.tar.bz2", {"bz2/file": "bz2\n"}, "w:bz2")
    _tar(path / "owners.tar", {"o/": "", "o/file": "of 5\n"}, uid=5, gid=6, folder=0o2755)
    _tar(
        path / "over.tar",
        {"real/file": "replaced\n", "file": "new\n", "etc/passwd": "root:x:0:0::/:\n"},
    )
    (path / "not-an-archive.gz").write_text("plain text\n")
    (path / "README").write_text("read\n")


def _download(path: Path) -> None:
    (path / "hello.txt").write_text("hello\n")
    (path / "script.sh").write_text("#!/bin/sh\necho ran\n")
    _tar(path / "archive.tar.gz", {"file": "not unpacked\n"}, "w:gz")


def _secrets(path: Path) -> None:
    (path / "token").write_text("a token that is nobody's business\n")
    (path / "netrc").write_text("machine x\n")


SETTINGS = (
    "--secret=id=pip,src={settings}/pip.conf",
    "--secret=id=npmrc,src={settings}/npmrc",
    "--secret=id=ca,src={settings}/ca.crt",
)

PROJECTS = (
    Project("static-site"),
    Project("entrypoint"),
    Project("monorepo"),
    Project("arg-matrix"),
    Project(
        "arg-matrix",
        (
            "--build-arg=VERSION=20.4",
            "--build-arg=UNSET=set",
            "--build-arg=HTTP_PROXY=http://p:1",
            "--build-arg=FLAVOUR=rich",
            "--label=version=from the command line",
        ),
        label="given",
    ),
    Project("arg-matrix", ("--target=scope", "--build-arg=FLAVOUR=rich"), label="scope"),
    Project("onbuild", before=(("onbuild-base", ("-f", "{context}/base.Dockerfile")),)),
    Project("targets", ("--target=release",), label="release"),
    Project("targets", ("--target=dev",), label="dev"),
    Project("tarballs", prepare=_tarballs),
    Project("download", ("--build-arg=SERVER={server}",), prepare=_download),
    Project(
        "secrets",
        ("--secret=id=token,src={context}/token", "--secret=id=netrc,src={context}/netrc"),
        prepare=_secrets,
    ),
    Project("permissions", prepare=_permissions),
    Project("workdir"),
    Project("links", prepare=_links),
    Project("heredocs", ("--build-arg=WHO=there",)),
    Project("deletions"),
    Project("ignore"),
    Project("ignore-named", ("-f", "{context}/web.Dockerfile")),
    Project("quoting"),
    Project("wildcards"),
    Project("metadata"),
    Project(
        "contexts",
        (
            "--build-context=assets={folder}/contexts-assets",
            "--build-context=library=docker-image://library:1",
        ),
        before=(("library:1", ("{folder}/library",)),),
        others=("contexts-assets", "library"),
    ),
    Project("python-venv", tools=True),
    Project("python-wheels", SETTINGS, tools=True),
    Project("node-service", SETTINGS, tools=True),
    Project("go-service", ("--build-arg=VERSION=1.0",), tools=True),
    Project("c-make", tools=True),
    Project("cpp-cmake", tools=True),
    Project("apt-cache", debian=True),
)
