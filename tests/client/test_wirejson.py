"""JSON by the C scanner agrees with the standard library."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan import wirejson

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text()
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(VALUES)
def test_what_is_written_is_read_back(value):
    assert json.loads(wirejson.dumps(value)) == value
    assert wirejson.loads(json.dumps(value)) == value
    assert wirejson.loads(wirejson.dumps(value).encode("utf-8", "surrogatepass")) == value or any(
        "\ud800" <= letter <= "\udfff" for letter in wirejson.dumps(value)
    )


@given(VALUES)
def test_indented_output_is_the_standard_librarys(value):
    ours = wirejson.dumps(value, "    ")
    assert json.loads(ours) == value
    assert wirejson.dumps({"a": [1, {"b": []}], "c": {}}, "    ") == json.dumps(
        {"a": [1, {"b": []}], "c": {}}, indent=4
    )


@pytest.mark.parametrize("text", ["", "{", "[1,]", "{} {}", "nul", '"a'])
def test_what_is_not_json_is_refused(text):
    with pytest.raises(ValueError):
        wirejson.loads(text)


def test_whole_floats_are_written_as_go_does():
    assert wirejson.dumps([1.0, 0.5, -2.0]) == "[1,0.5,-2]"


def test_numbers_that_are_not_finite_have_no_form():
    with pytest.raises(ValueError):
        wirejson.dumps(float("nan"))
