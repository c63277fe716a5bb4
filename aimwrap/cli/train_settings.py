"""Settings of a training run from the options of ``aimwrap train``, and the library's messages in their words."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from .choices import Selection
from .messages import first_name_as_option

if TYPE_CHECKING:
    from ..train import Settings

# Settings whose options have the same names and values.
SAME_NAMES = (
    *("data", "root", "hold_out", "backbone", "frozen"),
    *("head", "anneal_share", "mask_weight", "area_per"),
    *("image_size", "crop", "augmentation"),
    *("epochs", "batch_size", "accumulate", "optimizer", "lr", "head_lr", "mask_lr", "weight_decay", "momentum"),
    *("schedule", "warmup_epochs", "step_epochs", "step_factor", "clip", "ema"),
    *("checkpoint_steps", "precision"),
)
_SWITCHES = ("labels_move_area", "sync_batchnorm")


def settings_of(preset: str | None, given: dict[str, Any]) -> Settings:
    """Settings from a preset and what was given beside it, which wins.

    >>> settings_of("ours-frozen", {"data": "built", "root": "data/stamps", "epochs": 6}).tau
    (0.1,)
    """
    from ..train import PRESETS, Settings

    if preset is not None and preset not in PRESETS:
        raise ValueError(f"preset must be one of {', '.join(PRESETS)}, got {preset!r}")
    recipe = {} if preset is None else PRESETS[preset].settings
    return Settings(**{**recipe, **given})


def check_all_used(settings: Settings, given: Iterable[str]) -> None:
    """Refuse options that would do nothing beside the others.

    Args:
        settings: what the options came to.
        given: the names that were given, without those of the preset.

    Raises:
        ValueError: naming the option, and what it goes with.
    """
    of_aim = ("stages", "tau", "head", "labels_move_area", "anneal_share", "mask_weight", "area_per", "mask_lr")
    unused = {
        **dict.fromkeys(of_aim if settings.method == "plain" else (), "masks, and a plain backbone has none"),
        **dict.fromkeys(("momentum",) if settings.optimizer != "sgd" else (), "--optimizer sgd"),
        **dict.fromkeys(("step_epochs", "step_factor") if settings.schedule != "step" else (), "--schedule step"),
    }
    for name in given:
        if name in unused:
            raise ValueError(f"--{name.replace('_', '-')} is an option of {unused[name]}; leave it out")


def parse_stages(text: str) -> tuple[int | str, ...]:
    """Read ``--stages``.

    >>> parse_stages("2,3"), parse_stages("layer3,layer4")
    ((2, 3), ('layer3', 'layer4'))
    """
    return tuple(int(part) if part.strip().isdecimal() else part.strip() for part in text.split(",") if part.strip())


def parse_areas(text: str) -> tuple[float, ...]:
    """Read ``--tau``.

    >>> parse_areas("0.35,0.25")
    (0.35, 0.25)
    """
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"tau must be one number or one per stage, such as 0.25 or 0.35,0.25; got {text!r}") from None


def parse_selection(text: Selection) -> str:
    """The rule's whole name.

    >>> parse_selection("worst-group")
    'validation worst group'
    """
    return text if text == "last" else f"validation {text.replace('-', ' ')}"


def as_option(message: str) -> str:
    """A message of the library for those who called it by the command.

    >>> as_option("hold_out=0.2 holds out a fifth, and batch_size must be 1 or more")
    '--hold-out 0.2 holds out a fifth, and --batch-size must be 1 or more'
    >>> as_option("frozen='backbone' trains the classifier alone; lower accumulate=4")
    '--frozen backbone trains the classifier alone; lower --accumulate 4'
    >>> as_option("stages is empty; stages=[2, 3] is the paper's usual choice")
    "stages is empty; --stages 2,3 is the paper's usual choice"
    """
    message = first_name_as_option(message, {*SAME_NAMES, "stages", "tau", "selection"} - {"data", "root"})
    for name in sorted([*SAME_NAMES, *_SWITCHES, "selection"], key=len, reverse=True):
        option = f"--{name.replace('_', '-')}"
        message = re.sub(rf"(?<![\w-]){name}='([^\s']+)'", rf"{option} \1", message)
        message = re.sub(rf"(?<![\w-]){name}=(?=\S)", f"{option} ", message)
        if "_" in name:  # what is one word may be meant as a word
            message = re.sub(rf"(?<![\w-]){name}(?![\w=])", option, message)
    return re.sub(r"stages=\[([^\]]+)\]", lambda found: "--stages " + re.sub(r"[\s']", "", found[1]), message)
