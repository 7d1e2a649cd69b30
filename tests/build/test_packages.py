"""The packages that an SBOM lists, against what the package managers themselves say."""

from __future__ import annotations

import json
import shutil
import subprocess
from importlib import metadata
from pathlib import Path

import pytest

from sampan.build.attest.packages import Package, distribution, packages
from sampan.build.ops.tree import folder

SPEC = """\
Name: {name}
Version: {version}
Release: 3
Summary: A package
License: MIT
BuildArch: noarch
%description
Nothing.
%files
"""


def put(root: Path, path: str, data: str | bytes) -> Path:
    target = root / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(data.encode() if isinstance(data, str) else data)
    return target


def found(root: Path) -> list[Package]:
    with folder(root, local=False) as tree:
        return packages(tree)


def test_dpkg(tmp_path: Path) -> None:
    if shutil.which("dpkg-query") is None:
        pytest.skip("no dpkg here")
    put(tmp_path, "var/lib/dpkg/status", Path("/var/lib/dpkg/status").read_bytes())
    form = "${db:Status-Status} ${Package} ${Version} ${Architecture}\n"
    said = subprocess.run(
        ["dpkg-query", "--admindir", tmp_path / "var/lib/dpkg", "-W", "-f", form],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    installed = sorted(
        tuple(line.split()[1:]) for line in said.splitlines() if line.startswith("installed ")
    )
    assert sorted((p.name, p.version, p.arch) for p in found(tmp_path)) == installed
    put(tmp_path, "etc/os-release", 'NAME="x"\nID="debian"\n')
    with folder(tmp_path, local=False) as tree:
        assert distribution(tree) == "debian"


def test_images_without_a_package_manager(tmp_path: Path) -> None:
    text = "Package: base-files\nVersion: 12.4+deb12u5\nArchitecture: amd64\n"
    put(tmp_path, "var/lib/dpkg/status.d/base", text)
    put(tmp_path, "var/lib/dpkg/status.d/base.md5sums", "0  etc/x\n")
    (package,) = found(tmp_path)
    assert package.purl("debian") == "pkg:deb/debian/base-files@12.4+deb12u5?arch=amd64"


def test_rpm(tmp_path: Path) -> None:
    if shutil.which("rpmbuild") is None:
        pytest.skip("needs rpm")
    place = "usr/lib/sysimage/rpm"
    for name, version in (("one", "1.2"), ("two-more", "2~rc1")):
        spec = put(tmp_path, f"{name}.spec", SPEC.format(name=name, version=version))
        build = ["rpmbuild", "-bb", "--quiet", "-D", f"_topdir {tmp_path}/build", str(spec)]
        subprocess.run(build, check=True, capture_output=True)
    files = [str(path) for path in tmp_path.glob("build/RPMS/noarch/*.rpm")]
    install = ["rpm", "--dbpath", f"{tmp_path}/root/{place}", "-i", "--justdb", "--nodeps", *files]
    subprocess.run(install, check=True, capture_output=True)
    source = f"{place}/rpmdb.sqlite"
    assert found(tmp_path / "root") == [
        Package("rpm", "one", "1.2-3", "noarch", "MIT", source),
        Package("rpm", "two-more", "2~rc1-3", "noarch", "MIT", source),
    ]
    put(tmp_path, f"root/{source}", b"SQLite format 3\0 but no more of one")
    assert found(tmp_path / "root") == []


@pytest.mark.parametrize("place", ["lib", "usr/lib", "linked"])
def test_apk(tmp_path: Path, place: str) -> None:
    # Each file has lines of its own, with keys that differ from a package's in their case alone.
    text = (
        "C:Q1abcdefghijklmnopqrstuvwxyz0=\nP:musl\nV:1.2.4-r2\nA:x86_64\nS:360760\nI:516096\n"
        "T:the C library: an implementation\nU:https://musl.example/\nL:MIT\no:musl\n"
        "m:Somebody Téras <s@example>\nt:1620570927\nc:0123456789abcdef0123\n"
        "p:so:libc.musl-x86_64.so.1=1\nF:lib\nR:ld-musl-x86_64.so.1\na:0:0:755\n"
        "Z:Q1abcdefghijklmnopqrstuvwxyz1=\nR:libc.musl-x86_64.so.1\na:0:0:777\n"
        "Z:Q1abcdefghijklmnopqrstuvwxyz2=\n\n"
        "C:Q1abcdefghijklmnopqrstuvwxyz3=\nP:busybox\nV:1.36.1-r15\nA:x86_64\nL:GPL-2.0-only\n"
        "D:so:libc.musl-x86_64.so.1\np:/bin/sh cmd:busybox\nr:other\nk:900\ni:a=1 b\n"
        "F:tmp\nM:0:0:1777\n\n"
    )
    if place == "linked":
        put(tmp_path, "usr/lib/apk/db/installed", text)
        (tmp_path / "lib").symlink_to("usr/lib")
    else:
        put(tmp_path, f"{place}/apk/db/installed", text)
    assert [package.purl("alpine") for package in found(tmp_path)] == [
        "pkg:apk/alpine/busybox@1.36.1-r15?arch=x86_64",
        "pkg:apk/alpine/musl@1.2.4-r2?arch=x86_64",
    ]


def test_pip(tmp_path: Path) -> None:
    """Distributions that pip has installed for these tests."""
    for name in ("pytest", "hypothesis"):
        files = metadata.distribution(name).files or []
        head = next(file for file in files if file.name == "METADATA")
        target = f"usr/lib/python3/dist-packages/{head}"
        put(tmp_path, target, Path(str(head.locate())).read_bytes())
    assert [(p.kind, p.name, p.version) for p in found(tmp_path)] == [
        ("pypi", name, metadata.version(name)) for name in ("hypothesis", "pytest")
    ]


def test_npm(tmp_path: Path) -> None:
    module = {"name": "@scope/thing", "version": "3.1.0", "license": "ISC"}
    put(tmp_path, "app/node_modules/@scope/thing/package.json", json.dumps(module))
    put(tmp_path, "app/node_modules/@scope/thing/lib/package.json", '{"type": "module"}')
    put(tmp_path, "app/package.json", '{"name": "app", "version": "1"}')
    put(tmp_path, "app/node_modules/broken/package.json", "{")
    (package,) = found(tmp_path)
    assert package.purl("") == "pkg:npm/%40scope/thing@3.1.0"
    assert package.license == "ISC"
