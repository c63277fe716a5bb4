"""Names of backbones for the shell's completion, read off timm's and torchvision's sources without importing them."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

# The function below the decorator that registers a model; torchvision has another decorator in between.
_REGISTERED = re.compile(r"^@register_model\b.*\n(?:(?!def ).*\n)*?def (\w+)", re.MULTILINE)


def backbone_names(library: str) -> list[str]:
    """The classification models that a library registers.

    >>> "resnet18" in backbone_names("timm") and "resnet18" in backbone_names("torchvision")
    True

    Args:
        library: ``"timm"`` or ``"torchvision"``.

    Returns:
        Their names, sorted; none if the library is missing.
    """
    spec = find_spec(library)
    folders = [] if spec is None else spec.submodule_search_locations or []
    sources = (source for folder in folders for source in (Path(folder) / "models").glob("*.py"))
    return sorted({name for source in sources for name in _REGISTERED.findall(source.read_text(encoding="utf-8"))})


def complete_backbone(incomplete: str) -> list[str]:
    """Names that begin so: timm's, then those that torchvision alone has, then those with their library's name."""
    timm, torchvision = backbone_names("timm"), backbone_names("torchvision")
    both = [f"{library}/{name}" for library, names in (("timm", timm), ("torchvision", torchvision)) for name in names]
    known = [*timm, *(name for name in torchvision if name not in set(timm))]
    return [name for name in (both if "/" in incomplete else known) if name.startswith(incomplete)]
