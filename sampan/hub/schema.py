"""The database's tables.  A migration is never changed once released; append another."""

from __future__ import annotations

# Times are Unix seconds, sizes bytes, JSON is text.  Names and digests are their own keys.
# repositories.searched is name and description in lower case; manifest_blobs holds all that a manifest names: an index's manifests too.
MIGRATIONS = [
    """
    CREATE TABLE repositories (
        name TEXT PRIMARY KEY,
        created BIGINT NOT NULL,
        updated BIGINT NOT NULL,
        private INTEGER NOT NULL DEFAULT 0,
        description TEXT NOT NULL DEFAULT '',
        readme TEXT NOT NULL DEFAULT '',
        pulls BIGINT NOT NULL DEFAULT 0,
        stars BIGINT NOT NULL DEFAULT 0,
        searched TEXT NOT NULL DEFAULT ''
    );
    CREATE INDEX repositories_pulls ON repositories (private, pulls DESC, name);
    CREATE TABLE blobs (
        digest TEXT PRIMARY KEY,
        size BIGINT NOT NULL,
        touched BIGINT NOT NULL,
        doomed BIGINT
    );
    CREATE TABLE links (
        repository TEXT NOT NULL,
        digest TEXT NOT NULL REFERENCES blobs (digest),
        touched BIGINT NOT NULL,
        PRIMARY KEY (repository, digest)
    );
    CREATE INDEX links_digest ON links (digest);
    CREATE TABLE manifests (
        repository TEXT NOT NULL REFERENCES repositories (name) ON DELETE CASCADE,
        digest TEXT NOT NULL,
        media_type TEXT NOT NULL,
        size BIGINT NOT NULL,
        content BYTEA NOT NULL,
        subject TEXT,
        artifact_type TEXT NOT NULL DEFAULT '',
        annotations TEXT NOT NULL DEFAULT '{}',
        created BIGINT NOT NULL,
        PRIMARY KEY (repository, digest)
    );
    CREATE INDEX manifests_subject ON manifests (repository, subject);
    CREATE TABLE manifest_blobs (
        repository TEXT NOT NULL,
        manifest TEXT NOT NULL,
        digest TEXT NOT NULL,
        PRIMARY KEY (repository, manifest, digest),
        FOREIGN KEY (repository, manifest) REFERENCES manifests (repository, digest)
            ON DELETE CASCADE
    );
    CREATE INDEX manifest_blobs_digest ON manifest_blobs (repository, digest);
    CREATE TABLE tags (
        repository TEXT NOT NULL,
        name TEXT NOT NULL,
        digest TEXT NOT NULL,
        updated BIGINT NOT NULL,
        PRIMARY KEY (repository, name),
        FOREIGN KEY (repository, digest) REFERENCES manifests (repository, digest)
            ON DELETE CASCADE
    );
    CREATE INDEX tags_digest ON tags (repository, digest);
    CREATE TABLE uploads (
        id TEXT PRIMARY KEY,
        repository TEXT NOT NULL,
        owner TEXT NOT NULL,
        touched BIGINT NOT NULL,
        state TEXT NOT NULL DEFAULT ''
    );
    CREATE TABLE users (
        name TEXT PRIMARY KEY,
        password TEXT NOT NULL,
        admin INTEGER NOT NULL DEFAULT 0,
        created BIGINT NOT NULL
    );
    CREATE TABLE tokens (
        id TEXT PRIMARY KEY,
        username TEXT NOT NULL REFERENCES users (name) ON DELETE CASCADE,
        secret TEXT NOT NULL UNIQUE,
        label TEXT NOT NULL,
        repositories TEXT NOT NULL,
        actions TEXT NOT NULL,
        created BIGINT NOT NULL,
        expires BIGINT NOT NULL,
        used BIGINT NOT NULL DEFAULT 0
    );
    CREATE TABLE members (
        team TEXT NOT NULL,
        username TEXT NOT NULL REFERENCES users (name) ON DELETE CASCADE,
        PRIMARY KEY (team, username)
    );
    CREATE TABLE grants (
        holder TEXT NOT NULL,
        pattern TEXT NOT NULL,
        level TEXT NOT NULL,
        PRIMARY KEY (holder, pattern)
    );
    CREATE TABLE settings (
        name TEXT PRIMARY KEY,
        value TEXT NOT NULL
    );
    CREATE TABLE daily_pulls (
        repository TEXT NOT NULL,
        day BIGINT NOT NULL,
        pulls BIGINT NOT NULL,
        PRIMARY KEY (repository, day)
    );
    CREATE TABLE audit (
        at BIGINT NOT NULL,
        actor TEXT NOT NULL,
        action TEXT NOT NULL,
        subject TEXT NOT NULL,
        address TEXT NOT NULL
    );
    CREATE INDEX audit_at ON audit (at);
    """,
    """
    CREATE TABLE rates (
        holder TEXT PRIMARY KEY,
        level BIGINT NOT NULL,
        at BIGINT NOT NULL
    );
    CREATE INDEX rates_at ON rates (at)
    """,
]
