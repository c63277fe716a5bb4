"""The doctor: faults of a data set on disk, each with its file and the way to fix it."""

from .examination import NotRecognisedError, examine
from .report import Check, Count, Examination, Finding

__all__ = ["Check", "Count", "Examination", "Finding", "NotRecognisedError", "examine"]
