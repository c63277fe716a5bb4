"""``config.json``: what it says, and the checks that it must pass before anything is built from it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, get_args

from torchvision.transforms import InterpolationMode

from ..mask_estimator import MaskNorm
from ..preprocessing import Preprocessing
from ..taps import Stage
from ..top_down import Head, Pooling
from .recipe import decoded_json, encoded_json

FORMAT = "aimwrap"
FORMAT_VERSION = 1  # raised by whatever an older aimwrap would compute wrongly
CONFIG = "config.json"
WEIGHTS = "model.safetensors"
WAY_OUT = "; the file was damaged or edited, or another version of aimwrap saved it: fetch it or save the model again"
_LARGEST = 64 * 2**20  # bytes: the names of a million classes

TapRecord = tuple[Stage, str, int, int]  # stage, node, channels, stride


class Config(NamedTuple):
    """All that a folder says, except for its weights.

    Attributes:
        variant: as the model prints it.
        backbone: name and arguments to build it by; None where it was passed as a module.
        backbone_was: what it was, in words.
        arguments: the other arguments of :class:`~aimwrap.AIM`.
        image_shape: (C, H, W) that the backbone was probed with.
        taps: stage, node, channels and stride of what was tapped, shallow to deep.
        classified: the same of the classified map, or None.
        class_names: one per class, or None.
        preprocessing: of the images, or None.
        dtype: of the parameters; to read, the weights file decides.
        channels_last: top-level parts of the model whose weights have this memory format.
        bytes: size of the weights file.
        sha256: of the weights file.
        versions: of what the model was saved with.
    """

    variant: str
    backbone: tuple[str, dict[str, Any]] | None
    backbone_was: str
    arguments: dict[str, Any]
    image_shape: tuple[int, ...]
    taps: tuple[TapRecord, ...]
    classified: TapRecord | None
    class_names: tuple[str, ...] | None
    preprocessing: Preprocessing | None
    dtype: str
    channels_last: tuple[str, ...]
    bytes: int
    sha256: str
    versions: dict[str, str]


class _Kind(NamedTuple):
    expected: str
    fits: Callable[[Any], bool]


def _list_of(kind: _Kind, several: str, length: int | None = None) -> _Kind:
    def fits(value: Any) -> bool:
        return isinstance(value, list) and length in (None, len(value)) and all(map(kind.fits, value))

    return _Kind(f"a list of {'' if length is None else f'{length} '}{several}", fits)


def _one_of(*choices: str) -> _Kind:
    return _Kind(f"one of {', '.join(map(repr, choices))}", lambda value: isinstance(value, str) and value in choices)


_TEXT = _Kind("a string", lambda value: isinstance(value, str))
_FLAG = _Kind("true or false", lambda value: isinstance(value, bool))
_COUNT = _Kind("a positive integer", lambda value: type(value) is int and 0 < value < 2**31)
_STAGE = _Kind("a stage number or a node name", lambda value: type(value) in (int, str))
_ABOVE_ZERO = _Kind("a positive number or infinity", lambda value: type(value) in (int, float) and value > 0)
_FINITE = _Kind("a finite number", lambda value: type(value) in (int, float) and math.isfinite(value))
_SHARE = _Kind("a number in (0, 1]", lambda value: type(value) in (int, float) and 0 < value <= 1)
_POSITIVE = _Kind("a positive number", lambda value: _FINITE.fits(value) and value > 0)
_OBJECT = _Kind("an object", lambda value: isinstance(value, dict))
_SHA256 = _Kind(
    "64 hexadecimal digits", lambda v: isinstance(v, str) and len(v) == 64 and set(v) <= set("0123456789abcdef")
)
_TEXTS = _list_of(_TEXT, "strings")

_ARGUMENTS = {
    "stages": _list_of(_STAGE, "stage numbers and node names"),
    "tau": _list_of(_SHARE, "numbers in (0, 1]"),
    "num_classes": _COUNT,
    "head": _one_of(*get_args(Head)),
    "width": _COUNT,
    "mask_width": _COUNT,
    "mask_norm": _one_of(*get_args(MaskNorm)),
    "logit_spread": _Kind(f"{_ABOVE_ZERO.expected}, or null", lambda value: value is None or _ABOVE_ZERO.fits(value)),
    "logit_range": _ABOVE_ZERO,
    "labels_move_area": _FLAG,
    "pooling": _one_of(*get_args(Pooling)),
    "temperature": _ABOVE_ZERO,
}
_TAP = {"stage": _STAGE, "node": _TEXT, "channels": _COUNT, "stride": _COUNT}
_PREPROCESSING = {
    "image_size": _list_of(_COUNT, "positive integers", length=2),
    "mean": _list_of(_FINITE, "finite numbers"),
    "std": _list_of(_POSITIVE, "positive numbers"),
    "interpolation": _one_of(*(method.value for method in InterpolationMode)),
    "crop": _SHARE,
    "squash": _FLAG,
}
_CONTENT: dict[str, Any] = {  # [x] is a list of x, and (x,) is x or null
    "aim": _OBJECT,
    "variant": _TEXT,
    "backbone": ({"name": _TEXT, "arguments": _OBJECT},),
    "backbone_was": _TEXT,
    "image_shape": _list_of(_COUNT, "positive integers", length=3),
    "taps": [_TAP],
    "classified": (_TAP,),
    "class_names": (_TEXTS,),
    "preprocessing": (_PREPROCESSING,),
    "dtype": _TEXT,
    "channels_last": _TEXTS,
    "weights": {"bytes": _Kind("a positive integer", lambda v: type(v) is int and v > 0), "sha256": _SHA256},
    "versions": _OBJECT,
}


def dump_config(config: Config) -> str:
    """Write a config as the text of ``config.json``: strict JSON, so without Infinity."""
    named = None if config.backbone is None else dict(zip(("name", "arguments"), config.backbone, strict=True))
    preprocessing = config.preprocessing
    content = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "variant": config.variant,
        "backbone": encoded_json(named),
        "backbone_was": config.backbone_was,
        "aim": encoded_json(config.arguments),
        "image_shape": list(config.image_shape),
        "taps": [dict(zip(_TAP, tap, strict=True)) for tap in config.taps],
        "classified": None if config.classified is None else dict(zip(_TAP, config.classified, strict=True)),
        "class_names": None if config.class_names is None else list(config.class_names),
        "preprocessing": None if preprocessing is None else preprocessing._asdict(),
        "dtype": config.dtype,
        "channels_last": list(config.channels_last),
        "weights": {"bytes": config.bytes, "sha256": config.sha256},
        "versions": config.versions,
    }
    return json.dumps(content, indent=2, allow_nan=False) + "\n"


def read_config(path: Path) -> Config:
    """Read a ``config.json`` and check every value that something will be built from.

    Args:
        path: of the file.

    Returns:
        The config.

    Raises:
        ValueError: if it is not JSON, is not ours, is of another format version, or a value is not what it must be.
    """
    content = _parsed(path)
    _check_format(content, path)
    found = _checked(content, _CONTENT, path)
    unknown = [name for name in found["aim"] if name not in _ARGUMENTS]
    if unknown:
        raise ValueError(
            f"{path}: {f'aim.{unknown[0]}'!r} is not an argument that this aimwrap knows; "
            "a newer one may have saved it: pip install --upgrade aimwrap"
        )
    backbone, preprocessing, weights = found["backbone"], found["preprocessing"], found.pop("weights")
    found["arguments"] = _checked(_decoded(found.pop("aim"), path, "aim"), _ARGUMENTS, path, "aim")
    if backbone is not None:
        found["backbone"] = backbone["name"], _decoded(backbone["arguments"], path, "backbone.arguments")
    if preprocessing is not None:
        lists = {name: tuple(preprocessing[name]) for name in ("image_size", "mean", "std")}
        found["preprocessing"] = Preprocessing(**(preprocessing | lists))
    found["taps"] = tuple(tuple(tap.values()) for tap in found["taps"])
    found["classified"] = found["classified"] and tuple(found["classified"].values())
    found["class_names"] = None if found["class_names"] is None else tuple(found["class_names"])
    found["versions"] = {key: str(value) for key, value in found["versions"].items()}
    for name in ("image_shape", "channels_last"):
        found[name] = tuple(found[name])
    config = Config(**found, **weights)
    contradiction = _contradiction(config)
    if contradiction is not None:
        raise ValueError(f"{path}: {contradiction}{WAY_OUT}")
    return config


def _contradiction(config: Config) -> str | None:
    """Where two values do not go together, each of which is right by itself."""
    stages, tau, head, num_classes = (config.arguments[name] for name in ("stages", "tau", "head", "num_classes"))
    tapped = [tap[0] for tap in config.taps]
    if not stages or len(set(map(str, stages))) != len(stages):
        return f"'aim.stages' must be one stage or more, each of them once, got {stages}"
    if tapped != stages:
        return f"'taps' must be of the stages in 'aim.stages', {stages}, got those of {tapped}"
    if len(tau) != len(stages):
        return f"'aim.tau' must have one value per stage, {len(stages)}, got {tau}"
    if head == "feature-preserving" and config.classified is None:
        return "'classified' must be the final map that the 'feature-preserving' head selects from, got None"
    if head == "paper" and config.classified is not None:
        return f"'classified' must be null for the 'paper' head, got {config.classified}"
    if config.class_names is not None and len(config.class_names) != num_classes:
        return f"'class_names' has {len(config.class_names)} names for {num_classes} classes"
    return None


def _checked(value: Any, kind: Any, path: Path, where: str = "") -> Any:
    """The value without what is not asked for, if it is of the kind; else an error that says where it is."""
    if isinstance(kind, tuple) and not isinstance(kind, _Kind):
        if value is None:
            return None
        (kind,) = kind
        outer = _OBJECT if isinstance(kind, dict) else kind
        _checked(value, outer._replace(expected=f"{outer.expected}, or null"), path, where)
    if isinstance(kind, dict):
        values, prefix = _checked(value, _OBJECT, path, where), where and f"{where}."
        missing = [key for key in kind if key not in values]
        if missing:
            raise ValueError(f"{path}: {prefix + missing[0]!r} is missing{WAY_OUT}")
        return {key: _checked(values[key], inner, path, prefix + key) for key, inner in kind.items()}
    if isinstance(kind, list):
        values = _checked(value, _Kind("a list", lambda value: isinstance(value, list)), path, where)
        return [_checked(item, kind[0], path, f"{where}.{index}") for index, item in enumerate(values)]
    if not kind.fits(value):
        came = repr(value)
        came = came if len(came) <= 80 else f"{came[:77]}..."
        raise ValueError(f"{path}: {where!r} must be {kind.expected}, got {came}{WAY_OUT}")
    return value


def _decoded(value: dict[str, Any], path: Path, where: str) -> dict[str, Any]:
    try:
        decoded = decoded_json(value)
    except ValueError as error:
        raise ValueError(f"{path}: in {where!r}, {error}{WAY_OUT}") from error
    decoded_object: dict[str, Any] = _checked(decoded, _OBJECT, path, where)
    return decoded_object


def _parsed(path: Path) -> dict[str, Any]:
    size = path.stat().st_size
    if size > _LARGEST:
        raise ValueError(f"{path} has {size / 2**20:.0f} MiB, and no config of aimwrap has more than 64")

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not JSON")

    try:
        content = json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
    except (ValueError, RecursionError) as error:  # also of a wrong encoding, and of numbers with thousands of digits
        raise ValueError(f"{path} is not valid JSON ({error}); it is damaged: download or copy it again") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__} and not a JSON object; aimwrap did not write it")
    return content


def _check_format(content: Mapping[str, Any], path: Path) -> None:
    if content.get("format") != FORMAT:
        raise ValueError(f"{path} was not written by aimwrap{_what_it_is(content)}")
    version = content.get("format_version")
    if type(version) is not int or version < 1:
        raise ValueError(
            f"{path}: 'format_version' must be an integer from 1 on, got {version!r}. Build the model as it was built, "
            "AIM(backbone, ...), load the weights with model.load_state_dict(safetensors.torch.load_file(...)), and "
            "save it again"
        )
    if version > FORMAT_VERSION:
        versions = content.get("versions")
        by = f" {versions.get('aimwrap')}" if isinstance(versions, dict) else ""
        raise ValueError(
            f"{path} has format version {version}, and this aimwrap reads up to {FORMAT_VERSION}: a newer one{by} "
            "saved it. pip install --upgrade aimwrap"
        )


def _what_it_is(content: Mapping[str, Any]) -> str:
    wrap = "load the model there, and wrap it: AIM(backbone, stages=[2, 3])"
    if "pretrained_cfg" in content or isinstance(content.get("architecture"), str):
        return f", but looks like timm's: it describes a backbone. With timm.create_model, {wrap}"
    if "transformers_version" in content or "model_type" in content or "architectures" in content:
        return f", but looks like that of transformers. With from_pretrained, {wrap}"
    return "; AIM.from_pretrained reads what model.save_pretrained wrote"
