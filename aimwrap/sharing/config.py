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
    """All that a folder says beside its weights.

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
        channels_last: top-level parts of the model whose weights lie in memory that way.
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


def _optional(kind: _Kind) -> _Kind:
    return _Kind(f"{kind.expected}, or null", lambda value: value is None or kind.fits(value))


def _list_of(kind: _Kind, several: str, length: int | None = None) -> _Kind:
    def fits(value: Any) -> bool:
        return isinstance(value, list) and (length is None or len(value) == length) and all(map(kind.fits, value))

    return _Kind(f"a list of {'' if length is None else f'{length} '}{several}", fits)


def _one_of(*choices: str) -> _Kind:
    return _Kind(f"one of {', '.join(map(repr, choices))}", lambda value: isinstance(value, str) and value in choices)


_TEXT = _Kind("a string", lambda value: isinstance(value, str))
_FLAG = _Kind("true or false", lambda value: isinstance(value, bool))
_COUNT = _Kind("a positive integer", lambda value: type(value) is int and 0 < value < 2**31)
_BYTES = _Kind("a positive integer", lambda value: type(value) is int and value > 0)
_STAGE = _Kind("a stage number or a node name", lambda value: type(value) in (int, str))
_ABOVE_ZERO = _Kind("a positive number or infinity", lambda value: type(value) in (int, float) and value > 0)
_FINITE = _Kind("a finite number", lambda value: type(value) in (int, float) and math.isfinite(value))
_SHARE = _Kind("a number in (0, 1]", lambda value: type(value) in (int, float) and 0 < value <= 1)
_POSITIVE = _Kind("a positive number", lambda value: _FINITE.fits(value) and value > 0)
_OBJECT = _Kind("an object", lambda value: isinstance(value, dict))
_SHA256 = _Kind(
    "64 hexadecimal digits", lambda v: isinstance(v, str) and len(v) == 64 and set(v) <= set("0123456789abcdef")
)
_METHOD = _one_of(*(method.value for method in InterpolationMode))

_ARGUMENTS = {
    "stages": _list_of(_STAGE, "stage numbers and node names"),
    "tau": _list_of(_SHARE, "numbers in (0, 1]"),
    "num_classes": _COUNT,
    "head": _one_of(*get_args(Head)),
    "width": _COUNT,
    "mask_width": _COUNT,
    "mask_norm": _one_of(*get_args(MaskNorm)),
    "logit_spread": _optional(_ABOVE_ZERO),
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
    "interpolation": _METHOD,
    "crop": _SHARE,
    "squash": _FLAG,
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
        ValueError: if it is no JSON, is not ours, is of another format version, or a value is not what it must be.
    """
    content = _parsed(path)
    _check_format(content, path)
    read = _Reader(content, path)
    arguments = read.inner("aim", {key: _Kind("", lambda value: True) for key in _ARGUMENTS}, complete=True)
    named = read("backbone", _optional(_OBJECT))
    preprocessing = read("preprocessing", _optional(_OBJECT))
    classified = read("classified", _optional(_OBJECT))
    class_names = read("class_names", _optional(_list_of(_TEXT, "strings")))
    weights = read.inner("weights", {"bytes": _BYTES, "sha256": _SHA256})
    config = Config(
        variant=read("variant", _TEXT),
        backbone=None if named is None else _read_backbone(read),
        backbone_was=read("backbone_was", _TEXT),
        arguments=_Reader(read.decoded(arguments, "aim"), path, "aim.").all(_ARGUMENTS),
        image_shape=tuple(read("image_shape", _list_of(_COUNT, "positive integers", length=3))),
        taps=tuple(
            _read_tap(tap, path, f"taps.{index}.")
            for index, tap in enumerate(read("taps", _list_of(_OBJECT, "objects")))
        ),
        classified=None if classified is None else _read_tap(classified, path, "classified."),
        class_names=None if class_names is None else tuple(class_names),
        preprocessing=None if preprocessing is None else _read_preprocessing(preprocessing, path),
        dtype=read("dtype", _TEXT),
        channels_last=tuple(read("channels_last", _list_of(_TEXT, "strings"))),
        bytes=weights["bytes"],
        sha256=weights["sha256"],
        versions={key: str(value) for key, value in read("versions", _OBJECT).items()},
    )
    contradiction = _contradiction(config)
    if contradiction is not None:
        raise ValueError(f"{path}: {contradiction}{WAY_OUT}")
    return config


def _contradiction(config: Config) -> str | None:
    """Where two values do not go together, each of which is one by itself."""
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


class _Reader:
    """Takes values out of a JSON object, and says where they stood when they are not what they must be."""

    def __init__(self, values: Mapping[str, Any], path: Path, prefix: str = "") -> None:
        self.values, self.path, self.prefix = values, path, prefix

    def __call__(self, key: str, kind: _Kind) -> Any:
        if key not in self.values:
            raise ValueError(f"{self.path}: {self.prefix + key!r} is missing{WAY_OUT}")
        value = self.values[key]
        if not kind.fits(value):
            came = repr(value)
            came = came if len(came) <= 80 else f"{came[:77]}..."
            raise ValueError(f"{self.path}: {self.prefix + key!r} must be {kind.expected}, got {came}{WAY_OUT}")
        return value

    def all(self, kinds: Mapping[str, _Kind]) -> dict[str, Any]:
        return {key: self(key, kind) for key, kind in kinds.items()}

    def inner(self, key: str, kinds: Mapping[str, _Kind], *, complete: bool = False) -> dict[str, Any]:
        """The values of an object within; nothing else may stand there if the kinds are complete."""
        values = self(key, _OBJECT)
        unknown = [name for name in values if name not in kinds]
        if complete and unknown:
            raise ValueError(
                f"{self.path}: {f'{self.prefix}{key}.{unknown[0]}'!r} is no argument that this aimwrap knows; "
                "a newer one may have saved it: pip install --upgrade aimwrap"
            )
        return _Reader(values, self.path, f"{self.prefix}{key}.").all(kinds)

    def decoded(self, value: dict[str, Any], where: str) -> dict[str, Any]:
        try:
            decoded = decoded_json(value)
        except ValueError as error:
            raise ValueError(f"{self.path}: in {self.prefix + where!r}, {error}{WAY_OUT}") from error
        if not isinstance(decoded, dict):
            raise ValueError(f"{self.path}: {self.prefix + where!r} must be an object, got {decoded!r}{WAY_OUT}")
        return decoded


def _read_backbone(read: _Reader) -> tuple[str, dict[str, Any]]:
    named = read.inner("backbone", {"name": _TEXT, "arguments": _OBJECT})
    return named["name"], read.decoded(named["arguments"], "backbone.arguments")


def _read_tap(values: dict[str, Any], path: Path, prefix: str) -> TapRecord:
    tap = _Reader(values, path, prefix).all(_TAP)
    return tap["stage"], tap["node"], tap["channels"], tap["stride"]


def _read_preprocessing(values: dict[str, Any], path: Path) -> Preprocessing:
    read = _Reader(values, path, "preprocessing.").all(_PREPROCESSING)
    height, width = read["image_size"]
    mean, std = tuple(read["mean"]), tuple(read["std"])
    return Preprocessing((height, width), mean, std, read["interpolation"], read["crop"], read["squash"])


def _parsed(path: Path) -> dict[str, Any]:
    size = path.stat().st_size
    if size > _LARGEST:
        raise ValueError(f"{path} has {size / 2**20:.0f} MiB, and no config of aimwrap has more than 64")

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is no JSON")

    try:
        content = json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
    except (ValueError, RecursionError) as error:  # also of a wrong encoding, and of numbers with thousands of digits
        raise ValueError(f"{path} is no valid JSON ({error}); it is damaged: download or copy it again") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds no JSON object but {type(content).__name__}; aimwrap did not write it")
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
