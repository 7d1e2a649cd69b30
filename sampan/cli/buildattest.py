"""``--sbom``, ``--provenance`` and ``--attest``: what is to be said about the image."""

from __future__ import annotations

from sampan import wirejson
from sampan.cli.failure import Failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.cli.buildoutput import Output
    from sampan.cli.flags import Options
    from sampan.cli.session import Session

_TRUE, _FALSE = ("", "true", "1"), ("false", "0")


def wanted(options: Options) -> dict[str, object]:
    """What the query's ``attest`` says; empty for nothing.

    :raises Failure: a malformed option, or a scanner, since the scanner is built in.
    """
    texts = list(options["attest"])
    for name in ("sbom", "provenance"):
        if options.given(name):
            value = options[name]
            if value in _FALSE:
                texts.append(f"type={name},disabled=true")
            elif value in _TRUE:
                texts.append(f"type={name}")
            else:
                texts.append(f"type={name},{value}")
    document: dict[str, object] = {}
    for text in texts:
        _add(document, text)
    return document


def key(path: str, query: dict[str, object], outputs: list[Output]) -> str:
    """The private key of ``--sign-key``.

    :raises Failure: it cannot be read, or nothing of the build is to be signed.
    """
    if "attest" not in query or not any(wirejson.loads(str(query["attest"])).values()):
        raise Failure("--sign-key signs attestations: ask for some by --sbom or --provenance", 125)
    if not any(output.type == "registry" for output in outputs):
        raise Failure("--sign-key signs what is pushed: give --push", 125)
    try:
        with open(path, encoding="ascii") as file:
            return file.read(1 << 16)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise Failure(f"cannot read the key {path}: {reason}", 125) from None


def sign(session: Session, names: list[str], key: str) -> None:
    """Have the daemon sign the attestations of the images that have been pushed."""
    from sampan.cli import credentials

    for name in names:
        session.api.call(
            "POST",
            "/sampan/sign",
            {"name": name},
            json={"key": key},
            headers=credentials.header(session, name),
        )


def _add(document: dict[str, object], text: str) -> None:
    given = dict(field.partition("=")[::2] for field in text.split(","))
    kind = given.pop("type", "")
    disabled = given.pop("disabled", "false") in _TRUE
    known = {"sbom": (), "provenance": ("mode", "version", "builder-id", "reproducible")}
    if kind not in known:
        raise Failure(f"invalid attestation {text!r}: the type is sbom or provenance", 125)
    for key in given:
        if key not in known[kind]:
            raise Failure(f"invalid attestation {text!r}: unexpected key {key!r}", 125)
    if kind == "sbom":
        document["sbom"] = not disabled
        return
    document["provenance"] = "" if disabled else given.get("mode", "min")
    for key, name in (("version", "version"), ("builder-id", "builder")):
        if key in given:
            document[name] = given[key]
    if "reproducible" in given:
        document["reproducible"] = given["reproducible"] in _TRUE
