"""Sets that are known by a name, as the ties of their splits; anybody's cut-outs and backgrounds can fill them."""

from __future__ import annotations

from collections.abc import Mapping

from ..release import SPLITS
from .planning import Tying


def waterbirds(
    tie: float = 0.95, *, num_images: Mapping[str, int] | None = None, keep_label_shares: bool = False
) -> dict[str, Tying]:
    """The ties of a set like Waterbirds (Sagawa et al., ICLR 2020): tied in training, untied in validation and test.

    Args:
        tie: share of each label's training images on the label's own place.
        num_images: of some splits, how many images, equally many of each label; by default the training takes every
            cut-out, and the others as many as make all groups equal.
        keep_label_shares: whether validation and test take every cut-out that they can, too, so that only the places
            of each label are equal, as in Waterbirds.

    Returns:
        By split.

    >>> waterbirds(0.9)["train"].tie, waterbirds(0.9)["test"].tie
    (0.9, None)
    """
    numbers = _numbers(num_images)
    untied = Tying(None, equal_labels=not keep_label_shares)
    return {
        "train": Tying(tie, num_images=numbers.get("train")),
        "val": untied._replace(num_images=numbers.get("val")),
        "test": untied._replace(num_images=numbers.get("test")),
    }


def travelingbirds(
    tie: float = 1.0, *, shift: int = 1, num_images: Mapping[str, int] | None = None
) -> dict[str, Tying]:
    """The ties of a set like TravelingBirds (Koh et al., ICML 2020): in the test every class has another's background.

    The validation is tied as the training is: who picks a model by it knows nothing of the test.

    Args:
        tie: share of each class's images on the class's own place.
        shift: by how many classes the places move on in the test.
        num_images: of some splits, how many images, equally many of each class; by default every cut-out is used.

    Returns:
        By split.

    Raises:
        ValueError: if the shift is none.

    >>> travelingbirds()["val"].shift, travelingbirds()["test"].shift
    (0, 1)
    """
    if shift < 1:
        raise ValueError(f"shift must be at least 1, so that the test has other places than the training, got {shift}")
    numbers = _numbers(num_images)
    return {
        "train": Tying(tie, num_images=numbers.get("train")),
        "val": Tying(tie, num_images=numbers.get("val")),
        "test": Tying(tie, shift, num_images=numbers.get("test")),
    }


def _numbers(num_images: Mapping[str, int] | None) -> Mapping[str, int]:
    numbers = num_images or {}
    unknown = [split for split in numbers if split not in SPLITS]
    if unknown:
        raise ValueError(f"num_images must name splits, 'train', 'val' or 'test', got {', '.join(map(repr, unknown))}")
    return numbers
