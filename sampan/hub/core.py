"""One hub: its nouns, composed once and given to the routes."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

from sampan.errors import Unavailable, Unsupported
from sampan.hub.access import Access
from sampan.hub.accounts import Accounts
from sampan.hub.activity import Activity
from sampan.hub.attachments import Attachments
from sampan.hub.checker import Checker
from sampan.hub.collector import Collector
from sampan.hub.config import HubConfig
from sampan.hub.database import Database, SqliteDatabase
from sampan.hub.layerindex import LayerIndexes
from sampan.hub.manifests import ManifestWriter
from sampan.hub.metrics import Metrics
from sampan.hub.mirroring import Mirrors
from sampan.hub.rates import Rates
from sampan.hub.records import Records
from sampan.hub.replication import Replication
from sampan.hub.schema import MIGRATIONS
from sampan.hub.signatures import load_keys
from sampan.hub.storage import BlobStorage
from sampan.hub.storage.files import FileStorage
from sampan.hub.tokens import Signer
from sampan.hub.uploads import Uploads
from sampan.hub.upstream import PullThrough
from sampan.hub.webhooks import Webhooks


@dataclass(frozen=True)
class Hub:
    config: HubConfig
    database: Database
    storage: BlobStorage
    records: Records
    uploads: Uploads
    manifests: ManifestWriter
    accounts: Accounts
    signer: Signer
    access: Access
    activity: Activity
    metrics: Metrics
    rates: Rates
    indexes: LayerIndexes
    attachments: Attachments
    collector: Collector
    checker: Checker
    webhooks: Webhooks
    upstream: PullThrough
    replication: Replication
    mirrors: Mirrors

    async def start(self) -> None:
        """Load what is kept in the database and begin the background work."""
        await self.signer.load(self.database)
        self.activity.start()
        self.rates.start()
        self.collector.start()
        self.webhooks.start()
        self.activity.listen(self.webhooks.tell)
        self.replication.start()
        self.activity.listen(self.replication.tell)
        self.mirrors.start()

    async def close(self) -> None:
        await self.mirrors.close()
        await self.replication.close()
        await self.upstream.close()
        await self.webhooks.close()
        await self.collector.close()
        await self.activity.close()
        await self.rates.close()
        await self.storage.close()
        await self.database.close()


def open_hub(config: HubConfig) -> Hub:
    """Open or make the hub under ``config.root``; call its ``start`` in the event loop.

    Raises Unavailable when the folder, the database or the store cannot be used, InvalidParameter
    for settings that cannot be.
    """
    try:
        config.root.mkdir(parents=True, exist_ok=True)
        database = _open_database(config)
        storage = _open_storage(config)
    except (OSError, sqlite3.Error) as exc:
        said = exc.strerror if isinstance(exc, OSError) else exc
        raise Unavailable(f"cannot use the hub's folder {config.root}: {said}") from exc
    records = Records(database)
    accounts = Accounts(database, config.htpasswd)
    signer = Signer()
    uploads = Uploads(records, storage)
    manifests = ManifestWriter(records, storage, config)
    metrics = Metrics()
    upstream = PullThrough(config.upstreams, records, manifests, uploads)
    rates = Rates(database)
    return Hub(
        config=config,
        database=database,
        storage=storage,
        records=records,
        uploads=uploads,
        manifests=manifests,
        accounts=accounts,
        signer=signer,
        access=Access(config, records, accounts, signer, rates),
        activity=Activity(records, database),
        metrics=metrics,
        rates=rates,
        attachments=Attachments(records, storage, load_keys(config.trusted_keys)),
        indexes=LayerIndexes(storage, config.root / "index"),
        collector=Collector(config, database, storage, uploads, metrics),
        checker=Checker(database, records, storage, upstream.covers),
        webhooks=Webhooks(config.webhooks),
        upstream=upstream,
        replication=Replication(config.replicas, records, storage),
        mirrors=Mirrors(config.mirrors, config.mirror_seconds, records, manifests, uploads),
    )


def _open_database(config: HubConfig) -> Database:
    if not config.database_url:
        return SqliteDatabase(config.root / "hub.db", MIGRATIONS)
    try:
        from sampan.hub.postgres import PostgresDatabase
    except ImportError:
        raise Unsupported(
            "PostgreSQL needs the Python package psycopg: install sampan[hub]"
        ) from None
    return PostgresDatabase(config.database_url, MIGRATIONS)


def _open_storage(config: HubConfig) -> BlobStorage:
    if not config.storage_url:
        return FileStorage(config.root)
    try:
        # Imported only where it is used: it is large, and optional.
        from sampan.hub.storage.objects import ObjectStorage, open_store
    except ImportError:
        raise Unsupported(
            "an object store needs the Python package obstore: install sampan[hub]"
        ) from None
    store = open_store(config.storage_url, config.storage_options)
    return ObjectStorage(store, signed=config.redirects)
