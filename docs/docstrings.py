"""Griffe extension: reads the package's docstrings as they are written, before mkdocstrings renders them.

They follow Google's style with the roles of Sphinx, so that editors and `help()` show them well. Two things need
translating: a singular `Example:` section, or a doctest without a heading, and references such as
`:class:`~aimwrap.AIMLoss``.
"""

import re
from typing import Any

import griffe

_ROLE = re.compile(r":\w+:`(?P<tilde>~?)(?P<target>[\w.]+)`")
_BARE_DOCTEST = re.compile(r"^>>> .*(?:\n.+)*", re.MULTILINE)


def _link(match: re.Match[str]) -> str:
    target = match["target"]
    shown = target.rpartition(".")[2] if match["tilde"] else target
    return f"[`{shown}`][{target}]" if target.startswith("aimwrap.") else f"`{shown}`"


def _under_heading(match: re.Match[str]) -> str:
    return "Examples:\n    " + match[0].replace("\n", "\n    ")


class HouseDocstrings(griffe.Extension):
    """Translates every docstring while the sources are read."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring:
            text = _ROLE.sub(_link, obj.docstring.value)
            text = re.sub(r"^Example:$", "Examples:", text, flags=re.MULTILINE)
            obj.docstring.value = _BARE_DOCTEST.sub(_under_heading, text)
