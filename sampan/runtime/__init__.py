"""Spawner, keeper and the making of a container process."""
