"""``sampan hub serve`` as people start it: TLS with reload, its log, its refusals."""

from __future__ import annotations

import asyncio
import json
import signal
import ssl
import subprocess
import sys
from pathlib import Path

from sampan.cli.flags import parse
from sampan.cli.hub import SERVE, _settings
from sampan.image.reference import Reference
from sampan.progress import ignore
from sampan.registry.auth import Auth
from sampan.registry.client import RegistryClient
from sampan.registry.config import RegistryConfig
from sampan.store.content import ContentStore
from tests.registry.images import make_image
from tests.registry.servers import free_port, wait_for_port

SAMPAN = Path(sys.executable).with_name("sampan")
MB = 1 << 20


def make_certificate(folder: Path, name: str) -> None:
    command = [
        "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
        "-keyout", folder / "key.pem", "-out", folder / "cert.pem", "-days", "2",
        "-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1",
    ]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True)


def start(port: int, log: Path, *flags: str | Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as file:
        process = subprocess.Popen(
            [SAMPAN, "hub", "serve", "--listen", f"127.0.0.1:{port}", *flags], stderr=file
        )
    wait_for_port(port, lambda: process.poll() is None)
    return process


def common_name(port: int) -> bytes:
    """The certificate that the hub shows."""
    pem = ssl.get_server_certificate(("127.0.0.1", port))
    return ssl.PEM_cert_to_DER_cert(pem)


async def test_tls_its_reload_and_the_log(
    tmp_path: Path, source: ContentStore, target: ContentStore
) -> None:
    await asyncio.to_thread(make_certificate, tmp_path, "first")
    port = free_port()
    tls = ("--tls-certificate", tmp_path / "cert.pem", "--tls-key", tmp_path / "key.pem")
    log = tmp_path / "log"
    flags = ("--root", tmp_path / "hub", *tls, "--log-requests")
    process = await asyncio.to_thread(start, port, log, *flags)
    try:
        password = log.read_text().split("password ")[1].split(" ")[0]
        trusted = tmp_path / "certs.d" / f"127.0.0.1:{port}"
        trusted.mkdir(parents=True)
        (trusted / "ca.crt").write_bytes((tmp_path / "cert.pem").read_bytes())
        made = make_image(source, [5 * MB, 1000], seed=400)
        ref = Reference.parse(f"127.0.0.1:{port}/team/app:1")
        async with RegistryClient(RegistryConfig(certs_dir=tmp_path / "certs.d")) as client:
            await client.push(
                ref,
                auth=Auth("admin", password),
                manifest_bytes=made.manifest,
                content=source,
                report=ignore,
            )
            await client.pull(ref, auth=None, platform=None, content=target, report=ignore)
        assert all(target.read_bytes(layer) for layer in made.layers)
        shown = await asyncio.to_thread(common_name, port)
        await asyncio.to_thread(make_certificate, tmp_path, "second")
        process.send_signal(signal.SIGHUP)
        for _ in range(200):
            if await asyncio.to_thread(common_name, port) != shown:
                break
            await asyncio.sleep(0.02)
        else:
            raise AssertionError("the new certificate is not shown")
    finally:
        process.terminate()
        code = process.wait(20)
    assert code == 0
    lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    pushed = [e for e in lines if e.get("method") == "PUT" and "/manifests/1" in e["path"]]
    assert pushed and pushed[0]["status"] == 201 and pushed[0]["address"] == "127.0.0.1"


def test_what_cannot_be_is_refused_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    taken = free_port()
    for flags, said in (
        (("--nothing",), "unknown flag: --nothing"),
        (("--listen", "nowhere"), "cannot listen on 'nowhere'"),
        (("--root", tmp_path / "file"), "cannot use the hub's folder"),
        (("--tls-key", "x"), "must be given together"),
        (("--anonymous", "all"), "invalid --anonymous 'all'"),
        (("--quota", "many"), "invalid --quota"),
        (("--replicate", "x"), "invalid --replicate"),
        (("--webhook", "ftp://x"), "invalid --webhook"),
        (("--mirror", "team/*=x"), "invalid --mirror"),
        (("--pull-through", "a=http://x,b=c"), "invalid --pull-through"),
        (("--storage-option", "key=@/none"), "cannot read the secret /none"),
        (("--trusted-proxy", "nowhere"), "invalid address of a trusted proxy"),
        (("--trusted-key", tmp_path / "file"), "cannot use the key"),
        (("--rate-limit", "-1"), "invalid argument"),
        (("--database-url", f"postgresql://127.0.0.1:{taken}/x"), "cannot use the database"),
    ):
        command = [SAMPAN, "hub", "serve", "--root", tmp_path / "hub", *flags]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
        assert done.returncode in (1, 125), flags
        assert said in done.stderr and "Traceback" not in done.stderr, done.stderr


def test_secrets_are_read_from_files(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("hidden\n")
    file = f"@{tmp_path}/secret"
    words = [
        "--storage-option", f"key={file}",
        "--storage-option", "region=x",
        "--database-url", file,
        "--webhook", f"http://x.test,secret={file}",
        "--mirror", f"a=http://x.test,user=u,password={file}",
    ]  # fmt: skip
    given = _settings(parse(SERVE.flags, words)[0])
    assert given["storage_options"] == {"key": "hidden", "region": "x"}
    assert given["database_url"] == "hidden"
    assert given["webhooks"][0].secret == "hidden"
    assert given["mirrors"][0].password == "hidden"
