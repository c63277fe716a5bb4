"""From a model to its config, and from a config to a model that computes the same."""

from __future__ import annotations

import inspect
import json
import platform
import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import version
from typing import Any

import torch
from torch import nn

from ..backbones.create import building_at_most, check_size, find_builder
from ..base import AIMBase, Savable
from ..preprocessing import Preprocessing, checked_preprocessing
from ..taps import Tap
from .files import FORMAT, NEWEST, OWN_LOOK, TWICE, Config, parts
from .recipe import Recipe, decoded_json, differing_part, encoded_json, without_weights

Given = nn.Module | tuple[nn.Module | None, nn.Module | None] | None  # a backbone, or one for each look


def config_of(model: Savable, size: int, sha256: str) -> str:
    """The text of ``config.json`` for a model whose weights file has this size in bytes and this checksum."""
    aim, second_look = model._looks()
    recipe, images = aim._recipe, aim.preprocessing
    network, content = model._network, dict(FORMAT)
    if second_look is not None:
        newer = network is not None or "size" in second_look
        content |= {"format_version": OWN_LOOK if newer else TWICE, "second_look": second_look}
    if images is not None and images.window is not None:
        content["format_version"] = NEWEST
    if network is not None:
        expected = network.preprocessing
        content["second_backbone"] = _named(network.recipe) | {
            "classified": _recorded(network.classified),
            "preprocessing": None if expected is None else expected._asdict(),
            "modules": network.recipe.modules or {},
        }
    content |= {
        "variant": aim.variant,
        **_named(recipe),
        "aim": encoded_json(
            {
                "stages": list(aim.stages),
                "tau": [float(area) for area in aim.tau],
                "num_classes": int(aim.num_classes),
                "head": aim.head,
                "width": int(recipe.width),
                "mask_width": int(recipe.mask_width),
                "mask_norm": recipe.mask_norm,
                "logit_spread": _common(aim, "logit_spread"),
                "logit_range": _common(aim, "logit_range"),
                "mask_padding": _common(aim, "padding"),
                "mask_context": _common(aim, "context"),
                "labels_move_area": bool(aim.labels_move_area),
                "pooling": aim.pooling,
                "temperature": float(aim.temperature),
            }
        ),
        "image_shape": recipe.image_shape,
        "taps": [_recorded(tap) for tap in aim.taps],
        "classified": None if aim.classified is None else _recorded(aim.classified),
        "class_names": aim.class_names,
        "preprocessing": None if images is None else images._asdict(),
        "dtype": " and ".join(sorted({str(p.dtype).removeprefix("torch.") for p in model.parameters()})),
        "channels_last": [part for part, module in parts(model) if _is_channels_last(module)],
        "weights": {"bytes": size, "sha256": sha256},
        "modules": recipe.modules or {},
        "versions": _versions(),
    }
    return json.dumps(content, indent=2, allow_nan=False) + "\n"


def _named(recipe: Recipe) -> dict[str, Any]:
    """How a backbone is built by name, if it can be, and what it was."""
    named = recipe.named()
    if named is None:
        return {"backbone": None, "backbone_was": recipe.was}
    arguments = encoded_json(decoded_json(json.loads(named[1])))
    return {"backbone": {"name": named[0], "arguments": arguments}, "backbone_was": named[0]}


def check_savable(model: Savable, class_names: Sequence[str] | None, preprocessing: Preprocessing | None) -> None:
    """Give a model the names and the preprocessing that it is to be saved with, unless None; then check what it has.

    Raises:
        TypeError: if these are of the wrong type, or a classifier is not a linear layer.
        ValueError: if there is not one name for each class, or a classifier has another number of classes.
    """
    aim, second_look = model._looks()
    first = [] if second_look is None else [("first.classifier", aim.classifier)]
    for name, part in (("classifier", model.classifier), *first, *aim.stage_classifiers.named_children()):
        if type(part) is not nn.Linear:
            raise TypeError(
                f"the model's {name} must be an nn.Linear to be saved, got {type(part).__name__}, which no config can "
                "rebuild; save model.state_dict() and build the model by your own code"
            )
        if part.out_features != aim.num_classes:
            raise ValueError(
                f"the model's {name} gives {part.out_features} classes, and model.num_classes is {aim.num_classes}; "
                f"build the model again with AIM(backbone, num_classes={part.out_features})"
            )
    names = aim.class_names if class_names is None else class_names
    if names is not None:
        if isinstance(names, str) or not isinstance(names, Sequence) or not all(isinstance(n, str) for n in names):
            raise TypeError(
                f"class_names must be a list of strings, one per class in the logits' order, got {names!r:.80}"
            )
        classes = max(2, aim.num_classes)  # one logit decides between two
        if len(names) != classes:
            raise ValueError(f"class_names must have one name per class: {classes} classes, {len(names)} name(s)")
        names = tuple(map(str, names))
    images = aim.preprocessing if preprocessing is None else preprocessing
    aim.class_names, aim.preprocessing = names, None if images is None else checked_preprocessing(images)


def rebuild(cls: type, base: type, config: Config, backbone: Given, where: str) -> Any:
    """Build the model that a config describes, with fresh weights.

    Args:
        cls: AIM, or a class of it.
        base: AIM.
        config: checked values.
        backbone: the backbone; if None, it is built by its name, which a registry must know, without weights.
        where: the folder, for messages.

    Raises:
        TypeError: if the backbone is not a module, or a subclass cannot be built with AIM's arguments.
        ValueError: if the backbone is missing, cannot be built or wrapped, or has other taps than the saved model.
    """
    if backbone is not None and not isinstance(backbone, nn.Module):
        raise TypeError(
            f"backbone must be a module such as the model was built with, or None, got {type(backbone).__name__}"
        )
    was = config["backbone_was"]
    try:
        inspect.signature(cls).bind(backbone, example_input=None, **config["aim"])
    except TypeError as error:
        raise _refused_by(cls, where, error) from error
    source, by_name = _source(config, backbone, where)
    limit = config["weights"]["bytes"] + 2**27  # the classifier of the backbone is not in the file
    try:
        given = config["aim"] | by_name | {"example_input": torch.zeros(1, *config["image_shape"])}
        if by_name and by_name["backbone_kwargs"].keys() - {"num_classes", "in_chans"}:
            check_size(str(source), by_name["backbone_kwargs"], limit)
        # loading must not change the user's random numbers
        with torch.random.fork_rng(devices=[]), building_at_most(limit):
            model: AIMBase = cls(source, **given)
    except Exception as error:  # whatever a library raises for a name or argument that another version of it knew
        if cls.__init__ is not base.__init__ and _takes(base, source, given, limit):  # type: ignore[misc]  # compared only
            raise _refused_by(cls, where, error) from error
        what = "the backbone that was passed" if backbone is not None else f"{was}, built by its name,"
        raise ValueError(
            f"{where}: {what} cannot be wrapped as the saved model was ({was}): {type(error).__name__}: {error}. "
            f"{_way_out(config)}"
        ) from error
    _check_same(model.taps, model.classified, model._recipe, config, where)
    model._notation = config["variant"].removesuffix(f", {model.head} head")
    model.preprocessing = config["preprocessing"]
    model.class_names = None if config["class_names"] is None else tuple(config["class_names"])
    return model


def rebuild_second_look(cls: type, first: AIMBase, config: Config, backbone: nn.Module | None, where: str) -> Any:
    """Build the second look that a config describes at its first look, with fresh weights; see :func:`rebuild`."""
    described, arguments = config["second_backbone"], config["second_look"]
    if described is None:
        if backbone is not None:
            raise ValueError(f"{where}: both looks have one backbone, and another was passed for the second")
        with torch.random.fork_rng(devices=[]):  # loading must not change the user's random numbers
            return cls(first, **arguments)
    described = {"versions": config["versions"], "taps": [], **described}
    source, by_name = _source(described, backbone, where, "second backbone", "(None, backbone)")
    limit = config["weights"]["bytes"] + 2**27
    try:
        if by_name:
            check_size(str(source), by_name["backbone_kwargs"], limit)
        with torch.random.fork_rng(devices=[]), building_at_most(limit):
            second = cls(first, source, **by_name, **arguments)
    except Exception as error:  # as in rebuild
        what = f"the second look's backbone ({described['backbone_was']}) cannot be used as the saved one was"
        raise ValueError(f"{where}: {what}: {type(error).__name__}: {error}. {_way_out(config)}") from error
    network = second._network
    _check_same([], network.classified, network.recipe, described, where)
    second._network = network._replace(preprocessing=described["preprocessing"])
    return second


def _common(model: AIMBase, name: str) -> float | str | None:
    """A setting of the mask estimators, which may have been changed since they were built."""
    values = {getattr(estimator, name) for estimator in model.mask_estimators.values()}
    if len(values) > 1:
        raise ValueError(f"{name} differs between the mask estimators ({values}), and a config holds one for all")
    (value,) = values
    return float(value) if isinstance(value, int | float) else value


def _source(
    config: Config, backbone: nn.Module | None, where: str, which: str = "backbone", passed: str = "..."
) -> tuple[nn.Module | str, dict[str, Any]]:
    """The backbone or its name, and the arguments to build it if it is a name."""
    if backbone is not None:
        return backbone, {}
    if config["backbone"] is None:
        raise ValueError(
            f"{where}: this model's {which} was {config['backbone_was']}. aimwrap cannot build that by name: pass a "
            f"new one of the same kind, whose weights are replaced: from_pretrained({where!r}, backbone={passed}); "
            f"on the command line, --backbone {',' if passed != '...' else ''}package.module:name"
        )
    try:
        library, model = find_builder(config["backbone"]["name"])
    except ValueError as error:
        raise ValueError(f"{where}: {error}. {_way_out(config)}") from error
    return f"{library}/{model}", {"backbone_kwargs": without_weights(library, config["backbone"]["arguments"])}


def _refused_by(cls: type, where: str, error: Exception) -> TypeError:
    name = cls.__name__
    return TypeError(
        f"{where}: from_pretrained builds {name} with AIM's arguments, {name}(backbone, stages=..., tau=..., ...), and "
        f"its own __init__ fails with them: {type(error).__name__}: {error}. Give it AIM's arguments, with defaults "
        "for what it adds, or build the model yourself and load the folder's weights: "
        "model.load_state_dict(safetensors.torch.load_file('model.safetensors'))"
    )


def _takes(base: type, source: nn.Module | str, arguments: dict[str, Any], limit: int) -> bool:
    """Whether AIM itself can be built with the arguments that a subclass refused."""
    try:
        with torch.random.fork_rng(devices=[]), building_at_most(limit):
            base(source, **arguments)
    except Exception:  # as in rebuild
        return False
    return True


def _way_out(config: Config) -> str:
    now, then = _versions(), config["versions"]
    others = [f"{name} {was}, here {now[name]}" for name, was in then.items() if now.get(name, was) != was]
    saved = f"It was saved with {'; '.join(others)}. " if others else ""
    return (
        f"{saved}Build the backbone yourself and pass it: from_pretrained(..., backbone=backbone); on the "
        "command line, --backbone package.module:name"
    )


def _check_same(taps: Sequence[Tap], final: Tap | None, recipe: Recipe, config: Config, where: str) -> None:
    """Refuse a backbone whose tapped maps differ from the saved ones."""
    now = [_recorded(tap) for tap in (*taps, *([final] if final else []))]
    then = [*config["taps"], *([config["classified"]] if config["classified"] else [])]
    own, saved = recipe.modules or {}, config["modules"]
    counts = len(taps), len(config["taps"])
    difference = None if counts[0] == counts[1] else "it has {} taps, and the saved model had {}".format(*counts)
    for a, b in zip(now, then, strict=False):
        if a != b and difference is None:
            difference = (
                f"stage {b['stage']!r} was {b['node']} with {b['channels']} channels at stride {b['stride']}, and is "
                f"{a['node']} with {a['channels']} channels at stride {a['stride']} (stage {a['stage']!r})"
            )
    if difference is None and own and saved and (what := differing_part(saved, own)):
        if _versions() != config["versions"]:
            warnings.warn(f"{what}, perhaps as other versions are installed than it was saved with", stacklevel=4)
            return
        difference = f"{what}; if both compute the same, remove 'modules' from config.json"
    if difference is not None:
        what = f"the backbone is not the one that was saved ({config['backbone_was']})"
        raise ValueError(f"{where}: {what}: {difference}. {_way_out(config)}")


def _recorded(tap: Tap) -> dict[str, Any]:
    return {"stage": tap.stage, "node": tap.node, "channels": tap.channels, "stride": tap.stride}


def _is_channels_last(module: nn.Module) -> bool:
    maps = [p for p in module.parameters() if p.ndim == 4 and not p.is_contiguous()]
    return any(p.is_contiguous(memory_format=torch.channels_last) for p in maps)


def _versions() -> dict[str, str]:
    ours: str = import_module("aimwrap").__version__  # by name: it is imported already, and imports this module
    libraries = {name: version(name) for name in ("torch", "torchvision", "timm")}
    return {"aimwrap": ours, **libraries, "python": platform.python_version()}
