"""Request bodies are taken as Go's decoder takes them."""

from __future__ import annotations

import json
import logging
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan.engine.types import CreateRequest, decode
from sampan.errors import InvalidParameter

BODY = {
    "Image": "busybox",
    "Cmd": "true",
    "Labels": {"Some": "label", "some": "other"},
    "ExposedPorts": {"80/tcp": {}},
    "HostConfig": {
        "Memory": 7,
        "PortBindings": {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": "81"}]},
        "Ulimits": [{"Name": "nofile", "Soft": 1, "Hard": 2}],
        "RestartPolicy": {"Name": "always", "MaximumRetryCount": 0},
    },
    "NetworkingConfig": {"EndpointsConfig": {"Net": {"IPAMConfig": {"IPv4Address": "10.0.0.9"}}}},
}
# Names of maps are the user's, not the API's.
USERS_NAMES = {"Labels", "ExposedPorts", "PortBindings", "EndpointsConfig"}


def test_names_in_any_case() -> None:
    wanted = decode(json.dumps(BODY).encode(), CreateRequest)
    assert wanted.host_config.ulimits[0].hard == 2

    def shuffled(value: object, keep: bool = False) -> object:
        if isinstance(value, list):
            return [shuffled(item) for item in value]
        if isinstance(value, dict):
            return {
                name if keep else "".join(random.choice((c.lower(), c.upper())) for c in name):
                    shuffled(item, name in USERS_NAMES)
                for name, item in value.items()
            }  # fmt: skip
        return value

    for _ in range(20):
        assert decode(json.dumps(shuffled(BODY)).encode(), CreateRequest) == wanted


@pytest.mark.parametrize("body", ['{"Image": "a", "image": "b"}', '{"image": "b", "Image": "a"}'])
def test_the_exact_name_wins(body: str) -> None:
    assert decode(body.encode(), CreateRequest).image == "a"


def test_unknown_names_are_ignored_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "sampan.engine")
    body = b'{"Image": "x", "Fancy": 1, "HostConfig": {"Novel": {"A": 1}, "Memory": null}}'
    assert decode(body, CreateRequest).image == "x"
    assert caplog.messages == ["ignored in a request, as unknown: Fancy, HostConfig.Novel"]


def test_a_wrong_type_is_named_by_its_place() -> None:
    with pytest.raises(InvalidParameter, match=r"\$\.HostConfig\.Memory"):
        decode(b'{"hostconfig": {"memory": "much"}}', CreateRequest)


@pytest.mark.parametrize(
    "body", ['{"Env": ["A=\\u0000"]}', '{"HostConfig": {"Tmpfs": {"\\u0000": ""}}}']
)
def test_null_bytes_are_refused(body: str) -> None:
    with pytest.raises(InvalidParameter, match="null byte"):
        decode(body.encode(), CreateRequest)


def test_what_only_looks_like_a_null_byte_is_not() -> None:
    assert decode(rb'{"Env": ["A=\\u0000"]}', CreateRequest).env == [r"A=\u0000"]


anything = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["Image", "image", "HOSTCONFIG", "HostConfig", "Binds", "Env", "x"]),
            inner,
        )
    ),
    max_leaves=20,
)


@given(anything)
def test_any_json_is_taken_or_refused(value: object) -> None:
    try:
        decode(json.dumps(value).encode(), CreateRequest)
    except InvalidParameter:
        pass
