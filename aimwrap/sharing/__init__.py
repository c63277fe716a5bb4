"""Save, load and share a wrapped model: a folder of ``config.json``, ``model.safetensors`` and ``README.md``.

:class:`AIM <aimwrap.AIM>` and :class:`SecondLook <aimwrap.SecondLook>` inherit :class:`Shareable` (:mod:`.mixin`).
Plain values record what a model was built with (:mod:`.recipe`). They are written to JSON and checked when read, next
to the weights with their checksum (:mod:`.files`) and a model card (:mod:`.card`). :mod:`.rebuilding` builds the model
again, from known names and checked values only: a folder's files are data and never code.
"""

from .card import Metric
from .mixin import Shareable

__all__ = ["Metric", "Shareable"]
