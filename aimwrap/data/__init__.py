"""Data: sets whose background is tied to the label, with object masks to measure against."""

from aimwrap.data.digits_on_photographs import DigitSample, DigitsOnPhotographs

__all__ = ["DigitSample", "DigitsOnPhotographs"]
