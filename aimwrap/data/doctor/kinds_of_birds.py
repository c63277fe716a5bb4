"""CUB-200-2011 and the sets that are made of its birds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from ..cub import SPLIT_SIZES, cub_beside, read_cub
from ..release import Release
from ..traveling_birds import Variant, read_traveling_birds
from ..waterbirds import read_waterbirds
from ..waterbirds_labels import OFFICIAL_COUNTS, tie_of, version_of
from .counts import Expected
from .kind import Kind, Sources, call
from .listing import first_line, folders_below

CUB_TABLES = ("images.txt", "classes.txt", "image_class_labels.txt", "train_test_split.txt", "bounding_boxes.txt")
WATERBIRDS_COLUMNS = ("img_id", "img_filename", "y", "split", "place", "place_filename")
# Of the 100 % release. Its training and validation images together are those of the 95 % release, otherwise parted.
FULLY_TIED_TRAIN = (3694, 0, 0, 1101)
FULLY_TIED_VAL = (921, 278)
VARIANTS: Mapping[str, Variant] = {"CUB_fixed": "fixed", "CUB_black": "black", "CUB_random": "random"}
GET_SEGMENTATIONS = (
    "CUB's segmentations come apart from CUB's images: unpack segmentations.tgz beside them, or pass --cub FOLDER "
    "(or --segmentations FOLDER)"
)


def cub_evidence(folder: Path, sources: Sources) -> str | None:
    """CUB's tables, most of them at least, or its name."""
    there = [name for name in CUB_TABLES if (folder / name).is_file()]
    if len(there) >= 3:
        return f"it has {', '.join(there)}"
    return "it is called CUB_200_2011" if folder.name == "CUB_200_2011" else None


def waterbirds_evidence(folder: Path, sources: Sources) -> str | None:
    """A table of images and places; with damaged columns the folder's name helps."""
    table = folder / "metadata.csv"
    header = [name.strip() for name in first_line(table).split(",")]
    there = [name for name in WATERBIRDS_COLUMNS if name in header]
    if "img_filename" in there and len(there) >= 3:
        return f"metadata.csv has the columns {', '.join(there)}"
    if folder.name.lower().startswith("waterbird"):
        return f"it is called {folder.name}"
    return None


def traveling_birds_evidence(folder: Path, sources: Sources) -> str | None:
    """Its folder's name, one level up or down, or the tables of places."""
    variants = [name for name in VARIANTS if (folder / name).is_dir()]
    if variants:
        return f"it has {' and '.join(variants)}"
    if folder.name in VARIANTS:
        return f"it is called {folder.name}"
    tables = [name for name in ("train_places.json", "test_places.json") if (folder / name).is_file()]
    return f"it has {' and '.join(tables)}" if tables else None


def waterbirds_expected(release: Release) -> Mapping[str, Expected]:
    """The official counts: by group at 95 %, by label at 100 %, and for other ties or labels in all."""
    sizes = {split: sum(groups) for split, groups in OFFICIAL_COUNTS.items()}
    tie = tie_of(release.records)
    if version_of(release.records) != "original":
        return {split: Expected(size) for split, size in sizes.items()}
    if tie > 0.995:  # not exactly 1, so that a row that was changed is found
        return {
            "train": Expected(sizes["train"], groups=FULLY_TIED_TRAIN),
            "val": Expected(sizes["val"], FULLY_TIED_VAL, balanced=True),
            "test": Expected(sizes["test"], groups=OFFICIAL_COUNTS["test"]),
        }
    if 0.94 < tie < 0.96:
        return {split: Expected(size, groups=OFFICIAL_COUNTS[split]) for split, size in sizes.items()}
    return {split: Expected(size, balanced=split != "train") for split, size in sizes.items()}


def cub_sizes(release: Release) -> Mapping[str, Expected]:
    """Of CUB's own split."""
    return {split: Expected(size) for split, size in SPLIT_SIZES.items()}


def _cub_folders(release: Release) -> Iterable[Path]:
    yield from folders_below(release.root / "images")
    masks = {record.mask_path.parent.parent for record in release.records if record.mask_path is not None}
    for folder in sorted(masks):
        yield from folders_below(folder)


def _waterbirds_folders(release: Release) -> Iterable[Path]:
    return folders_below(release.root, leave_out=("CUB_200_2011", "segmentations"))


def _traveling_birds_lack(root: Path, sources: Sources) -> str | None:
    if sources.cub is not None or cub_beside(_variant_folder(root)) is not None:
        return None
    return (
        "TravelingBirds does not say which birds are for the test, CUB does (train_test_split.txt), and there is no "
        "CUB_200_2011 beside it: pass --cub FOLDER"
    )


def _reads_cub(root: Path, sources: Sources) -> str:
    return call("CUB200", root, segmentations=sources.segmentations)


def _reads_waterbirds(root: Path, sources: Sources) -> str:
    return call("Waterbirds", root, cub=sources.cub, segmentations=sources.segmentations)


def _read_traveling_birds(root: Path, sources: Sources) -> Release:
    variant = VARIANTS[_variant_folder(root).name]
    return read_traveling_birds(root, variant, cub=sources.cub, segmentations=sources.segmentations)


def _reads_traveling_birds(root: Path, sources: Sources) -> str:
    variant = _variant_folder(root)
    return call(
        "TravelingBirds",
        root,
        cub=sources.cub,
        segmentations=sources.segmentations,
        variant=None if variant.name == "CUB_fixed" else VARIANTS[variant.name],
    )


def _variant_folder(root: Path) -> Path:
    """The folder itself if it is one, or the first in it, TravelingBirds proper before its controls."""
    if root.name in VARIANTS:
        return root
    return next((root / name for name in VARIANTS if (root / name).is_dir()), root / "CUB_fixed")


CUB = Kind(
    "cub",
    "CUB-200-2011",
    cub_evidence,
    lambda root, sources: read_cub(root, sources.segmentations),
    _reads_cub,
    expected=cub_sizes,
    num_classes=200,
    own_folders=_cub_folders,
    where_masks=GET_SEGMENTATIONS,
)
WATERBIRDS = Kind(
    "waterbirds",
    "Waterbirds",
    waterbirds_evidence,
    lambda root, sources: read_waterbirds(root, cub=sources.cub, segmentations=sources.segmentations),
    _reads_waterbirds,
    expected=waterbirds_expected,
    own_folders=_waterbirds_folders,
    where_masks=GET_SEGMENTATIONS,
)
TRAVELING_BIRDS = Kind(
    "traveling-birds",
    "TravelingBirds",
    traveling_birds_evidence,
    _read_traveling_birds,
    _reads_traveling_birds,
    lacks=_traveling_birds_lack,
    expected=cub_sizes,
    num_classes=200,
    where_masks=GET_SEGMENTATIONS,
)
