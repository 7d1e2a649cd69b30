"""TLS on TCP sockets, as the settings ``tls…`` ask for it."""

from __future__ import annotations

import ssl

from sampan.daemon.config import Settings
from sampan.errors import InvalidParameter


def context(settings: Settings) -> ssl.SSLContext | None:
    """How to speak on TCP sockets; None for plain text.

    With ``tlsverify`` clients must show a certificate of the given authority.

    :raises InvalidParameter: a file is not named or cannot be read.
    """
    if not (settings.tls or settings.tlsverify):
        given = settings.tlscacert or settings.tlscert or settings.tlskey
        if given:
            raise InvalidParameter(f"{given} is given without tls or tlsverify")
        return None
    if not (settings.tlscert and settings.tlskey):
        raise InvalidParameter("TLS needs the daemon's certificate and key: tlscert and tlskey")
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        made.load_cert_chain(settings.tlscert, settings.tlskey)
        if settings.tlsverify:
            if not settings.tlscacert:
                raise InvalidParameter("tlsverify needs the clients' authority: tlscacert")
            made.load_verify_locations(settings.tlscacert)
            made.verify_mode = ssl.CERT_REQUIRED
    except (OSError, ssl.SSLError) as error:
        raise InvalidParameter(f"cannot use the TLS certificates: {error}") from None
    return made
