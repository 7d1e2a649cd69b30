"""The use cases: containers, images, networks, volumes, builds, events."""
