"""The containers of this daemon: which there are, and their life from create to remove."""

from __future__ import annotations

from sampan.engine.state import Container


class Containers:
    """All containers by id, name and unique prefix of an id."""

    def all(self) -> list[Container]:
        """Every container, newest first."""
        raise NotImplementedError

    def get(self, ref: str) -> Container:
        """By full id, name (with or without a slash), or unique prefix of the id.

        :raises NotFound: ``No such container: REF``
        """
        raise NotImplementedError

    def save(self, container: Container) -> None:
        """Store the record as it is now."""
        raise NotImplementedError

    async def remove(
        self, ref: str, *, force: bool = False, volumes: bool = False, link: str = ""
    ) -> None:
        """Remove a container; with ``volumes`` its anonymous volumes too."""
        raise NotImplementedError
