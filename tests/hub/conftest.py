from __future__ import annotations

import base64
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import psycopg
import pytest
from aiohttp import web

from sampan.hub.config import HubConfig
from sampan.hub.core import Hub
from sampan.hub.server import HUB, READ_BUFFER_BYTES, make_app
from sampan.registry.auth import Auth
from sampan.registry.client import RegistryClient
from sampan.registry.config import RegistryConfig
from sampan.store.content import ContentStore
from tests.registry.servers import free_port, wait_for_port


def basic(name: str, password: str) -> dict[str, str]:
    """The header for a user name and password."""
    pair = base64.b64encode(f"{name}:{password}".encode()).decode()
    return {"Authorization": f"Basic {pair}"}


@dataclass
class Running:
    """A hub that serves, and a plain HTTP session to it."""

    hub: Hub
    port: int
    password: str
    http: aiohttp.ClientSession

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def admin(self) -> Auth:
        return Auth("admin", self.password)

    @property
    def basic(self) -> dict[str, str]:
        return basic("admin", self.password)


def new_session(port: int, cookies: dict[str, str] | None = None) -> aiohttp.ClientSession:
    """A browser's session: the jar keeps cookies of an address too."""
    jar = aiohttp.CookieJar(unsafe=True)
    return aiohttp.ClientSession(f"http://127.0.0.1:{port}", cookie_jar=jar, cookies=cookies)


class Hubs:
    """Starts hubs and stops them."""

    def __init__(self) -> None:
        self._runners: list[web.AppRunner] = []
        self._sessions: list[aiohttp.ClientSession] = []

    async def start(self, config: HubConfig) -> Running:
        said: list[str] = []
        app = make_app(config, tell=said.append)
        runner = web.AppRunner(app, read_bufsize=READ_BUFFER_BYTES, shutdown_timeout=0.1)
        self._runners.append(runner)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        port = runner.addresses[0][1]
        password = said[0].split("password ")[1].split(" ")[0] if said else ""
        session = new_session(port)
        self._sessions.append(session)
        return Running(app[HUB], port, password, session)

    async def stop_one(self, running: Running) -> None:
        for runner in [r for r in self._runners if r.app[HUB] is running.hub]:
            await runner.cleanup()
            self._runners.remove(runner)

    async def stop(self) -> None:
        for session in self._sessions:
            await session.close()
        for runner in self._runners:
            await runner.cleanup()


@pytest.fixture
async def hubs() -> AsyncIterator[Hubs]:
    value = Hubs()
    yield value
    await value.stop()


@pytest.fixture(scope="session")
def object_store() -> Iterator[str]:
    """The endpoint of an S3 server."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for_port(port, lambda: process.poll() is None)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


@pytest.fixture
def bucket(object_store: str) -> dict[str, Any]:
    """Settings of a hub that keeps its blobs in a fresh bucket."""
    name = "hub-" + secrets.token_hex(6)
    request = urllib.request.Request(f"{object_store}/{name}", method="PUT")
    urllib.request.urlopen(request).close()
    options = {
        "endpoint": object_store,
        "region": "us-east-1",
        "access_key_id": "key",
        "secret_access_key": "secret",
    }
    return {"storage_url": f"s3://{name}", "storage_options": options}


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a PostgreSQL server, but for the database's name."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found:
        pytest.skip("Debian's postgresql is not installed")
    programs = found[-1].parent
    # PostgreSQL refuses to run as root, and its folder must be its user's own.
    folder = Path(tempfile.mkdtemp(prefix="sampan-postgres-"))
    shutil.chown(folder, "postgres", "postgres")
    port = free_port()
    run = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    initdb = [*run, programs / "initdb", "-D", folder / "data", "-A", "trust", "-U", "hub"]
    subprocess.run(initdb, check=True, capture_output=True, cwd="/")
    options = ["-D", folder / "data", "-k", folder, "-h", "127.0.0.1", "-p", str(port), "-F"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [*run, programs / "postgres", *options], stdout=log, stderr=log, cwd="/"
        )
        try:
            wait_for_port(port, lambda: process.poll() is None)
            yield f"postgresql://hub@127.0.0.1:{port}/"
        finally:
            process.terminate()
            process.wait()
            shutil.rmtree(folder)


@pytest.fixture
def database(postgres: str) -> str:
    """The URL of a fresh PostgreSQL database."""
    name = "hub_" + secrets.token_hex(6)
    deadline = time.monotonic() + 20
    while True:
        try:
            with psycopg.connect(postgres + "postgres", autocommit=True) as connection:
                connection.execute(f"CREATE DATABASE {name}".encode())
            return postgres + name
        except psycopg.OperationalError:
            # It accepts connections a little before it answers queries.
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


@pytest.fixture(params=["files", "objects"])
async def hub(hubs: Hubs, tmp_path: Path, request: pytest.FixtureRequest) -> Running:
    """A hub where anybody may push: on a folder with SQLite, and on an object store with
    PostgreSQL."""
    more: dict[str, Any] = {}
    if request.param == "objects":
        more = request.getfixturevalue("bucket")
        more["database_url"] = request.getfixturevalue("database")
    return await hubs.start(HubConfig(root=tmp_path / "hub", anonymous="push", **more))


@pytest.fixture
async def file_hub(hubs: Hubs, tmp_path: Path) -> Running:
    """A hub where anybody may push, on a folder."""
    return await hubs.start(HubConfig(root=tmp_path / "file-hub", anonymous="push"))


@pytest.fixture
async def closed_hub(hubs: Hubs, tmp_path: Path) -> Running:
    """A hub as it is by default: anybody pulls, accounts push."""
    return await hubs.start(HubConfig(root=tmp_path / "closed-hub"))


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[RegistryClient]:
    config = RegistryConfig(certs_dir=tmp_path / "certs.d", backoff=0.01)
    async with RegistryClient(config) as value:
        yield value


@pytest.fixture
def source(tmp_path: Path) -> ContentStore:
    return ContentStore(tmp_path / "source")


@pytest.fixture
def target(tmp_path: Path) -> ContentStore:
    return ContentStore(tmp_path / "target")
