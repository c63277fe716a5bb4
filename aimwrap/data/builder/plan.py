"""Which image shows which cut-out on which background, by split, with a random generator for each image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.random import Generator

from ..._files import checksum
from ..release import SPLITS
from ..sample import images_per_group, own_place
from .sources import Background, Cutout


def generator_of(seed: int, stream: int, index: int = -1) -> Generator:
    """An independent generator for each image, and one (-1) for all images of a stream.

    >>> float(generator_of(0, 1, 7).random()) == float(generator_of(0, 1, 7).random())
    True
    >>> float(generator_of(0, 1, 7).random()) == float(generator_of(0, 1, 8).random())
    False
    """
    return np.random.default_rng([seed, stream, index + 1])


def part_names(names: Sequence[str], shares: Sequence[float], rng: Generator) -> list[list[str]]:
    """Divide names at random by shares; each part gets at least one name.

    >>> import numpy as np
    >>> [len(part) for part in part_names("abcdefghij", (0.6, 0.2, 0.2), np.random.default_rng(0))]
    [6, 2, 2]
    """
    if len(names) < len(shares):
        raise ValueError(f"each of {len(shares)} parts needs at least one name, got {len(names)} in all; add sources")
    shuffled = [names[i] for i in rng.permutation(len(names))]
    parts, start = [], 0
    for number, share in enumerate(shares):
        parts_after = len(shares) - number - 1
        most = len(names) - start - parts_after
        size = min(max(round(share * len(names)), 1), most) if parts_after else most
        parts.append(shuffled[start : start + size])
        start += size
    return parts


def twins_of(paths: Mapping[str, Path]) -> dict[str, str]:
    """By name, the first name with the same file content: both belong into one split. Missing files are found later."""
    by_size: dict[int, list[str]] = {}
    twins = {name: name for name in paths}
    for name, path in paths.items():
        if path.is_file():
            by_size.setdefault(path.stat().st_size, []).append(name)
    first_of: dict[str, str] = {}
    for names in (names for names in by_size.values() if len(names) > 1):  # so that most files are never read
        for name in names:
            twins[name] = first_of.setdefault(checksum(paths[name]), name)
    return twins


def deal(members: Sequence[np.ndarray], sizes: Sequence[Sequence[int]], shift: int = 0) -> np.ndarray:
    """Deal each label's cut-outs to the places, the own place first; they come again in the same order if they run out.

    >>> deal([np.array([7, 8, 9])], [(1, 3)]).tolist()
    [[0, 0, 7], [0, 1, 8], [0, 1, 9], [0, 1, 7]]
    """
    rows = []
    for label, (cutouts, row) in enumerate(zip(members, sizes, strict=True)):
        own = own_place(label, len(row), shift)
        order = [(own + step) % len(row) for step in range(len(row))]
        places = np.repeat(order, [row[place] for place in order])
        rows.append(np.stack([np.full(len(places), label), places, np.resize(cutouts, len(places))], axis=1))
    return np.concatenate(rows).astype(np.int64)


def evenly(members: np.ndarray, count: int, rng: Generator) -> np.ndarray:
    """Draw ``count`` of the members, each equally often up to one, in random order.

    >>> sorted(evenly(np.array([4, 5]), 4, np.random.default_rng(0)).tolist())
    [4, 4, 5, 5]
    """
    return rng.permutation(np.resize(rng.permutation(members), count))


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
    untied = Tying(None, equal_labels=not keep_label_shares)
    return _numbered({"train": Tying(tie), "val": untied, "test": untied}, num_images)


def travelingbirds(
    tie: float = 1.0, *, shift: int = 1, num_images: Mapping[str, int] | None = None
) -> dict[str, Tying]:
    """The ties of a set like TravelingBirds (Koh et al., ICML 2020): in the test every class has another's background.

    Validation is tied as training is, so a model that is chosen by it was not chosen by the test.

    Args:
        tie: share of each class's images on the class's own place.
        shift: by how many classes the places move on in the test.
        num_images: of some splits, how many images, equally many of each class; by default every cut-out is used.

    Returns:
        By split.

    Raises:
        ValueError: if the shift is below 1.

    >>> travelingbirds()["val"].shift, travelingbirds()["test"].shift
    (0, 1)
    """
    if shift < 1:
        raise ValueError(f"shift must be at least 1, so that the test has other places than the training, got {shift}")
    return _numbered({"train": Tying(tie), "val": Tying(tie), "test": Tying(tie, shift)}, num_images)


def _numbered(tyings: Mapping[str, Tying], num_images: Mapping[str, int] | None) -> dict[str, Tying]:
    numbers = num_images or {}
    unknown = [split for split in numbers if split not in SPLITS]
    if unknown:
        raise ValueError(f"num_images must name splits, 'train', 'val' or 'test', got {', '.join(map(repr, unknown))}")
    return {split: tying._replace(num_images=numbers.get(split)) for split, tying in tyings.items()}


SOURCES_STREAM = len(SPLITS)  # of random numbers; the splits' own are their numbers


class Tying(NamedTuple):
    """How one split ties labels to places.

    Attributes:
        tie: share of each label's images on the label's own place, 0 to 1; None spreads them evenly over all places.
        shift: by how many places the assignment of labels to places is turned.
        num_images: of all labels together, equally many of each; None takes every cut-out.
        equal_labels: whether there are equally many images of each label where ``num_images`` is None; cut-outs that
            are left over are not used.
    """

    tie: float | None
    shift: int = 0
    num_images: int | None = None
    equal_labels: bool = False


class Shot(NamedTuple):
    """The plan of one image."""

    split: str
    number: int  # in its split, from 0
    label: int
    place: int
    cutout: Cutout
    background: Background


def plan_shots(
    cutouts: Mapping[str, Sequence[Cutout]],
    backgrounds: Mapping[str, Sequence[Background]],
    tyings: Mapping[str, Tying],
    seed: int,
    *,
    test_share: float = 0.2,
    val_share: float = 0.2,
    cutout_uses: int = 1,
    background_uses: int = 1,
) -> list[Shot]:
    """Divide the sources into splits, and deal them to images.

    Cut-outs are by label, and backgrounds by place, in the order of their numbers; see
    :func:`aimwrap.data.builder.build` for the other arguments.
    """
    if seed < 0:
        raise ValueError(f"seed must be 0 or more, got {seed}")
    for name, number in (("cutout_uses", cutout_uses), ("background_uses", background_uses)):
        if number < 1:
            raise ValueError(f"{name} must be at least 1, got {number}")
    for name, share in (("test_share", test_share), ("val_share", val_share)):
        if not 0 <= share < 1:
            raise ValueError(f"{name} must be a share from 0 to below 1, got {share}")
    for split, tying in tyings.items():
        if split not in SPLITS:
            raise ValueError(f"tyings must have splits as keys ({', '.join(SPLITS)}), got {split!r}")
        if tying.tie is not None and not 0 <= tying.tie <= 1:
            raise ValueError(f"tie must be a share of the images, 0 to 1, got {tying.tie} for {split}")
        if tying.num_images is not None and {"test": test_share, "val": val_share}.get(split) == 0:
            raise ValueError(
                f"{split} was asked for {tying.num_images} images, but {split}_share is 0: give it a share"
            )
    shares = {"train": (1 - test_share) * (1 - val_share), "val": (1 - test_share) * val_share, "test": test_share}
    shares = {split: share for split, share in shares.items() if split in tyings and share > 0}
    rng = generator_of(seed, SOURCES_STREAM)
    cutouts_by_split = _part_sources(cutouts, shares, rng, "cut-outs of label")
    backgrounds_by_split = _part_sources(backgrounds, shares, rng, "backgrounds of place")
    shots: list[Shot] = []
    for split in shares:
        rng = generator_of(seed, SPLITS.index(split))
        objects, places = cutouts_by_split[split], backgrounds_by_split[split]
        available = {label: len(members) * cutout_uses for label, members in objects.items()}
        sizes = _group_sizes(split, tyings[split], available, len(places))
        rows = deal([rng.permutation(len(members)) for members in objects.values()], sizes, tyings[split].shift)
        backdrop = np.empty(len(rows), np.int64)
        for place, (name, members) in enumerate(places.items()):
            here = rows[:, 1] == place
            needed = int(here.sum())
            if needed > len(members) * background_uses:
                raise ValueError(
                    f"there are too few backgrounds of place {name} in {split}: {len(members)}, each used "
                    f"{background_uses} times, for {needed} images. Add photographs, ask for fewer images, or let "
                    f"each come more often: background_uses={-(-needed // len(members))} would do"
                )
            backdrop[here] = evenly(np.arange(len(members)), needed, rng) if needed else 0
        object_lists, place_lists = list(objects.values()), list(places.values())
        for number, row in enumerate(rng.permutation(len(rows))):
            label, place, cutout = rows[row].tolist()
            background = place_lists[place][backdrop[row]]
            shots.append(Shot(split, number, label, place, object_lists[label][cutout], background))
    return shots


Source = TypeVar("Source", Cutout, Background)


def _part_sources(
    kinds: Mapping[str, Sequence[Source]], shares: Mapping[str, float], rng: Generator, what: str
) -> dict[str, dict[str, list[Source]]]:
    """By split and kind, the sources: by the source's own splits if it has any, else by shares.

    Files with the same bytes come into one split, whatever their kind; of splits of their own it is the last one, so
    that the test is kept apart.
    """
    everything = [source for sources in kinds.values() for source in sources]
    paths: dict[str, Path] = {}
    for source in everything:
        if source.name in paths:
            raise ValueError(f"{paths[source.name]} and {source.path} have the same name, {source.name}; rename one")
        paths[source.name] = source.path
    twins = twins_of(paths)
    own = {source.split for source in everything}
    if None in own and len(own) > 1:
        raise ValueError(f"all {what.split()[0]} must have a split, or none; add it to the others")
    drawn = shares
    if None not in own:
        missing = [split for split in shares if split not in own and split != "val"]
        if missing:
            raise ValueError(
                f"the {what.split()[0]} have their own splits, {', '.join(sorted(map(str, own)))}, so they must also "
                f"have the split {', '.join(missing)}; add it, or move them into folders without splits"
            )
        number = {source.name: SPLITS.index(str(source.split)) for source in everything}
        last: dict[str, int] = {}
        for name, twin in twins.items():
            last[twin] = max(last.get(twin, 0), number[name])
        kinds = {
            kind: [source for source in sources if number[source.name] == last[twins[source.name]]]
            for kind, sources in kinds.items()
        }
        drawn = {split: shares[split] for split in ("train", "val")} if "val" in shares and "val" not in own else {}
    pool = {kind: [twins[s.name] for s in sources if s.split in (None, "train")] for kind, sources in kinds.items()}
    split_of = _draw_splits(pool, drawn, rng, what) if drawn else {}
    parts: dict[str, dict[str, list[Source]]] = {split: {kind: [] for kind in kinds} for split in shares}
    for kind, sources in kinds.items():
        for source in sources:
            split = split_of.get(twins[source.name], source.split)
            if split in parts:
                parts[split][kind].append(source)
    for split, by_kind in parts.items():
        empty = [kind for kind, sources in by_kind.items() if not sources]
        if empty:
            raise ValueError(f"there are too few {what} {empty[0]}: none is left for {split}. Add some")
    return parts


def _draw_splits(
    kinds: Mapping[str, Sequence[str]], shares: Mapping[str, float], rng: Generator, what: str
) -> dict[str, str]:
    """The split of each name, divided by shares, kind by kind."""
    total = sum(shares.values())
    split_of: dict[str, str] = {}
    for kind, every in kinds.items():
        names = [name for name in dict.fromkeys(every) if name not in split_of]
        if len(names) < len(shares):
            raise ValueError(
                f"there are too few {what} {kind}: {len(names)} different images, and at least {len(shares)} "
                f"are needed, one for each of {', '.join(shares)}. Add some, or leave out a split with a share of 0"
            )
        divided = part_names(names, [share / total for share in shares.values()], rng)
        split_of |= {name: split for split, part in zip(shares, divided, strict=True) for name in part}
    return split_of


def _group_sizes(
    split: str, tying: Tying, available: Mapping[str, int], num_places: int
) -> tuple[tuple[int, ...], ...]:
    num_labels = len(available)
    step = num_places if tying.tie is None else 1
    counts = [count // step * step for count in available.values()]
    if tying.equal_labels:
        counts = [min(counts)] * num_labels
    if tying.num_images is not None:
        if tying.num_images < 1 or tying.num_images % (num_labels * step):
            what = "groups" if step > 1 else "labels"
            raise ValueError(
                f"the number of images for {split} must be a positive multiple of {num_labels * step}, equally many of "
                f"all {what}, got {tying.num_images}"
            )
        counts = [tying.num_images // num_labels] * num_labels
    for (label, most), count in zip(available.items(), counts, strict=True):
        if count > most or count == 0:
            raise ValueError(
                f"there are too few cut-outs of label {label} in {split}: they give {most} images, and "
                f"{max(count, step)} are needed. Add cut-outs, ask for fewer images, or let each come more often "
                "(cutout_uses)"
            )
    tie = 1 / num_places if tying.tie is None else tying.tie
    return images_per_group(counts, tie, num_places, tying.shift)
