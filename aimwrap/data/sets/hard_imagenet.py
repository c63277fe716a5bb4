"""Hard-ImageNet: masks of the objects of fifteen ImageNet classes whose surroundings give them away.

Moayeri, Singla, Feizi: Hard ImageNet, NeurIPS 2022 (data sets and benchmarks). The release is masks alone, in flat
folders; the pictures are ImageNet's.
"""

from __future__ import annotations

import math
import pickletools
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from ..io import list_folder, written
from ..release import Record, Release, ReleaseDataset
from ..sample import Sample
from .imagenet100 import SPLITS, TRAIN_STEM, VAL_STEM, WNID, split_folders, wnid_folders

BYTE_ORDERS: dict[str, Literal["<", ">", "="]] = {"<": "<", ">": ">", "=": "=", "|": "="}  # |: of a single byte


class RefusedError(Exception):
    """The pickle asks for something that plain values do not need."""


class Global(str):
    """A name that the pickle asks for, such as ``numpy.dtype``; never imported."""


class Array(list[Any]):
    """Stands for a numpy array, whose values come after it."""


class NumberType:
    """Stands for a numpy dtype, whose byte order comes after it."""

    def __init__(self, code: Any) -> None:
        if not isinstance(code, str) or re.fullmatch(r"[biuf][1248]", code) is None:
            raise RefusedError(f"holds an array of {code!r:.20}, not of numbers")
        self.code = code
        self.order: Literal["<", ">", "="] = "="


def plain_key(value: Any) -> Any:
    """A value that may be a dictionary's key or in a set, which needs its hash."""
    # a tuple's hash walks through all that is shared in it, which a file of 100 bytes can make endless
    if type(value) not in (str, bytes, int, float, bool, type(None)):
        raise RefusedError(f"has a {type(value).__name__} for a key")
    return value


def global_name(module: Any, attribute: Any) -> Global:
    """A name that has a stand-in; any other is refused."""
    name = f"{module}.{attribute}" if type(module) is str and type(attribute) is str else ""
    if name not in STAND_INS and name not in NAMES:
        raise RefusedError(f"asks for {name[:80] or 'something without a name'}")
    return Global(name)


def stand_in(called: Any, arguments: Any) -> Any:
    """What the function of this name would return for numbers and containers."""
    if type(called) is not Global or called not in STAND_INS or type(arguments) is not tuple:
        raise RefusedError(f"calls {called[:80] if type(called) is Global else 'something that is no function'}")
    return STAND_INS[called](*arguments)


def set_state(target: Any, state: Any) -> None:
    """Give an array its values, or a number type its byte order."""
    if type(state) is tuple and isinstance(target, NumberType):
        target.order = BYTE_ORDERS[state[1]]
    elif type(state) is tuple and isinstance(target, Array):
        _, shape, kind, column_first, values = state
        target[:] = _from_buffer(values, kind, shape, "F" if column_first else "C")
    else:
        raise RefusedError(f"gives a {type(target).__name__} a state")


def _from_buffer(values: Any, kind: Any, shape: Any, order: Any) -> Array:
    sides = shape if type(shape) is tuple else (shape,)
    if not sides or (any(type(side) is not int or side < 1 for side in sides) and sides != (0,)):
        raise RefusedError("holds an array of no possible shape")
    numbers = _numbers(values, kind)
    if math.prod(sides) != len(numbers) or len(sides) > 8:
        raise ValueError(f"an array must have {math.prod(sides)} values and has {len(numbers)}")
    return Array(numbers.reshape(sides, order="F" if order == "F" else "C").tolist())


def _numbers(values: Any, kind: Any) -> np.ndarray[Any, Any]:
    if type(kind) is not NumberType:
        raise RefusedError("holds an array of an unknown kind")
    raw = values.encode("latin-1") if type(values) is str else values  # Python 2 wrote strings
    if type(raw) not in (bytes, bytearray):
        raise RefusedError("holds an array of objects")
    return np.frombuffer(raw, np.dtype(kind.code).newbyteorder(kind.order))


def _scalar(kind: Any, value: Any) -> int | float | bool:
    (number,) = _numbers(value, kind).tolist()
    result: int | float | bool = number
    return result


def _empty_array(kind: Any, *_: Any) -> Array:
    if kind != "numpy.ndarray" or type(kind) is not Global:
        raise RefusedError("holds an array of an unknown class")
    return Array()


def _encoded(text: Any, encoding: Any = "latin1") -> bytes:
    if type(text) is not str or encoding not in ("latin1", "latin-1"):
        raise RefusedError("holds text of an unknown encoding")
    return text.encode("latin-1")


def _collection(kind: type) -> Callable[..., Any]:
    def build(items: Any = ()) -> Any:
        if type(items) not in (list, tuple):
            raise RefusedError(f"makes a {kind.__name__} of a {type(items).__name__}")
        return kind(map(plain_key, items))

    return build


def _nothing(kind: type) -> Callable[[], Any]:
    return lambda: kind()


NAMES = {"numpy.ndarray"}
STAND_INS: dict[str, Callable[..., Any]] = {
    "numpy.dtype": lambda code, *_: NumberType(code),
    "_codecs.encode": _encoded,  # how protocols 0 to 2 write bytes
    "collections.OrderedDict": _nothing(dict),
    **{f"{module}.bytes": _nothing(bytes) for module in ("builtins", "__builtin__")},
    **{f"{module}.set": _collection(set) for module in ("builtins", "__builtin__")},
    **{f"{module}.frozenset": _collection(frozenset) for module in ("builtins", "__builtin__")},
    **{f"numpy.{core}.multiarray.scalar": _scalar for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray._reconstruct": _empty_array for core in ("core", "_core")},
    **{f"numpy.{core}.numeric._frombuffer": _from_buffer for core in ("core", "_core")},
}


LARGEST_PICKLE = 1 << 18  # bytes; a thousand class names take a tenth

PUSHED = {  # their argument is the value
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}
CONSTANTS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
CONTAINERS: dict[str, Callable[[], Any]] = {
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_TUPLE": tuple,
    "EMPTY_SET": set,
}
FROM_MARK: dict[str, Callable[[list[Any]], Any]] = {
    "LIST": list,
    "TUPLE": tuple,
    "DICT": lambda items: _dictionary({}, items),
    "FROZENSET": lambda items: frozenset(map(plain_key, items)),
}
TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def read_pickle(path: Path) -> Any:
    """Read a pickle of numbers, strings and containers of them; whatever else it asks for is refused.

    Args:
        path: of the file, of any protocol.

    Returns:
        Its value. Arrays of numpy come as nested lists, its numbers as Python's.

    Raises:
        FileNotFoundError: if it is not there.
        ValueError: if it asks for anything else, is no pickle, or is larger than 256 KiB. Nothing was run.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there; pass the folder of the release, in which it lies, as root")
    if path.stat().st_size > LARGEST_PICKLE:
        raise ValueError(
            f"{path} must be a pickle of a few numbers and names, at most {LARGEST_PICKLE} bytes, and has "
            f"{path.stat().st_size}; it was not read. Get the release again"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python's own on strange escapes in text
            return _follow(path.read_bytes())
    except RefusedError as error:
        raise ValueError(
            f"{path} is a pickle that {error}; numbers, strings and containers of them need no such thing, so it is "
            "damaged or hostile. It was read without running any of it. Get the release again from its authors"
        ) from error
    except (ValueError, TypeError, IndexError, KeyError, OverflowError, ArithmeticError, MemoryError) as error:
        raise ValueError(f"{path} is no whole pickle: {error}. Get the release again") from error


def _follow(data: bytes) -> Any:
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}
    spent = 0  # on copies that stand-ins make

    def since_mark() -> list[Any]:
        start = marks.pop()
        items = stack[start:]
        del stack[start:]
        return items

    argument: Any
    for opcode, argument, _ in pickletools.genops(data):
        name = opcode.name
        if name in ("PROTO", "FRAME"):
            pass
        elif name == "STOP":
            (value,) = stack
            return _finished(value)
        elif name in PUSHED:
            stack.append(argument)
        elif name in CONSTANTS:
            stack.append(CONSTANTS[name])
        elif name in CONTAINERS:
            stack.append(CONTAINERS[name]())
        elif name in TUPLES:
            count = TUPLES[name]
            if len(stack) < count:
                raise IndexError("its stack ran out")
            stack[-count:] = [tuple(stack[-count:])]
        elif name == "MARK":
            marks.append(len(stack))
        elif name in FROM_MARK:
            items = since_mark()
            stack.append(FROM_MARK[name](items))
        elif name == "POP":
            stack.pop()
        elif name == "POP_MARK":
            since_mark()
        elif name == "DUP":
            stack.append(stack[-1])
        elif name == "APPEND":
            value = stack.pop()
            _plain(stack[-1], list).append(value)
        elif name == "APPENDS":
            items = since_mark()
            _plain(stack[-1], list).extend(items)
        elif name == "ADDITEMS":
            items = since_mark()
            _plain(stack[-1], set).update(map(plain_key, items))
        elif name == "SETITEM":
            items = stack[-2:]
            del stack[-2:]
            _dictionary(_plain(stack[-1], dict), items)
        elif name == "SETITEMS":
            items = since_mark()
            _dictionary(_plain(stack[-1], dict), items)
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name == "GLOBAL":
            stack.append(global_name(*argument.split(" ", 1)))
        elif name == "STACK_GLOBAL":
            attribute, module = stack.pop(), stack.pop()
            stack.append(global_name(module, attribute))
        elif name == "REDUCE":
            arguments, called = stack.pop(), stack.pop()
            spent += _length(arguments)
            stack.append(stand_in(called, arguments))
        elif name == "BUILD":
            state = stack.pop()
            spent += _length(state)
            set_state(stack[-1], state)
        else:
            raise RefusedError(f"builds an object of its own ({name})")
        if spent > 4 * len(data):
            raise RefusedError("takes the same values again and again, which fills the memory")
    raise ValueError("it ends before its end mark")


def _length(arguments: Any) -> int:
    values = arguments if type(arguments) is tuple else ()
    return sum(len(value) for value in values if isinstance(value, (str, bytes, bytearray, list, tuple)))


def _plain(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise RefusedError(f"changes a {type(value).__name__} as if it were a {kind.__name__}")
    return value


def _dictionary(target: dict[Any, Any], items: list[Any]) -> dict[Any, Any]:
    if len(items) % 2:
        raise ValueError("a dictionary has a key without a value")
    target.update(zip(map(plain_key, items[::2]), items[1::2], strict=True))
    return target


def _finished(value: Any) -> Any:
    if isinstance(value, (Global, NumberType)):
        raise RefusedError("holds no value")
    return value


NUM_CLASSES = 15
WITHOUT_META = (
    "Get the release again, or move its folder meta away: labels then count the sorted WordNet numbers of the masks"
)
STEMS = {"train": TRAIN_STEM, "val": VAL_STEM}


class _Mask(NamedTuple):
    path: Path
    wnid: str
    stem: str  # of the picture in ImageNet


def read_hard_imagenet(root: str | Path, imagenet: str | Path) -> Release:
    """Read Hard-ImageNet's masks with the pictures of an ImageNet tree.

    The label is the class's position in the release's own list of classes, ``meta/hard_imagenet_idx.pkl``, which is
    read without unpickling; where ``meta`` is missing, its position in the sorted WordNet numbers of the masks, and a
    note says so. Every value of a mask above zero means the object, as in the authors' code.

    Args:
        root: ``hardImageNet``, with ``train/<wnid>_<ImageNet's file name>`` and ``val/...``, or the folder above it.
        imagenet: a folder with ``train/<wnid>/`` and ``val/<wnid>/``; one of them is enough for its split.

    Returns:
        The splits, train and val, that have masks and pictures. A picture that is missing is found when it is opened.

    Raises:
        FileNotFoundError: if a folder, a class, or one of the two lists in ``meta`` is missing.
        ValueError: if a mask's name says no picture, ImageNet's ``val`` is not sorted by class, or a list holds
            anything but numbers and names.
    """
    root = _release_folder(written(root))
    pictures = split_folders(written(imagenet), "imagenet")
    masks = {split: _masks(root / split, split) for split in SPLITS if (root / split).is_dir()}
    usable = [split for split in SPLITS if split in masks and split in pictures]
    if not usable:
        raise FileNotFoundError(
            f"{root} has masks of {' and '.join(masks)}, and {imagenet} pictures of {' and '.join(pictures)} alone; "
            "the masks of a split need the pictures of the same split"
        )
    found = sorted({mask.wnid for split in masks.values() for mask in split})
    wnids, classes, notes = _classes(root / "meta", found)
    label = {wnid: number for number, wnid in enumerate(wnids)}
    records = []
    for split in usable:
        paths = _picture_paths(pictures[split], masks[split])
        lacking = [path for path, there in paths if not there]
        if lacking:
            notes.append(
                f"{len(lacking)} of {len(paths)} pictures of {split} are missing from ImageNet, such as {lacking[0]}."
            )
        records += [
            Record(mask.stem, path, label[mask.wnid], split, mask_path=mask.path)
            for mask, (path, _) in zip(masks[split], paths, strict=True)
        ]
    for split in (split for split in SPLITS if split not in usable):
        where = f"{root} has no folder {split}" if split not in masks else f"{imagenet} has no folder {split}"
        notes.append(f"The split {split} is left out: {where}.")
    notes.append(
        "Some masks are empty: nobody drew the object. Measures of where a model looks have no value on them; the "
        "authors' code skips them, and so do aimwrap's metrics."
    )
    return Release("Hard-ImageNet", root, tuple(records), classes, any_value_is_object=True, notes=tuple(notes))


class HardImageNet(ReleaseDataset):
    """Hard-ImageNet: :func:`read_hard_imagenet` as a data set.

    Args:
        root: ``hardImageNet``, or the folder above it.
        split: ``"train"`` or ``"val"``; None takes both.
        imagenet: folder of the ImageNet tree with the pictures.
        transform: called with the :class:`Sample`.
    """

    def __init__(
        self,
        root: str | Path,
        split: str | None = "train",
        *,
        imagenet: str | Path,
        transform: Callable[[Sample], Sample] | None = None,
    ) -> None:
        super().__init__(read_hard_imagenet(root, imagenet), split, transform)


def _release_folder(root: Path) -> Path:
    for folder in (root, root / "hardImageNet"):
        if any((folder / split).is_dir() for split in SPLITS):
            return folder
    raise FileNotFoundError(
        f"root must be the folder hardImageNet, with train/ or val/ full of masks in it, or the one above, and {root} "
        "is neither; unpack hardImageNet.zip and pass its folder"
    )


def _masks(folder: Path, split: str) -> list[_Mask]:
    """What the names in a flat folder say, in their order."""
    listing = list_folder(folder)
    if not listing.pictures:
        raise FileNotFoundError(
            f"{folder} must be full of masks named <wnid>_<ImageNet's file name>, and has none; unpack "
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
                f"{folder / name}: a mask of {split} must be named as its picture is, behind the class's WordNet "
                f"number, such as {example}; so named, it belongs to no picture. Get the release again"
            )
        if stem in masks:
            raise ValueError(
                f"{folder} has two masks of {stem}, {masks[stem].path.name} and {name}; remove the wrong one"
            )
        masks[stem] = _Mask(folder / name, wnid, stem)
    return list(masks.values())


def _picture_paths(folder: Path, masks: list[_Mask]) -> list[tuple[Path, bool]]:
    """Each mask's picture, and whether it is there."""
    wnids = sorted({mask.wnid for mask in masks})
    lacking = sorted(set(wnids) - set(wnid_folders(folder)))
    if lacking:
        raise FileNotFoundError(
            f"{folder} lacks the classes {', '.join(lacking)}, of which there are masks; imagenet must have all "
            f"{len(wnids)} of Hard-ImageNet's"
        )
    names = {wnid: {name.rpartition(".")[0]: name for name in list_folder(folder / wnid).pictures} for wnid in wnids}
    return [
        (folder / mask.wnid / names[mask.wnid].get(mask.stem, f"{mask.stem}.JPEG"), mask.stem in names[mask.wnid])
        for mask in masks
    ]


def _classes(meta: Path, found: list[str]) -> tuple[list[str], tuple[str, ...], list[str]]:
    """WordNet numbers and names by label, and what is to be said of them."""
    positions, numbers = meta / "hard_imagenet_idx.pkl", meta / "idx_to_wnid.pkl"
    if not positions.exists() and not numbers.exists():
        few = (
            "" if len(found) == NUM_CLASSES else f" The release has {NUM_CLASSES}: other labels than in the whole one."
        )
        note = (
            f"Labels count the {len(found)} sorted WordNet numbers of the masks, since {meta} has no list of the "
            f"classes; the authors' labels are positions in their list.{few}"
        )
        return found, tuple(found), [note]
    chosen, wnid_of = read_pickle(positions), read_pickle(numbers)
    _check_lists(chosen, wnid_of, positions, numbers)
    wnids = [wnid_of[number] for number in chosen]
    strangers = sorted(set(found) - set(wnids))
    if strangers:
        raise ValueError(
            f"the masks are of {', '.join(strangers)}, too, which {positions} does not list; masks and list are of "
            "different releases. Get both again"
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
    """Names that people can read, where the release has them by number."""
    names = read_pickle(path) if path.exists() else None
    if not isinstance(names, (list, tuple, dict)):
        return None
    try:
        found = tuple(names[number] for number in chosen)
    except (IndexError, KeyError):
        return None
    return found if all(type(name) is str for name in found) else None
