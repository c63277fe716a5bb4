"""The doctor: what is wrong with a data set on disk, in words that say what to do."""

from .examine import Check, Count, Examination, Finding, examine
from .kinds import NotRecognisedError

__all__ = ["Check", "Count", "Examination", "Finding", "NotRecognisedError", "examine"]
