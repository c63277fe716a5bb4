"""Puts this folder on the path, for `contents`."""
