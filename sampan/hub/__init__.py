"""The hub: a registry (OCI distribution-spec 1.1) with accounts, search and a web page.

Vocabulary:

*repository*   a name under which manifests and tags live: ``team/app``.
*blob*         bytes under their digest.  Blobs are shared by all repositories, but a repository
               sees only those *linked* to it: by an upload, a mount, or nothing else.
*upload*       a blob that is arriving: a session with an id, resumable until it is finished,
               cancelled or too old.
*record*       a row of the database: repositories, manifests, tags, links, accounts.  What is in
               the records is there; a file that no record names is rubbish to be collected.

A push through the layers::

    POST   routes.registry → uploads.begin        a row and an empty file
    PATCH  uploads.append                         hashed while it is written
    PUT    uploads.finish                         fsync, rename, then the link: now it is visible
    PUT    manifests.put                          checked, then manifest and tag in one transaction

    config     settings of one hub process
    database   SQLite (one node) or PostgreSQL (many) behind one small interface
    records    the queries, typed
    storage/   where blobs' bytes are: files, or an object store
    uploads, manifests, referrers        the registry's nouns
    accounts, access, tokens             who may do what
    routes/    HTTP: registry, tokens, search, operations, web page
    server     make_app(config) and run(config)

Nothing that another process needs is kept in memory only.
"""
