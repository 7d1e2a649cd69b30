"""Content, metadata and snapshots on disk.

*Content* is bytes under their digest: blobs of manifests, configurations and layers.  *Metadata*
is one SQLite file.  A *snapshot* is a root file system: a *committed* one (read by its *name*,
never changed; for an image's layer the name is the chain ID) or an *active* one (read and written
under its *key*: a container's, a build step's).  A *lease* keeps what is in flight from being
collected.

    with images.lease():                              # pull
        ... content.ingest(...) ...
        image = images.register(config, layers, manifest, [reference])
    chain = await images.unpack(image)                # committed snapshots of its layers
    mounts = snapshots.prepare(container_id, chain)   # run
    layer = await images.commit_layer(container_id)   # commit: the diff as a tar
    images.register(new_config, [*image.layers, layer], None, [new_name], parent=image.id)
    snapshots.remove(container_id)                    # rm
    images.delete(image.id); await images.gc()        # rmi

    content    blobs: written aside, hashed while streamed, fsynced, renamed
    metadata   SQLite: transactions, migrations, typed collections
    leases     what is in flight
    snapshots  the interface; overlay, plain and erofs implement it; probe chooses
    layers     blobs of layers: decompressed, compressed, made from a snapshot
    images     the image database
    archives   save, load and import
"""
