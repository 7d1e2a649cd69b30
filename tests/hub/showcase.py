"""A hub with something on every page, for tests in a browser and for the screenshots in the docs.

``python -m tests.hub.showcase FOLDER`` writes the screenshots.
"""

from __future__ import annotations

import asyncio
import base64
import gzip
import io
import json
import shutil
import sys
import tarfile
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from sampan.hub import signatures
from sampan.hub.config import HubConfig
from sampan.image.manifest import OCI_CONFIG, OCI_INDEX, OCI_LAYER_GZIP, OCI_MANIFEST
from tests.hub.conftest import Hubs, Running
from tests.hub.test_hub_registry import sha

README = """# Web shop

A small shop in one image: **Python**, a database in a file, no further parts.

```
sampan run -p 8000:8000 team/shop
```

| Variable | Meaning | Default |
|---|---|---|
| `SHOP_TITLE` | Name on the pages | `Shop` |
| `SHOP_DATA` | Folder of the database | `/data` |

1. Put your articles into `/data/articles.csv`.
2. Open <http://localhost:8000>.

> Questions and mistakes: see the [notes](https://shop.example.test/notes).
"""
DESCRIPTIONS = {
    "team/shop": "A small web shop with everything that it needs",
    "library/python": "An interpreted, interactive, object-oriented programming language",
    "library/postgres": "The relational database, with its own folder for data",
    "library/debian": "The universal operating system, without the parts that containers skip",
    "tools/busybox": "Many small tools in one program",
    "ann/notes": "中文说明：记录与分享笔记的小工具",
}


@dataclass(frozen=True)
class Showcase:
    """What was made: the user's name and password, and paths of all pages."""

    name: str
    password: str
    paths: tuple[str, ...]
    private_paths: tuple[str, ...]


class _Publisher:
    def __init__(self, hub: Running) -> None:
        self._hub = hub

    async def blob(self, repository: str, data: bytes, kind: str, **more: Any) -> dict[str, Any]:
        answer = await self._hub.http.post(
            f"/v2/{repository}/blobs/uploads/?digest={sha(data)}", data=data,
            headers=self._hub.basic,
        )  # fmt: skip
        assert answer.status == 201, await answer.text()
        return {"mediaType": kind, "digest": sha(data), "size": len(data), **more}

    async def manifest(self, repository: str, name: str, body: dict[str, Any]) -> bytes:
        data = json.dumps({"schemaVersion": 2, **body}).encode()
        answer = await self._hub.http.put(
            f"/v2/{repository}/manifests/{name or sha(data)}", data=data,
            headers={**self._hub.basic, "Content-Type": body["mediaType"]},
        )  # fmt: skip
        assert answer.status == 201, await answer.text()
        return data

    async def image(
        self, repository: str, name: str, steps: list[tuple[str, dict[str, bytes] | None]],
        architecture: str = "amd64",
    ) -> bytes:  # fmt: skip
        layers = []
        for _, files in steps:
            if files is not None:
                data = gzip.compress(_tar(files), 6, mtime=0)
                layers.append(await self.blob(repository, data, OCI_LAYER_GZIP))
        config = {
            "architecture": architecture,
            "os": "linux",
            "created": "2026-11-20T08:00:00Z",
            "author": "Ann Example",
            "config": {
                "Env": ["PATH=/usr/local/bin:/usr/bin:/bin", "SHOP_DATA=/data"],
                "Cmd": ["python3", "-m", "shop"],
                "ExposedPorts": {"8000/tcp": {}},
                "WorkingDir": "/app",
                "Labels": {"org.opencontainers.image.source": "https://git.example.test/shop"},
            },
            "history": [
                {"created_by": instruction, "empty_layer": files is None}
                for instruction, files in steps
            ],
        }
        body = {
            "mediaType": OCI_MANIFEST,
            "config": await self.blob(repository, json.dumps(config).encode(), OCI_CONFIG),
            "layers": layers,
        }
        return await self.manifest(repository, name, body)

    async def artifact(
        self, repository: str, name: str, layer: dict[str, Any], **more: Any
    ) -> bytes:
        config = await self.blob(repository, b"{}", "application/vnd.oci.empty.v1+json")
        body = {"mediaType": OCI_MANIFEST, "config": config, "layers": [layer], **more}
        return await self.manifest(repository, name, body)


def _tar(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for path, data in files.items():
            info = tarfile.TarInfo(path)
            info.size, info.mtime = len(data), 1_700_000_000
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def _dpkg(*packages: tuple[str, str]) -> bytes:
    return "".join(
        f"Package: {name}\nVersion: {version}\n\n" for name, version in packages
    ).encode()


def _steps(version: str) -> list[tuple[str, dict[str, bytes] | None]]:
    status = _dpkg(("libc6", "2.36-9"), ("openssl", f"3.0.{version}"), ("zlib1g", "1:1.2.13"))
    return [
        (
            "/bin/sh -c #(nop) ADD file:0a1b in / ",
            {
                "etc/os-release": b"NAME=Debian\n",
                "usr/bin/python3": b"x" * 70_000,
                "usr/lib/libc.so.6": b"y" * 40_000,
                "var/lib/dpkg/status": status,
            },
        ),
        ("WORKDIR /app", None),
        ("COPY shop /app/shop # buildkit", {f"app/shop/{n}.py": version.encode() * 900 for n in
                                           ("__init__", "__main__", "articles", "pages")}),
        ("RUN /bin/sh -c python3 -m compileall /app # buildkit",
         {"app/shop/__pycache__/pages.pyc": b"z" * 3000}),
        ('CMD ["python3" "-m" "shop"]', None),
    ]  # fmt: skip


def _statement(kind: str, predicate: Any, digest: str) -> bytes:
    subject = [{"name": "team/shop", "digest": {"sha256": digest.partition(":")[2]}}]
    return json.dumps(
        {
            "_type": "https://in-toto.io/Statement/v1",
            "predicateType": kind,
            "subject": subject,
            "predicate": predicate,
        }
    ).encode()


def _spdx() -> dict[str, Any]:
    known = [
        ("deb", "libc6", "2.36-9", "LGPL-2.1-or-later", "Debian"),
        ("deb", "openssl", "3.0.2", "Apache-2.0", "Debian"),
        ("deb", "zlib1g", "1:1.2.13", "Zlib", "Debian"),
        ("pypi", "jinja2", "3.1.4", "BSD-3-Clause", ""),
        ("pypi", "markupsafe", "3.0.1", "BSD-3-Clause", ""),
    ]
    return {
        "spdxVersion": "SPDX-2.3",
        "creationInfo": {"created": "2026-11-20T08:00:01Z", "creators": ["Tool: sampan"]},
        "packages": [
            {
                "name": name,
                "versionInfo": version,
                "licenseDeclared": terms,
                "supplier": f"Organization: {supplier}" if supplier else "NOASSERTION",
                "externalRefs": [
                    {"referenceType": "purl", "referenceLocator": f"pkg:{kind}/x/{name}@{version}"}
                ],
            }
            for kind, name, version, terms, supplier in known
        ],
    }


def _provenance() -> dict[str, Any]:
    return {
        "buildDefinition": {
            "buildType": "https://sampan.example.test/build/v1",
            "externalParameters": {"args": {"build-arg:VERSION": "2"}, "target": ""},
            "resolvedDependencies": [
                {"uri": "pkg:docker/python@3.11?platform=linux%2Famd64",
                 "digest": {"sha256": "5f" * 32}},
                {"uri": "https://git.example.test/shop", "digest": {"sha1": "ab" * 20}},
            ],
        },
        "runDetails": {
            "builder": {"id": "https://ci.example.test/runs/817"},
            "metadata": {"startedOn": "2026-11-20T07:58:40Z", "finishedOn": "2026-11-20T08:00:00Z"},
        },
    }  # fmt: skip


def write_key(folder: Path) -> ec.EllipticCurvePrivateKey:
    """A signing key; its public half in ``folder/release.pem``."""
    key = ec.generate_private_key(ec.SECP256R1())
    (folder / "release.pem").write_bytes(
        key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )
    return key


async def fill(hub: Running, key: ec.EllipticCurvePrivateKey) -> Showcase:
    """Publish images, what is attached to them, users and teams."""
    publisher = _Publisher(hub)
    name = "team/shop"
    for version in ("1", "2"):
        await publisher.image(name, f"{version}.0", _steps(version))
    images = [
        await publisher.image(name, "", _steps("2"), architecture)
        for architecture in ("amd64", "arm64")
    ]
    index = await _index(publisher, name, images)
    await _attach(publisher, name, index, images[0], key)
    for other in DESCRIPTIONS:
        if other != name:
            await publisher.image(other, "latest", _steps("1")[:1])
    for number, (other, description) in enumerate(DESCRIPTIONS.items()):
        readme = README if other == name else ""
        await hub.hub.records.describe(other, description=description, readme=readme, private=False)
        await hub.hub.records.count_pulls({other: 60_000 // (number + 1) ** 2})
    today = int(time.time() // 86400)
    await hub.hub.database.write(
        lambda sql: [
            sql.run(
                "INSERT INTO daily_pulls (repository, day, pulls) VALUES (?, ?, ?) "
                "ON CONFLICT (repository, day) DO UPDATE SET pulls = excluded.pulls",
                name, today - back, 20 + (back * 37) % 55 + (30 - back) * 2,
            )
            for back in range(30)
        ]
    )  # fmt: skip
    accounts = hub.hub.accounts
    for user in ("ann", "bob"):
        await accounts.create(user, "password1")
        await accounts.add_member("dev", user)
    await accounts.grant("@dev", "team/*", "write")
    await accounts.create_token("admin", "continuous integration", "team/*", "pull,push", 90)
    layer = json.loads(images[0])["layers"][1]["digest"]
    spdx = sha(_statement("https://spdx.dev/Document", _spdx(), sha(images[0])))
    provenance = sha(_statement("https://slsa.dev/provenance/v1", _provenance(), sha(images[0])))
    statement = sha(_statement("https://example.test/review", {"by": ["ann"]}, sha(images[0])))
    return Showcase(
        "admin",
        hub.password,
        (
            "/",
            "/search?q=team",
            "/search?q=nothing",
            f"/r/{name}",
            f"/r/{name}/-/tags/latest",
            f"/r/{name}/-/files/{layer}?path=app/shop",
            f"/r/{name}/-/diff?from=1.0&to=2.0",
            f"/r/{name}/-/documents/{spdx}",
            f"/r/{name}/-/documents/{provenance}",
            f"/r/{name}/-/documents/{statement}",
            "/login",
            "/nothing",
        ),
        ("/account", "/admin", f"/r/{name}/-/settings", f"/r/{name}"),
    )


async def _index(publisher: _Publisher, name: str, images: list[bytes]) -> bytes:
    documents = []
    for kind, predicate in (
        ("https://spdx.dev/Document", _spdx()),
        ("https://slsa.dev/provenance/v1", _provenance()),
    ):
        data = _statement(kind, predicate, sha(images[0]))
        documents.append(await publisher.blob(name, data, "application/vnd.in-toto+json"))
    config = await publisher.blob(name, b"{}", OCI_CONFIG)
    attested = await publisher.manifest(
        name, "", {"mediaType": OCI_MANIFEST, "config": config, "layers": documents}
    )
    entries = [
        {"digest": sha(data), "size": len(data),
         "platform": {"os": "linux", "architecture": architecture}}
        for data, architecture in zip(images, ("amd64", "arm64"), strict=True)
    ] + [
        {"digest": sha(attested), "size": len(attested),
         "platform": {"os": "unknown", "architecture": "unknown"},
         "annotations": {"vnd.docker.reference.digest": sha(images[0]),
                         "vnd.docker.reference.type": "attestation-manifest"}},
    ]  # fmt: skip
    body = {
        "mediaType": OCI_INDEX,
        "manifests": [{"mediaType": OCI_MANIFEST, **entry} for entry in entries],
    }
    return await publisher.manifest(name, "latest", body)


async def _attach(
    publisher: _Publisher, name: str, index: bytes, image: bytes, key: ec.EllipticCurvePrivateKey
) -> None:
    for signer, suffix in ((key, ".sig"), (ec.generate_private_key(ec.SECP256R1()), "")):
        payload = json.dumps(
            {"critical": {"image": {"docker-manifest-digest": sha(index)}, "by": suffix}}
        ).encode()
        made = base64.b64encode(signer.sign(payload, ec.ECDSA(hashes.SHA256()))).decode()
        layer = await publisher.blob(
            name, payload, signatures.SIMPLE_SIGNING,
            annotations={signatures.COSIGN_SIGNATURE: made},
        )  # fmt: skip
        subject = {"mediaType": OCI_INDEX, "digest": sha(index), "size": len(index)}
        more = {} if suffix else {"subject": subject, "artifactType": "application/x-cosign"}
        tag = sha(index).replace(":", "-") + suffix if suffix else ""
        await publisher.artifact(name, tag, layer, **more)
    subject = {"mediaType": OCI_MANIFEST, "digest": sha(image), "size": len(image)}
    review = _statement("https://example.test/review", {"by": ["ann"]}, sha(image))
    layer = await publisher.blob(name, review, "application/vnd.in-toto+json")
    await publisher.artifact(name, "", layer, subject=subject, artifactType=layer["mediaType"])
    notes = await publisher.blob(name, b"# Notes\n", "text/markdown")
    await publisher.artifact(
        name, "", notes, subject=subject, artifactType="application/vnd.example.notes"
    )


SHOTS = (
    ("hub-home", "/", 1000, "light"),
    ("hub-repository", "/r/team/shop", 1000, "light"),
    ("hub-tag", "/r/team/shop/-/tags/latest", 1000, "light"),
    ("hub-narrow", "/r/team/shop/-/tags/latest", 360, "dark"),
    ("hub-difference", "/r/team/shop/-/diff?from=1.0&to=2.0", 1000, "light"),
    ("hub-packages", "documents", 1000, "light"),
)


async def _take(folder: Path) -> None:
    from playwright.async_api import async_playwright

    hubs = Hubs()
    with tempfile.TemporaryDirectory() as temporary:
        key = write_key(Path(temporary))
        hub = await hubs.start(
            HubConfig(root=Path(temporary) / "hub", public_url="http://hub.example.test",
                      trusted_keys=(Path(temporary) / "release.pem",))
        )  # fmt: skip
        made = await fill(hub, key)
        async with async_playwright() as playwright:
            browser = await playwright.chromium.launch(
                executable_path=shutil.which("chromium"), args=["--no-sandbox"]
            )
            for name, path, width, scheme in SHOTS:
                context = await browser.new_context(
                    base_url=f"http://{hub.host}", color_scheme=scheme,
                    viewport={"width": width, "height": 740},
                )  # fmt: skip
                page = await context.new_page()
                await page.goto(next(p for p in made.paths if p == path or path in p))
                await page.screenshot(path=folder / f"{name}.png", full_page=True)
                await context.close()
            await browser.close()
        await hubs.stop()


if __name__ == "__main__":
    asyncio.run(_take(Path(sys.argv[1])))
