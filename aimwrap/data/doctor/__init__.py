"""The doctor: what is wrong with a data set on disk, in words that say what to do."""

from .examine import examine
from .findings import Check, Count, Examination, Finding
from .kinds import NotRecognisedError

__all__ = ["Check", "Count", "Examination", "Finding", "NotRecognisedError", "examine"]
