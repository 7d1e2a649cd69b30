"""The database's schema as its history: each entry of MIGRATIONS is one step, never changed after
its release; a change is a new entry."""

from __future__ import annotations

_FIRST = (
    # Collections of other packages: containers, networks, volumes, build records …
    """CREATE TABLE objects (
        collection TEXT NOT NULL,
        id TEXT NOT NULL,
        name TEXT,
        data BLOB NOT NULL,
        PRIMARY KEY (collection, id),
        UNIQUE (collection, name)
    ) WITHOUT ROWID""",
    """CREATE TABLE images (
        id TEXT PRIMARY KEY,
        config BLOB NOT NULL,
        manifest_type TEXT,
        manifest_digest TEXT,
        manifest_size INTEGER,
        parent TEXT,
        created TEXT NOT NULL,
        size INTEGER NOT NULL
    ) WITHOUT ROWID""",
    "CREATE INDEX images_by_parent ON images (parent)",
    "CREATE INDEX images_by_manifest ON images (manifest_digest)",
    """CREATE TABLE image_layers (
        image TEXT NOT NULL REFERENCES images (id) ON DELETE CASCADE,
        position INTEGER NOT NULL,
        diff_id TEXT NOT NULL,
        chain_id TEXT NOT NULL,
        digest TEXT NOT NULL,
        media_type TEXT NOT NULL,
        size INTEGER NOT NULL,
        PRIMARY KEY (image, position)
    ) WITHOUT ROWID""",
    """CREATE TABLE tags (
        name TEXT PRIMARY KEY,
        image TEXT NOT NULL REFERENCES images (id) ON DELETE CASCADE
    ) WITHOUT ROWID""",
    "CREATE INDEX tags_by_image ON tags (image)",
    """CREATE TABLE repo_digests (
        name TEXT PRIMARY KEY,
        image TEXT NOT NULL REFERENCES images (id) ON DELETE CASCADE
    ) WITHOUT ROWID""",
    "CREATE INDEX repo_digests_by_image ON repo_digests (image)",
    # Every blob that we know to hold a layer; the compressed ones can be made again.
    """CREATE TABLE layer_blobs (
        diff_id TEXT NOT NULL,
        digest TEXT NOT NULL,
        media_type TEXT NOT NULL,
        size INTEGER NOT NULL,
        PRIMARY KEY (diff_id, digest)
    ) WITHOUT ROWID""",
    # ``size`` is the sum of the sizes of the layer's regular files.
    "CREATE TABLE layer_sizes (diff_id TEXT PRIMARY KEY, size INTEGER NOT NULL) WITHOUT ROWID",
    # A snapshot is a directory, ``id``; names (keys) point at it, a committed one may have several.
    """CREATE TABLE snapshots (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        driver TEXT NOT NULL,
        kind TEXT NOT NULL,
        parent INTEGER REFERENCES snapshots (id),
        size INTEGER NOT NULL DEFAULT -1,
        inodes INTEGER NOT NULL DEFAULT -1,
        form TEXT NOT NULL DEFAULT 'directory'
    )""",
    "CREATE INDEX snapshots_by_parent ON snapshots (parent)",
    """CREATE TABLE snapshot_names (
        driver TEXT NOT NULL,
        name TEXT NOT NULL,
        snapshot INTEGER NOT NULL REFERENCES snapshots (id),
        parent_name TEXT,
        PRIMARY KEY (driver, name)
    ) WITHOUT ROWID""",
    "CREATE INDEX snapshot_names_by_snapshot ON snapshot_names (snapshot)",
)

_LAYERS_BY_CHAIN = ("CREATE INDEX image_layers_by_chain ON image_layers (chain_id)",)

_INDEXES = (
    # An index (an image for several platforms) belongs to a tag; a variant is an image of it.
    """CREATE TABLE tag_indexes (
        name TEXT PRIMARY KEY REFERENCES tags (name) ON DELETE CASCADE,
        media_type TEXT NOT NULL,
        digest TEXT NOT NULL,
        size INTEGER NOT NULL
    ) WITHOUT ROWID""",
    """CREATE TABLE variants (
        name TEXT NOT NULL REFERENCES tags (name) ON DELETE CASCADE,
        image TEXT NOT NULL REFERENCES images (id) ON DELETE CASCADE,
        manifest TEXT NOT NULL,
        PRIMARY KEY (name, image)
    )""",
    "CREATE INDEX variants_by_image ON variants (image)",
)

MIGRATIONS: tuple[tuple[str, ...], ...] = (_FIRST, _LAYERS_BY_CHAIN, _INDEXES)
