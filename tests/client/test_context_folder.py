"""Build contexts: which files go, and the tar that carries them."""

import io
import os
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan.client import contextfolder, tarstream
from sampan.errors import InvalidParameter
from sampan.image.ignore import IgnoreMatcher, PatternError, read_ignore_file


def names(packed):
    with tarfile.open(fileobj=io.BytesIO(b"".join(packed.chunks))) as archive:
        return archive.getnames()


@pytest.fixture
def folder(tmp_path):
    for name in ("Dockerfile", "a.txt", "b.log", "src/m.py", "src/m.pyc", "node/x/y", "docs/k.md"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return tmp_path


def test_everything_without_an_ignore_file(folder):
    assert set(names(contextfolder.packed(str(folder)))) == {
        "Dockerfile", "a.txt", "b.log", "docs", "docs/k.md", "node", "node/x", "node/x/y",
        "src", "src/m.py", "src/m.pyc",
    }  # fmt: skip


def test_patterns_and_exceptions(folder):
    (folder / ".dockerignore").write_text("# not these\n*.log\n**/*.pyc\nnode\ndocs\n!docs/k.md\n")
    assert set(names(contextfolder.packed(str(folder)))) == {
        ".dockerignore", "Dockerfile", "a.txt", "docs", "docs/k.md", "src", "src/m.py",
    }  # fmt: skip


def test_the_dockerfile_goes_whatever_the_patterns_say(folder):
    (folder / ".dockerignore").write_text("*\n")
    assert set(names(contextfolder.packed(str(folder)))) == {".dockerignore", "Dockerfile"}


def test_a_dockerfiles_own_ignore_file_comes_first(folder):
    (folder / "x.Dockerfile").write_text("FROM scratch")
    (folder / "x.Dockerfile.dockerignore").write_text("*\n")
    (folder / ".dockerignore").write_text("a.txt\n")
    packed = contextfolder.packed(str(folder), str(folder / "x.Dockerfile"))
    assert packed.dockerfile == "x.Dockerfile"
    assert set(names(packed)) == {"x.Dockerfile", "x.Dockerfile.dockerignore"}


def test_a_dockerfile_from_elsewhere_goes_along(folder, tmp_path_factory):
    other = tmp_path_factory.mktemp("other") / "D"
    other.write_text("FROM scratch")
    packed = contextfolder.packed(str(folder), str(other))
    assert packed.dockerfile.startswith(".dockerfile.")
    assert packed.dockerfile in names(packed)


def test_no_dockerfile_is_one_sentence(tmp_path):
    with pytest.raises(InvalidParameter, match="no such file or directory"):
        contextfolder.packed(str(tmp_path))


def test_links_modes_and_owners(tmp_path):
    (tmp_path / "Dockerfile").write_text("FROM scratch")
    (tmp_path / "l").symlink_to("a" * 150)
    (tmp_path / ("n" * 120)).write_bytes(b"x" * 1000)
    (tmp_path / "h1").write_text("h")
    os.link(tmp_path / "h1", tmp_path / "h2")
    (tmp_path / "run").write_text("#!")
    (tmp_path / "run").chmod(0o4755)
    data = b"".join(contextfolder.packed(str(tmp_path)).chunks)
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        found = {member.name: member for member in archive}
        assert found["l"].linkname == "a" * 150
        assert found["n" * 120].size == 1000
        assert found["h2"].islnk() and found["h2"].linkname == "h1"
        assert found["run"].mode == 0o4755
        assert {(member.uid, member.gid) for member in found.values()} == {(0, 0)}


@given(
    st.binary(min_size=1, max_size=300).filter(lambda name: b"\0" not in name and b"/" not in name),
    st.integers(0, 0o7777),
    st.integers(0, 8**12),
    st.integers(0, 2**40),
)
def test_headers_are_read_by_the_standard_library(name, mode, size, mtime):
    head = tarstream.header(name, mode, size=size, mtime=mtime)
    with tarfile.open(fileobj=io.BytesIO(head + bytes(1024)), errorlevel=0) as archive:
        member = archive.next()
    assert member is not None
    assert os.fsencode(member.name) == name or not name.isascii() or name.endswith(b"/")
    assert (member.mode, member.size) == (mode, size)


@pytest.mark.parametrize(
    ("patterns", "path", "excluded"),
    [
        (["*"], "a", True),
        (["*.go"], "a/b.go", False),
        (["**/*.go"], "a/b.go", True),
        (["**/*.go"], "b.go", True),
        (["a/**"], "a/b/c", True),
        (["a/**"], "a", False),
        (["a"], "a/b/c", True),
        (["/a"], "a", True),
        (["a/../b"], "b", True),
        (["a?c"], "abc", True),
        (["a[b-d]c"], "acc", True),
        (["a[^b]c"], "abc", False),
        (["a\\*"], "a*", True),
        (["a\\*"], "ab", False),
        (["a.b"], "axb", False),
        (["*", "!a"], "a", False),
        (["*", "!a", "a"], "a", True),
        (["!a", "*"], "a", True),
        (["**/b/**"], "a/b/c", True),
    ],
)
def test_patterns(patterns, path, excluded):
    assert IgnoreMatcher(read_ignore_file("\n".join(patterns))).excludes(path) is excluded


@pytest.mark.parametrize("pattern", ["a[", "a\\", "!"])
def test_bad_patterns(pattern):
    with pytest.raises(PatternError):
        IgnoreMatcher([pattern])
