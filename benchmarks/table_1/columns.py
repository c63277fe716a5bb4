"""The table's columns: the paper's data sets, and built ones of your own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from aimwrap.data.registry import read_by_name
from aimwrap.data.sets.waterbirds import tie_of


class Column(NamedTuple):
    """A data set.

    Attributes:
        name: on the command line and among the results.
        title: as the table has it.
        reader: what reads it, see ``aimwrap.data.READERS``.
        score: what is called accuracy there: ``average`` or ``worst_group``, see ``aimwrap.train.evaluation.evaluate``.
        preset: the recipe that it is trained by.
        tie: the share of its training images on their label's background, where releases differ in it.
    """

    name: str
    title: str
    reader: str
    score: str
    preset: str
    tie: float | None = None

    def check(self, root: str, reader: Mapping[str, Any]) -> None:
        """Refuse the folder of another release, whose results would stand in the wrong column.

        Raises:
            ValueError: if its training images have another tie.
        """
        if self.tie is None:
            return
        found = tie_of(read_by_name(self.reader, root, "train", reader).records)
        if abs(found - self.tie) > 0.02:
            raise ValueError(
                f"{self.name}: {found:.0%} of the training images in {root} are on their label's background, and in "
                f"this column {self.tie:.0%} are; give the folder of that release"
            )


PAPER = (
    Column("imagenet-100", "ImageNet100", "imagenet-100", "average", "ours-imagenet-subsets"),
    Column("hard-imagenet", "Hard-ImageNet", "hard-imagenet", "average", "ours-imagenet-subsets"),
    Column("waterbirds-100", "Waterbirds 100%", "waterbirds", "worst_group", "ours-birds", 1.0),
    Column("waterbirds-95", "Waterbirds 95%", "waterbirds", "worst_group", "ours-birds", 0.95),
    Column("traveling-birds", "TravelingBirds", "traveling-birds", "average", "ours-birds"),
)
"""Of Table 1, in the paper's order."""

OTHERS = (
    Column("cub", "CUB-200", "cub", "average", "ours-birds"),
    Column("imagewoof", "ImageWoof", "imagewoof", "average", "ours-imagenet-subsets"),
)
"""Other data sets of the paper: CUB-200 in Figure 4, ImageWoof in its summary."""


def column_of(name: str) -> Column:
    """A column by its name: a data set of the paper, or one that ``aimwrap data build`` wrote, which has groups."""
    own = Column(name, name, "built", "worst_group", "ours-birds")
    return next((column for column in (*PAPER, *OTHERS) if column.name == name), own)
