"""One page that shows what a model does on a data set: numbers with intervals, and a gallery of its masks.

From models and a data set to the page::

    subjects    AIM or plain, with one interface
    images      each image read once from disk, prepared for every model
    measuring   the pass over the images; numbers, means, intervals and differences
    cards       which images the gallery shows, and their overlays
    content     all of it as plain values; Report: the headline, and the files
    build       build_report: checks that models and data set fit, verifies some images, calls the above
    html        the page

Needs the extra ``report`` when the page is written.
"""

from .build import build_report
from .content import Report, Written

__all__ = ["Report", "Written", "build_report"]
