"""A backbone by name: timm's and torchvision's model builders in one function."""

from __future__ import annotations

import difflib
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import timm
import torch
import torchvision
from torch import nn
from torch.nn.modules import module as hooks

from .records import preprocessing_of_weights


def create_backbone(name: str, backbone_kwargs: Mapping[str, Any] | None = None) -> nn.Module:
    """Build a timm or torchvision classification model.

    Args:
        name: the model's name, for timm also with a tag. One that both have is timm's; ``"torchvision/resnet50"`` and
            ``"timm/resnet50"`` decide.
        backbone_kwargs: arguments of the builder, such as ``{"pretrained": True, "num_classes": 200}`` for timm or
            ``{"weights": "DEFAULT"}`` for torchvision.

    Returns:
        The model.

    Raises:
        ValueError: if neither has a model of that name.
    """
    library, model = find_builder(name)
    arguments = dict(backbone_kwargs or {})
    backbone: nn.Module
    if library == "timm":
        backbone = timm.create_model(model, **arguments)
    else:
        backbone = torchvision.models.get_model(model, **arguments)
        # timm's models keep such a record; torchvision's forget with which weights they were built
        backbone.preprocessing = preprocessing_of_weights(model, arguments.get("weights"))  # type: ignore[assignment]
    return backbone


@contextmanager
def building_at_most(values: int, modules: int = 30_000) -> Iterator[None]:
    """Refuse to build a network of more values or modules by this thread: what a file asks for can be anything."""
    thread, left = threading.get_ident(), {"values": values, "modules": modules}

    def count(what: str, number: int) -> None:
        if threading.get_ident() == thread:
            left[what] -= number
            if left[what] < 0:
                raise ValueError(f"it would have more than {modules} modules, or be far larger than its weights")

    with (
        hooks.register_module_parameter_registration_hook(
            lambda _, __, p: count("values", 0 if p is None else p.numel())
        ),
        hooks.register_module_buffer_registration_hook(lambda _, __, b: count("values", 0 if b is None else b.numel())),
        hooks.register_module_module_registration_hook(lambda *_: count("modules", 1)),
    ):
        yield


def check_size(name: str, backbone_kwargs: Mapping[str, Any], values: int) -> None:
    """A ValueError if a backbone is larger; its tables, which are computed before they are counted, take no memory."""
    try:
        with building_at_most(values), torch.device("meta"):
            create_backbone(name, backbone_kwargs)
    except (NotImplementedError, RuntimeError, TypeError):
        return  # it cannot be built so; or not at all, which comes out later


def default_weights(name: str) -> str | None:
    """The weights that a library now loads for the name of a backbone, such as ``"convnext_tiny.in12k_ft_in1k"``."""
    library, model = find_builder(name)
    if library == "timm":
        record = timm.models.get_pretrained_cfg(model)
        return f"{record.architecture}.{record.tag}" if record is not None and record.has_weights else None
    return str(torchvision.models.get_model_weights(model)["DEFAULT"])


def is_import_path(name: str) -> bool:
    """Whether a name is ``package.module:name``, a place of code, and not a model's; ``hf-hub:timm/...`` is one's."""
    return ":" in name and not re.match("hf[-_]hub:", name, re.IGNORECASE)


def find_builder(name: str) -> tuple[str, str]:
    """Whether ``"timm"`` or ``"torchvision"`` has a model of that name, and its name there; a ValueError if neither."""
    of = re.match("(?:hf[-_]hub:(?=timm/))?(timm|torchvision)/", name, re.IGNORECASE)
    library, model = (of[1].lower(), name[of.end() :]) if of else ("", name)
    model = model if timm.is_model(model) else model.lower()
    architecture, _, tag = model.partition(".")
    if library != "torchvision" and timm.is_model(model):
        current = timm.models.get_deprecated_models().get(architecture) or architecture
        model = f"{current.partition('.')[0]}.{tag.lower()}" if tag else current
        try:
            timm.models.get_pretrained_cfg(model)
        except RuntimeError as error:
            tags = timm.list_pretrained(f"{model.partition('.')[0]}.*")
            near = ", ".join(difflib.get_close_matches(model, tags, cutoff=0)) or "it without a tag"
            raise ValueError(f"backbone: timm has no weights named {model!r}; use {near}") from error
        return "timm", model
    torchvision_models = torchvision.models.list_models(module=torchvision.models)
    if library != "timm" and model in torchvision_models:
        return "torchvision", model
    known = {"timm": timm.list_models(), "torchvision": torchvision_models}
    candidates = known[library] if library else [*known["timm"], *known["torchvision"]]
    close = difflib.get_close_matches(architecture, candidates, n=3, cutoff=0.5)
    where = f"{library} has no" if library else "neither timm nor torchvision has a"
    hint = f"did you mean {', '.join(dict.fromkeys(close))}?" if close else "timm.list_models() lists all names"
    if "/" in model:
        hint = "build models of other libraries with that library, and pass the module; on the command line, "
        hint += "a function that builds it: package.module:name"
    raise ValueError(f"backbone: {where} model named {model!r}; {hint}")
