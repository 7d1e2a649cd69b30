"""OCI image models and layer tars: pure values and functions over them.

An *image* is a *configuration* (JSON; its digest is the image's ID) and a stack of *layers*.  A
layer is a tar of what changed against the layer below; the digest of the uncompressed tar is its
*diff ID*, and the digest of a stack of diff IDs is a *chain ID*.  A *manifest* names a
configuration and the layers as they are transferred (mostly compressed, so with other digests);
an *index* names several manifests.

In a layer, a *whiteout* ``.wh.NAME`` says that NAME of the layers below is gone, and an *opaque*
marker ``.wh..wh..opq`` that nothing below shows through in its directory.  On disk, overlayfs
says the same with a character device 0/0 and with the attribute ``trusted.overlay.opaque``.

    digest, manifest, config   the models
    reference                  names of images
    tar, tarwrite              a fast reader and a deterministic writer of tar
    layer                      the tar of an overlay's upper directory
    archive                    the layouts of ``docker save`` and of an OCI image layout
    ignore                     the patterns of ``.dockerignore``
"""
