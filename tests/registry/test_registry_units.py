"""Pure parts: references, platforms, endpoints, proxies."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan.errors import InvalidParameter
from sampan.image.manifest import Descriptor, Platform
from sampan.image.reference import InvalidReference, Reference
from sampan.registry import platforms
from sampan.registry.config import Proxies, RegistryConfig, endpoints, is_insecure

SHA = "sha256:" + "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("text", "full", "familiar"),
    [
        ("ubuntu", "docker.io/library/ubuntu:latest", "ubuntu:latest"),
        ("runoob/ubuntu:v2", "docker.io/runoob/ubuntu:v2", "runoob/ubuntu:v2"),
        ("index.docker.io/x", "docker.io/library/x:latest", "x:latest"),
        ("localhost/a", "localhost/a:latest", "localhost/a:latest"),
        ("LOCAL/a", "LOCAL/a:latest", "LOCAL/a:latest"),
        ("127.0.0.1:5000/a/b:x", "127.0.0.1:5000/a/b:x", "127.0.0.1:5000/a/b:x"),
        ("[::1]:5000/a", "[::1]:5000/a:latest", "[::1]:5000/a:latest"),
        (f"a@{SHA}", f"docker.io/library/a@{SHA}", f"a@{SHA}"),
        (f"a:1@{SHA}", f"docker.io/library/a:1@{SHA}", f"a:1@{SHA}"),
        ("a__b/c-.d"[:6], "docker.io/a__b/c:latest", "a__b/c:latest"),
    ],
)
def test_references(text: str, full: str, familiar: str) -> None:
    ref = Reference.parse(text)
    assert (str(ref), ref.familiar()) == (full, familiar)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "invalid reference format"),
        ("a:b:c", "invalid reference format"),
        ("a//b", "invalid reference format"),
        ("../a", "invalid reference format"),
        ("a\n", "invalid reference format"),
        ("ａ", "invalid reference format"),
        ("a_-b", "invalid reference format"),
        ("Foo", r"invalid reference format: repository name \(library/Foo\) must be lowercase"),
        ("a" * 300, "must not be more than 255 characters"),
        ("a" * 62 + "bb", "cannot specify 64-byte hexadecimal strings"),
        ("a@sha256:" + "a" * 40, "invalid checksum digest length"),
        ("a@md5:" + "a" * 32, "unsupported digest algorithm"),
    ],
)
def test_bad_references(text: str, message: str) -> None:
    with pytest.raises(InvalidReference, match=message):
        Reference.parse(text)


@given(st.text(max_size=80))
def test_a_reference_reads_back_as_itself(text: str) -> None:
    try:
        ref = Reference.parse(text)
    except InvalidReference:
        return
    assert Reference.parse(str(ref)) == ref
    assert Reference.parse(ref.familiar()) == ref


def _offer(*names: str) -> list[Descriptor]:
    return [
        Descriptor("m", SHA, i, platform=platforms.parse(name) if name else None)
        for i, name in enumerate(names)
    ]


@pytest.mark.parametrize(
    ("offered", "wanted", "index"),
    [
        (["linux/amd64", "linux/arm64"], "linux/arm64/v8", 1),
        (["linux/arm/v5", "linux/arm/v6", "linux/arm/v8"], "linux/arm/v7", 1),
        (["linux/386", "linux/amd64"], "amd64", 1),
        (["linux/386"], "linux/x86_64", 0),
        (["windows/amd64"], "linux/amd64", None),
        (["", "linux/amd64"], "linux/amd64", 1),
        ([""], "linux/riscv64", 0),
        (["linux/amd64"], "linux/amd64/v3", 0),
        (["linux/amd64/v3"], "linux/amd64", None),
    ],
)
def test_platform_choice(offered: list[str], wanted: str, index: int | None) -> None:
    found = platforms.choose(_offer(*offered), platforms.parse(wanted))
    assert (found.size if found else None) == index


def test_attestations_are_never_chosen() -> None:
    unknown = Descriptor("m", SHA, 0, platform=Platform("unknown", "unknown"))
    assert platforms.choose([unknown], platforms.parse("amd64")) is None


@pytest.mark.parametrize("text", ["", "a/b/c/d", "linux/", "/amd64"])
def test_bad_platforms(text: str) -> None:
    with pytest.raises(InvalidParameter, match="invalid platform"):
        platforms.parse(text)


def test_endpoints_and_insecure_lists(tmp_path: Path) -> None:
    config = RegistryConfig(
        insecure=("10.0.0.0/8", "plain:5000"),
        mirrors=("http://127.0.0.1:1",),
        default_endpoint="https://hub.test",
        certs_dir=tmp_path,
    )
    urls = [e.url for e in endpoints(config, "docker.io")]
    assert urls == ["http://127.0.0.1:1", "https://hub.test"]
    assert [e.url for e in endpoints(config, "docker.io", push=True)] == ["https://hub.test"]
    assert [(e.url, e.verify) for e in endpoints(config, "h")] == [("https://h", True)]
    assert [e.url for e in endpoints(config, "10.1.2.3:5")] == [
        "https://10.1.2.3:5",
        "http://10.1.2.3:5",
    ]
    assert next(e.url for e in endpoints(config, "localhost:5")) == "http://localhost:5"
    assert is_insecure(config, "plain:5000") and not is_insecure(config, "plain:5001")
    (tmp_path / "localhost:5").mkdir()
    only = endpoints(config, "localhost:5")
    assert [(e.url, e.verify) for e in only] == [("https://localhost:5", True)]


@pytest.mark.parametrize(
    ("url", "proxy"),
    [
        ("https://h.test/v2/", "http://p:2"),
        ("http://h.test/v2/", "http://p:1"),
        ("https://a.internal/v2/", None),
        ("https://internal/v2/", None),
        ("https://10.1.1.1/v2/", None),
        ("http://localhost:5000/v2/", None),
        ("http://127.0.0.9:5000/v2/", None),
        ("http://port.test:81/", None),
        ("http://port.test:82/", "http://p:1"),
    ],
)
def test_proxies(url: str, proxy: str | None) -> None:
    proxies = Proxies.from_environment(
        {
            "HTTP_PROXY": "http://p:1",
            "https_proxy": "http://p:2",
            "NO_PROXY": ".internal, 10.0.0.0/8,port.test:81",
        }
    )
    assert proxies.for_url(url) == proxy
