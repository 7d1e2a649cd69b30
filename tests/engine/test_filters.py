"""Filters: parsing of both wire forms, and matching."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan.api.filters import parse
from sampan.engine.filters import Filters
from sampan.errors import InvalidParameter

fields = st.dictionaries(st.text(max_size=8), st.lists(st.text(max_size=8), max_size=4))


@given(fields)
def test_both_forms_mean_the_same(given_fields: dict[str, list[str]]) -> None:
    lists = parse(json.dumps(given_fields))
    maps = parse(json.dumps({k: dict.fromkeys(v, True) for k, v in given_fields.items()}))
    assert lists == maps == Filters(given_fields)


@pytest.mark.parametrize("text", ["", None, "null", "{}"])
def test_nothing(text: str | None) -> None:
    assert not parse(text)


@pytest.mark.parametrize("text", ["[]", "x", '{"a":1}', '{"a":["b",1]}', '"a"', '{"a":'])
def test_malformed(text: str) -> None:
    with pytest.raises(InvalidParameter, match="invalid filter"):
        parse(text)


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        parse(text)
    except InvalidParameter:
        pass


def test_unknown_key_is_named() -> None:
    with pytest.raises(InvalidParameter, match="invalid filter 'nope'"):
        Filters({"label": ["a"], "nope": ["b"]}).only("label")


@pytest.mark.parametrize(
    ("values", "expected"), [(["true"], True), (["1"], True), (["0"], False), (["false"], False)]
)
def test_boolean(values: list[str], expected: bool) -> None:
    assert Filters({"dangling": values}).boolean("dangling", not expected) is expected


@pytest.mark.parametrize("values", [["maybe"], ["true", "false"]])
def test_bad_boolean(values: list[str]) -> None:
    with pytest.raises(InvalidParameter, match="invalid filter 'dangling="):
        Filters({"dangling": values}).boolean("dangling", True)


def test_labels_must_all_match() -> None:
    wanted = Filters({"label": ["a", "b=1"]})
    assert wanted.labels({"a": "", "b": "1"})
    assert not wanted.labels({"a": ""})
    assert not wanted.labels({"a": "", "b": "2"})
    assert not wanted.labels(None)
    unwanted = Filters({"label!": ["a", "b=1"]})
    assert unwanted.no_labels({"b": "2"})
    assert not unwanted.no_labels({"a": "x"})


def test_absent_key_matches_everything() -> None:
    nothing = Filters()
    assert nothing.exact("x", "y") and nothing.pattern("x", "y") and nothing.prefix("x", "y")


@given(st.text(max_size=10), st.text(max_size=10))
def test_pattern_never_fails(pattern: str, value: str) -> None:
    Filters({"name": [pattern]}).pattern("name", value)
    assert Filters({"name": [value]}).pattern("name", value)
