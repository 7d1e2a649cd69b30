"""What is said about an image beside it: attestations in the form that buildx writes and reads.

Vocabulary
----------

*predicate*
    A document about an image: an SPDX list of its packages, or the SLSA provenance of the build.
*statement*
    An in-toto statement: a predicate with the digest of the manifest that it is about.
*attestation manifest*
    An OCI manifest whose layers are the statements on one image; it stands beside the image's
    manifest in an index, with the platform ``unknown/unknown`` and annotations that link the two.
*envelope*
    A signed statement, as cosign and its like look for it under a tag (``envelopes``).
"""
