"""From cut-outs and backgrounds to a set on disk: in processes, and so that an interrupted build continues."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from io import BytesIO
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple
from unicodedata import normalize

import numpy as np
import PIL
from PIL import Image
from torch.utils.data import Dataset

from ..._checks import check_choices
from ..._choices import FileFormat as FileFormat
from ..._files import is_unfinished, locked, parts_of, replacing, write_json
from ..._text import with_progress
from ..io import expand_path, read_json
from ..release import SPLITS, ImageLoader, Release
from ..sets.built import MANIFEST, read_built
from .draw import Drawn, Placed, Style, forget_pictures
from .plan import Shot, Source, Tying, generator_of, plan_shots
from .sources import Background, Cutout

COLUMNS = ("img_id", "img_filename", "y", "split", "place", "place_filename", "cutout_filename", "mask")
METADATA, MASKS, PARTIAL, LOCK, FILES = "metadata.csv", "segmentations", ".partial", ".unfinished-lock", "source_files"
JPEG_QUALITY = 95


def build(
    out: Path | str,
    cutouts: Sequence[Cutout],
    backgrounds: Sequence[Background],
    tyings: Mapping[str, Tying],
    seed: int = 0,
    *,
    style: Style | None = None,
    classes: Sequence[str] | None = None,
    places: Sequence[str] | None = None,
    test_share: float = 0.2,
    val_share: float = 0.2,
    cutout_uses: int = 1,
    background_uses: int = 1,
    file_format: FileFormat = "jpg",
    workers: int = 0,
    progress: bool = True,
) -> Release:
    """Build a set whose background is tied to the label.

    The folder gets ``<class>/<split>_<number>.jpg``, the masks of the objects under the same names in ``segmentations``
    (brightness is how much of the pixel the object covers), ``metadata.csv`` with Waterbirds' columns, and
    ``build.json`` with the arguments. No source image is in two splits, not even under two names.

    An image depends only on the sources, the arguments, its split and its number: two builds are the same byte for
    byte, with any number of workers, and also if one was interrupted and called again, which continues. So that
    this holds, a folder is refused that was begun with other arguments, another version of Pillow or numpy, or other
    sources, as far as the files' sizes and parts of them tell.

    Args:
        out: a folder that is new, empty, or of an earlier build with the same arguments.
        cutouts: from :func:`cutouts_in` or :func:`cutouts_of`.
        backgrounds: from :func:`backgrounds_in` or :func:`backgrounds_of`.
        tyings: from :func:`waterbirds` or :func:`travelingbirds`, or your own, by split.
        seed: draws the splits, which object is on which background, and every image.
        style: :class:`Placed` or :class:`InPlace`; by default ``Placed()``.
        classes: which classes, in the order of their labels; by default all, sorted by name. Label k is tied
            to place k.
        places: which places, in the order of their numbers; by default all, sorted by name, or where the tyings shift
            places, which takes as many of them as there are classes, the first ones.
        test_share: share of the cut-outs and of the backgrounds that are for the test, if they have no
            splits; 0 leaves the test out.
        val_share: share of the others that are for the validation, if they have no splits; 0 leaves it out.
        cutout_uses: how many images may show the same cut-out.
        background_uses: how many images may show the same background.
        file_format: ``"jpg"`` (quality 95) or ``"png"`` of the images.
        workers: how many processes; 0 draws in this one.
        progress: whether to show a bar.

    Returns:
        The set, read back.

    Raises:
        FileExistsError: if the folder has something else in it.
        OSError: if it cannot be written to.
        ValueError: if an argument is out of range, there are too few cut-outs or backgrounds, names clash, or source
            images cannot be read, which are all listed; the other images are written, and the next call continues.
    """
    style = Placed() if style is None else style
    style.check()
    check_choices(file_format=(file_format, FileFormat))
    cutouts_by_class = _by_kind(cutouts, [cutout.class_name for cutout in cutouts], classes, "classes")
    by_place = _by_kind(backgrounds, [background.place for background in backgrounds], places, "places")
    shifts = any(tying.shift for tying in tyings.values())
    if shifts and places is None:
        by_place = dict(list(by_place.items())[: len(cutouts_by_class)])
    if shifts and len(by_place) != len(cutouts_by_class):
        raise ValueError(
            f"there must be as many places as classes, since shift gives each class its own, got {len(by_place)} "
            f"places and {len(cutouts_by_class)} classes; add backgrounds, or choose with classes= and places="
        )
    if any(tying.shift % len(by_place) == 0 for tying in tyings.values() if tying.shift):
        raise ValueError(
            f"shift must not be a multiple of the number of places ({len(by_place)}), because it would move nothing; "
            "choose another"
        )
    shares: dict[str, Any] = {"test_share": test_share, "val_share": val_share}
    uses: dict[str, Any] = {"cutout_uses": cutout_uses, "background_uses": background_uses}
    shots = plan_shots(cutouts_by_class, by_place, tyings, seed, **shares, **uses)
    entries = [
        Entry(shot.split, shot.number, shot.label, shot.place, shot.background.name, shot.cutout.name) for shot in shots
    ]
    paths = [[shot.background.path, shot.cutout.path, shot.cutout.opacity_path] for shot in shots]
    content = {path: hashlib.sha256(b"".join(parts_of(path))).hexdigest() for path in {*chain(*paths)}}
    read_as = [
        [shot.cutout.any_value, shot.cutout.as_stored, *map(content.get, each)]
        for shot, each in zip(shots, paths, strict=True)
    ]
    arguments = {
        "seed": seed,
        "tyings": {split: tying._asdict() for split, tying in tyings.items()},
        "style": {type(style).__name__: style._asdict()},
        **shares,
        **uses,
        "sources": hashlib.sha256(json.dumps(entries).encode()).hexdigest(),
        FILES: hashlib.sha256(json.dumps(read_as).encode()).hexdigest(),
    }
    names = list(cutouts_by_class), list(by_place)
    try:
        draw = partial(draw_shot, shots, style, seed)
        return _write_set(out, entries, *names, arguments, draw, file_format, workers, progress)
    finally:
        forget_pictures()  # which may be others the next time


def draw_shot(shots: Sequence[Shot], style: Style, seed: int, number: int) -> Drawn:
    """Draw an image of a plan by its number, in any process."""
    shot = shots[number]
    return style.draw(shot.cutout, shot.background, generator_of(seed, SPLITS.index(shot.split), shot.number))


def _by_kind(
    sources: Sequence[Source], kinds: Sequence[str], chosen: Sequence[str] | None, argument: str
) -> dict[str, list[Source]]:
    names: list[str] = sorted({*kinds}) if chosen is None else list(chosen)
    unknown = [name for name in names if name not in kinds]
    if unknown or len({*names}) < len(names) or len(names) < 2:
        raise ValueError(
            f"{argument} must name two or more of {', '.join(sorted({*kinds})[:10]) or 'none at all'}, each once, got "
            f"{', '.join(names) or 'none'}. If there is only one, pass the folder whose folders are the {argument}"
        )
    return {name: [source for source, kind in zip(sources, kinds, strict=True) if kind == name] for name in names}


def build_composed(
    out: Path | str,
    splits: Mapping[str, Any],
    arguments: Mapping[str, Any],
    *,
    file_format: FileFormat = "jpg",
    workers: int = 0,
    progress: bool = True,
) -> Release:
    """Write a set to disk as :func:`aimwrap.data.builder.build` does: layout, promises, result and errors are the same.

    Args:
        out: a folder that is new, empty, or of an earlier build with the same arguments.
        splits: data sets for ``"train"``, ``"val"`` and ``"test"``, or some of them, such as
            :class:`~aimwrap.data.DigitsOnPhotographs`. Each has ``labels`` and ``places``, (N,) numbers, and their
            names, the same in every split: ``label_names`` and ``place_names``. Item ``index`` has an ``image``,
            (3, H, W), and an ``object_mask``, (1, H, W), both in [0, 1] and the same each time;
            ``source_names(index)`` are the names of its cut-out and its background.
        arguments: all that the pixels depend on, for ``build.json``; what JSON can hold.
        file_format: ``"jpg"`` or ``"png"``.
        workers: how many processes; 0 draws in this one.
        progress: whether to show a bar.
    """
    entries, images = [], []
    for split, data in splits.items():
        for index, (label, place) in enumerate(zip(data.labels.tolist(), data.places.tolist(), strict=True)):
            cutout, background = data.source_names(index)
            entries.append(Entry(split, index, label, place, background, cutout))
            images.append((data, index))
    first = next(iter(splits.values()))
    names, draw = (first.label_names, first.place_names), partial(_draw_composed, images)
    return _write_set(out, entries, *names, arguments, draw, file_format, workers, progress)


def _draw_composed(images: Sequence[tuple[Any, int]], number: int) -> Drawn:
    data, index = images[number]
    sample = data[index]
    image, mask = ((part * 255).round().byte().numpy() for part in (sample.image, sample.object_mask))
    return Drawn(image.transpose(1, 2, 0), mask[0])


class Entry(NamedTuple):
    """A row of a set's table; the names are those of the sources."""

    split: str
    number: int  # in its split, from 0
    label: int
    place: int
    place_filename: str
    cutout_filename: str


def _write_set(
    out: Path | str,
    entries: Sequence[Entry],
    classes: Sequence[str],
    places: Sequence[str],
    arguments: Mapping[str, Any],
    draw: Callable[[int], Drawn],
    file_format: FileFormat,
    workers: int,
    progress: bool,
) -> Release:
    """Draw and write every image that is not there yet, then the table: a set that has its table is complete.

    Files are written under another name and renamed, so that a file with its final name is complete.
    """
    out = expand_path(out)
    _check_names("classes", classes)
    _check_names("places", places)
    for name in (name for entry in entries for name in (entry.place_filename, entry.cutout_filename)):
        if not _is_line(name):
            raise ValueError(
                f"sources must have names that a line of {METADATA} can hold, without line ends and in the system's "
                f"encoding, got {name!r}. Rename the file"
            )
    manifest = {  # all that the bytes on disk depend on; resizing and compressing change with Pillow's versions
        **arguments,
        "classes": list(classes),
        "places": list(places),
        "num_images": {split: sum(entry.split == split for entry in entries) for split in SPLITS},
        "file_format": file_format,
        "made_with": {"numpy": np.__version__, "Pillow": PIL.__version__},
    }
    manifest = json.loads(json.dumps(manifest))  # as it is read back: tuples become lists
    _check_folder(out, manifest)  # before anything is written
    out.mkdir(parents=True, exist_ok=True)
    with locked(out / LOCK):
        _check_folder(out, manifest)  # again, since another process may have begun a build in the meantime
        write_json(out / MANIFEST, manifest)
        stems = [f"{classes[entry.label]}/{entry.split}_{entry.number:05d}" for entry in entries]
        names = [(f"{stem}.{file_format}", f"{MASKS}/{stem}.png") for stem in stems]
        for class_name in classes:
            (out / class_name).mkdir(parents=True, exist_ok=True)
            (out / MASKS / class_name).mkdir(parents=True, exist_ok=True)
        missing = [
            i for i, (image, mask) in enumerate(names) if not ((out / image).is_file() and (out / mask).is_file())
        ]
        # whose workers end by themselves when this process is killed
        loader = ImageLoader(_Writing(out, names, draw), batch_size=None, sampler=missing, num_workers=workers)
        problems = []
        for problem in with_progress(loader, "building", "image") if progress else loader:
            if isinstance(problem, _CannotWrite):
                raise OSError(
                    f"{out} cannot be written to: {problem}. Make room, or fix its permissions, and build again: the "
                    "finished images are kept"
                )
            problems += [] if problem is None else [problem]
        if problems:
            shutil.rmtree(out / PARTIAL, ignore_errors=True)
            write_json(out / MANIFEST, {**manifest, FILES: None})  # since some files are to be replaced
            lines = "\n  ".join(sorted(set(problems))[:10])
            raise ValueError(
                f"{len(problems)} of {len(names)} images could not be made, and {METADATA} was not written:\n  {lines}"
                "\nFix or replace these files under the same names and build again: the finished images are kept"
            )
        with replacing(out / METADATA) as path, path.open("w", encoding="utf-8", newline="") as table:
            writer = csv.writer(table, lineterminator="\n")
            writer.writerow(COLUMNS)
            for number, (entry, (image, mask)) in enumerate(zip(entries, names, strict=True), start=1):
                split, sources = SPLITS.index(entry.split), (entry.place_filename, entry.cutout_filename)
                writer.writerow([number, image, entry.label, split, entry.place, *sources, mask])
        shutil.rmtree(out / PARTIAL, ignore_errors=True)
    return read_built(out)


class _CannotWrite(str):
    """Why an image could not be written, which ends the build; other problems are of one image."""


class _Writing(Dataset[str | None]):
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
        except OSError as error:  # raised in a worker, it would come with the worker's stack in its message
            return _CannotWrite(error)
        return None


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


def _check_folder(out: Path, manifest: Mapping[str, Any]) -> None:
    """Compare the manifest with the one that is there, or check that the folder is empty."""
    path = out / MANIFEST
    if path.is_file():
        try:
            there = read_json(path)
        except ValueError as error:
            raise FileExistsError(
                f"{path} is not the manifest of a build, so no build can continue here: build into another folder, or "
                "remove this one"
            ) from error
        found, manifest = _flat(there if isinstance(there, dict) else {}), _flat(manifest)
        found[FILES] = found.get(FILES) or manifest.get(FILES)  # unknown where files were to be replaced
        different = [key for key in {**manifest, **found} if manifest.get(key) != found.get(key)]
        if different:
            lines = "\n  ".join(
                f"{key}: there {found.get(key)!r:.90}, now {manifest.get(key)!r:.90}" for key in different
            )
            raise FileExistsError(
                f"{out} has a set that was built with other arguments:\n  {lines}\nBuild into another folder, or "
                "remove this one"
            )
        return
    if out.exists() and (
        not out.is_dir() or any(child.name != PARTIAL and not is_unfinished(child) for child in out.iterdir())
    ):
        raise FileExistsError(
            f"{out} exists, and is not a folder of a build ({MANIFEST} is missing); use a folder that is new or empty"
        )


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one.

    >>> _flat({"style": {"crop": [0.5, 1.0]}})
    {'style crop': [0.5, 1.0]}
    """
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key} ") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


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
    folded = [normalize("NFKC", name).casefold() for name in (*names, MASKS)]
    clashing = sorted(name for name, key in zip((*names, MASKS), folded, strict=True) if folded.count(key) > 1)
    if clashing:
        raise ValueError(
            f"{argument} must have names that differ in more than case or accents, and none may be called {MASKS}, "
            f"which holds the masks; got {', '.join(clashing)}. Rename one"
        )
