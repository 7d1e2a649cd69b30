"""Go's text/template, as far as ``--format`` is used: the whole language over JSON values.

``Template(text).render(value)``.  A *value* is a JSON value, a Python function, or a *record*: an
object with ``field(name)``, which raises :class:`NoField`.  Values print as Go prints them
(``map[a:1]``, ``[x y]``, ``true``, ``<no value>``).

``parse`` makes the tree, ``evaluate`` walks it, ``functions`` are those a template may call.
"""

from __future__ import annotations

from sampan.gotemplate.errors import NoField, TemplateError
from sampan.gotemplate.template import Template

__all__ = ["NoField", "Template", "TemplateError"]
