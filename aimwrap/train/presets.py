"""Recipes by name: those of the closest works, as their code has them, and ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Preset = Mapping[str, Any]
PRESETS: dict[str, Preset] = {}
