"""The table's columns: the paper's data sets, and built ones of your own."""

from __future__ import annotations

from typing import NamedTuple


class Column(NamedTuple):
    """A data set.

    Attributes:
        name: on the command line and among the results.
        title: as the table has it.
        reader: what reads it, see ``aimwrap.data.READERS``.
        score: what is called accuracy there: ``average`` or ``worst_group``, see ``aimwrap.train.evaluation.evaluate``.
        preset: the recipe that it is trained by.
    """

    name: str
    title: str
    reader: str
    score: str
    preset: str


PAPER = (
    Column("imagenet-100", "ImageNet100", "imagenet-100", "average", "ours-imagenet-subsets"),
    Column("hard-imagenet", "Hard-ImageNet", "hard-imagenet", "average", "ours-imagenet-subsets"),
    Column("waterbirds-100", "Waterbirds 100%", "waterbirds", "worst_group", "ours-birds"),
    Column("waterbirds-95", "Waterbirds 95%", "waterbirds", "worst_group", "ours-birds"),
    Column("traveling-birds", "TravelingBirds", "traveling-birds", "average", "ours-birds"),
)
"""In the paper's order."""


def column_of(name: str) -> Column:
    """A column by its name: one of the paper's, or a set that ``aimwrap data build`` wrote, which has groups."""
    own = Column(name, name, "built", "worst_group", "ours-birds")
    return next((column for column in PAPER if column.name == name), own)
