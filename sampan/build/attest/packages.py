"""The packages in a file system: from the databases of dpkg, apk and rpm, of pip and of npm."""

from __future__ import annotations

import json
import sqlite3
import stat
import struct
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from email.parser import HeaderParser
from urllib.parse import quote

from sampan.build.ops.tree import Tree
from sampan.image.ignore import IgnoreMatcher

_LIMIT = 256 << 20
_SEARCHED = ("usr", "opt", "app", "srv", "home", "root", "venv", "code", "workspace")
_NOTHING = IgnoreMatcher(())
_APK_DATABASES = ("lib/apk/db/installed", "usr/lib/apk/db/installed")
_RPM = {1000: "name", 1001: "version", 1002: "release", 1014: "license", 1022: "arch"}
_RPM_STRINGS = (6, 9)
_RPM_DATABASES = ("usr/lib/sysimage/rpm/rpmdb.sqlite", "var/lib/rpm/rpmdb.sqlite")


@dataclass(frozen=True, slots=True, order=True)
class Package:
    """``kind`` is purl's (``deb``, ``apk``, ``rpm``, ``pypi``, ``npm``); ``source`` is the file
    that told of it."""

    kind: str
    name: str
    version: str
    arch: str = ""
    license: str = ""
    source: str = ""

    def purl(self, distribution: str) -> str:
        """Its package URL; ``distribution`` is the ID of os-release."""
        namespace, name = "", self.name
        if self.kind in ("deb", "apk", "rpm"):
            namespace = f"{quote(distribution, safe='')}/" if distribution else ""
        elif self.kind == "npm" and name.startswith("@"):
            scope, _, name = name.partition("/")
            namespace = f"{quote(scope, safe='')}/"
        arch = f"?arch={quote(self.arch, safe='')}" if self.arch else ""
        version = quote(self.version, safe="+~")
        return f"pkg:{self.kind}/{namespace}{quote(name, safe='')}@{version}{arch}"


def packages(tree: Tree) -> list[Package]:
    """All packages, sorted.  What cannot be read is left out.  Blocking."""
    found = {*_dpkg(tree), *_apk(tree), *_rpm(tree), *_languages(tree)}
    return sorted(found)


def distribution(tree: Tree) -> str:
    """The ID of ``os-release``; empty if there is none."""
    for path in ("etc/os-release", "usr/lib/os-release"):
        for line in tree.read(path).decode(errors="replace").splitlines():
            if line.startswith("ID="):
                return line[3:].strip().strip("\"'")
    return ""


def _dpkg(tree: Tree) -> Iterator[Package]:
    paths = ["var/lib/dpkg/status"]
    # Images without a package manager keep one file a package.
    paths += [
        f"var/lib/dpkg/status.d/{name}"
        for name in tree.names("var/lib/dpkg/status.d")
        if not name.endswith(".md5sums")
    ]
    for path in paths:
        for block in tree.read(path, _LIMIT).decode(errors="replace").split("\n\n"):
            fields = _fields(block.splitlines(), ": ")
            installed = fields.get("Status", "install ok installed").endswith(" installed")
            if installed and fields.get("Package") and fields.get("Version"):
                arch = fields.get("Architecture", "")
                yield Package("deb", fields["Package"], fields["Version"], arch, "", path)


def _apk(tree: Tree) -> Iterator[Package]:
    for path in _APK_DATABASES:
        data = tree.read(path, _LIMIT)
        for block in data.decode(errors="replace").split("\n\n"):
            fields = _fields(block.splitlines(), ":")
            if fields.get("P") and fields.get("V"):
                arch, licence = fields.get("A", ""), fields.get("L", "")
                yield Package("apk", fields["P"], fields["V"], arch, licence, path)
        if data:
            return  # The other one is the same, by way of a link.


def _fields(lines: Iterable[str], separator: str) -> dict[str, str]:
    """The first value of each key; continuation lines are not looked at."""
    fields: dict[str, str] = {}
    for line in lines:
        key, found, value = line.partition(separator)
        if found and not line.startswith((" ", "\t")):
            fields.setdefault(key, value.strip())
    return fields


def _rpm(tree: Tree) -> Iterator[Package]:
    for path in _RPM_DATABASES:
        data = tree.read(path, _LIMIT)
        if not data:
            continue
        with tempfile.NamedTemporaryFile(suffix=".sqlite") as copy:
            copy.write(data)
            copy.flush()
            try:
                connection = sqlite3.connect(f"file:{copy.name}?immutable=1", uri=True)
                blobs = [row[0] for row in connection.execute("SELECT blob FROM Packages")]
                connection.close()
            except sqlite3.DatabaseError:
                continue
        for blob in blobs:
            tags = _rpm_header(blob)
            if tags.get("name") and tags.get("version"):
                version = f"{tags['version']}-{tags.get('release', '')}".rstrip("-")
                arch, licence = tags.get("arch", ""), tags.get("license", "")
                yield Package("rpm", tags["name"], version, arch, licence, path)


def _rpm_header(blob: bytes) -> dict[str, str]:
    """The strings of a header: two counts, index entries of 16 bytes, and the data."""
    found: dict[str, str] = {}
    try:
        count, _ = struct.unpack_from(">II", blob)
        data = 8 + 16 * count
        for number in range(count):
            tag, kind, offset, _ = struct.unpack_from(">IIiI", blob, 8 + 16 * number)
            if tag in _RPM and kind in _RPM_STRINGS and offset >= 0:
                end = blob.index(b"\0", data + offset)
                found.setdefault(_RPM[tag], blob[data + offset : end].decode(errors="replace"))
    except (struct.error, ValueError):
        return found
    return found


def _languages(tree: Tree) -> Iterator[Package]:
    """Installed Python distributions and Node modules, wherever they usually are."""
    for top in _SEARCHED:
        if not tree.is_dir(top, follow=False):
            continue
        for item in tree.walk(top, _NOTHING):
            if not stat.S_ISREG(item.info.st_mode):
                continue
            path = f"{top}/{item.relative}"
            if path.endswith((".dist-info/METADATA", ".egg-info/PKG-INFO")):
                head = HeaderParser().parsestr(tree.read(path).decode(errors="replace"))
                if head["Name"] and head["Version"]:
                    licence = (head["License-Expression"] or head["License"] or "").split("\n")[0]
                    yield Package("pypi", head["Name"], head["Version"], "", licence, path)
            elif path.endswith("/package.json") and _is_module(path):
                yield from _node(tree, path)


def _is_module(path: str) -> bool:
    """``…/node_modules/NAME/package.json`` or ``…/node_modules/@SCOPE/NAME/package.json``."""
    parts = path.split("/")[:-2]
    if parts and parts[-1].startswith("@"):
        parts.pop()
    return bool(parts) and parts[-1] == "node_modules"


def _node(tree: Tree, path: str) -> Iterator[Package]:
    try:
        document = json.loads(tree.read(path))
    except ValueError:
        return
    if isinstance(document, dict) and document.get("name") and document.get("version"):
        licence = document.get("license")
        text = licence if isinstance(licence, str) else ""
        yield Package("npm", str(document["name"]), str(document["version"]), "", text, path)
