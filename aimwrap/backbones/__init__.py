"""Backbones: built by name, inspected before they are wrapped, and trained without AIM for comparison."""

from .create import create_backbone

__all__ = ["create_backbone"]
