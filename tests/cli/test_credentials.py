"""Where the credentials for a registry come from: the configuration, or a helper program."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sampan.cli import credentials
from sampan.cli.failure import Failure

HELPER = """#!/bin/sh
read -r server
case "$1 $server" in
"get one:5000") echo '{"ServerURL":"one:5000","Username":"ann","Secret":"pw"}';;
"get two:5000") echo '{"ServerURL":"two:5000","Username":"<token>","Secret":"long-lived"}';;
"get broken:5000") echo "the keychain is locked"; exit 1;;
*) echo "credentials not found in native keychain"; exit 1;;
esac
"""


@pytest.fixture
def lookup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    program = tmp_path / "docker-credential-test"
    program.write_text(HELPER)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")

    def find(config: dict[str, Any], registry: str) -> dict[str, Any]:
        (tmp_path / "config.json").write_text(json.dumps(config))
        session: Any = SimpleNamespace(config_dir=str(tmp_path), config=config)
        return credentials.lookup(session, registry)

    return find


def test_the_store_and_the_helpers_of_registries(lookup: Any) -> None:
    ann = {"username": "ann", "password": "pw", "serveraddress": "one:5000"}
    assert lookup({"credsStore": "test"}, "one:5000") == ann
    assert lookup({"credHelpers": {"one:5000": "test"}}, "one:5000") == ann
    assert lookup({"credHelpers": {"other:1": "test"}}, "one:5000") == {}
    found = lookup({"credsStore": "test"}, "two:5000")
    assert found == {"identitytoken": "long-lived", "serveraddress": "two:5000"}
    assert lookup({"credsStore": "test"}, "unknown:5000") == {}


def test_helpers_that_fail_or_are_missing(lookup: Any) -> None:
    with pytest.raises(Failure, match="the keychain is locked"):
        lookup({"credsStore": "test"}, "broken:5000")
    with pytest.raises(Failure, match="docker-credential-absent is not installed"):
        lookup({"credsStore": "absent"}, "one:5000")


def test_entries_of_the_configuration(lookup: Any) -> None:
    encoded = base64.b64encode(b"bob:se:cret").decode()
    auths = {"one:5000": {"auth": encoded}, "https://two:5000/v1/": {"identitytoken": "t"}}
    assert lookup({"auths": auths}, "one:5000") == {
        "username": "bob",
        "password": "se:cret",
        "serveraddress": "one:5000",
    }
    assert lookup({"auths": auths}, "two:5000")["identitytoken"] == "t"
    assert lookup({"auths": auths}, "three:5000") == {}
    with pytest.raises(Failure, match="malformed"):
        lookup({"auths": {"one:5000": {"auth": "/////w=="}}}, "one:5000")
