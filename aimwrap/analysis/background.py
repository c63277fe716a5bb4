"""Does the background alone predict the label? A linear classifier on images whose kept region is painted over."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .._checks import check_second_look
from .._numerics import predicted_classes, without_autocast
from .._text import table, with_progress
from ..exchange import painted_over
from ..resizing import resize_to
from ..second_look import SecondLook, bounds, kept_pixels
from .areas import check_batch
from .intervals import wilson_interval
from .readout import evaluating, inside, unwrap

FOLDS = 5
DECAY = 0.3  # of the weights on standardised features
STEPS = 100


@dataclass(frozen=True, eq=False)
class BackgroundBias:
    """What :func:`background_bias` measured; ``print`` it.

    Attributes:
        accuracy: of a linear classifier that sees the background alone, on images that it was not fitted on.
        low, high: its 95 % confidence interval (Wilson 1927).
        chance: the share of the most frequent class.
        box_accuracy: the same of a classifier that sees only where the painted box is, on one and the same image: its
            size and place may say something of the class.
        object_accuracy: the same of a classifier that sees the kept region alone; ``object_low`` and ``object_high``
            are its interval.
        hidden: the mean share of an image that was painted over for the background.
        right: whether the background gave each image's label away, (N,) bool in the order of the batches.
        measured: (N,) bool; the others have an empty mask, so nothing to paint over, and are left out.
    """

    accuracy: float
    low: float
    high: float
    chance: float
    box_accuracy: float
    object_accuracy: float
    object_low: float
    object_high: float
    hidden: float
    right: Tensor
    measured: Tensor

    @property
    def wrong(self) -> list[int]:
        """The numbers of the images whose background speaks for another class.

        Where groups are unknown, look at these first: images that contradict a shortcut are among them.
        """
        return (self.measured & ~self.right).nonzero().flatten().tolist()

    def __str__(self) -> str:
        rows = [
            ("a linear classifier sees only", "accuracy", "95 % interval"),
            ("the background", f"{self.accuracy:.3f}", f"[{self.low:.3f}, {self.high:.3f}]"),
            ("the kept region", f"{self.object_accuracy:.3f}", f"[{self.object_low:.3f}, {self.object_high:.3f}]"),
            ("where the box is", f"{self.box_accuracy:.3f}", ""),
            ("nothing", f"{self.chance:.3f}", ""),
        ]
        caution = "What the masks leave of an object counts as background, and so does a true cause."
        return f"{table(rows)}\n{self.verdict} {caution}"

    @property
    def verdict(self) -> str:
        """What the numbers say, in one or two sentences."""
        images = int(self.measured.sum())
        if self.low > max(self.chance, self.box_accuracy):
            said = f"The background alone predicts the label of {self.accuracy:.0%} of {images} images."
        elif self.low > self.chance:
            said = f"Of {images} images, the background says no more than the size and the place of the box."
        else:
            said = f"Of {images} images, the background says no more than chance."
        if images < len(self.right):
            said += f" {len(self.right) - images} images with empty masks are left out."
        return said


@torch.no_grad()
def background_bias(
    model: nn.Module,
    batches: Iterable[Sequence[Tensor]],
    *,
    margin: int = 2,
    seed: int = 0,
    progress: bool = True,
) -> BackgroundBias:
    """Measure how well the background alone predicts the labels.

    In each image, the box around the pixels that the masks keep is painted over with the colours around it, so that
    neither the object nor its outline is left. The backbone's features of the rest are classified by logistic
    regression, in five folds: every image is judged by a classifier that was fitted on the others. If this is clearly
    better than chance, the labels of these images are tied to their background, and a model can use that. Features of
    closed positions would not do, since each of them depends on more of the image than its own cell.

    The size and the place of the painted box may say something of the class, too, so they are measured by themselves,
    with the boxes painted into one and the same image. It cannot know where the object is: where the masks miss a part
    of it, that part counts as background, and the result is too high. It cannot tell a shortcut from a true cause, such
    as water for a ship. With few images it is too low, and where the background says nothing, it may even be below
    chance, since each image is missing among those that its classifier was fitted on.

    Args:
        model: a trained :class:`~aimwrap.AIM`, also inside wrappers or a second look. It is left as it is.
        batches: a ``DataLoader`` or a list of batches: images (N, C, H, W) as the model takes them, and labels (N,);
            where images have several classes, 0 or 1 for one of them. Use training images without augmentation; the
            features of all of them are kept.
        margin: positions by which the merged mask is grown on every side, so that it covers the object.
        seed: of the folds.
        progress: whether to show a bar.

    Returns:
        The accuracy of the background, beside that of the kept region and chance.

    Raises:
        TypeError: if the model is neither an AIM nor a second look, or a batch is of the wrong type.
        ValueError: if the margin is not a whole number, labels do not fit, there are too few images or only one class,
            or the masks leave nothing over or keep nothing.
    """
    check_second_look(margin=margin)
    second = inside(model, SecondLook)
    aim = unwrap(model if second is None else second.first)
    parts: list[list[Tensor]] = []  # of each batch: labels, shares kept and hidden, and the three kinds of features
    one: Tensor | None = None
    with evaluating(aim):
        for batch in with_progress(batches, "background") if progress else batches:
            several = "; where images have several classes, measure one: labels[:, 0].long()"
            images, own, *_ = check_batch(batch, None, max(2, aim.num_classes), several)
            images = images.to(aim.classifier.weight.device)
            kept = kept_pixels(aim.forward_masks(aim.forward_backbone(images)).merged_mask, images, margin)
            region = bounds(kept)
            one = images[:1] if one is None else one
            same = (one if one.shape[2:] == images.shape[2:] else resize_to(one, images)).expand_as(images)
            parts.append([own.cpu().long(), *(part.float().mean((1, 2, 3)).cpu() for part in (kept, region))])
            for pixels, shown in ((images, 1 - region), (same, 1 - region), (images, region)):
                maps = aim.forward_backbone(painted_over(pixels, shown))
                parts[-1].append(list(maps.values())[-1].mean((2, 3)).float().cpu())
    if (number := sum(len(own) for own, *_ in parts)) < 2 * FOLDS:
        raise ValueError(f"batches must hold at least {2 * FOLDS} images, got {number}")
    labels, kept_shares, hidden_shares, *features = map(torch.cat, zip(*parts, strict=True))
    measured = kept_shares > 0
    if int(measured.sum()) < max(2 * FOLDS, len(measured) // 2):
        raise ValueError(
            f"the masks keep something of {int(measured.sum())} of {len(measured)} images only, too few to compare; "
            "give more images, or see MaskHealth for the remedy"
        )
    truth, hidden = labels[measured], hidden_shares[measured].mean().item()
    if len(truth.unique()) < 2:
        raise ValueError("batches must hold images of at least two classes, got one")
    if hidden > 0.95:
        raise ValueError(f"the masks, with margin={margin}, leave no background; see MaskHealth for the remedy")
    if not all(found[measured].isfinite().all() for found in features):
        raise ValueError("features must be finite, got NaN or infinity; check the images and the model's weights")
    by_background, by_box, by_object = (classified_in_folds(found[measured], truth, seed) for found in features)
    right = measured.clone()
    right[measured] = by_background
    scores = [(int(r.sum()) / len(r), *wilson_interval(int(r.sum()), len(r))) for r in (by_background, by_object)]
    chance, box = truth.bincount().max().item() / len(truth), by_box.float().mean().item()
    return BackgroundBias(*scores[0], chance, box, *scores[1], hidden, right, measured)


@torch.inference_mode(False)
@torch.enable_grad()
def classified_in_folds(features: Tensor, labels: Tensor, seed: int) -> Tensor:
    """Whether multinomial logistic regression, fitted on the other folds, gives each image its label, (N,) bool.

    Of features (N, D) and labels (N,), numbers from 0; the seed draws the folds.
    """
    features, labels = features.clone(), labels.clone()  # no longer made under inference_mode
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    order = order[labels[order].argsort(stable=True)]  # each fold has its share of every class
    right = torch.zeros(len(labels), dtype=torch.bool)
    classes = int(labels.max()) + 1
    for fold in range(FOLDS):
        held_out, fitted = order[fold::FOLDS], order[torch.arange(len(order)) % FOLDS != fold]
        scale = features[fitted].std(0)
        scale = scale.clamp(min=max(1e-3 * scale.max().item(), 1e-12))  # some channels are nearly constant
        standard = (features - features[fitted].mean(0)) / scale
        weight = features.new_zeros(features.shape[1], classes).requires_grad_()
        bias = features.new_zeros(classes).requires_grad_()
        optimizer = torch.optim.LBFGS([weight, bias], max_iter=STEPS, line_search_fn="strong_wolfe")

        def loss(
            x: Tensor = standard[fitted], y: Tensor = labels[fitted], w: Tensor = weight, b: Tensor = bias
        ) -> Tensor:
            value = F.cross_entropy(x @ w + b, y) + DECAY * w.square().sum()
            w.grad, b.grad = torch.autograd.grad(value, (w, b))
            return value.detach()

        with without_autocast(features):  # it would keep the first weights' cast for ever
            optimizer.step(loss)
            logits = (standard[held_out] @ weight + bias).detach()
        right[held_out] = predicted_classes(logits) == labels[held_out]
    return right
