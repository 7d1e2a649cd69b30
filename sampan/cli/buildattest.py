"""``--sbom``, ``--provenance`` and ``--attest``: what is to be said about the image."""

from __future__ import annotations

from sampan.cli.failure import Failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.cli.flags import Options

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
