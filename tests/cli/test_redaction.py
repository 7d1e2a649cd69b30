"""What leaves the machine in a bug report."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan.cli.redaction import REMOVED, Redactor, looks_secret


@pytest.mark.parametrize(
    "name",
    [
        *("password", "DB_PASSWORD", "DbPassword", "MYSQL_PWD", "aws.secret", "API_KEY", "apiKey"),
        *(
            "GITHUB_TOKEN",
            "auth",
            "registryAuth",
            "X-Registry-Auth",
            "credentials",
            "ssh-private-key",
        ),
    ],
)
def test_secret_names(name: str) -> None:
    assert looks_secret(name)


@pytest.mark.parametrize(
    "name", ["PATH", "author", "keyboard", "Image", "passenger", "compass", "SecurityOpt", "Id"]
)
def test_names_that_are_none(name: str) -> None:
    assert not looks_secret(name)


def test_documents() -> None:
    document = {
        "Config": {
            "Env": ["PATH=/bin", "DB_PASSWORD=hunter2hunter2", "BARE"],
            "Cmd": ["run", "--password", "swordfish1", "--token=abcdefg", "plain"],
            "Labels": {"com.example.secret": "labelsecret", "com.example.name": "web"},
        },
        "Log": {"url": "https://user:pw123456@host/path"},
        "auths": {"registry": {"auth": "dXNlcjpwdw==", "identitytoken": "tok"}},
        "Count": 3,
    }
    redactor = Redactor()
    text = json.dumps(redactor.document(document))
    for secret in ("hunter2", "/bin", "swordfish1", "abcdefg", "labelsecret", "pw123456", "dXNl"):
        assert secret not in text
    for kept in ("DB_PASSWORD=", "PATH=", "BARE", "plain", '"web"', "host/path", "3"):
        assert kept in text
    # In texts, what was secret elsewhere is found without its name.
    log = redactor.text("got hunter2hunter2 and labelsecret\nAuthorization: Bearer xyz123\n")
    assert log == f"got {REMOVED} and {REMOVED}\nAuthorization: Bearer {REMOVED}\n"


def test_private_keys() -> None:
    text = "a\n-----BEGIN RSA PRIVATE KEY-----\nabc\n-----END RSA PRIVATE KEY-----\nb"
    assert Redactor().text(text) == f"a\n{REMOVED}\nb"


@given(st.text(alphabet="abcXYZ019+/", min_size=6, max_size=30), st.text(max_size=20))
def test_a_removed_value_never_comes_back(secret: str, around: str) -> None:
    redactor = Redactor()
    redactor.document({"Env": [f"MY_TOKEN={secret}"]})
    if secret not in REMOVED:
        assert secret not in redactor.text(around + secret + around).replace(REMOVED, "")
