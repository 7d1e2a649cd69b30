"""``--chown`` and ``--chmod`` values against a tree's passwd and group files."""

from __future__ import annotations

import re

from sampan.build.ops.tree import Tree
from sampan.errors import InvalidParameter

_SYMBOLIC = re.compile(r"^([ugoa]*)([-+=])([rwxXst]*)$")


def resolve_owner(tree: Tree, owner: str) -> tuple[int, int]:
    """``user[:group]``, names or numbers, as uid and gid; the user's own group when none is given.

    Raises InvalidParameter for a name that the tree's passwd or group file does not have.
    """
    user, colon, group = owner.partition(":")
    uid, gid = 0, 0
    if user.isdecimal():
        uid = gid = int(user)
    elif user:
        found = _lookup(tree, "/etc/passwd", user)
        if found is None:
            raise InvalidParameter(
                f"unable to find user {user}: no matching entries in passwd file"
            )
        uid, gid = int(found[2]), int(found[3])
    if colon and group:
        if group.isdecimal():
            gid = int(group)
        else:
            found = _lookup(tree, "/etc/group", group)
            if found is None:
                raise InvalidParameter(
                    f"unable to find group {group}: no matching entries in group file"
                )
            gid = int(found[2])
    return uid, gid


def _lookup(tree: Tree, path: str, name: str) -> list[str] | None:
    for line in tree.read(path).decode(errors="surrogateescape").splitlines():
        fields = line.split(":")
        if fields[0] == name and len(fields) >= 4 and fields[2].isdecimal():
            return fields
    return None


class ModeChange:
    """A ``--chmod`` value: octal, or symbolic clauses such as ``u=rwX,go=rX``."""

    def __init__(self, text: str) -> None:
        """Raises InvalidParameter."""
        self._fixed: int | None = None
        self._clauses: list[tuple[str, str, str]] = []
        if re.fullmatch(r"[0-7]{1,5}", text):
            self._fixed = int(text, 8)
            if self._fixed > 0o7777:
                raise InvalidParameter(f"invalid chmod parameter: {text!r} is above 07777")
            return
        for clause in text.split(","):
            match = _SYMBOLIC.match(clause)
            if match is None:
                raise InvalidParameter(
                    f"invalid chmod parameter: {text!r} is neither octal (0755) nor symbolic"
                    " (u=rwX,go=rX)"
                )
            self._clauses.append((match[1] or "a", match[2], match[3]))

    def apply(self, mode: int, *, directory: bool) -> int:
        """The permission bits after the change."""
        if self._fixed is not None:
            return self._fixed
        mode &= 0o7777
        for who, sign, permissions in self._clauses:
            classes = "ugo" if "a" in who else who
            execute = "x" in permissions or (
                "X" in permissions and (directory or bool(mode & 0o111))
            )
            bits = 0
            mask = 0
            for name, shift, special in (("u", 6, 0o4000), ("g", 3, 0o2000), ("o", 0, 0o1000)):
                if name not in classes:
                    continue
                mask |= 0o7 << shift
                bits |= ("r" in permissions) << (shift + 2)
                bits |= ("w" in permissions) << (shift + 1)
                bits |= execute << shift
                if "s" in permissions and name != "o":
                    bits |= special
            if "t" in permissions:
                bits |= 0o1000
            if sign == "+":
                mode |= bits
            elif sign == "-":
                mode &= ~bits
            else:
                mode = (mode & ~mask) | bits
        return mode
