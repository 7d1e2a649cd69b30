"""The client of registries: OCI distribution-spec 1.1 and Docker's manifest schema 2.

Vocabulary:

*endpoint*     the base URL that a reference's domain is served at (a mirror, a configured hub, or
               the domain itself by HTTPS, or by HTTP when it is listed as insecure).
*scope*        what a bearer token is good for: ``repository:library/app:pull,push``.
*blob*         bytes named by their digest: a layer or a configuration.
*manifest*     the small document that names an image's blobs; an *index* names manifests, one for
               each platform.

A pull reads the manifest, chooses the platform, then fetches the blobs that the content store does
not have, several at a time; each is hashed while it arrives and is visible only when its digest is
right.  A push offers blobs first (known already, mounted from another repository, or uploaded),
then the configuration, then the manifest: what a registry shows is complete at any instant.

This package keeps no state between calls but tokens, connections, and which blobs are in flight.
"""
