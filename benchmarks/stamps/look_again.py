"""A second look through AIM's masks, its control, and how they are trained: on pixels, with the first look held fixed.

AIM is trained as in the headline; its merged mask, grown by one position, is cut out of each image and enlarged, and a
linear layer on the frozen backbone's average features is trained again, with the linear probe's own search. The control
does the same with as many positions of the linear probe's class-activation map: it shows the effect of enlarging alone.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from parts import LOOK_BY_CAM
from torch import Tensor, nn
from variants import Config, Data, Outcome, all_of, plain_outcome, rows_of, train, train_plain

from aimwrap import AIM, SecondLook
from aimwrap.analysis.look import look
from aimwrap.second_look import boxes_around, enlarge, kept_pixels, on_the_image

FIRST = {"epochs": 20, "learning_rate": 1e-3}  # the headline's AIM
PROBE = {"epochs": 1, "learning_rate": 3e-4}  # the best linear probe, whose map the control looks through
MARGIN = 1


class Looked(NamedTuple):
    """One split after the first look.

    Attributes:
        data: with the final maps of the second look.
        merged: the first look's merged masks, (N, 1, h, w).
        kept: pixels that the second look is shown, (N, 1, H, W).
        boxes: what is enlarged, (N, 4).
    """

    data: Data
    merged: Tensor
    kept: Tensor
    boxes: Tensor


_first: dict[tuple[Config, int], AIM] = {}  # the last first look, which a search shares
_second: dict[tuple[Config, int], tuple[Looked, Looked]] = {}  # and what the last second look sees


def look_again(config: Config, data: tuple[Data, Data], backbone: nn.Module) -> Outcome:
    """Train a second look's classifier; ``config``'s rate and epochs are its own, tau is the first look's."""
    train_set, test_set = looked(config, data, backbone)
    outcome = train_plain(config, (train_set.data, test_set.data), backbone)
    heatmap = on_the_image(outcome.look.heatmap, test_set.kept, test_set.boxes)
    look = outcome.look._replace(heatmap=heatmap, merged_mask=test_set.merged, kept=test_set.kept)
    return outcome._replace(look=look)


def pixels_again(config: Config, data: tuple[Data, Data], backbone: nn.Module) -> Outcome:
    """The same by the library's own module, whose predictions can be asked for other pixels."""
    train_set, test_set = looked(config, data, backbone)
    outcome = train_plain(config, (train_set.data, test_set.data), backbone)
    second = SecondLook(first_look(config, data, backbone), margin=MARGIN)
    second.classifier = outcome.model.classifier
    said = all_of([look(second, images) for images in data[1].images.split(50)])
    assert (said.logits.argmax(1) == outcome.look.logits.argmax(1)).float().mean() > 0.99  # rounding alone differs
    return outcome._replace(look=said, model=second)


def looked(config: Config, data: tuple[Data, Data], backbone: nn.Module) -> tuple[Looked, Looked]:
    """Both splits, as the second look of a config sees them."""
    key = (replace(config, **FIRST), id(data))
    if key not in _second:
        model, margin = first_look(config, data, backbone), MARGIN
        masks = merged_masks(model, data[0]), merged_masks(model, data[1])
        if config.method == LOOK_BY_CAM:  # the control
            probe = train(replace(config, method="plain", **PROBE), data, backbone).model.classifier
            train_masks, test_masks = (as_many_of(d, m, probe, backbone) for d, m in zip(data, masks, strict=True))
            masks, margin = (train_masks, test_masks), 0  # as many as the grown masks have
        train_look, test_look = (through(d, m, margin, backbone) for d, m in zip(data, masks, strict=True))
        _second.clear()
        _second[key] = train_look, test_look
    return _second[key]


def first_look(config: Config, data: tuple[Data, Data], backbone: nn.Module) -> AIM:
    """AIM as the headline trains it, whose masks a search shares."""
    first = replace(config, method="aim", **FIRST)
    key = (first, id(data))
    if key not in _first:
        model = train(first, data, backbone).model
        assert isinstance(model, AIM)
        _first.clear()
        _first[key] = model.eval()
    return _first[key]


@torch.no_grad()
def merged_masks(model: AIM, data: Data) -> Tensor:
    batches = torch.arange(len(data.labels)).split(50)
    return torch.cat([model.forward_masks(rows_of(data, batch).maps).merged_mask for batch in batches])


def as_many_of(data: Data, masks: Tensor, classifier: nn.Linear, backbone: nn.Module) -> Tensor:
    """The positions where the plain map is highest, as many as each image's grown mask has."""
    heatmap = plain_outcome(backbone, classifier, data.maps["final map"]).look.heatmap
    fine = F.interpolate(heatmap[:, None], masks.shape[-2:], mode="bilinear")
    counts = F.max_pool2d(masks, 2 * MARGIN + 1, 1, MARGIN).flatten(1).sum(1, keepdim=True)
    ranks = fine.flatten(1).argsort(1, descending=True).argsort(1)
    return (ranks < counts).to(masks).view_as(masks)


@torch.no_grad()
def through(data: Data, merged: Tensor, margin: int, backbone: nn.Module) -> Looked:
    """What the backbone makes of the enlarged pixels under a mask; grey, which is 0 here, hides the others."""
    kept = kept_pixels(merged, data.images, margin)
    boxes = boxes_around(kept)
    batches = torch.arange(len(data.labels)).split(50)
    closer = [enlarge(data.images[b] * kept[b], boxes[b]) for b in batches]
    maps = [backbone.forward_features(shown.contiguous(memory_format=torch.channels_last)) for shown in closer]
    return Looked(data._replace(maps={"final map": torch.cat(maps)}), merged, kept, boxes)
