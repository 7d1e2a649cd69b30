"""Reading documents about images: lists of packages (SPDX 2, CycloneDX 1), SLSA provenance, and
the in-toto statements around them.

What others wrote is read leniently: what is missing is empty, what has the wrong shape makes the
whole document unreadable.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from sampan.errors import InvalidParameter

SPDX_PREDICATES = ("https://spdx.dev/Document",)
CYCLONEDX_PREDICATES = ("https://cyclonedx.org/bom", "https://cyclonedx.org/schema")
PROVENANCE_PREDICATES = ("https://slsa.dev/provenance/",)
T = TypeVar("T")
_ROOT = "SPDXRef-DocumentRoot"
_NOTHING = ("NOASSERTION", "NONE")
MAX_DEPTH = 10


@dataclass(frozen=True, slots=True)
class Package:
    """One package; ``kind`` is the package URL's type (``deb``, ``npm``), if it has one."""

    name: str
    version: str
    kind: str
    license: str
    supplier: str


@dataclass(frozen=True, slots=True)
class Bill:
    """A software bill of materials."""

    format: str
    created: str
    tools: tuple[str, ...]
    packages: tuple[Package, ...]


@dataclass(frozen=True, slots=True)
class Provenance:
    """How an image was built: by what, from what, with what."""

    format: str
    builder: str
    build_type: str
    started: str
    finished: str
    materials: tuple[tuple[str, str], ...]
    parameters: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Other:
    """A statement of a kind that is not read here; ``text`` is its predicate as JSON."""

    format: str
    text: str


class _Subject(msgspec.Struct):
    name: str = ""
    digest: dict[str, str] = {}


class Statement(msgspec.Struct, rename="camel"):
    """An in-toto statement: a predicate about subjects."""

    predicate_type: str
    subject: list[_Subject] = []
    predicate: msgspec.Raw = msgspec.Raw(b"null")

    def is_about(self, digest: str) -> bool:
        algorithm, _, encoded = digest.partition(":")
        return any(subject.digest.get(algorithm) == encoded for subject in self.subject)


class _Reference(msgspec.Struct, rename="camel"):
    reference_type: str = ""
    reference_locator: str = ""


class _SpdxPackage(msgspec.Struct, rename="camel"):
    name: str
    id: str = msgspec.field(name="SPDXID", default="")
    version_info: str = ""
    supplier: str = ""
    license_concluded: str = ""
    license_declared: str = ""
    external_refs: list[_Reference] = []


class _Creation(msgspec.Struct):
    created: str = ""
    creators: list[str] = []


class _Spdx(msgspec.Struct, rename="camel"):
    spdx_version: str
    creation_info: _Creation = msgspec.field(default_factory=_Creation)
    packages: list[_SpdxPackage] = []


class _LicenseName(msgspec.Struct):
    id: str = ""
    name: str = ""


class _License(msgspec.Struct):
    license: _LicenseName | None = None
    expression: str = ""


class _Named(msgspec.Struct):
    name: str = ""
    version: str = ""


class _Component(msgspec.Struct):
    name: str
    version: str = ""
    purl: str = ""
    publisher: str = ""
    supplier: _Named | None = None
    licenses: list[_License] = []
    components: list[_Component] = []


class _Tools(msgspec.Struct):
    components: list[_Named] = []
    services: list[_Named] = []


class _Metadata(msgspec.Struct):
    timestamp: str = ""
    tools: list[_Named] | _Tools | None = None


class _CycloneDx(msgspec.Struct, rename="camel"):
    bom_format: str
    spec_version: str = ""
    metadata: _Metadata = msgspec.field(default_factory=_Metadata)
    components: list[_Component] = []


class _Material(msgspec.Struct):
    uri: str = ""
    digest: dict[str, str] = {}


class _Builder(msgspec.Struct):
    id: str = ""


class _Times(msgspec.Struct, rename="camel"):
    build_started_on: str | None = ""
    build_finished_on: str | None = ""
    started_on: str | None = ""
    finished_on: str | None = ""


class _Invocation(msgspec.Struct):
    parameters: Any = None


class _Provenance02(msgspec.Struct, rename="camel"):
    builder: _Builder = msgspec.field(default_factory=_Builder)
    build_type: str = ""
    materials: list[_Material] = []
    metadata: _Times = msgspec.field(default_factory=_Times)
    invocation: _Invocation = msgspec.field(default_factory=_Invocation)


class _Definition(msgspec.Struct, rename="camel"):
    build_type: str = ""
    external_parameters: Any = None
    resolved_dependencies: list[_Material] = []


class _RunDetails(msgspec.Struct):
    builder: _Builder = msgspec.field(default_factory=_Builder)
    metadata: _Times = msgspec.field(default_factory=_Times)


class _Provenance1(msgspec.Struct, rename="camel"):
    build_definition: _Definition = msgspec.field(default_factory=_Definition)
    run_details: _RunDetails = msgspec.field(default_factory=_RunDetails)


class _Probe(msgspec.Struct, rename="camel"):
    """Just enough to tell the kinds of documents apart."""

    predicate_type: str = ""
    spdx_version: str = ""
    bom_format: str = ""


def statement(data: bytes) -> Statement:
    """Raises InvalidParameter."""
    return _decode(data, Statement)


def read_document(data: bytes) -> Bill | Provenance | Other:
    """A document, bare or in a statement.  Raises InvalidParameter when it cannot be read."""
    probe = _decode(data, _Probe)
    if probe.predicate_type:
        return _predicate(statement(data))
    if probe.spdx_version:
        return _spdx(data)
    if probe.bom_format:
        return _cyclonedx(data)
    raise InvalidParameter("it is neither an SPDX 2 nor a CycloneDX document, nor a statement")


def _predicate(said: Statement) -> Bill | Provenance | Other:
    data = bytes(said.predicate)
    if said.predicate_type.startswith(SPDX_PREDICATES):
        return _spdx(data)
    if said.predicate_type.startswith(CYCLONEDX_PREDICATES):
        return _cyclonedx(data)
    if said.predicate_type.startswith(PROVENANCE_PREDICATES):
        return _provenance(said.predicate_type, data)
    return Other(said.predicate_type, msgspec.json.format(data, indent=2).decode())


def _spdx(data: bytes) -> Bill:
    document = _decode(data, _Spdx)
    creators = document.creation_info.creators
    return Bill(
        document.spdx_version,
        document.creation_info.created,
        tuple(c.removeprefix("Tool:").strip() for c in creators if c.startswith("Tool:")),
        tuple(
            Package(
                package.name,
                package.version_info,
                _kind(
                    next(
                        (
                            ref.reference_locator
                            for ref in package.external_refs
                            if ref.reference_type == "purl"
                        ),
                        "",
                    )
                ),
                _said(package.license_concluded) or _said(package.license_declared),
                _said(package.supplier).partition(":")[2].strip(),
            )
            for package in document.packages
            if not package.id.startswith(_ROOT)
        ),
    )


def _said(text: str) -> str:
    return "" if text in _NOTHING else text


def _kind(purl: str) -> str:
    return purl.removeprefix("pkg:").partition("/")[0] if purl.startswith("pkg:") else ""


def _cyclonedx(data: bytes) -> Bill:
    document = _decode(data, _CycloneDx)
    tools = document.metadata.tools
    named = [*tools.components, *tools.services] if isinstance(tools, _Tools) else tools or []
    packages: list[Package] = []
    _collect(document.components, packages, MAX_DEPTH)
    return Bill(
        f"CycloneDX-{document.spec_version}" if document.spec_version else "CycloneDX",
        document.metadata.timestamp,
        tuple(f"{tool.name} {tool.version}".strip() for tool in named),
        tuple(packages),
    )


def _collect(components: list[_Component], into: list[Package], depth: int) -> None:
    for component in components:
        licenses = [
            entry.expression or (entry.license and (entry.license.id or entry.license.name)) or ""
            for entry in component.licenses
        ]
        into.append(
            Package(
                component.name,
                component.version,
                _kind(component.purl),
                ", ".join(filter(None, licenses)),
                component.supplier.name if component.supplier else component.publisher,
            )
        )
        if depth:
            _collect(component.components, into, depth - 1)


def _provenance(predicate_type: str, data: bytes) -> Provenance:
    name = "SLSA " + predicate_type.rpartition("/")[2]
    if predicate_type.endswith(("/v0.1", "/v0.2")):
        old = _decode(data, _Provenance02)
        return Provenance(
            name,
            old.builder.id,
            old.build_type,
            old.metadata.build_started_on or "",
            old.metadata.build_finished_on or "",
            _materials(old.materials),
            _flat(old.invocation.parameters),
        )
    new = _decode(data, _Provenance1)
    return Provenance(
        name,
        new.run_details.builder.id,
        new.build_definition.build_type,
        new.run_details.metadata.started_on or "",
        new.run_details.metadata.finished_on or "",
        _materials(new.build_definition.resolved_dependencies),
        _flat(new.build_definition.external_parameters),
    )


def _materials(found: list[_Material]) -> tuple[tuple[str, str], ...]:
    return tuple(
        (material.uri, " ".join(f"{name}:{value}" for name, value in material.digest.items()))
        for material in found
    )


def _flat(value: Any, prefix: str = "", depth: int = MAX_DEPTH) -> tuple[tuple[str, str], ...]:
    """Nested parameters as ``a.b`` and text."""
    if isinstance(value, dict) and depth:
        return tuple(
            row
            for key, inner in value.items()
            for row in _flat(inner, f"{prefix}.{key}" if prefix else str(key), depth - 1)
        )
    if value in (None, "", [], {}):
        return ()
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    return ((prefix, text),)


def _decode(data: bytes, model: type[T]) -> T:
    try:
        return msgspec.json.decode(data, type=model)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        raise InvalidParameter(f"the document cannot be read: {exc}") from None
