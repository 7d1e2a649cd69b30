"""Removing an image by Docker's rules.

A *name* is removed first; the image itself goes with its last one.  What stands in the way is a
*hard* conflict (other images are made from it, a running container uses it), which nothing
overrides, or a *soft* one (names in several repositories, a stopped container), which ``force``
does.  With its last child, an unnamed and unused parent goes too.
"""

from __future__ import annotations

from sampan.engine.events import Events
from sampan.engine.uses import Uses
from sampan.errors import Conflict, NotFound
from sampan.image.digest import short
from sampan.image.reference import InvalidReference, Reference
from sampan.store.images import Image, ImageStore


class Removal:
    """One request to remove something; ``records`` are Docker's, in order."""

    def __init__(self, store: ImageStore, events: Events, uses: Uses) -> None:
        self._store = store
        self._events = events
        self._uses = uses
        self.records: list[dict[str, str]] = []

    @property
    def deleted(self) -> bool:
        """Whether an image went, and not just a name."""
        return any("Deleted" in record for record in self.records)

    def remove(self, name: str, *, force: bool, prune_parents: bool) -> None:
        """Remove the name, or the image that it is the ID of.  Raises NotFound or Conflict."""
        image = self._store.get(name)
        references = _references(image)
        if _is_id(image, name):
            if _one_name(references):
                self._check(image, force=force, names_matter=False)
                for reference in references:
                    self._untag(image, reference)
            self._delete(image, force=force, prune_parents=prune_parents, quiet=False)
            return
        if not force and _one_name(references):
            user = next((use for use in self._uses() if image.id in use.images), None)
            if user is not None:
                raise Conflict(
                    f"conflict: unable to remove repository reference {_quoted(name)} (must "
                    f"force) - container {user.id[:12]} is using its referenced image "
                    f"{short(image.id)}"
                )
        removed = self._named(name, references)
        self._untag(image, removed)
        remaining = [reference for reference in references if reference != removed]
        if removed.digest is None and not any(
            other.name == removed.name and other.tag for other in remaining
        ):
            # The digests of a repository mean nothing to a person once its last tag is gone.
            for other in [other for other in remaining if other.name == removed.name]:
                self._untag(image, other, told=False)
                remaining.remove(other)
        if not remaining:
            self._delete(image, force=force, prune_parents=prune_parents, quiet=True)

    def _named(self, name: str, references: list[Reference]) -> Reference:
        """Which of the image's references the user means."""
        wanted = Reference.parse(name)
        if wanted.digest and wanted.tag:
            wanted = Reference(wanted.domain, wanted.path, None, wanted.digest)
        if wanted not in references:
            raise NotFound(f"No such image: {wanted.familiar()}")
        return wanted

    def remove_variant(self, tag: Reference, image: Image, *, force: bool) -> None:
        """Remove one of several variants of a tag.  Raises Conflict when a container uses it."""
        self._check(image, force=force, names_matter=False)
        self._store.drop_variant(tag, image.id)
        self._drop_unnamed(image.id)

    def _drop_unnamed(self, image_id: str) -> None:
        """Remove a former variant that nothing else names or uses."""
        image = self._store.get(image_id)
        kept = image.repo_tags or image.repo_digests or self._store.indexes.of_image(image_id)
        used = any(image_id in use.images for use in self._uses())
        if not kept and not used and not self._store.children(image_id):
            self._delete(image, force=False, prune_parents=True, quiet=True)

    def _untag(self, image: Image, reference: Reference, *, told: bool = True) -> None:
        """Take a name away; an event tells of it unless it goes along with another one."""
        variants = [] if reference.digest else self._store.indexes.variants(reference)
        self._store.untag(reference)
        for variant in variants:
            if variant.image != image.id:
                self._drop_unnamed(variant.image)
        self.records.append({"Untagged": reference.familiar()})
        if told:
            labels = image.config.config.labels or {}
            self._events.publish("image", "untag", image.id, {**labels, "name": image.id})

    def _delete(self, image: Image, *, force: bool, prune_parents: bool, quiet: bool) -> None:
        image = self._store.get(image.id)
        if quiet and self._store.indexes.of_image(image.id):
            return  # Another tag has it as a variant.
        try:
            self._check(image, force=force, names_matter=True)
        except Conflict:
            used = any(image.id in use.images for use in self._uses())
            dangling = not image.repo_tags and not self._store.children(image.id)
            if quiet and (used or not dangling):
                return
            raise
        for reference in _references(image):
            self._untag(image, reference)
        layers = self._store.own_chains(image.id)
        self._store.delete(image.id)
        # Nothing but its name is left of it, as under Docker.
        self._events.publish("image", "delete", image.id, {"name": image.id})
        self.records.append({"Deleted": image.id})
        self.records += [{"Deleted": chain} for chain in layers]
        if not prune_parents or not image.parent:
            return
        try:
            parent = self._store.get(image.parent)
        except NotFound:
            return
        if not parent.repo_tags and not parent.repo_digests:
            self._delete(parent, force=False, prune_parents=True, quiet=True)

    def _check(self, image: Image, *, force: bool, names_matter: bool) -> None:
        def conflict(reason: str, hard: bool) -> Conflict:
            how = "cannot be forced" if hard else "must be forced"
            return Conflict(f"conflict: unable to delete {short(image.id)} ({how}) - {reason}")

        if self._store.children(image.id):
            raise conflict("image has dependent child images", True)
        users = [use for use in self._uses() if image.id in use.images]
        for use in users:
            if use.running:
                raise conflict(f"image is being used by running container {use.id[:12]}", True)
        if force:
            return
        if names_matter and len(_references(image)) > 0:
            raise conflict("image is referenced in multiple repositories", False)
        if users:
            raise conflict(f"image is being used by stopped container {users[0].id[:12]}", False)


def _references(image: Image) -> list[Reference]:
    """All names of the image, tags before digests."""
    return [Reference.parse_name(name) for name in (*image.repo_tags, *image.repo_digests)]


def _one_name(references: list[Reference]) -> bool:
    """Whether a person would say that the image has (at most) one name."""
    if len(references) <= 1:
        return True
    tags = [reference for reference in references if reference.tag]
    return len(tags) <= 1 and len({reference.name for reference in references}) == 1


def _is_id(image: Image, name: str) -> bool:
    """Whether ``name`` is a prefix of the image's ID rather than one of its names."""
    prefix = name.removeprefix("sha256:")
    if not prefix or not image.id.removeprefix("sha256:").startswith(prefix):
        return False
    try:
        return Reference.parse(name) not in _references(image)
    except InvalidReference:
        return True


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '\\"') + '"'
