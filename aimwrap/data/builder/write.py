"""Writing a set to disk: in processes, and so that an interrupted build continues."""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import PIL
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from ..._choices import FileFormat as FileFormat
from ..._text import with_progress
from ..io import read_json
from ..release import SPLITS
from ..sets.built import MANIFEST
from .draw import Drawn

COLUMNS = ("img_id", "img_filename", "y", "split", "place", "place_filename", "cutout_filename", "mask")
METADATA, MASKS, PARTIAL = "metadata.csv", "segmentations", ".partial"
JPEG_QUALITY = 95


class Entry(NamedTuple):
    """An image of a set, as the set's table has it.

    Attributes:
        split: ``"train"``, ``"val"`` or ``"test"``.
        number: in its split, from 0.
        label: number of the class.
        place: number of the background's kind.
        place_filename: name of the background.
        cutout_filename: name of the cut-out.
    """

    split: str
    number: int
    label: int
    place: int
    place_filename: str
    cutout_filename: str


class SetToWrite(NamedTuple):
    """All of a set but its pixels.

    Attributes:
        entries: of every image.
        classes: names, by label.
        places: names, by number.
        arguments: all that the pixels depend on, for the manifest; what JSON can hold.
        file_format: of the images; masks are PNGs.
    """

    entries: Sequence[Entry]
    classes: Sequence[str]
    places: Sequence[str]
    arguments: Mapping[str, Any]
    file_format: FileFormat = "jpg"


def write_set(
    out: Path, to_write: SetToWrite, draw: Callable[[int], Drawn], *, workers: int = 0, progress: bool = True
) -> None:
    """Draw and write every image that is not there yet, then the table.

    Files are written under another name and renamed, so that a file with its final name is complete. The table comes
    last: a set that has it is complete.

    Args:
        out: a folder that is new, empty, or of an earlier build with the same arguments.
        to_write: the set.
        draw: makes the image of an entry, by its number; called in any order and in any process.
        workers: how many processes; 0 draws in this one.
        progress: whether to show a bar.

    Raises:
        FileExistsError: if the folder has something else in it.
        OSError: if it cannot be written to.
        ValueError: if names clash, or images cannot be made, each named; the others are written.
    """
    _check_names("classes", to_write.classes)
    _check_names("places", to_write.places)
    _check_sources(to_write.entries)
    _check_folder(out, _manifest(to_write))
    names = [_names_of(entry, to_write) for entry in to_write.entries]
    for class_name in to_write.classes:
        (out / class_name).mkdir(parents=True, exist_ok=True)
        (out / MASKS / class_name).mkdir(parents=True, exist_ok=True)
    missing = [i for i, (image, mask) in enumerate(names) if not ((out / image).is_file() and (out / mask).is_file())]
    # a DataLoader, whose workers end by themselves when this process is killed
    loader = DataLoader(
        _Drawing(out, names, draw), batch_size=None, sampler=missing, num_workers=workers, collate_fn=_as_it_is
    )
    problems = []
    for problem in with_progress(loader, "building", "image") if progress else loader:
        if isinstance(problem, _CannotWrite):
            raise OSError(
                f"{out} cannot be written to: {problem}. Make room, or fix its permissions, and build again: "
                "what is there "
                "is kept"
            )
        problems += [] if problem is None else [problem]
    if problems:
        _clear(out)
        lines = "\n  ".join(sorted(set(problems))[:10])
        raise ValueError(
            f"{len(problems)} of {len(names)} images could not be made, and {METADATA} was not written:\n  {lines}\n"
            "Repair or replace these files under the same names and build again: what is there is kept"
        )
    _write_whole(out, METADATA, _table(to_write, names).encode())
    _clear(out)


def _clear(out: Path) -> None:
    """Remove what an interrupted build left half written."""
    shutil.rmtree(out / PARTIAL, ignore_errors=True)


class _CannotWrite(str):
    """Why an image could not be written, which ends the build; other problems are of one image."""


class _Drawing(Dataset[str | None]):
    """Writes an image when it is asked for it, and gives what went wrong, if anything."""

    def __init__(self, out: Path, names: Sequence[tuple[str, str]], draw: Callable[[int], Drawn]) -> None:
        self.out, self.names, self.draw = out, names, draw

    def __getitem__(self, number: int) -> str | None:
        image, mask = self.names[number]
        try:
            drawn = self.draw(number)
        except (OSError, ValueError) as error:
            return str(error)
        try:
            _write_whole(self.out, mask, _encoded(drawn.object_mask, "png"))
            _write_whole(self.out, image, _encoded(drawn.image, "jpg" if image.endswith(".jpg") else "png"))
        except OSError as error:  # raised in a worker, it would come with the worker's whole stack for a message
            return _CannotWrite(error)
        return None


def _as_it_is(problem: Any) -> Any:
    return problem


def _encoded(pixels: np.ndarray, file_format: FileFormat) -> bytes:
    file = BytesIO()
    if file_format == "jpg":
        Image.fromarray(pixels).save(file, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    else:
        Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def _write_whole(out: Path, name: str, content: bytes) -> None:
    """Write under another name first; with the process's number, since an earlier build's may still be ending."""
    (out / PARTIAL).mkdir(exist_ok=True)
    partial = out / PARTIAL / f"{os.getpid()}.{Path(name).name}"
    partial.write_bytes(content)
    partial.replace(out / name)


def _names_of(entry: Entry, to_write: SetToWrite) -> tuple[str, str]:
    """Of the image and of its mask."""
    stem = f"{to_write.classes[entry.label]}/{entry.split}_{entry.number:05d}"
    return f"{stem}.{to_write.file_format}", f"{MASKS}/{stem}.png"


def _table(to_write: SetToWrite, names: Sequence[tuple[str, str]]) -> str:
    file = StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(COLUMNS)
    for number, (entry, (image, mask)) in enumerate(zip(to_write.entries, names, strict=True), start=1):
        split = SPLITS.index(entry.split)
        writer.writerow(
            [number, image, entry.label, split, entry.place, entry.place_filename, entry.cutout_filename, mask]
        )
    return file.getvalue()


def _manifest(to_write: SetToWrite) -> dict[str, Any]:
    """All that the bytes on disk depend on; resizing and compressing change with Pillow's versions."""
    manifest = {
        **to_write.arguments,
        "classes": list(to_write.classes),
        "places": list(to_write.places),
        "num_images": {split: sum(entry.split == split for entry in to_write.entries) for split in SPLITS},
        "file_format": to_write.file_format,
        "made_with": {"numpy": np.__version__, "Pillow": PIL.__version__},
    }
    read_back: dict[str, Any] = json.loads(json.dumps(manifest))  # as it will compare: tuples become lists
    return read_back


def _check_folder(out: Path, manifest: Mapping[str, Any]) -> None:
    """Leave the manifest in an empty folder, or compare it with the one that is there."""
    path = out / MANIFEST
    if path.is_file():
        found, manifest = _flat(_read_manifest(path)), _flat(manifest)
        different = [key for key in {**manifest, **found} if manifest.get(key) != found.get(key)]
        if different:
            lines = "\n  ".join(
                f"{key}: there {found.get(key)!r:.90}, now {manifest.get(key)!r:.90}" for key in different
            )
            raise FileExistsError(
                f"{out} holds a set that was built otherwise:\n  {lines}\nBuild into another folder, or remove this one"
            )
        return
    if out.exists() and (not out.is_dir() or any(child.name != PARTIAL for child in out.iterdir())):
        raise FileExistsError(
            f"{out} exists and is not the output of a build (it has no {MANIFEST}); use a new or an empty folder"
        )
    out.mkdir(parents=True, exist_ok=True)
    _write_whole(out, MANIFEST, (json.dumps(manifest, indent=2) + "\n").encode())


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one.

    >>> _flat({"style": {"crop": [0.5, 1.0]}})
    {'style crop': [0.5, 1.0]}
    """
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key} ") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = read_json(path)
    except ValueError as error:
        raise FileExistsError(
            f"{path} is not the manifest of a build, so no build continues here: build into another folder, or "
            "remove this one"
        ) from error
    return manifest if isinstance(manifest, dict) else {}


def _check_sources(entries: Sequence[Entry]) -> None:
    """They become lines of the table, which no reader would read with these, and that comes last."""
    for name in (name for entry in entries for name in (entry.place_filename, entry.cutout_filename)):
        if not _is_line(name):
            raise ValueError(
                f"sources must have names that a line of {METADATA} can hold, without line ends and in the system's "
                f"encoding, got {name!r}. Rename the file"
            )


def _is_line(name: str) -> bool:
    return not {*name} & {"\0", "\n", "\r"} and not any("\ud800" <= letter <= "\udfff" for letter in name)


def _check_names(argument: str, names: Sequence[str]) -> None:
    """They become folders."""
    for name in names:
        if not name or name != name.strip() or name.startswith(".") or {*name} & {*'/\\:*?"<>|'} or not _is_line(name):
            raise ValueError(
                f"{argument} become folders, so their names must not be empty, begin with a dot, begin or end with a "
                f'space, or have line ends or any of / \\ : * ? " < > | in them; got {name!r}. Rename folder or label'
            )
    folded = [name.casefold() for name in (*names, MASKS)]
    clashing = sorted({name for name in (*names, MASKS) if folded.count(name.casefold()) > 1})
    if clashing:
        raise ValueError(
            f"{argument} must have names that differ in more than case, and none may be called {MASKS}, which holds "
            f"the masks; got {', '.join(clashing)}. Rename one"
        )
