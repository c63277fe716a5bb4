"""One page that shows what a model does on a data set: numbers with intervals, and a gallery of its masks.

Who does what::

    building    build_report: from models and a data set to a report
    subjects    AIM or plain, behind one interface
    fitting     whether models and data set belong together
    views       each image once from disk, prepared for every model
    evaluating  the pass over the images
    measuring   the numbers of each image
    scores      means, intervals and differences
    verifying   verify on some of the images
    cards       which images are shown
    content     everything as plain values
    report      what people read first, and the files
    html        the page

Needs the extra ``report`` when the page is written.
"""

from .build import build_report
from .report import Report, Written

__all__ = ["Report", "Written", "build_report"]
