"""Images in a folder per class, as torchvision's ``ImageFolder`` reads them, with masks in a parallel folder."""

from __future__ import annotations

import posixpath
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from ..io import FolderListing, expand_path, left_out, list_folder, pictures, pictures_below, subfolders
from ..release import SPLIT, SPLITS, Record, Release, all_trained, split_of, written_twice
from . import DatasetOnDisk, Sources

KINDS_OF_FILES = re.compile(
    r"(?:jpeg)?images?|imgs?|pictures?|photos?|data|originals?|((?:binary[ _-]?)?masks?(?:[ _-]?binary)?|labels?|"
    r"(?:un)?labell?ed|annotations?|segment(?:ations?(?:class|object)?|ed)|seg|gt|ground[ _-]?truths?|thumb(?:nail)?s?)"
)
PARTS = re.compile(
    r"(.*[ _-])?(?i:images?|(?<=[ _-])part|fold|batch|(?:data|sub)?set)(?:[ _-]?[0-9]+|[ _-][a-z]|[ _-]?[A-Z])"
)
MASK = re.compile(
    r"(?i)(^|(?<=/))((images?|masks?|labels?|seg\w*|gt|ground.truth|thumb(nail)?s?|resized)/|(mask|seg|gt|label)[ _-])|"
    r"[ _-](mask|seg\w*|gt)[\d _-]*$|([ _-](labels?|annotations?|superpixels?|overlay)|mask)$"
)
ENDS = re.compile(  # also beginnings
    r"images|masks?|labels|annotations|seg(mentations)?|gt|groundtruth|thumb(nail)?s?|aug|augment(ed|ation)?|resized|cropped"
)
COPY = re.compile(  # as file managers name it, or who makes more images of each
    r"(?i)^(cop(y|ie|ia)|kopie)( \(\d+\))? (of|de|von) |([ _-]+(cop(y|ie|ia)|kopie|\(\d+\))( ?\(?\d+\)?)?| 2)$|"
    r"^aug(mented)?[ _-]|[ _-]+(aug(mented|mentation|s)?|rotated|rot(ate)?[ _-]?\d+|([hv][ _-]?)?flip(ped)?)[ _-]?\d*$"
)

_AS_TABLE = r""". If {0} are the classes, with the same {1}s in each, run this in {2} and read images.tsv as a table:
python -c "import pathlib; print('image\tlabel\t{1}', *(p.as_posix() + '\t' + '\t'.join(p.parts[:2])
for p in sorted(pathlib.Path().glob('*/*/**/*.*')) if p.suffix and p.is_file()), sep='\n')" > images.tsv"""


def read_folder(root: str | Path, *, masks: str | Path | None = None, any_value_is_object: bool = False) -> Release:
    """Read images in a folder per class: ``root/class/*.jpg``, or ``root/train/class/*.jpg`` and so on.

    Classes are the sorted names of the folders, of all splits together; where every split has every class, labels are
    those of ``ImageFolder`` on each split. Folders in a class's folder belong to the class. Hidden entries, folders
    that tools make (``@eaDir``) and files that are not images by their suffixes (``.jpg``, ``.PNG``) are left out.

    Args:
        root: a folder with a folder per class; or one with a folder per split, each with a folder per class. Splits
            are called train (``training_set`` and so on), val and test, in any case; else all is ``"train"``.
        masks: a folder with the same folders and file names as ``root``, except for the suffixes. Splits without
            a folder in it have no masks; in the others every image must have its mask.
        any_value_is_object: whether every value of a mask above zero means the object, such as in masks of zeros and
            ones; else the value's share of 255 is how much of the pixel the object covers.

    Returns:
        All images, by split, class and name.

    Raises:
        FileNotFoundError: if a folder is missing, a class has no image, or an image lacks its mask.
        ValueError: if folders of splits and classes are mixed or one level off, a class is written in two ways, images
            are outside of classes, masks are among them, or a mask could be that of two images.
    """
    root = expand_path(root)
    mask_root = None if masks is None else expand_path(masks)
    parts = _split_folders(root, mask_root)
    classes = sorted({name for _, names in parts.values() for name in names})
    if twice := written_twice(classes):
        raise ValueError(f"{root} has the classes {twice}; move the images of one class into one folder, or rename it")
    label = {name: number for number, name in enumerate(classes)}
    top = next(iter(parts.values()))[0] == root  # no splits
    notes = [f"The folder {name} is read as a class, not as a split." for name in classes if top and split_of(name)]
    records = []
    below: dict[str, Counter[str]] = {name: Counter() for name in classes}
    unread: list[Path] = []
    for split, (folder, names) in parts.items():
        relatives = [f"{name}/{relative}" for name in names for relative in _class_pictures(folder / name, unread)]
        _check_kinds(folder, names, relatives)
        mask_of: dict[str, Path] = {}
        if mask_root is not None:
            mask_folder = mask_root / folder.relative_to(root)
            if mask_folder.is_dir():
                mask_of = _masks(folder, mask_folder, relatives)
            else:
                notes.append(f"The split {split} has no masks: {mask_folder} is not a folder.")
        for relative in relatives:
            name, *inner = relative.split("/")[:-1]
            below[name]["/".join(inner)] += 1
            path, mask = folder / relative, mask_of.get(_stem(relative))
            records.append(Record(path.relative_to(root).as_posix(), path, label[name], split, mask_path=mask))
        lacking = sorted(set(classes) - set(names))
        if lacking:
            notes.append(
                f"The split {split} lacks the classes {', '.join(lacking)}. Labels count the classes of all splits, so "
                "ImageFolder on this split alone numbers them differently."
            )
    check_level(root, below)
    if inner := sorted({f"{name}/{at.split('/')[0]}" for name, folders in below.items() for at in folders if at}):
        notes.append(f"Images in folders within a class count as that class, such as those in {', '.join(inner[:5])}.")
    notes += left_out(unread, root)
    if mask_root is not None and not any(record.mask_path for record in records):
        raise FileNotFoundError(
            f"masks must be a folder with the same folders as {root}, and {mask_root} has none of them; pass "
            "masks=None to go without"
        )
    return all_trained(Release(root.name, root, tuple(records), tuple(classes), (), any_value_is_object, tuple(notes)))


def _split_folders(root: Path, mask_root: Path | None) -> dict[str, tuple[Path, list[str]]]:
    """Each split's folder and its classes, in the order of the splits."""
    listing = list_folder(root, "root")
    no_masks = mask_root is None or not mask_root.exists()
    names = [name for name in listing.folders if no_masks or not (root / name).samefile(str(mask_root))]
    named = {name: split for name in names if (split := split_of(name))}
    inside = {name: list_folder(root / name) for name in named}
    splits = [name for name in inside if inside[name].folders and not inside[name].pictures]
    if not splits:
        loose = [name for name in named if inside[name].pictures]
        if {name.lower() for name in loose} - {"train"}:  # which may be a class of vehicles
            raise ValueError(
                f"{root} has images of no class in {', '.join(loose)}; sort them into a folder per class (such as "
                f"{Path(loose[-1], 'cat')}), or move them elsewhere. If it is a class, rename the folder"
            )
        return {"train": (root, _class_names(root, names, listing.pictures))}
    others = sorted(set(names) - set(splits))
    if others:
        raise ValueError(
            f"{root} has folders of splits ({', '.join(splits)}) and others ({', '.join(others)}), so those would "
            "have to be classes; move either out, or pass one split's folder as root. A folder of masks is passed "
            "as masks="
        )
    found: dict[str, tuple[Path, list[str]]] = {}
    for name in splits:
        split = named[name]
        if split in found:
            raise ValueError(
                f"{root} has two folders of the split {split}, {found[split][0].name} and {name}; remove one"
            )
        found[split] = (root / name, _class_names(root / name, inside[name].folders, []))
    return {split: found[split] for split in SPLITS if split in found}


def _class_names(folder: Path, names: list[str], pictures: list[str]) -> list[str]:
    if pictures:
        raise ValueError(
            f"{folder} has {len(pictures)} images next to its folders of classes, such as {pictures[0]}, "
            "which belong to no class; move them into one or elsewhere. Images with a table are for read_table"
        )
    if not names:
        raise FileNotFoundError(f"{folder} must have a folder per class, and has none; pass the folder that has them")
    return names


def _first_folders(below: Counter[str]) -> set[str]:
    """The folders in the first folder that has several, if no image is above them; "" for images of its own."""
    shared = posixpath.commonpath(below)
    shared = "" if shared in below else shared
    own = 8 * below[""] > below.total()  # one or two may be there by mistake
    return {at.removeprefix(shared).lstrip("/").split("/")[0] for at in below if at or own}


def check_level(root: Path, images: Mapping[str, Counter[str]], source: str = "") -> None:
    """Refuse folders of something other than classes, or a build's ``source``; ``images`` are counted by folder."""
    below = {name: _first_folders(at) for name, at in images.items()}
    for name, inner in below.items():
        if inner - {""} and inner - {""} <= below.keys() - {name}:
            raise ValueError(
                f"{root / name} has folders named as the classes ({', '.join(sorted(inner - {''}))}), so it is none: "
                "move it elsewhere, and pass it as masks= if it holds masks"
            )
    first, *others = below
    inside = sorted(set().union(*below.values()))
    same = max((sorted(below[first] & below[other]) for other in others), key=len, default=[])
    times = Counter(name for names in below.values() for name in names)
    shared = sorted(name for name in times if times[name] > 1)
    same = shared if len(same) < 2 < len(below) >= len(inside) else same  # as of patients, of whom few have all classes
    same = inside if all(map(split_of, inside)) else same
    kinds = [match[1] for name in below if (match := KINDS_OF_FILES.fullmatch(name.lower()))]
    of_files = len(kinds) == len(below) and any(kinds)
    column = "split" if all(map(split_of, same)) else "place"
    parts = [match[1] for name in below if (match := PARTS.fullmatch(name))]
    of_files |= len(parts) == len(below) and len({*parts}) == 1
    of_files |= all(split_of(re.sub(r"^\d+[ _.-]+", "", name)) for name in below)  # as 1.train
    of_files |= all(len(name) == 1 and {each[:1] for each in inner} == {name} for name, inner in below.items())
    direct = any((root / name / each).is_dir() for each in same[:1] for name in below)  # else a level deeper
    above = len(same) > 1 and not any("" in names for names in below.values())
    above &= not source or column == "split" or all(map(str.isdecimal, below))  # as years; a build takes other folders
    if len(below) == 1 or of_files or above:
        table = _AS_TABLE.format(", ".join(below), column, root) if direct else ""
        root_too = f" as root, masks as masks=, splits as train, val and test; or a table of the images{table}"
        wanted = "places" if source == "place" else "classes"
        raise ValueError(
            f"{root} has one {source or 'class'} only, or folders ({', '.join(below)}) that seem to be above the "
            f"{wanted} ({', '.join((same or inside)[:9])}) or to hold kinds of files or parts. Pass the folder whose "
            f"folders are the {wanted} (as {root / first} may be){'' if source else root_too}"
        )
    splits: dict[str, set[str]] = {}  # of each name without a split's
    for name in below:
        words = re.split(r"[ _.-]+|(?<=[a-z])(?=[A-Z])", name)
        split = next((word for word in words if SPLIT.fullmatch(word.lower())), "")  # as cat-train-1
        split = split or next((word for word in (words[0], words[-1]) if ENDS.fullmatch(word.lower())), "")
        splits.setdefault(" ".join(word for word in words if word != split).lower(), set()).add(split.lower())
    series = any(re.search(r" (?!2$)\d+$", name) for name in below)  # as Plum, Plum 2, Plum 3
    copied = any(COPY.sub("", name) in below.keys() - {name} for name in below if not (series and name[-2:] == " 2"))
    several = any(len(found - {""}) > 1 for found in splits.values())
    several |= any(len({*map(split_of, inner)} - {None}) > 1 for inner in below.values())
    several |= len(splits) > 1 and min(map(len, splits.values())) > 1
    if copied or several:
        raise ValueError(
            f"{root} has folders ({', '.join(below)}) that seem to be one class in several splits, or with its masks "
            "or copies, or another set. Make a folder per split or kind, each with a folder per class, or rename them"
        )


def _class_pictures(folder: Path, unread: list[Path]) -> list[str]:
    relatives = pictures_below(folder, unread)
    if not relatives:
        raise FileNotFoundError(
            f"{folder} has no image, so its class would be empty; remove the folder, or put its images there "
            "(files that end in .jpg, .jpeg, .png, .webp and so on)"
        )
    names, twice = seen_twice(relatives)
    if len(twice) > 1 or (twice and names <= 2):  # a single pair may have its names by chance
        raise ValueError(
            f"{folder} has masks or thumbnails among its images, such as those of {twice[0]}, which would be images of "
            "the class. Move them into another folder, with a folder per class; masks= takes it"
        )
    return relatives


def seen_twice(relatives: list[str]) -> tuple[int, list[str]]:
    """How many names there are without words for masks, and those of them that an image and its mask have."""
    names = Counter(MASK.sub("", stem) or stem for stem in sorted({*map(_stem, relatives)}))
    return len(names), [name for name, count in names.items() if count > 1]


def _check_kinds(folder: Path, names: list[str], relatives: list[str]) -> None:
    """Refuse a class of masks or the like, one of each image of the others."""
    times = Counter(MASK.sub("", _stem(relative).partition("/")[2]) for relative in relatives)
    for name in names if len(names) > 2 and {*times.values()} == {2} else ():
        kind, number = KINDS_OF_FILES.fullmatch(name.lower()), sum(each.startswith(f"{name}/") for each in relatives)
        if kind and kind[1] and 2 * number == len(relatives):
            raise ValueError(
                f"{folder / name} has a file named as each image of the classes, so it is none: move it elsewhere, and "
                "sort it into a folder per class; masks= takes that. If it is a class, rename the folder"
            )


def _masks(folder: Path, mask_folder: Path, names: list[str]) -> dict[str, Path]:
    """Masks by the images' names without suffix."""
    found: dict[str, Path] = {}
    for relative in pictures_below(mask_folder):
        stem = _stem(relative)
        if stem in found:
            raise ValueError(
                f"{mask_folder} has two masks of one name, {found[stem].name} and {mask_folder / relative}; remove one"
            )
        found[stem] = mask_folder / relative
    stem, count = Counter(map(_stem, names)).most_common(1)[0]
    if count > 1:
        raise ValueError(
            f"{folder} has {count} images named {stem} without their suffixes, which would share one mask; rename all "
            "except one, and their masks"
        )
    lacking = [name for name in names if _stem(name) not in found]
    if lacking:
        raise FileNotFoundError(
            f"{mask_folder} lacks the masks of {len(lacking)} of {len(names)} images, such as that of {lacking[0]}; a "
            "mask has the same folder and name as its image, except for the suffix (.png). Add them, or pass masks=None"
        )
    return found


def _stem(relative: str) -> str:
    return relative.rpartition(".")[0]


class LabelledFolder(DatasetOnDisk):
    """Images in a folder per class: :func:`read_folder` as a data set.

    Unlike torchvision's ``ImageFolder`` it takes the folder above the splits, and reads masks.
    """

    read = staticmethod(read_folder)
    title = "a folder per class"
    generic = True
    empty_masks = "warning"

    @classmethod
    def evidence(cls, folder: Path, sources: Sources) -> str | None:
        """Folders with images, below folders of splits or not."""
        listing = FolderListing()
        for child in subfolders(folder):
            if holding := next((each for each in (child, *subfolders(child)) if pictures(listing, [each])), None):
                return f"its folders hold images, such as {holding.relative_to(folder)}"
        return None
