"""Which epoch's weights are kept, by a rule that has a name and is printed with the result."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from .datasets import Splits
from .settings import Selection

EXPLAINED: Mapping[Selection, str] = {
    "validation worst group": "the epoch whose worst group on the validation split was best; it needs groups there",
    "validation average": "the epoch with the best average accuracy on the validation split; it needs no groups",
    "last": "the last epoch; it needs no validation split",
}
_SCORES: Mapping[Selection, str] = {"validation worst group": "worst_group", "validation average": "average"}


def chosen_rule(asked: Selection | None, splits: Splits) -> Selection:
    """The rule to select by.

    Args:
        asked: by the settings, or None.
        splits: of the data set.

    Returns:
        What was asked for; else by validation average where there is a validation split, and the last epoch where not.

    Raises:
        ValueError: if the rule needs a validation split and there is none.
    """
    if asked is None:
        return "last" if splits.val is None else "validation average"
    if asked != "last" and splits.val is None:
        raise ValueError(
            f"selection={asked!r} needs a validation split, and {splits.train.release.name} has none; hold_out=0.2 "
            "holds out a fifth of the training images, and selection='last' needs none"
        )
    return asked


def score_of(rule: Selection, validation: Mapping[str, Any] | None) -> float:
    """What an epoch's validation is worth by a rule: higher is better, and an undefined score is worth nothing.

    >>> score_of("validation worst group", {"average": 0.9, "worst_group": 0.6})
    0.6
    """
    if rule == "last" or validation is None:
        return -math.inf
    score = validation[_SCORES[rule]]
    return -math.inf if score is None else float(score)
