"""Content, metadata and snapshots on disk."""
