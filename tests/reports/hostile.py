"""Hostile and damaged variants of every kind of file that the library reads, and what becomes of each.

``variants(seed)`` makes some hundred; :func:`try_all` reads each one in its own process, with a limit on its time and
its memory, through the function that users read it with. The right answer is an error that names the file, or, where
the variant is harmless, the content.
"""

from __future__ import annotations

import json
import math
import os
import pickle
import random
import resource
import select
import shutil
import signal
import struct
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import small_run
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from aimwrap import AIM
from aimwrap._files import checksum
from aimwrap.backbones.plain import PlainClassifier, load_plain, save_plain
from aimwrap.data.doctor import examine
from aimwrap.data.io import open_image, open_object_mask, size_and_orientation
from aimwrap.data.registry import read_by_name
from aimwrap.train import CheckpointError
from aimwrap.train.checkpoints import Checkpoint, read_checkpoint, write_checkpoint
from aimwrap.train.watching import kept_masks

sys.path.append(str(Path(__file__).parents[1] / "data"))
import imagenet_releases  # of the folder above
import releases

SECONDS, MEMORY = 10, 2 * 2**30
PATIENCE = 8  # seconds without using the processor
TINY = {"depths": (1, 1, 1, 1), "dims": (8, 12, 16, 20), "num_classes": 2}

Change = Callable[[Path], object]  # of one file


class Variant(NamedTuple):
    """A file that is not what it should be."""

    kind: str  # of the file; a key of KINDS
    name: str  # what is wrong
    change: Change
    refused: bool  # whether it must be refused; else its content may also be read


class Kind(NamedTuple):
    """A kind of file that the library reads."""

    make: Callable[[Path], Path]  # a healthy folder; the file that will be changed
    read: Callable[[Path], object]  # given that file
    changes: Callable[[Path, random.Random], Iterator[tuple[str, Change, bool]]]  # of the healthy file


class Outcome(NamedTuple):
    """What became of a variant."""

    variant: Variant
    wrong: str  # empty where the answer is right
    text: str  # the error, or that it was read
    seconds: float  # of the processor
    memory: int  # bytes, above what the imports take


# What anything that should be a file may be instead


def _no_file(path: Path, make: Callable[[Path], object]) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    make(path)


def with_hole(path: Path, size: int) -> None:
    with path.open("ab") as file:
        file.truncate(size)


def no_files(path: Path, rng: random.Random) -> Iterator[tuple[str, Change, bool]]:
    """A file's name with something else under it; a link that leads to no file may count as no file."""
    for name, make in {
        "folder": Path.mkdir,
        "pipe": os.mkfifo,
        "link to itself": lambda path: path.symlink_to(path),
        "link to nothing": lambda path: path.symlink_to("nowhere"),
        "link to /dev/zero": lambda path: path.symlink_to("/dev/zero"),
        "link to a folder": lambda path: path.symlink_to("/"),
        "gone": lambda path: None,
    }.items():
        yield name, lambda path, make=make: _no_file(path, make), name in ("folder", "pipe")


def spoiled_bytes(path: Path, rng: random.Random) -> Iterator[tuple[str, Change, bool]]:
    """Damage that downloads, disks and spreadsheets do to any file."""
    content = path.read_bytes()
    for name, new in {
        "empty": b"",
        "one NUL": b"\0",
        "only NULs": bytes(len(content)),
        "first half": content[: len(content) // 2],
        "UTF-16": content.decode("latin-1").encode("utf-16"),
        "random bytes": rng.randbytes(1000),
        "a pickle that calls": pickle.dumps(_Calling()),
        "a web page": b"<!DOCTYPE html><html><body>404</body></html>",
        "a million quotation marks": b'"' * 10**6,
        "direction marks": "\u202e\u2066".encode() * 1000,
    }.items():
        yield name, lambda path, new=new: path.write_bytes(new), name != "UTF-16"  # which XML may be
    yield "a terabyte of NULs at its end", lambda path: with_hole(path, 2**40), True
    yield "a terabyte of NULs", lambda path: (path.write_bytes(b""), with_hole(path, 2**40)), True


class _Calling:
    def __reduce__(self) -> Any:
        return os.abort, ()


# JSON

HUGE = "9" * 5000
VALUES: Sequence[Any] = (
    *(None, True, False, 0, -1, 1, 2, 2**31, 2**63, -(2**63), 10**30, 0.5, -0.0, 1e-320, 1e308),
    *("", "x", "os:abort", "hostile_evil:run", "timm/hf-hub:evil/evil", "../../../etc/passwd", "a\0b", "\ud800"),
    *("\u202egnp.exe", "x" * 2**20, [], {}, [[]], [None], [2**31] * 3, [1e308] * 3, {"": {}}, {"tuple": 3}),
    *({"float": "nan"}, {"float": "os:abort"}, {"tuple": [2**31, 2**31]}, list(range(10000))),
)


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The places of all values of a JSON text, containers too."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from leaves(inner, (*path, key))


def set_at(path: tuple[Any, ...], value: Any) -> Change:
    def change(file: Path) -> None:
        content = outer = json.loads(file.read_text())
        for key in path[:-1]:
            outer = outer[key]
        outer[path[-1]] = value
        file.write_text(json.dumps(content))

    return change


def remove_at(path: tuple[Any, ...]) -> Change:
    def change(file: Path) -> None:
        content = outer = json.loads(file.read_text())
        for key in path[:-1]:
            outer = outer[key]
        del outer[path[-1]]
        file.write_text(json.dumps(content))

    return change


def texts(healthy: str) -> dict[str, str | Callable[[], str]]:
    """Texts that are not JSON, or that no program of ours writes; long ones are made when they are written."""
    key = next(iter(json.loads(healthy)))
    inside = healthy.rstrip()[:-1]
    return {
        **{name: name for name in ("null", "[]", "3", '"text"', "{}", "true", "NaN", "[1]")},
        "more at its end": healthy + "{}",
        "a comment": "// \n" + healthy,
        "a comma at its end": inside + ",}",
        "key twice": f'{inside}, "{key}": 1}}',
        "number of 5000 digits": f'{inside}, "more": {HUGE}}}',
        "lists in lists": lambda: f'{inside}, "more": {"[" * 10**5}{"]" * 10**5}}}',
        "objects in objects": lambda: '{"a":' * 10**5,
        "open lists": lambda: "[" * 10**6,
        "5 million objects": lambda: f'{inside}, "more": [{"{}," * (5 * 10**6)}0]}}',
        "20 million lists": lambda: f'{inside}, "more": [{"[]," * (20 * 10**6)}0]}}',
    }


def json_changes(path: Path, rng: random.Random, tried: int) -> Iterator[tuple[str, Change, bool]]:
    """``tried`` of the pairs of a place and a value; always the texts."""
    healthy = path.read_text()
    unread = {"number of 5000 digits", "lists in lists", "5 million objects", "{}"}  # what is not asked for
    for name, text in texts(healthy).items():
        yield (
            name,
            lambda path, text=text: path.write_text(text if isinstance(text, str) else text()),
            name not in unread,
        )
    content = json.loads(healthy)
    places = [place for place in leaves(content) if place]
    pairs = [(place, value) for place in places for value in VALUES]
    for place, value in rng.sample(pairs, min(tried, len(pairs))):
        yield f"{'.'.join(map(str, place))} = {value!r:.40}", set_at(place, value), False
    for place in rng.sample(places, min(tried // 5, len(places))):
        yield f"without {'.'.join(map(str, place))}", remove_at(place), False


# safetensors


def _header(path: Path, header: bytes | dict[str, Any], data: bytes = b"", length: int | None = None) -> None:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)


def safetensors_changes(path: Path, rng: random.Random) -> Iterator[tuple[str, Change, bool]]:
    """Files that are not safetensors, or hold other tensors; :func:`signed` makes the checksums right."""
    name = next(iter(load_file(path)))
    one = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
    for what, header, data in (
        ("no tensor", {}, b""),
        ("no JSON", b"{" * 100, b""),
        ("nested header", b'{"a":' * 10**5, b""),
        ("a list", b"[]", b""),
        ("unknown dtype", {name: {**one, "dtype": "os:abort"}}, bytes(4)),
        ("dtype of 4 bits", {name: {**one, "dtype": "F4", "shape": [8]}}, bytes(4)),
        ("dtype of 8 bits", {name: {**one, "dtype": "F8_E4M3", "shape": [4]}}, bytes(4)),
        ("negative shape", {name: {**one, "shape": [-1]}}, bytes(4)),
        ("giant shape", {name: {**one, "shape": [2**62, 2**62]}}, bytes(4)),
        ("giant empty shape", {name: {**one, "shape": [2**62, 0], "data_offsets": [0, 0]}}, b""),
        ("offsets beyond the end", {name: {**one, "data_offsets": [0, 2**60], "shape": [2**58]}}, bytes(4)),
        ("offsets reversed", {name: {**one, "data_offsets": [4, 0]}}, bytes(4)),
        ("shared bytes", {name: one, "other": one}, bytes(4)),
        ("a hole", {name: {**one, "data_offsets": [4, 8]}}, bytes(8)),
        ("metadata of numbers", {"__metadata__": {"format": 3}, name: one}, bytes(4)),
        ("metadata that lies", {"__metadata__": {"format": "os:abort"}, name: one}, bytes(4)),
    ):
        yield what, lambda path, header=header, data=data: _header(path, header, data), True
    for length in (2**63, 2**64 - 1, 99_999_999, 0, 7):
        yield f"header of {length}", lambda path, length=length: _header(path, b"{}", length=length), True
    yield "1.5 million tensors", _many, True
    for dtype in (torch.int64, torch.bool, torch.complex64, torch.float8_e4m3fn, torch.uint8):

        def convert(path: Path, dtype: torch.dtype = dtype) -> None:
            save_file({key: value.to(dtype) for key, value in load_file(path).items()}, path)

        yield f"all of {dtype}", convert, True
    for what, new in (
        ("a scalar", torch.tensor(1.0)),
        ("an empty one", torch.zeros(0)),
        ("a larger one", torch.zeros(2**20)),
        ("of 60 dimensions", torch.zeros([1] * 60)),
        ("complex", torch.zeros(1, dtype=torch.complex64)),
    ):
        yield f"a tensor that is {what}", lambda path, new=new: save_file({**load_file(path), name: new}, path), True
    for more in ("os:abort", "\u202e", "x" * 10**5, "", "a\0b"):

        def add(path: Path, more: str = more) -> None:
            save_file({**load_file(path), more: torch.zeros(1)}, path)

        yield f"one more tensor, {more[:9]!r}", add, True
    yield "one less", lambda path: save_file({k: v for k, v in load_file(path).items() if k != name}, path), True
    yield "a zip of 10 MB", _zip, True


def _many(path: Path) -> None:
    many = ",".join(f'"{i}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}' for i in range(1_500_000))
    _header(path, f"{{{many}}}".encode())


def _zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data.pkl", pickle.dumps(_Calling()))
        file.writestr("archive/data/0", bytes(10**7))


def flips(path: Path, rng: random.Random) -> Iterator[tuple[str, Change, bool]]:
    """One bit of a file that has a checksum."""
    for place in (0, 7, 9, *(rng.randrange(path.stat().st_size) for _ in range(7))):

        def flip(path: Path, place: int = place, bit: int = rng.randrange(8)) -> None:
            content = bytearray(path.read_bytes())
            content[place] ^= 1 << bit
            path.write_bytes(content)

        yield f"bit of byte {place}", flip, True


def signed(config: str, *keys: str) -> Callable[[Change], Change]:
    """After a change, write the file's size and checksum where they are kept, as somebody hostile would."""

    def with_signature(change: Change) -> Change:
        def both(path: Path) -> None:
            change(path)
            if path.is_file() and path.stat().st_size < 2**32:
                place = path.with_name(config)
                set_at(("weights",), {"bytes": path.stat().st_size or 1, "sha256": checksum(path)})(place)

        return both

    return with_signature


# The kinds


def _aim(folder: Path) -> Path:
    AIM("timm/convnext_atto", [2, 3], mask_width=4, backbone_kwargs=TINY).save_pretrained(folder)
    return folder / "config.json"


def _aim_config(path: Path, rng: random.Random) -> Iterator[tuple[str, Change, bool]]:
    yield from no_files(path, rng)
    yield from spoiled_bytes(path, rng)
    yield from json_changes(path, rng, 70)
    arguments = ("backbone", "arguments")
    for what, new in {
        "a million blocks": {"depths": [10**6] * 4},
        "a thousand blocks": {"depths": [1000] * 4},
        "giant channels": {"dims": [2**31] * 4},
        "a thousand classes": {"num_classes": 10**9},
        "giant images": {"in_chans": 10**6},
        "weights of the Hub": {"pretrained": True, "pretrained_cfg": {"hf_hub_id": "evil/evil"}},
        "a checkpoint": {"checkpoint_path": "/etc/passwd"},
        "a file": {"pretrained_cfg": {"file": "/etc/passwd", "url": "http://evil.invalid"}},
        "an activation": {"act_layer": "hostile_evil:run"},
        "a norm": {"norm_layer": "hostile_evil:run"},
        "features": {"features_only": True},
        "a loader": {"pretrained_custom_load": True, "pretrained_strict": False},
        "no argument": {"os:abort": 1},
    }.items():
        yield (
            f"arguments of {what}",
            set_at(arguments, {**json.loads(path.read_text())["backbone"][arguments[1]], **new}),
            False,
        )
    for name, more in {
        "timm/vit_giant_patch14_224": {},
        "timm/vit_tiny_patch16_224": {"img_size": 10**5},
        "timm/swin_tiny_patch4_window7_224": {"window_size": 300},
        "timm/swin_tiny_patch4_window7_224.x": {},
        "timm/hf-hub:evil/evil": {},
        "timm/local-dir:/etc": {},
        "torchvision/../../evil": {},
        "hostile_evil:run": {},
        "torchvision/resnet50": {"weights": "IMAGENET1K_V1", "norm_layer": "os:abort"},
        "torchvision/vgg16": {"num_classes": 2**40},
        "timm/resnet18": {"block_args": {"os": "abort"}, "layers": [1000, 1, 1, 1]},
    }.items():
        yield f"backbone {name} {more}", set_at(("backbone",), {"name": name, "arguments": more}), False
    for shape in ([3, 4729, 4729], [2**26, 1, 1], [3, 1, 2**24], [1, 1, 1], [10**9] * 3, [3, 5, 5], [4, 64, 64]):
        yield f"image_shape {shape}", set_at(("image_shape",), shape), False


def _weights(make: Callable[[Path], Path], config: str, name: str = "model.safetensors") -> Any:
    def healthy(folder: Path) -> Path:
        return make(folder).with_name(name)

    def changes(path: Path, rng: random.Random) -> Iterator[tuple[str, Change, bool]]:
        sign = signed(config)
        yield from no_files(path, rng)
        yield from flips(path, rng)
        for what, change, refused in (*spoiled_bytes(path, rng), *safetensors_changes(path, rng)):
            yield what, sign(change), refused

    return healthy, changes


def _plain(folder: Path) -> Path:
    save_plain(PlainClassifier(timm.create_model("test_resnet"), 2), folder, "timm/test_resnet")
    return folder / "plain.json"


def _plain_config(path: Path, rng: random.Random) -> Iterator[tuple[str, Change, bool]]:
    yield from no_files(path, rng)
    yield from spoiled_bytes(path, rng)
    yield from json_changes(path, rng, 50)
    for name in ("hostile_evil:run", "os:abort", "sys:exit", "timm/vit_giant_patch14_224", "hf-hub:a/b", "resnet18.x"):
        yield f"backbone {name}", set_at(("backbone",), name), True


def _read_plain(path: Path) -> object:
    from aimwrap.cli.report import _loaded

    return (
        _loaded(path.parent, None, "cpu") if path.name == "plain.json" and path.is_file() else load_plain(path.parent)
    )


def _run(method: str, name: str, result: bool = False) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        out = folder / "out"
        _train(out, small_run.make_pictures(folder / "pictures"), method)
        if not result:
            (out / "result.json").unlink()
        return next(out.glob(name))

    return make


def _train(out: Path, pictures: Path, method: str = "plain") -> object:
    return small_run.train(pictures, out, method=method, epochs=2, **({"stages": (1, 2)} if method == "aim" else {}))


def _resume(method: str) -> Callable[[Path], object]:
    def read(path: Path) -> object:
        out = next(parent for parent in path.parents if parent.name == "out")
        return _train(out, out.parent / "pictures", method)

    return read


def _checkpoint_changes(path: Path, rng: random.Random) -> Iterator[tuple[str, Change, bool]]:
    yield from no_files(path, rng)
    yield from spoiled_bytes(path, rng)
    yield from flips(path, rng)
    healthy = read_checkpoint(path)
    for what, change, refused in safetensors_changes(path, rng):
        yield what, change, refused
    places = [place for place in leaves(healthy.state) if place]
    for text in ("null", "[]", "NaN", "[" * 10**5, '{"variant": 1, "variant": 2}', "{}"):
        yield f"state {text[:30]}", lambda path, text=text: _with_state(path, text), True

    def changed_state(place: tuple[Any, ...], value: Any) -> Change:
        def change(path: Path) -> None:
            tensors, state = read_checkpoint(path)
            state = outer = json.loads(json.dumps(state))
            for key in place[:-1]:
                outer = outer[key]
            outer[place[-1]] = value
            write_checkpoint(path, Checkpoint(tensors, state))

        return change

    pairs = [(place, value) for place in places if place[0] != "settings" for value in VALUES]
    for place, value in rng.sample(pairs, 40):
        yield f"{'.'.join(map(str, place))} = {value!r:.40}", changed_state(place, value), False
    for file in ("../../../pipe", "/dev/zero", "/etc/passwd", "nowhere", "", ".", None, 3):
        yield (
            f"best file {file!r}",
            changed_state(("progress", "best"), {"epoch": 1, "score": 0.5, "file": file}),
            False,
        )
    names = list(healthy.tensors)
    for name in rng.sample(names, min(10, len(names))):
        for what, new in (("float", torch.zeros(3)), ("int", torch.zeros(1, dtype=torch.int64)), ("nan", math.nan)):

            def change(path: Path, name: str = name, new: Any = new) -> None:
                tensors, state = read_checkpoint(path)
                value = torch.full_like(tensors[name].double(), new) if isinstance(new, float) else new
                write_checkpoint(path, Checkpoint({**tensors, name: value}, state))

            yield f"{name} {what}", change, False
    for name in ("optimizer/os/abort", "optimizer/99999999999999999999/x", "health/x", "generators/0/x", "model/x"):

        def more(path: Path, name: str = name) -> None:
            tensors, state = read_checkpoint(path)
            write_checkpoint(path, Checkpoint({**tensors, name: torch.zeros(1)}, state))

        yield f"one more, {name}", more, False


def _with_state(path: Path, text: str) -> None:
    import aimwrap.train.checkpoints as ours

    tensors = read_checkpoint(path).tensors
    save_file(tensors, path, {"format": ours._FORMAT, "state": text, "sha256": ours._digest(tensors, text)})


def _json_of_run(path: Path, rng: random.Random) -> Iterator[tuple[str, Change, bool]]:
    yield from no_files(path, rng)
    yield from ((what, change, False) for what, change, _ in spoiled_bytes(path, rng))
    yield from ((what, change, False) for what, change, _ in json_changes(path, rng, 40))


def _masks(folder: Path) -> Path:
    path = folder / "out" / "masks" / "epoch-0001.safetensors"
    path.parent.mkdir(parents=True)
    save_file({"2": torch.zeros(2, 1, 4, 4, dtype=torch.uint8), "images": torch.tensor([0, 1])}, path)
    return path


def _kept_changes(path: Path, rng: random.Random) -> Iterator[tuple[str, Change, bool]]:
    yield from no_files(path, rng)
    yield from spoiled_bytes(path, rng)
    for what, change, _ in safetensors_changes(path, rng):
        yield what, change, False


# Data sets


def _table_changes(path: Path, rng: random.Random) -> Iterator[tuple[str, Change, bool]]:
    """Of a table with or without a header."""
    yield from no_files(path, rng)
    yield from spoiled_bytes(path, rng)
    lines = path.read_text().splitlines()
    separator = "," if "," in lines[0] else " "
    for number in (0, len(lines) - 1):
        for column, value in enumerate(lines[number].split(separator)):
            for new in rng.sample(
                [
                    "",
                    "-1",
                    "1e9",
                    "9" * 30,
                    HUGE,
                    "nan",
                    "../../x",
                    "/etc/passwd",
                    "a\0b",
                    '"',
                    "é" * 9,
                    "\u202e",
                    "=cmd()",
                    "999999999",
                    "0x1",
                    "１",
                    "os:abort",
                    "\ud800",
                ],
                4,
            ):
                changed = lines[number].split(separator)
                changed[column] = new

                def change(path: Path, number: int = number, changed: list[str] = changed) -> None:
                    text = [*lines[:number], separator.join(changed), *lines[number + 1 :]]
                    path.write_bytes("\n".join([*text, ""]).encode(errors="surrogatepass"))

                yield f"line {number + 1}, {value[:20]} = {new[:20]!r}", change, False
    for what, text in {
        "a line twice": [*lines, lines[-1]],
        "a line without an end": [*lines, "x" * 2**23],
        "a line of a million values": [*lines, separator.join("1" * 10**6)],
        "a header of a million values": [separator.join("a" * 10**6), *lines],
        "an open quotation mark": [lines[0], '"' + lines[1], *lines[2:]],
        "Latin-1": [*lines[:-1], lines[-1] + "\udce9"],
        "NULs": [*lines[:-1], lines[-1] + "\0"],
        "no rows": lines[:1],
    }.items():
        yield (
            what,
            lambda path, text=text: path.write_bytes("\n".join([*text, ""]).encode(errors="surrogateescape")),
            False,
        )


def _reader(name: str, root_of: Callable[[Path], Path], **given: Callable[[Path], Path]) -> Callable[[Path], object]:
    """Reads a set by its name, as commands do, and has the doctor look at it, which must not raise foreign errors."""

    def read(path: Path) -> object:
        root = root_of(path)
        arguments = {key: str(place(path)) for key, place in given.items()}
        try:
            said = str(examine(root, name, official=False, workers=1, **arguments))
        except (OSError, ValueError) as error:
            said = str(error)
        for _ in zip(read_by_name(name, str(root), None, arguments), range(3), strict=False):
            pass
        return said

    return read


def _cub(name: str) -> Callable[[Path], Path]:
    return lambda folder: releases.make_cub(folder, images_per_species=2) / name


def _waterbirds(folder: Path) -> Path:
    return releases.make_waterbirds(folder, images_per_species=4) / "metadata.csv"


def _traveling(folder: Path) -> Path:
    releases.make_cub(folder, images_per_species=2)
    return releases.make_traveling_birds(folder, images_per_species=2) / "CUB_fixed" / "train_places.json"


def _built(name: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        imagenet_releases.table(folder / "set")
        for path in (folder / "set").glob("*/*.*"):
            imagenet_releases.mask(
                (folder / "set" / "segmentations" / path.relative_to(folder / "set")).with_suffix(".png")
            )
        manifest = {
            "classes": ["a", "b"],
            "places": ["forest", "lake"],
            "num_images": {"train": 2, "val": 1, "test": 1},
        }
        manifest["tyings"] = {"train": {"tie": 0.5, "shift": 0}}
        (folder / "set" / "build.json").write_text(json.dumps(manifest))
        return folder / "set" / name

    return make


def _places_changes(path: Path, rng: random.Random) -> Iterator[tuple[str, Change, bool]]:
    yield from no_files(path, rng)
    yield from spoiled_bytes(path, rng)
    yield from json_changes(path, rng, 15)


def _imagenet100(name: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        imagenet_releases.imagenet100(folder)
        return next(folder.rglob(name))

    return make


def _table(folder: Path) -> Path:
    text = imagenet_releases.TABLE.replace("img_filename", "image").replace(",y,", ",label,")
    return imagenet_releases.table(folder, text, "mine.csv")


def _text_changes(path: Path, rng: random.Random) -> Iterator[tuple[str, Change, bool]]:
    """Of a file whose values are not looked at one by one."""
    yield from no_files(path, rng)
    yield from spoiled_bytes(path, rng)
    content = path.read_bytes()
    for number in range(10):
        cut = rng.randrange(len(content))
        new = rng.choice([content[:cut] + rng.randbytes(3) + content[cut + 3 :], content[:cut] + content[cut:] * 2])
        yield f"changed {number}", lambda path, new=new: path.write_bytes(new), False


def _xml_changes(path: Path, rng: random.Random) -> Iterator[tuple[str, Change, bool]]:
    yield from _text_changes(path, rng)
    text = path.read_text()
    laughs = "".join(f'<!ENTITY a{i + 1} "{f"&a{i};" * 10}">' for i in range(30))
    for what, new in {
        "a billion laughs": f'<!DOCTYPE x [<!ENTITY a0 "ha">{laughs}]><x>&a30;</x>',
        "another file": '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><x>&a;</x>',
        "100,000 levels": "<a>" * 10**5 + "</a>" * 10**5,
        "100,000 open levels": "<a>" * 10**5,
        "100,000 attributes": "<a " + " ".join(f'a{i}=""' for i in range(10**5)) + "/>",
        "giant sizes": text.replace("<width>20<", "<width>999999999<"),
        "another encoding": '<?xml version="1.0" encoding="os:abort"?>' + text,
    }.items():
        yield what, lambda path, new=new: path.write_text(new), False


def _hard(folder: Path) -> Path:
    imagenet_releases.hard_imagenet(folder)
    return folder / "hardImageNet" / "meta" / "hard_imagenet_idx.pkl"


def _pickle_changes(path: Path, rng: random.Random) -> Iterator[tuple[str, Change, bool]]:
    yield from _text_changes(path, rng)
    deep = b"(" * 10**5 + b"t" * 10**5 + b"."
    for what, new in {
        "os.system": b"cos\nsystem\n(S'true'\ntR.",
        "deep tuples": deep,
        "a long integer": b"\x8b" + struct.pack("<i", 2**30) + b"1.",
        "a giant text": b"\x8d" + struct.pack("<Q", 2**40) + b"1.",
        "the same list a million times": b"](" + b"h\x00" * 10 + b"e.",
        "an object that builds": b"c__builtin__\nset\n)\x81}b.",
        "numbers by protocol 0": b"I" + b"9" * 10**5 + b"\n.",
    }.items():
        yield what, lambda path, new=new: path.write_bytes(new), True


def _woof(folder: Path) -> Path:
    return imagenet_releases.imagewoof(folder) / "noisy_imagewoof.csv"


# Pictures


def _picture(suffix: str, mode: str = "RGB") -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        random.seed(0)
        values = Image.frombytes("L", (40, 30), random.randbytes(1200)).convert(mode)  # grey: it is read as a mask, too
        values.save(folder / f"picture.{suffix}")
        return folder / f"picture.{suffix}"

    return make


def _read_picture(path: Path) -> object:
    """As the reader opens it, as the doctor does with ``--quick``, and as a mask."""
    errors: list[Exception] = []
    for read in (size_and_orientation, open_object_mask, open_image):
        try:
            read(path)
        except (OSError, ValueError) as error:
            errors.append(error)
            if str(path) not in str(error):
                raise
    if errors:
        raise errors[-1]
    return "read"


def _zeros(number: int) -> bytes:
    return zlib.compress(bytes(number), 1)


def _png(*chunks: tuple[bytes, bytes]) -> bytes:
    parts = [*chunks, (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in parts
    )


def _head(width: int, height: int, bits: int = 8, colour: int = 2) -> tuple[bytes, bytes]:
    return b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)


def _tiff(tags: dict[int, tuple[int, int, int]], after: int = 0, data: bytes = b"") -> bytes:
    entries = b"".join(struct.pack("<HHII", tag, *value) for tag, value in sorted(tags.items()))
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + struct.pack("<I", after) + data


def _picture_changes(path: Path, rng: random.Random) -> Iterator[tuple[str, Change, bool]]:
    yield from no_files(path, rng)
    for what, change, _ in spoiled_bytes(path, rng):
        yield what, change, what != "a terabyte of NULs at its end"
    content = path.read_bytes()
    for number in range(8):
        places = [rng.randrange(len(content)) for _ in range(1 + 3 * (number % 3))]

        def flip(path: Path, places: list[int] = places) -> None:
            changed = bytearray(content)
            for place in places:
                changed[place] ^= 1 << (place % 8)
            path.write_bytes(changed)

        yield f"bits of bytes {places}", flip, False
    for _ in range(4):
        cut = rng.randrange(len(content))
        yield f"cut at {cut}", lambda path, cut=cut: path.write_bytes(content[:cut]), False


def _bombs(path: Path, rng: random.Random) -> Iterator[tuple[str, Change, bool]]:
    """Of any format, under the name of one."""
    zeros = _zeros(10**7)
    size = {256: (3, 1, 40), 257: (3, 1, 30), 258: (3, 1, 8), 259: (3, 1, 1), 262: (3, 1, 1), 277: (3, 1, 1)}
    strips = {273: (4, 1, 200), 278: (3, 1, 30), 279: (4, 1, 1200)}
    frame = b"\x2c" + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02D\x01\x00"
    gif = b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0x80, 0, 0) + bytes(6)
    pages = b"".join(struct.pack("<HHHIII", 1, 256, 4, 1, 1, 8 + 18 * (n + 1)) for n in range(300_000))
    for what, new, refused in (
        ("20,000 x 20,000 pixels", _png(_head(20_000, 20_000), (b"IDAT", zeros)), True),
        ("2**31 x 2**31 pixels", _png(_head(2**31 - 1, 2**31 - 1), (b"IDAT", zeros)), True),
        ("0 x 0 pixels", _png(_head(0, 0), (b"IDAT", zeros)), True),
        ("1 x 100,000 pixels", _png(_head(1, 100_000), (b"IDAT", zeros)), True),
        (
            "9,999 x 9,999 of 16 bits",
            lambda: _png(_head(9_999, 9_999, 16, 0), (b"IDAT", _zeros(9_999 * 19_999))),
            False,
        ),
        (
            "9,999 x 9,999 RGBA of 16 bits",
            lambda: _png(_head(9_999, 9_999, 16, 6), (b"IDAT", _zeros(9_999 * 79_993))),
            False,
        ),
        (
            "9,999 x 9,999 of 1 bit",
            lambda: _png(_head(9_999, 9_999, 1, 0), (b"IDAT", _zeros(9_999 * 1251))),
            False,
        ),
        ("more data than pixels", lambda: _png(_head(40, 30), (b"IDAT", _zeros(4 * 10**8))), False),
        (
            "compressed text",
            lambda: _png(_head(40, 30), (b"zTXt", b"a\0\0" + _zeros(4 * 10**8)), (b"IDAT", zeros)),
            False,
        ),
        (
            "compressed profile",
            lambda: _png(_head(40, 30), (b"iCCP", b"a\0\0" + _zeros(4 * 10**8)), (b"IDAT", zeros)),
            False,
        ),
        ("100,000 texts", _png(_head(40, 30), *[(b"tEXt", b"a\0b")] * 100_000, (b"IDAT", zeros)), False),
        (
            "frames by its header",
            _png(_head(40, 30), (b"acTL", struct.pack(">II", 2**31 - 1, 0)), (b"IDAT", zeros)),
            False,
        ),
        ("a GIF of 300,000 frames", gif + frame * 300_000 + b";", True),
        (
            "a GIF of 65,535 x 65,535",
            b"GIF89a" + struct.pack("<HHBBB", 65535, 65535, 0x80, 0, 0) + bytes(6) + frame,
            True,
        ),
        ("a TIFF in a circle", _tiff(size | strips, after=8), True),
        ("a TIFF of 300,000 pages", b"II*\0" + struct.pack("<I", 8) + pages, True),
        ("a TIFF with a giant strip", _tiff(size | {**strips, 279: (4, 1, 2**32 - 1)}), True),
        ("a TIFF with giant counts", _tiff(size | {**strips, 273: (4, 2**31, 200)}), True),
        ("a TIFF of giant bits", _tiff(size | {**strips, 258: (3, 1, 65535)}), True),
        ("a TIFF of many bands", _tiff(size | {**strips, 277: (3, 1, 65535)}), True),
        ("a TIFF of another offset", _tiff(size | {**strips, 273: (4, 1, 2**32 - 1)}), True),
        (
            "a BMP of giant size",
            b"BM" + struct.pack("<IHHIIIIHHIIIIII", 54, 0, 0, 54, 40, 2**31 - 1, 2**31 - 1, 1, 24, 0, 0, 0, 0, 0, 0),
            True,
        ),
        ("a PPM of giant size", b"P6 999999999 999999999 255\n", True),
        ("a PPM of giant numbers", b"P6 " + b"9" * 10**6 + b" 1 255\n", True),
        ("a PPM of fractions", b"Pf 40 30 -1.0\n" + bytes(4800), True),
        ("PostScript", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n(x) (w) file\n", True),
        ("an SVG", b"<svg xmlns='http://www.w3.org/2000/svg'><script/></svg>", True),
        ("a WebP of a terabyte", b"RIFF\xff\xff\xff\xffWEBPVP8 \xff\xff\xff\xff", True),
        ("an AVIF of a terabyte", b"\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf", True),
    ):

        def write(path: Path, what: str = what, new: Any = new) -> None:
            path.write_bytes(new() if callable(new) else new)
            if "terabyte" in what:
                with_hole(path, 2**40)

        yield what, write, refused


KINDS: dict[str, Kind] = {
    "config.json of AIM": Kind(_aim, lambda path: AIM.from_pretrained(path.parent), _aim_config),
    "weights of AIM": Kind(
        (aim := _weights(_aim, "config.json"))[0], lambda path: AIM.from_pretrained(path.parent), aim[1]
    ),
    "plain.json": Kind(_plain, _read_plain, _plain_config),
    "weights of a plain model": Kind((one := _weights(_plain, "plain.json"))[0], _read_plain, one[1]),
    "checkpoint of a plain run": Kind(_run("plain", "checkpoints/step-*4*"), _resume("plain"), _checkpoint_changes),
    "checkpoint of AIM's run": Kind(_run("aim", "checkpoints/step-*4*"), _resume("aim"), _checkpoint_changes),
    "best weights": Kind(_run("plain", "checkpoints/best-epoch-0002*"), _resume("plain"), _kept_changes),
    "settings.json": Kind(_run("plain", "settings.json", result=True), _resume("plain"), _json_of_run),
    "result.json": Kind(_run("plain", "result.json", result=True), _resume("plain"), _json_of_run),
    "kept masks": Kind(_masks, lambda path: kept_masks(path.parents[1]), _kept_changes),
    "build.json": Kind(_built("build.json"), _reader("built", lambda path: path.parent), _places_changes),
    "table of a built set": Kind(_built("metadata.csv"), _reader("built", lambda path: path.parent), _table_changes),
    "table": Kind(_table, _reader("table", lambda path: path), _table_changes),
    "table of Waterbirds": Kind(_waterbirds, _reader("waterbirds", lambda path: path.parent), _table_changes),
    "images.txt of CUB": Kind(_cub("images.txt"), _reader("cub", lambda path: path.parent), _table_changes),
    "boxes of CUB": Kind(_cub("bounding_boxes.txt"), _reader("cub", lambda path: path.parent), _table_changes),
    "places of TravelingBirds": Kind(
        _traveling, _reader("traveling-birds", lambda path: path.parents[1]), _places_changes
    ),
    "table of ImageWoof": Kind(_woof, _reader("imagewoof", lambda path: path.parent), _table_changes),
    "class list": Kind(
        _imagenet100("classes.txt"),
        _reader("imagenet-100", lambda path: path.parent / "imagenet", class_list=lambda path: path),
        _text_changes,
    ),
    "annotation": Kind(
        _imagenet100("*.xml"),
        _reader(
            "imagenet-100",
            lambda path: path.parents[4] / "imagenet",
            class_list=lambda path: path.parents[4] / "classes.txt",
            annotations=lambda path: path.parent,
        ),
        _xml_changes,
    ),
    "pickle of Hard-ImageNet": Kind(
        _hard,
        _reader("hard-imagenet", lambda path: path.parents[1], imagenet=lambda path: path.parents[2] / "imagenet"),
        _pickle_changes,
    ),
    **{
        f"{suffix} picture": Kind(_picture(suffix), _read_picture, _picture_changes)
        for suffix in ("jpg", "png", "tiff", "webp", "gif", "bmp", "ppm")
    },
    "bomb": Kind(_picture("png"), _read_picture, _bombs),
}


def variants(seed: int, healthy: dict[str, Path]) -> list[Variant]:
    """All of them; ``healthy`` has the file of each kind."""
    return [
        Variant(kind, name, change, refused)
        for number, (kind, each) in enumerate(KINDS.items())
        if kind in healthy
        for name, change, refused in each.changes(healthy[kind], random.Random(seed * 1000 + number))
    ]


# Trying them


def in_child(work: Callable[[], str], seconds: float = SECONDS, memory: int = MEMORY) -> tuple[str, str, float, int]:
    """Call in a fork: why it had to be ended, what it gave, the seconds of the processor and the bytes it took."""
    reading, writing = os.pipe()
    before = _resident(os.getpid())
    child = os.fork()
    if child == 0:
        os.close(reading)
        torch.set_num_threads(1)  # makes the fork's pool anew; autograd's threads would do it at once, and abort
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        resource.setrlimit(resource.RLIMIT_CPU, (int(seconds) + 1, int(seconds) + 1))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        try:
            found = work()
        except BaseException as error:  # also SystemExit, which is a call
            where = traceback.extract_tb(error.__traceback__)[-1]
            found = f"!{type(error).__name__}: {str(error)[:300]} ({where.filename}, line {where.lineno})"
        os.write(writing, found.encode(errors="backslashreplace")[:60000])
        os._exit(0)
    os.close(writing)
    most, reason, used, since = 0, "", -1, time.monotonic()
    while not select.select([reading], [], [], 0.01)[0]:
        most = max(most, _resident(child) - before)
        if used != (used := _ticks(child)):
            since = time.monotonic()
        if most > memory or time.monotonic() - since > PATIENCE:
            reason = "took more memory" if most > memory else "hung"
            os.kill(child, signal.SIGKILL)
            break
    text = b""
    while part := os.read(reading, 65536):
        text += part
    os.close(reading)
    _, status, usage = os.wait4(child, 0)
    took = usage.ru_utime + usage.ru_stime
    if not reason and status:
        reason = "took more time" if took > seconds else f"died of signal {status & 127}, code {status >> 8}"
    return reason, text.decode(), took, max(most, usage.ru_maxrss * 1024 - before)


def _resident(process: int) -> int:
    try:
        return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * 4096
    except (OSError, IndexError):
        return 0


def _ticks(process: int) -> int:
    """The processor's time that it has used."""
    return sum(map(int, Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[11:13]))


def make_all(folder: Path, kinds: Sequence[str] = tuple(KINDS)) -> dict[str, Path]:
    """The healthy file of each kind; made in forks, so that this process stays as it is."""
    healthy = {}
    for number, kind in enumerate(kinds):
        place = folder / str(number)

        def make(kind: str = kind, place: Path = place) -> str:
            place.mkdir()
            found = KINDS[kind].make(place)
            KINDS[kind].read(found)
            if "run" in kind or kind in ("best weights", "settings.json"):
                shutil.rmtree(place)
                place.mkdir()
                found = KINDS[kind].make(place)
            return str(found)

        reason, text, _, _ = in_child(make, 60)
        assert not reason and not text.startswith("!"), f"{kind}: {reason} {text}"
        healthy[kind] = Path(text)
    return healthy


def outcome_of(variant: Variant, healthy: Path, top: Path, folder: Path) -> Outcome:
    """Copy the healthy folder, change it, read it."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(top, folder)
    path = folder / healthy.relative_to(top)

    def work() -> str:
        variant.change(path)
        called: list[str] = []
        resource.setrlimit(resource.RLIMIT_AS, (64 * 2**30, 64 * 2**30))  # for the machine's sake
        sys.addaudithook(lambda event, args: called.append(f"{event} {args}"[:200]) if _is_call(event, args) else None)
        warnings.simplefilter("ignore")
        os.chdir(folder)
        try:
            said = f"read {KINDS[variant.kind].read(path)}"
        except (OSError, ValueError, CheckpointError) as error:
            said = f"{type(error).__name__}: {error}"
            names = (str(path), path.name, str(path.parent), os.path.realpath(path))
            if not any(name in said for name in names):
                said = f"!does not name the file: {said}"
            elif type(error) not in (OSError, ValueError, FileNotFoundError) and type(error).__module__ == "builtins":
                said = f"?{said}"
        return f"!called {called}" if called else said

    reason, said, seconds, memory = in_child(work)
    wrong = reason or (said if said.startswith("!") else "")
    if not wrong and said.startswith("read") and variant.refused:
        wrong = "was read"
    return Outcome(variant, wrong, said, seconds, memory)


def _is_call(event: str, args: tuple[Any, ...]) -> bool:
    if event == "import":
        return "hostile_evil" in str(args[0])
    return event in ("os.system", "os.exec", "os.fork", "subprocess.Popen", "socket.connect", "socket.getaddrinfo")


def try_all(
    seed: int, chosen: Callable[[list[Variant]], Sequence[Variant]], kinds: Sequence[str] = tuple(KINDS)
) -> Iterator[Outcome]:
    """The outcomes of the chosen variants."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        healthy = make_all(folder, kinds)
        tops = {kind: folder / path.relative_to(folder).parts[0] for kind, path in healthy.items()}
        for each in chosen(variants(seed, healthy)):
            yield outcome_of(each, healthy[each.kind], tops[each.kind], folder / "tried")


if __name__ == "__main__":  # python hostile.py SEED [KIND]
    torch.set_num_threads(1)
    which = [kind for kind in KINDS if not sys.argv[2:] or any(word in kind for word in sys.argv[2:])]
    for one in try_all(int(sys.argv[1]), lambda every: every, which):
        mark = "WRONG" if one.wrong else "fine"
        print(
            f"{mark}\t{one.variant.kind}\t{one.variant.name[:70]!r}\t{one.seconds:.1f} s\t{one.memory >> 20} MiB\t"
            f"{one.wrong[:1500]!r}\t{one.text[:300]!r}",
            flush=True,
        )
