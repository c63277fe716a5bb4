"""Sets whose background is tied to the label, from any cut-outs and backgrounds.

>>> from aimwrap.data.builder import backgrounds_in, build, cutouts_in, waterbirds
>>> def example() -> None:
...     build("out", cutouts_in("cutouts"), backgrounds_in("places"), waterbirds(tie=0.95), seed=0, workers=2)
"""

from .building import build, build_composed
from .draw import InPlace, Placed
from .plan import Tying, travelingbirds, waterbirds
from .sources import (
    Background,
    Cutout,
    backgrounds_in,
    backgrounds_of,
    cutouts_in,
    cutouts_of,
    relabelled,
    water_or_land,
)

__all__ = [
    "Background",
    "Cutout",
    "InPlace",
    "Placed",
    "Tying",
    "backgrounds_in",
    "backgrounds_of",
    "build",
    "build_composed",
    "cutouts_in",
    "cutouts_of",
    "relabelled",
    "travelingbirds",
    "water_or_land",
    "waterbirds",
]
