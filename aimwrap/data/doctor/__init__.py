"""The doctor: what is wrong with a data set on disk, in words that say what to do."""

from .examination import Check, Count, Examination, Finding
from .examine import examine
from .recognise import NotRecognisedError

__all__ = ["Check", "Count", "Examination", "Finding", "NotRecognisedError", "examine"]
