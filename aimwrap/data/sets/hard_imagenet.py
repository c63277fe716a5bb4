"""Hard-ImageNet: masks of the objects of fifteen ImageNet classes whose surroundings predict the label.

Moayeri, Singla, Feizi: Hard ImageNet, NeurIPS 2022 (data sets and benchmarks). The release has only masks, in flat
folders; the images are ImageNet's.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import re
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np

from ..io import FolderListing, expand_path, list_folder, read_small
from ..release import Record, Release
from . import DatasetOnDisk, Sources
from .imagenet100 import SPLITS, TRAIN_STEM, VAL_STEM, WNID, split_folders, wnid_folders

LARGEST_PICKLE = 1 << 18  # bytes; a thousand class names take a tenth


class _NumberType:
    """A numpy dtype; its byte order comes after it."""

    def __init__(self, code: str, *_: Any) -> None:
        if re.fullmatch(r"[biuf][1248]", code) is None:
            raise ValueError(f"it has an array of {code!r:.20}, not of numbers")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: Any) -> None:
        self.dtype = self.dtype.newbyteorder(state[1])

    def numbers(self, values: bytes | str) -> np.ndarray[Any, Any]:
        raw = values.encode("latin-1") if isinstance(values, str) else values  # Python 2 wrote strings
        return np.frombuffer(raw, self.dtype)


class _Array(list[Any]):
    """A numpy array as nested lists; its values come after it."""

    def __init__(self, kind: _Name, *_: Any) -> None:
        if kind.name != "numpy.ndarray":
            raise ValueError("it has an array of an unknown class")
        self._spend = kind.spend

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, column_first, values = state
        self._spend(state)
        self[:] = _nested(values, kind, shape, "F" if column_first else "C")


def _nested(values: bytes, kind: _NumberType, shape: Any, order: Any) -> list[Any]:
    sides = shape if isinstance(shape, tuple) else (shape,)
    if not sides or (0 in sides and sides != (0,)):
        raise ValueError("it has an array of no possible shape")
    return list(kind.numbers(values).reshape(sides, order=order).tolist())


class _Tuple(tuple[Any, ...]):
    """A tuple without a hash, which would walk through all that is shared in it: a few bytes can make that endless."""

    def __hash__(self) -> int:
        raise ValueError("it has a tuple for a key")


MAKERS: dict[str, Callable[..., Any]] = {
    "numpy.ndarray": list,
    "numpy.dtype": _NumberType,
    "numpy.core.multiarray.scalar": lambda kind, value: kind.numbers(value).item(),
    "numpy.core.multiarray._reconstruct": _Array,
    "numpy.core.numeric._frombuffer": _nested,
    "_codecs.encode": lambda text, _="latin1": text.encode("latin-1"),  # how protocols 0 to 2 write bytes
    "collections.OrderedDict": lambda: {},
    "builtins.bytes": lambda: b"",
    "builtins.set": set,
    "builtins.frozenset": frozenset,
}


class _Name:
    """What a name in a pickle becomes: called, it makes a plain value; nothing is imported."""

    def __init__(self, name: str, spend: Callable[[Any], None]) -> None:
        self.name, self.spend = name, spend

    def __call__(self, *arguments: Any) -> Any:
        self.spend(arguments)
        return MAKERS[self.name](*arguments)

    def __setstate__(self, state: Any) -> None:
        raise ValueError(f"it changes {self.name}")


def _without_hash(load: Callable[[Any], None]) -> Callable[[Any], None]:
    """A step of the unpickler that makes a tuple."""

    def run(unpickler: Any) -> None:
        load(unpickler)
        unpickler.stack[-1] = _Tuple(unpickler.stack[-1])

    return run


_PythonUnpickler: Any = pickle._Unpickler  # its steps can be changed; those in C cannot


class _Unpickler(_PythonUnpickler):  # type: ignore[misc]
    """Python's unpickler, which here knows the names in ``MAKERS`` and no other, and hashes no tuple."""

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = dict(_PythonUnpickler.dispatch)

    def load_build(self) -> None:
        """Set a state, where the value is one of ours."""
        if not hasattr(self.stack[-2], "__setstate__"):
            raise ValueError(f"it changes a {type(self.stack[-2]).__name__}")
        super().load_build()

    dispatch[pickle.BUILD[0]] = load_build

    def __init__(self, data: bytes) -> None:
        super().__init__(io.BytesIO(data), encoding="latin-1")
        self._left = 4 * len(data)

    def find_class(self, module: str, name: str) -> Any:
        full = f"{module.replace('__builtin__', 'builtins').replace('numpy._core', 'numpy.core')}.{name}"
        if full not in MAKERS:
            raise ValueError(f"it asks for {full[:80]}")
        return _Name(full, self._spend)

    def _spend(self, values: Any) -> None:
        """A name of a few bytes that copies one long value again and again would fill the memory."""
        self._left -= sum(len(value) for value in values if hasattr(value, "__len__"))
        if self._left < 0:
            raise ValueError("it takes the same values again and again, which fills the memory")


for _code in (pickle.EMPTY_TUPLE, pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3):
    _Unpickler.dispatch[_code[0]] = _without_hash(_Unpickler.dispatch[_code[0]])


def read_pickle(path: Path) -> Any:
    """Read a pickle of numbers, strings and containers of them; ValueError if it asks for anything else.

    No name in it is imported: those in ``MAKERS`` become plain values, and any other is refused.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there; pass the folder of the data set, which contains it, as root")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python's own on unknown escapes in text
            data = read_small(path, LARGEST_PICKLE)
            for opcode, argument, _ in pickletools.genops(data):  # finds wrong lengths before memory is taken for them
                if opcode.name.endswith("PUT") and int(argument or 0) > len(data):
                    raise ValueError("it numbers more values than it can have")
            value = _Unpickler(data).load()
        if isinstance(value, (_Name, _NumberType)):
            raise ValueError("it has no value")
    except Exception as error:  # the unpickler raises many kinds at damaged files
        raise ValueError(
            f"{path} is not a pickle of numbers, strings and containers of them: {error}. It is damaged or hostile; "
            "nothing in it was run. Get the release again from its authors"
        ) from error
    return value


NUM_CLASSES = 15
FLAT_MASK = re.compile(rf"{WNID.pattern}_({TRAIN_STEM.pattern}|{VAL_STEM.pattern})\.\w+")
WITHOUT_META = (
    "Get the release again, or move its folder meta away: labels then count the sorted WordNet numbers of the masks"
)
STEMS = {"train": TRAIN_STEM, "val": VAL_STEM}


class _Mask(NamedTuple):
    path: Path
    wnid: str
    stem: str  # of the image in ImageNet


def read_hard_imagenet(root: str | Path, imagenet: str | Path) -> Release:
    """Read Hard-ImageNet's masks with the images of an ImageNet tree.

    The label is the class's position in the release's own list of classes, ``meta/hard_imagenet_idx.pkl``, which is
    read without running anything in it; where ``meta`` is missing, its position in the sorted WordNet numbers of the
    masks, and a note says so. Every value of a mask above zero means the object, as in the authors' code.

    Args:
        root: ``hardImageNet``, with ``train/<wnid>_<ImageNet's file name>`` and ``val/...``, or the folder above it.
        imagenet: a folder with ``train/<wnid>/`` and ``val/<wnid>/``; one of them is enough for its split.

    Returns:
        The splits, train and val, that have masks and images. An image that is missing is found when it is opened.

    Raises:
        FileNotFoundError: if a folder, a class, or one of the two lists in ``meta`` is missing.
        ValueError: if a mask's name has no image, ImageNet's ``val`` is not sorted by class, or a list holds
            anything but numbers and names.
    """
    root = _release_folder(expand_path(root))
    pictures = split_folders(expand_path(imagenet), "imagenet")
    masks = {split: _masks(root / split, split) for split in SPLITS if (root / split).is_dir()}
    usable = [split for split in SPLITS if split in masks and split in pictures]
    if not usable:
        raise FileNotFoundError(
            f"{root} has masks of {' and '.join(masks)}, and {imagenet} only images of {' and '.join(pictures)}; "
            "the masks of a split need the images of the same split"
        )
    found = sorted({mask.wnid for split in masks.values() for mask in split})
    wnids, classes, notes = _classes(root / "meta", found)
    records = []
    for split in usable:
        paths = _picture_paths(pictures[split], masks[split])
        lacking = [path for path, there in paths if not there]
        if lacking:
            notes.append(
                f"{len(lacking)} of {len(paths)} images of {split} are missing from ImageNet, such as {lacking[0]}."
            )
        records += [
            Record(mask.stem, path, wnids.index(mask.wnid), split, mask_path=mask.path)
            for mask, (path, _) in zip(masks[split], paths, strict=True)
        ]
    for split in (split for split in SPLITS if split not in usable):
        where = f"{root} has no folder {split}" if split not in masks else f"{imagenet} has no folder {split}"
        notes.append(f"The split {split} is left out: {where}.")
    notes.append(
        "Some masks are empty: the object was not drawn. Measures of where a model looks have no value on them; the "
        "authors' code skips them, and so do aimwrap's metrics."
    )
    return Release("Hard-ImageNet", root, tuple(records), classes, any_value_is_object=True, notes=tuple(notes))


def _release_folder(root: Path) -> Path:
    for folder in (root, root / "hardImageNet"):
        if any((folder / split).is_dir() for split in SPLITS):
            return folder
    raise FileNotFoundError(
        f"root must be the folder hardImageNet, with masks in train/ or val/ in it, or the one above, and {root} "
        "is neither; unpack hardImageNet.zip and pass its folder"
    )


def _masks(folder: Path, split: str) -> list[_Mask]:
    """The masks in a flat folder, by their names."""
    listing = list_folder(folder)
    if not listing.pictures:
        raise FileNotFoundError(
            f"{folder} must have masks named <wnid>_<ImageNet's file name>, and has none; unpack "
            "hardImageNet.zip again, as it is: its folders are flat"
        )
    masks: dict[str, _Mask] = {}
    for name in listing.pictures:
        wnid, _, rest = name.partition("_")
        stem = rest.rpartition(".")[0]
        named = STEMS[split].fullmatch(stem)
        if not WNID.fullmatch(wnid) or named is None or (split == "train" and named[1] != wnid):
            example = "n02105641_n02105641_123.JPEG" if split == "train" else "n02105641_ILSVRC2012_val_00000123.JPEG"
            raise ValueError(
                f"{folder / name}: a mask of {split} must have the name of its image after the class's WordNet "
                f"number, such as {example}; by this name it belongs to no image. Get the release again"
            )
        if stem in masks:
            raise ValueError(
                f"{folder} has two masks of {stem}, {masks[stem].path.name} and {name}; remove the wrong one"
            )
        masks[stem] = _Mask(folder / name, wnid, stem)
    return list(masks.values())


def _picture_paths(folder: Path, masks: list[_Mask]) -> list[tuple[Path, bool]]:
    """Each mask's image, and whether it is there."""
    wnids = sorted({mask.wnid for mask in masks})
    lacking = sorted(set(wnids) - set(wnid_folders(folder)))
    if lacking:
        raise FileNotFoundError(
            f"{folder} lacks the classes {', '.join(lacking)}, which have masks; imagenet must have all "
            f"{len(wnids)} of Hard-ImageNet's"
        )
    names = {wnid: {name.rpartition(".")[0]: name for name in list_folder(folder / wnid).pictures} for wnid in wnids}
    return [
        (folder / mask.wnid / names[mask.wnid].get(mask.stem, f"{mask.stem}.JPEG"), mask.stem in names[mask.wnid])
        for mask in masks
    ]


def _classes(meta: Path, found: list[str]) -> tuple[list[str], tuple[str, ...], list[str]]:
    """WordNet numbers and names by label, and notes on them."""
    positions, numbers = meta / "hard_imagenet_idx.pkl", meta / "idx_to_wnid.pkl"
    if not positions.exists() and not numbers.exists():
        few = f" The complete release has {NUM_CLASSES}, and other labels." if len(found) != NUM_CLASSES else ""
        note = (
            f"Labels count the {len(found)} sorted WordNet numbers of the masks, since {meta} has no list of the "
            f"classes; the authors' labels are positions in their list.{few}"
        )
        return found, tuple(found), [note]
    chosen, wnid_of = read_pickle(positions), read_pickle(numbers)
    _check_lists(chosen, wnid_of, positions, numbers)
    wnids = [wnid_of[number] for number in chosen]
    others = sorted(set(found) - set(wnids))
    if others:
        raise ValueError(
            f"there are masks of {', '.join(others)}, which {positions} does not list; masks and list are of different "
            "releases. Get both again"
        )
    order = "the same as" if wnids == sorted(wnids) else "another than"
    notes = [f"Labels are positions in {positions.name}, {order} the order of the WordNet numbers."]
    lacking = sorted(set(wnids) - set(found))
    if lacking:
        notes.append(f"There are no masks of {', '.join(lacking)}, which the release's list has.")
    return wnids, _class_names(meta / "imagenet_classnames.pkl", chosen) or tuple(wnids), notes


def _check_lists(chosen: Any, wnid_of: Any, positions: Path, numbers: Path) -> None:
    if not isinstance(chosen, (list, tuple)) or not chosen or any(type(number) is not int for number in chosen):
        raise ValueError(f"{positions} must hold a list of ImageNet's class numbers, and does not. {WITHOUT_META}")
    wnids = [wnid_of.get(number) for number in chosen] if isinstance(wnid_of, dict) else [None]
    if any(type(wnid) is not str or not WNID.fullmatch(wnid) for wnid in wnids) or len(set(wnids)) < len(chosen):
        raise ValueError(
            f"{numbers} must hold a dictionary that gives each class number in {positions.name} a WordNet number of "
            f"its own (n01440764), and does not. {WITHOUT_META}"
        )


def _class_names(path: Path, chosen: list[int]) -> tuple[str, ...] | None:
    """Readable names, where the release has them by number."""
    names = read_pickle(path) if path.exists() else None
    if not isinstance(names, (list, tuple, dict)):
        return None
    try:
        found = tuple(names[number] for number in chosen)
    except (IndexError, KeyError):
        return None
    return found if all(type(name) is str for name in found) else None


class HardImageNet(DatasetOnDisk):
    """Hard-ImageNet: :func:`read_hard_imagenet` as a data set. Splits are ``"train"`` and ``"val"``."""

    read = staticmethod(read_hard_imagenet)
    title = "Hard-ImageNet"
    num_classes = NUM_CLASSES
    empty_masks = "ok"
    duplicates = "warning"

    @classmethod
    def evidence(cls, folder: Path, sources: Sources) -> str | None:
        """Flat masks, its list of classes, or its name."""
        for split in SPLITS:
            if any(FLAT_MASK.fullmatch(name) for name in FolderListing().files(folder / split)):
                return f"{split} has files named <wnid>_<ImageNet's file name>"
        if (folder / "meta" / "hard_imagenet_idx.pkl").is_file():
            return "it has meta/hard_imagenet_idx.pkl"
        return "it is called hardImageNet" if folder.name.lower() == "hardimagenet" else None

    @classmethod
    def missing_source(cls, root: Path, sources: Sources) -> str | None:
        """ImageNet, for the images."""
        if sources.imagenet is not None:
            return None
        return (
            "Hard-ImageNet has only masks; the images are ImageNet's: pass --imagenet FOLDER, with train/ and val/ "
            "in it"
        )

    @classmethod
    def own_folders(cls, release: Release) -> Iterable[Path]:
        """Of the masks."""
        return [release.root / split for split in SPLITS]
