"""What ``--systemd-cgroup`` asks of systemd; tests/guest proves it where systemd runs."""

from __future__ import annotations

import pytest

from sampan.runtime.oci import scopes


@pytest.mark.parametrize(
    ("key", "text", "wanted"),
    [
        ("TimeoutStopUSec", "uint64 500", ("TimeoutStopUSec", ("t", 500))),
        ("TimeoutStopSec", "3", ("TimeoutStopUSec", ("t", 3_000_000))),
        ("KillSignal", "37", ("KillSignal", ("i", 37))),
        ("SendSIGHUP", "true", ("SendSIGHUP", ("b", True))),
        ("CollectModeX", "'inactive'", ("CollectModeX", ("s", "inactive"))),
        ("MemoryHigh", "uint64 0x10", ("MemoryHigh", ("t", 16))),
    ],
)
def test_annotations_are_properties(key: str, text: str, wanted: object) -> None:
    found = scopes.properties({f"org.systemd.property.{key}": text, "other": "x"})
    assert found == [wanted]


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("After", "['a']"),
        ("Slice", "'x.slice'"),
        ("Bad_Name", "1"),
        ("", "1"),
        ("KillSignal", "2147483648"),
        ("KillSignal", "what 3"),
        ("KillSignal", ""),
        ("KillSignal", "'"),
        ("KillMode", "'a\\'b'"),
        ("TimeoutStopSec", "-1"),
        ("TimeoutStopSec", "'x'"),
        ("X", "byte 256"),
    ],
)
def test_others_are_refused_by_name(key: str, text: str) -> None:
    name = f"org.systemd.property.{key}"
    with pytest.raises(ValueError, match=f"annotation {name}: "):
        scopes.properties({name: text})


def test_paths() -> None:
    with pytest.raises(ValueError, match="is not SLICE:PREFIX:NAME"):
        scopes.group({"cgroupsPath": "/a/b"}, "x", {})
