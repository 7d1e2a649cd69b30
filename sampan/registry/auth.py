"""Credentials for a registry, as the Engine API carries them."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass

import msgspec

from sampan.errors import InvalidParameter


@dataclass(frozen=True, slots=True)
class Auth:
    """Credentials for one registry: user and password, an identity token, or a ready token."""

    username: str = ""
    password: str = ""
    identity_token: str = ""
    registry_token: str = ""
    server_address: str = ""

    @classmethod
    def from_header(cls, value: str | None) -> Auth | None:
        """Decode the Engine API's ``X-Registry-Auth`` (base64url JSON); None when it says nothing.

        Raises :class:`InvalidParameter`.
        """
        if not value:
            return None
        try:
            raw = base64.urlsafe_b64decode(value + "=" * (-len(value) % 4))
            wire = msgspec.json.decode(raw, type=_WireAuth)
        except (binascii.Error, ValueError, msgspec.MsgspecError) as exc:
            raise InvalidParameter(f"invalid X-Registry-Auth header: {exc}") from exc
        return wire.to_auth()


class _WireAuth(msgspec.Struct, rename="lower"):
    username: str = ""
    password: str = ""
    auth: str = ""
    identitytoken: str = ""
    registrytoken: str = ""
    serveraddress: str = ""

    def to_auth(self) -> Auth | None:
        username, password = self.username, self.password
        if self.auth and not username:
            try:
                username, _, password = base64.b64decode(self.auth).decode().partition(":")
            except (binascii.Error, UnicodeDecodeError) as exc:
                raise InvalidParameter("invalid X-Registry-Auth header: bad auth field") from exc
        if not (username or self.identitytoken or self.registrytoken):
            return None
        return Auth(username, password, self.identitytoken, self.registrytoken, self.serveraddress)
