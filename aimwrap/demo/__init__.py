"""The demo: on real images, a plain CNN looks at the background and the same CNN with AIM looks at the object.

``aimwrap demo`` runs it. Data and backbone come with pip packages (extra ``demo``); nothing is downloaded::

    backbone   the pretrained network
    trained    a second look on the digits that comes with the package
    training   the variants and the one training loop they share
    report     scores, table, notes, the figure
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from torch import nn

from ..top_down import Head
from .backbone import load_pretrained_backbone
from .report import Run, Scores, check_picture, draw_demo, format_report, format_table, score
from .trained import load_second_look
from .training import PLAIN, Settings, aim_name, load_splits, train_aim_frozen, train_plain

__all__ = ["Run", "Scores", "Settings", "format_report", "format_table", "load_second_look", "run_demo"]


def run_demo(
    ties: Sequence[float] = (0.95, 1.0),
    seeds: Sequence[int] = (0,),
    settings: Settings | None = None,
    output: Path | None = None,
    heads: Sequence[Head] = ("feature-preserving",),
    make_backbone: Callable[[], nn.Module] = load_pretrained_backbone,
) -> list[Run]:
    """Train every variant with every tie and seed.

    Args:
        ties: shares of the training labels that the background is tied to.
        seeds: each draws its own data, initial weights and order of the batches.
        settings: what the variants share.
        output: where to write the figure, of the last tie and the first seed; None for none.
        heads: of AIM, each trained with its control; the first is in the figure.
        make_backbone: builds a fresh backbone for each variant.

    Returns:
        The scores of every variant, tie and seed.

    Raises:
        OSError: if the figure's folder cannot be made.
        ValueError: if ``output`` is not an image file.
    """
    if output is not None:
        check_picture(output)
    settings = settings or Settings()
    runs = []
    for tie in ties:
        for seed in seeds:
            splits = load_splits(tie, seed, settings)
            outcomes = [train_plain(make_backbone(), splits, settings, seed, frozen) for frozen in (False, True)]
            for head in heads:
                outcomes += train_aim_frozen(make_backbone(), splits, settings, seed, head)
            test = splits[1]
            chance = test.object_masks.mean().item()
            runs += [Run(tie, seed, outcome.variant, score(outcome, test), chance) for outcome in outcomes]
            if output is not None and tie == ties[-1] and seed == seeds[0]:
                by_name = {outcome.variant: outcome for outcome in outcomes}
                figure = draw_demo(test, by_name, PLAIN, aim_name(heads[0]), tie, seed, settings)
                figure.savefig(output)
    return runs
