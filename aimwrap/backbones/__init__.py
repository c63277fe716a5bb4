"""Backbones: built by name, inspected before they are wrapped, and trained without AIM for comparison."""

from .create import create_backbone
from .records import preprocessing_of_processor

__all__ = ["create_backbone", "preprocessing_of_processor"]
