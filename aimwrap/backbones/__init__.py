"""Backbones: built by name, looked at before they are wrapped, and trained without AIM for comparison."""
