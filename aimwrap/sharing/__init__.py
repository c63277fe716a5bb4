"""Save, load and share a wrapped model: a folder of ``config.json``, ``model.safetensors`` and ``README.md``.

:class:`AIM <aimwrap.AIM>` inherits :class:`Shareable` (:mod:`.mixin`). What a model was built with is remembered in
plain values (:mod:`.recipe`), written to and checked from JSON (:mod:`.config`), beside the weights with their checksum
(:mod:`.weights`) and a model card (:mod:`.card`). :mod:`.rebuilding` makes a model of them again, from known names and
checked values only: a folder's files are data and never code.
"""

from .card import Metric
from .mixin import Shareable

__all__ = ["Metric", "Shareable"]
