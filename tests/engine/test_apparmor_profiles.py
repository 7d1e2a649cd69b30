"""Which profile of AppArmor a container gets."""

from __future__ import annotations

from typing import Any

import pytest

from sampan.engine import apparmor
from sampan.engine.apparmor import Profiles
from sampan.engine.types import HostConfig
from sampan.linux import lsm


@pytest.mark.parametrize(
    ("host", "profile", "without_default"),
    [
        ({}, "sampan-default", ""),
        ({"privileged": True}, "unconfined", ""),
        ({"security_opt": ["apparmor=own"]}, "own", "own"),
        ({"security_opt": ["apparmor:own"], "privileged": True}, "own", "own"),
        ({"security_opt": ["no-new-privileges", "apparmor=unconfined"]}, *["unconfined"] * 2),
    ],
)
def test_the_profile_of_a_container(
    monkeypatch: pytest.MonkeyPatch, host: dict[str, Any], profile: str, without_default: str
) -> None:
    wanted = HostConfig(**host)
    monkeypatch.setattr(lsm, "has_apparmor", lambda: True)
    assert Profiles(apparmor.DEFAULT).of(wanted) == profile
    assert Profiles().of(wanted) == without_default
    monkeypatch.setattr(lsm, "has_apparmor", lambda: False)
    assert Profiles(apparmor.DEFAULT).of(wanted) == ""


def test_the_daemon_s_own_profile_may_signal() -> None:
    assert 'signal (receive) peer="the-daemon",' in apparmor.text("the-daemon")


def test_nothing_is_loaded_without_the_module(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lsm, "has_apparmor", lambda: False)
    assert apparmor.load() == Profiles()
