"""``README.md``: a model card that says what the model is, how good it is, and how far its masks can be trusted."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from ..base import Savable
from ..preprocessing import Preprocessing

Metric = float | tuple[float, float, float]  # a value, or a value and its interval: (value, low, high)

# A card with this line may be replaced. Without it, a user has edited the card.
MARKER = (
    "<!-- Written by aimwrap and replaced when the model is saved again; delete this line to keep your changes. -->"
)
_SHOWN_CLASSES = 20

_OF_FEATURES = """\
- A mask shows which *features* were used, not which pixels. A feature sees more of the image than its cell, and the
  mask itself is computed from the whole image: the rest of the image can still reach the decision. `aimwrap.verify`
  measures it."""
_OF_PIXELS = """\
- The decision uses the kept pixels only. But the first look chose them from the whole image, so the rest of the image
  can still change which pixels are kept, and their shape. `aimwrap.verify` measures it."""
_CAUTION = """\
- A finer map gets a better pointing score for free. Compare heatmaps at the same resolution.
- One trained model is one seed. Where labels and background are tied, masks may settle on either, by seed.
- Masking repairs what the classifier looks at, not what the backbone's features contain."""


def model_card(model: Savable, metrics: Mapping[str, Metric] | None, location: str) -> ModelCard:
    """Write a model card, see :meth:`Shareable.generate_model_card <aimwrap.AIM.generate_model_card>`."""
    measured = _metrics(metrics)  # first, so that wrong ones are refused before the model's cost is counted
    head = ModelCardData(
        library_name="aimwrap", pipeline_tag="image-classification", tags=["aim", "interpretability", "pytorch"]
    )
    aim, second_look = model._looks()
    described = (
        "An image classifier that decides by the few positions of its feature maps that its masks keep: AIM (Alshami "
        "et al., ICCV 2025), as implemented by aimwrap."
    )
    if second_look is not None:
        described += (
            " It looks twice: the pixels under its masks are cut out, enlarged, and classified again, which decides. "
            "The paper does not have this step."
        )
    parts = [
        f"---\n{head.to_yaml()}\n---\n\n{MARKER}\n",
        f"# {plain(aim.variant)}\n",
        f"{described}\n",
        f"## Use\n\n```python\n{_snippet(model, location)}\n```\n",
        f"## Model\n\n{_table(('', ''), facts_of(model))}\n",
        f"## Metrics\n\n{measured}\n",
        f"## Words of caution\n\n{_OF_FEATURES if second_look is None else _OF_PIXELS}\n{_CAUTION}",
    ]
    return ModelCard("\n".join(parts) + "\n")


def plain(text: str) -> str:
    r"""Text that Markdown shows as it is, on one line.

    Example:
        >>> print(plain("a|b\n# <i>c</i>"))
        a\|b \# \<i\>c\</i\>
    """
    one_line = " ".join("".join(character if character.isprintable() else " " for character in text).split())
    return re.sub(r"(?i)([\\`*_{}\[\]<>#|&~$@]|:(?=/)|(?<=www)\.)", r"\\\1", one_line)


def _snippet(shared: Savable, location: str) -> str:
    model, second_look = shared._looks()
    loader = "AIM" if second_look is None else "SecondLook"
    own = shared._network
    named = all(part.named() is not None for part in (model._recipe, *([] if own is None else [own.recipe])))
    passed = "backbone" if own is None else "(backbone, second_backbone)"
    call = f"{loader}.from_pretrained({location!r}{'' if named else f', backbone={passed}'})"
    drawn = model.preprocessing is None or model.in_channels not in (1, 3)  # which no usual file has
    needed = "import torch" if drawn else "from PIL import Image"
    lines = [needed, f"from aimwrap import {loader}, explain", ""]
    if not named:
        kind = "a module" if own is None else "modules (or None, to build one by its name)"
        lines.append(f"# {passed}: {kind} built as in training; the weights come from this model")
    lines.append(f"model = {call}")
    if drawn:
        shape = ", ".join(map(str, model._recipe.image_shape))
        lines.append(f"images = torch.randn(1, {shape})  # yours, prepared as in training")
    else:
        lines.append(f'image = Image.open("image.{"png" if getattr(model.preprocessing, "window", None) else "jpg"}")')
        lines.append("images = model.preprocessing.transform()(image)[None]")
    lines.append("explanation = explain(model, images)  # logits, masks, and what each position contributes")
    single = model.num_classes == 1  # its sign decides
    predicted = "int(explanation.logits.item() > 0)" if single else "explanation.logits.argmax(1).item()"
    lines.append(f"print({predicted if model.class_names is None else f'model.class_names[{predicted}]'})")
    return "\n".join(lines)


def facts_of(shared: Savable) -> list[tuple[str, str]]:
    """A model's properties in words, by name."""
    model, second_look = shared._looks()
    named = model._recipe.named()
    unknown = f"{model.in_channels} channels; their preprocessing is not recorded"
    facts = [
        ("backbone", model._recipe.was if named is None else named[0]),
        ("head", model.head),
        ("not as in the paper", ", ".join(model.departures) or "nothing"),
        *(
            (f"stage {tap.stage!r}", f"{tap.node}, {tap.channels} channels, stride {tap.stride}, tau {tau:g}")
            for tap, tau in zip(model.taps, model.tau, strict=True)
        ),
        ("pooling", f"mean over {model.pooling} positions"),
        ("classes", listed_classes(model.num_classes, model.class_names)),
        ("images", unknown if model.preprocessing is None else prepared_as(model.preprocessing)),
    ]
    if second_look is not None:
        facts.append(("second look", ", ".join(f"{name} {value:g}" for name, value in second_look.items())))
    if shared._network is not None:
        own = shared._network.recipe
        facts.append(("second look's backbone", (own.named() or [own.was])[0]))
    try:
        facts += [("cost", line) for line in str(shared.cost()).splitlines()]
    except (RuntimeError, TypeError, ValueError, AssertionError) as error:  # as in print(model)
        facts.append(("cost", f"unknown: {type(error).__name__}"))
    return facts


def listed_classes(num_classes: int, names: Sequence[str] | None) -> str:
    """The number of classes, which are two of one logit, and the first names.

    >>> listed_classes(2, ("cat", "dog"))
    '2: cat, dog'
    """
    if names is None:
        return str(max(2, num_classes))
    more = ", ..." if len(names) > _SHOWN_CLASSES else ""
    return f"{len(names)}: {', '.join(names[:_SHOWN_CLASSES])}{more}"


def prepared_as(images: Preprocessing) -> str:
    """The preprocessing of images in words.

    >>> from aimwrap import Preprocessing
    >>> prepared_as(Preprocessing((224, 224), (0.5,) * 3, (0.5,) * 3))
    '224 x 224, resized (bicubic), central crop 0.875, mean 0.5, 0.5, 0.5, std 0.5, 0.5, 0.5'
    """
    height, width = images.image_size
    mean, std = (", ".join(f"{value:.4g}" for value in values) for values in (images.mean, images.std))
    resized = "squashed" if images.squash else "resized"
    prepared = f"{resized} ({images.interpolation}), central crop {images.crop:.4g}, mean {mean}, std {std}"
    window = "" if images.window is None else "window {:g} to {:g}, ".format(*images.window)
    return f"{window}{height} x {width}, {prepared}"


def _metrics(metrics: Mapping[str, Metric] | None) -> str:
    if not isinstance(metrics, Mapping | None) or not all(isinstance(name, str) for name in metrics or ()):
        raise TypeError(f"metrics must be numbers by name, such as {{'accuracy': 0.9}}, got {metrics!r:.80}")
    rows = [(name, *_formatted(name, value)) for name, value in (metrics or {}).items()]
    return _table(("", "value", "interval"), rows) if rows else "None were given."


def _formatted(name: str, metric: Metric) -> tuple[str, str]:
    got = f"got {metric!r:.80}"
    try:
        value, *interval = map(_number, metric if isinstance(metric, tuple | list) else (metric,))
        if isinstance(metric, tuple | list) and len(interval) != 2:
            raise ValueError(f"{len(metric)} values")
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"metrics[{name!r}] must be a number or (value, low, high), {got}") from error
    if any(map(math.isinf, (value, *interval))):
        raise ValueError(f"metrics[{name!r}] must be finite, {got}; leave out what has no value")
    if all(map(math.isnan, interval)):
        return _shown(value), "undefined" if interval else ""
    low, high = interval
    if not low <= value <= high:  # nor if one is NaN
        raise ValueError(f"metrics[{name!r}] must be (value, low, high) with low <= value <= high, {got}")
    return _shown(value), f"{_shown(low)} to {_shown(high)}"


def _number(value: Any) -> float:
    """A number as a float, also one of numpy's or torch's, but not text or a truth value."""
    plain = value.item() if hasattr(value, "item") else value
    if isinstance(plain, bool) or not isinstance(plain, Real):
        raise TypeError(f"{type(plain).__name__} is not a number")
    return float(plain)


def _shown(value: float) -> str:
    return "undefined" if math.isnan(value) else f"{value:.4g}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *([plain(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
