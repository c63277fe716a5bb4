"""The labels of Waterbirds: two versions, and how tightly they are tied to the places."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Literal

from .release import SPLITS, Record

Version = Literal["original", "corrected"]

# Land birds whose names hold "tern", which is what the release's maker looked for to find the water birds.
MISLABELLED = ("Eastern_Towhee", "Western_Meadowlark", "Western_Wood_Pewee")
WATER_BIRDS = {"Albatross", "Auklet", "Cormorant", "Frigatebird", "Fulmar", "Gadwall", "Grebe", "Guillemot", "Gull"} | {
    *("Jaeger", "Kittiwake", "Loon", "Mallard", "Merganser", "Pelican", "Puffin", "Tern")
}  # last words of the species' names; of the loons CUB has the Pacific one alone
# Images of groups 0 to 3 in the official 95 % release with the original labels.
OFFICIAL_COUNTS = {"train": (3498, 184, 56, 1057), "val": (467, 466, 133, 133), "test": (2255, 2255, 642, 642)}
NUM_IMAGES = 11_788  # of every official release, CUB's


def version_of(records: Iterable[Record]) -> Version | None:
    """Which labels these are, told from the three land birds that the original has as water birds.

    Args:
        records: of every image, in folders by species.

    Returns:
        The version, or None if none of the three species is there.

    Raises:
        ValueError: if some of the three are land birds and some are water birds.
    """
    labels: dict[str, set[int]] = {}
    for record in records:
        species = _species(record)
        if species in MISLABELLED:
            labels.setdefault(species, set()).add(record.label)
    there = {label for found in labels.values() for label in found}
    if len(there) > 1:
        has = ", ".join(f"{name} has {' and '.join(map(str, sorted(found)))}" for name, found in sorted(labels.items()))
        raise ValueError(
            f"the labels mix two versions: {has}; the original labels have 1 for all of them and the corrected ones 0. "
            "Get the table again"
        )
    return None if not there else "original" if there == {1} else "corrected"


def tie_of(records: Iterable[Record]) -> float:
    """The share of the training images that stand on their label's own place (land birds on land, water on water).

    Images of the three species whose labels differ between versions are left out where there are others: a corrected
    label does not move a bird that was pasted on water.

    Args:
        records: of every image.

    Returns:
        The share, 0.5 for no tie to 1 for a perfect one; NaN without training images.
    """
    train = [record for record in records if record.split == "train"]
    certain = [record for record in train if _species(record) not in MISLABELLED] or train
    return sum(record.label == record.place for record in certain) / len(certain) if certain else float("nan")


def check_labels(rows: Iterable[tuple[Record, str]]) -> None:
    """All images of a species have one label, and gulls are water birds: else columns or rows were mixed up.

    Args:
        rows: each image, with the file and line that name it.

    Raises:
        ValueError: if it is not so.
    """
    label_of: dict[str, int] = {}
    for record, where in rows:
        species = _species(record)
        if species is None or species in MISLABELLED:
            continue
        known = label_of.setdefault(species, record.label)
        if known != record.label:
            raise ValueError(
                f"{where}: {species} has y={record.label} here and y={known} above, and a species has one label; the "
                "rows or columns of the table were mixed up. Get it again"
            )
    wrong = [name for name, label in label_of.items() if name.rpartition("_")[2] in WATER_BIRDS and label == 0]
    if wrong:
        raise ValueError(
            f"the table says that {', '.join(wrong[:3])} are land birds (y=0): its labels are the wrong way round, or "
            "columns were mixed up. Get it again"
        )


def _species(record: Record) -> str | None:
    """``Eastern_Towhee`` of ``021.Eastern_Towhee/Eastern_Towhee_0001_22150.jpg``; None of folders of another kind."""
    number, _, species = record.path.parts[-2].partition(".")
    return species if number.isdecimal() and species else None


def described(version: Version | None) -> str:
    """The version, with what tells it."""
    if version is None:
        return f"none of the species that tell ({', '.join(MISLABELLED)})"
    return f"the {version} labels ({', '.join(MISLABELLED)} as {'water' if version == 'original' else 'land'} birds)"


def name_of(records: Sequence[Record], version: Version | None) -> str:
    """``Waterbirds (95 %, original labels)``."""
    trained = any(record.split == "train" for record in records)
    tie = percent(tie_of(records)) if trained else "no training images"
    return f"Waterbirds ({tie}, {version} labels)" if version else f"Waterbirds ({tie}, other birds)"


def percent(share: float) -> str:
    """``95 %``; and 99.9 % stays apart from a perfect tie."""
    return f"{share:.0%}".replace("%", " %") if share in (0, 1) or 0.005 <= share < 0.995 else f"{share * 100:.2f} %"


def notes_on(records: Sequence[Record], version: Version | None) -> list[str]:
    """What the notes say of tie, version and groups."""
    counts = {split: [0] * 4 for split in SPLITS}
    for (split, label, place), number in Counter((r.split, r.label, r.place or 0) for r in records).items():
        counts[split][2 * label + place] = number
    land, water = sum(counts["train"][:2]), sum(counts["train"][2:])
    tie = tie_of(records)
    notes = []
    if land and water:
        without = ", judged without the three species below, which were pasted by their first label"
        notes.append(
            f"The tie is {percent(tie)}{without if version == 'corrected' else ''}: in training {counts['train'][0]} "
            f"of {land} land birds stand on land and {counts['train'][3]} of {water} water birds on water."
        )
    if version is not None:
        wrong = "are labelled water birds, which they are not" if version == "original" else "are labelled land birds"
        notes.append(
            f"These are the {version} labels: Eastern Towhee, Western Meadowlark and Western Wood Pewee {wrong}. "
            "Results with the other labels cannot be compared."
        )
    if {split: tuple(numbers) for split, numbers in counts.items()} == OFFICIAL_COUNTS:
        notes.append("The groups are as large as in the official 95 % release.")
    if len(records) != NUM_IMAGES:
        notes.append(
            f"The table has {len(records)} images, and the official ones {NUM_IMAGES}: it was cut off, or is another."
        )
    if tie == 1:
        notes.append(
            "With a perfect tie some groups have no training images (1 and 2, with the original labels), so averages "
            "over groups of the training set must leave them out; and training and validation images are not those of "
            "the 95 % release: do not take its split."
        )
    notes.append(
        "Group is 2 * label + place: 0 land bird on land, 1 land bird on water, 2 water bird on land, 3 water bird on "
        "water. Validation and test are untied, so their plain accuracy is not what a paper reports that weighs the "
        "groups by their share of the training set."
    )
    return notes
