"""Whatever a client sends, it is answered in the spec's terms."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan.hub.failures import RegistryError
from sampan.hub.routes.paths import parse
from sampan.image.reference import is_repository_path
from sampan.registry.authorizer import parse_challenges
from tests.hub.conftest import Running

SEGMENT = st.sampled_from(
    ["a", "b-c", "..", ".", "", "blobs", "uploads", "manifests", "tags", "list", "referrers",
     "_catalog", "sha256:" + "0" * 64, "0" * 32, "latest", "A", "%2e", "\x00", "é"]
)  # fmt: skip


@given(st.lists(SEGMENT, max_size=8).map("/".join) | st.text(max_size=60))
def test_a_path_is_valid_or_refused(path: str) -> None:
    try:
        target = parse(path)
    except RegistryError as exc:
        assert 400 <= exc.status < 500
        return
    assert target.noun in ("base", "catalog") or is_repository_path(target.repository)
    assert re.fullmatch(r"[A-Za-z0-9_.:-]*", target.reference)


@given(st.lists(st.text(max_size=40), max_size=3))
def test_challenges_of_any_kind_are_read(values: list[str]) -> None:
    for challenge in parse_challenges(values):
        assert challenge.scheme


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("Authorization", "Basic !!!"),
        ("Authorization", "Bearer " + "x" * 5000),
        ("Authorization", "Nonsense"),
        ("Range", "bytes=9999999999999999999999-"),
        ("Range", "bytes=5-2"),
        ("If-None-Match", '"' + "x" * 5000),
        ("Accept", "," * 2000),
    ],
)
async def test_odd_headers(file_hub: Running, header: str, value: str) -> None:
    digest = "sha256:2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae"
    await file_hub.http.post(f"/v2/a/blobs/uploads/?digest={digest}", data=b"foo")
    answer = await file_hub.http.get(f"/v2/a/blobs/{digest}", headers={header: value})
    assert answer.status in (200, 401, 416)
    if answer.status != 200:
        assert (await answer.json())["errors"][0]["code"]


async def test_a_page_for_no_image_and_odd_queries(file_hub: Running) -> None:
    for path in (
        "/search?q=%00&page=-1",
        "/search?page=99999999999999",
        "/r/%2e%2e/x",
        "/language/xx",
        "/r/a/-/files/sha256:0",
        "/r/a/-/diff",
        "/v1/search?n=-5&page=x",
        "/token?scope=%00&scope=repository:a:*",
    ):
        answer = await file_hub.http.get(path)
        assert answer.status in (200, 404), path
