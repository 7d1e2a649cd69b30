"""The documents themselves: SPDX 2.3 and SLSA provenance 0.2 and 1."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from sampan import __version__
from sampan.build.attest.packages import Package

SPDX = "https://spdx.dev/Document"
SLSA_02 = "https://slsa.dev/provenance/v0.2"
SLSA_1 = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "https://mobyproject.org/buildkit@v1"
_LICENCE = re.compile(r"[A-Za-z0-9.+-]+(?: (?:AND|OR|WITH) [A-Za-z0-9.+-]+)*")


def spdx(
    name: str, digest: str, packages: Sequence[Package], distribution: str, created: float
) -> dict[str, Any]:
    """The packages of the image ``name`` whose manifest has the ``digest``."""
    root = {
        "SPDXID": "SPDXRef-DocumentRoot",
        "name": name,
        "versionInfo": digest,
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": False,
        "primaryPackagePurpose": "CONTAINER",
    }
    listed = [_package(package, distribution) for package in packages]
    describes = [("SPDXRef-DOCUMENT", "DESCRIBES", "SPDXRef-DocumentRoot")]
    contains = [("SPDXRef-DocumentRoot", "CONTAINS", entry["SPDXID"]) for entry in listed]
    return {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": name,
        "documentNamespace": f"urn:sampan:sbom:{digest}",
        "creationInfo": {
            "creators": [f"Tool: sampan-{__version__}"],
            "created": _seconds(created),
        },
        "packages": [root, *listed],
        "relationships": [
            {"spdxElementId": one, "relationshipType": kind, "relatedSpdxElement": other}
            for one, kind, other in [*describes, *contains]
        ],
    }


def _package(package: Package, distribution: str) -> dict[str, Any]:
    purl = package.purl(distribution)
    safe = re.sub(r"[^A-Za-z0-9.-]", "-", package.name)
    mark = hashlib.sha256(f"{purl}\0{package.source}".encode()).hexdigest()[:16]
    licence = package.license if _LICENCE.fullmatch(package.license) else "NOASSERTION"
    return {
        "SPDXID": f"SPDXRef-Package-{package.kind}-{safe}-{mark}",
        "name": package.name,
        "versionInfo": package.version,
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": False,
        "licenseConcluded": "NOASSERTION",
        "licenseDeclared": licence,
        "copyrightText": "NOASSERTION",
        "sourceInfo": f"acquired package info from: /{package.source}",
        "externalRefs": [
            {
                "referenceCategory": "PACKAGE-MANAGER",
                "referenceType": "purl",
                "referenceLocator": purl,
            }
        ],
    }


@dataclass(frozen=True, slots=True)
class BuildFacts:
    """What is known of a build.

    ``materials`` are image names with the digests that they had; ``source`` is the address of the
    context, ``commit`` the one that a Git repository had.  ``arguments`` are told only
    with ``everything`` (buildx's ``mode=max``).  Times are seconds since the epoch.
    """

    id: str
    dockerfile: str
    source: str
    target: str
    platform: str
    arguments: Mapping[str, str]
    labels: Mapping[str, str]
    materials: Sequence[tuple[str, str]]
    started: float
    finished: float
    everything: bool
    builder: str = ""
    reproducible: bool = False
    commit: str = ""

    def origin(self) -> dict[str, Any]:
        """Where the context comes from, and its commit; empty if it is local."""
        found: dict[str, Any] = {"uri": self.source} if self.source else {}
        if self.source and self.commit:
            found["digest"] = {_commit_kind(self.commit): self.commit}
        return found

    def parameters(self) -> dict[str, Any]:
        """The front end's parameters in BuildKit's words."""
        given: dict[str, str] = {}
        if self.target:
            given["target"] = self.target
        if self.everything:
            given |= {f"build-arg:{key}": value for key, value in self.arguments.items()}
            given |= {f"label:{key}": value for key, value in self.labels.items()}
        found: dict[str, Any] = {"frontend": "dockerfile.v0"}
        if given:
            found["args"] = given
        return found

    def resolved(self) -> list[dict[str, Any]]:
        """The materials with their package URLs."""
        platform = quote(self.platform, safe="")
        found = []
        for name, digest in self.materials:
            algorithm, _, value = digest.partition(":")
            uri = f"pkg:docker/{_at(name)}?platform={platform}"
            found.append({"uri": uri, "digest": {algorithm: value}})
        return [*found, self.origin()] if self.commit else found


def provenance(facts: BuildFacts, version: str = "v0.2") -> tuple[str, dict[str, Any]]:
    """The predicate's type and the predicate; ``version`` is ``v0.2`` or ``v1``."""
    if version == "v1":
        return SLSA_1, _slsa_1(facts)
    return SLSA_02, {
        "builder": {"id": facts.builder},
        "buildType": BUILD_TYPE,
        "materials": facts.resolved(),
        "invocation": {
            "configSource": {"entryPoint": facts.dockerfile, **facts.origin()},
            "parameters": facts.parameters(),
            "environment": {"platform": facts.platform},
        },
        "metadata": {
            "buildInvocationID": facts.id,
            "buildStartedOn": _time(facts.started),
            "buildFinishedOn": _time(facts.finished),
            "completeness": {
                "parameters": facts.everything,
                "environment": True,
                "materials": False,
            },
            "reproducible": facts.reproducible,
        },
    }


def _slsa_1(facts: BuildFacts) -> dict[str, Any]:
    return {
        "buildDefinition": {
            "buildType": BUILD_TYPE,
            "externalParameters": {
                "configSource": {"path": facts.dockerfile, **facts.origin()},
                "request": facts.parameters(),
            },
            "internalParameters": {"builderPlatform": facts.platform},
            "resolvedDependencies": facts.resolved(),
        },
        "runDetails": {
            "builder": {"id": facts.builder},
            "metadata": {
                "invocationId": facts.id,
                "startedOn": _time(facts.started),
                "finishedOn": _time(facts.finished),
            },
        },
    }


def _at(name: str) -> str:
    """``name:tag`` in a package URL's form, ``name@tag``."""
    path, _, last = name.rpartition("/")
    base, colon, tag = last.partition(":")
    whole = f"{path}/{base}" if path else base
    return f"{quote(whole)}@{quote(tag)}" if colon else quote(whole)


def subject(name: str, platform: str) -> str:
    """The name of an image in a statement about it."""
    return f"pkg:docker/{_at(name)}?platform={quote(platform, safe='')}" if name else "_"


def _commit_kind(commit: str) -> str:
    return "sha256" if len(commit) == 64 else "sha1"


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


def _seconds(seconds: float) -> str:
    return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
