"""The pass over the images: masks into a folder, image by image, continued where it was interrupted."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import Dataset, Subset
from torchvision.transforms import v2

from .._files import locked, parts_of, read_json, replacing, write_json
from .._text import numbered, with_progress
from ..analysis.look import Look, look
from ..analysis.readout import inside, unwrap
from ..data.io import as_picture, is_tiff, left_out, pictures_below, read_image, size_and_orientation
from ..data.release import ImageLoader, Record, Release, ReleaseDataset, read_sample
from ..data.sets.folder import seen_twice
from ..preprocessing import Preprocessing
from ..second_look import SecondLook
from .formats import above, box_around, coco, digest_of, grey, overlaid, run_lengths, yolo
from .placing import as_stored as turned_back
from .placing import maps_on, seen_part

What = Literal["merged", "stages", "kept", "contributions", "overlay"]
Format = Literal["png", "npy", "coco", "yolo"]
SETTINGS, JOURNAL = "settings.json", "masks.jsonl"


class MaskExport(NamedTuple):
    """What :func:`export_masks` wrote.

    Attributes:
        folder: with a folder per kind of mask, and the journal ``masks.jsonl``, a line per image.
        images: how many there are in it.
        written: how many of them were written now; the others were there.
        kinds: of masks: names of the folders, and of the COCO files.
    """

    folder: Path
    images: int
    written: int
    kinds: tuple[str, ...]

    def __str__(self) -> str:
        there = self.images - self.written
        said = f"{numbered(self.images, 'image')}, {there:,} of them were there already" if there else ""
        return f"{self.folder}: {', '.join(self.kinds)} of {said or numbered(self.images, 'image')}"


def export_masks(
    model: nn.Module,
    images: str | Path | Sequence[str | Path] | ReleaseDataset,
    out: str | Path,
    *,
    what: Sequence[What] | None = None,
    formats: Sequence[Format] = ("png",),
    threshold: float | Literal["otsu"] | None = None,
    as_stored: bool = False,
    batch_size: int = 32,
    workers: int = 0,
    progress: bool = True,
) -> MaskExport:
    """Write what a model kept of each image, at the image's own size.

    The resizing and the crop of the model's preprocessing are undone: a pixel has the value of the position that its
    centre is in, and what the crop left out is 0. If the run is interrupted, the same call continues it; images that
    were added or changed since are done, as those whose files were removed; others that are done are left alone.

    Args:
        model: an :class:`~aimwrap.AIM` or a :class:`~aimwrap.SecondLook` that knows its ``preprocessing``.
        images: a folder, with all folders below it; paths of files; or a data set such as ``Built(root, "train")``,
            whose transform is not used.
        out: folder to write into: one folder per kind of mask, with the images' names.
        what: ``"merged"``: the merged mask; ``"stages"``: each stage's; ``"kept"``: the pixels that a second look
            sees; ``"contributions"`` of each pixel to the predicted class; ``"overlay"``: the image, darker where the
            merged mask or the kept pixels are 0. By default the kept pixels of a second look, else the merged mask.
        formats: ``"png"``: masks as 0 and 255, contributions from 0 to their largest; ``"npy"``: bool, and float32
            with the logit, without its bias, as sum; ``"coco"``: one JSON file per kind, masks as run lengths (extra
            ``masks``); ``"yolo"``: a text per image with a box. The last two are for masks, and their class is the
            label where it is known, else the prediction.
        threshold: makes a mask of the contributions: a share of the largest, or ``"otsu"`` for each image's own.
        as_stored: of photographs that EXIF data turn, count the pixels in the file, as programs do that ignore these
            data; else as they are shown. Masks of a data set always fit its own masks.
        batch_size: images per forward pass.
        workers: processes that read images.
        progress: whether to show a bar.

    Returns:
        What was written.

    Raises:
        BlockingIOError: if another process is writing into the folder.
        FileNotFoundError: if an image or the folder is not there.
        ImportError: for COCO without pycocotools.
        TypeError: if the model is neither an AIM nor a second look.
        ValueError: if there are no images, one is damaged, the folder holds masks of another model or of other
            settings, a data set's classes are not the model's, or an argument is not as described.

    Example:
        >>> import tempfile
        >>> from aimwrap import AIM, Preprocessing
        >>> folder = Path(tempfile.mkdtemp())
        >>> Image.new("RGB", (120, 90)).save(folder / "a.jpg")
        >>> model = AIM("test_convnext", backbone_kwargs={"num_classes": 2})
        >>> model.preprocessing = Preprocessing((96, 96), (0.5,) * 3, (0.5,) * 3)
        >>> found = export_masks(model, folder, folder / "masks", progress=False)
        >>> found.images, np.asarray(Image.open(folder / "masks" / "merged" / "a.png")).shape
        (1, (90, 120))
    """
    second = inside(model, SecondLook)
    network = unwrap(model) if second is None else second
    own: What = "merged" if second is None else "kept"
    asked = tuple(what or (own,))
    _check(network, asked, formats, threshold)
    if as_stored and isinstance(images, ReleaseDataset):
        raise ValueError("as_stored is for folders and files; masks of a data set always fit its own masks")
    assert network.preprocessing is not None
    folder, weight = Path(out), next(network.parameters())
    (root, sources), classes = _sources(images, folder), _classes(network, images)
    settings: dict[str, Any] = {"what": sorted(asked), "formats": sorted(formats), "threshold": threshold}
    settings |= {"as_stored": as_stored, "weights": digest_of(network), "images": str(network.preprocessing)}
    settings |= {"second look": second and second.extra_repr()}
    if isinstance(images, ReleaseDataset) or (isinstance(images, str | Path) and Path(images).is_dir()):
        settings["folder of images"] = str(root.resolve())
    files = [source.digest() for source in sources]
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / ".lock"):
        done = _begin(folder, settings)
        kinds = [*next(iter(done.values()), {"masks": ()})["masks"]]
        names = [(kind, {"yolo": "txt"}.get(each, each)) for kind in kinds for each in formats if each != "coco"]
        names += [("overlay", "jpg")] * ("overlay" in asked)
        names += [("contributions", each) for each in {"npy", "png"} & {*formats} if "contributions" in asked]

        def is_done(source: _Source, file: str) -> bool:
            there = ((folder / kind / f"{source.name}.{suffix}").is_file() for kind, suffix in names)
            return done.get(source.image, {}).get("file") == file and all(there)

        todo = [n for n, source in enumerate(sources) if not is_done(source, files[n])]
        if old := {sources[n].image for n in todo} & done.keys():  # they get another line
            with replacing(folder / JOURNAL) as path:
                path.write_text("".join(json.dumps(line) + "\n" for one, line in done.items() if one not in old))
        prepared = Subset(_Prepared(sources, network.preprocessing), todo)
        loader = ImageLoader(prepared, batch_size, num_workers=workers)
        position, placed = iter(todo), (*asked, own) if "overlay" in asked else asked
        for batch, sizes in with_progress(loader, "masks") if progress else loader:
            seen, lines = look(network, batch.to(weight.device, weight.dtype)).cpu(), []
            for row, size in enumerate(sizes.tolist()):
                source = sources[number := next(position)]
                if not bool(seen.logits[row].isfinite().all()):
                    raise ValueError(f"{source.path}: the model's logits are not finite; check its weights")
                maps = maps_on(seen, row, placed, seen_part(network.preprocessing, tuple(size)), tuple(size))
                arrays = _masks_of({name: values.numpy() for name, values in maps.items()}, threshold)
                if "overlay" in asked:
                    image = as_picture(source.read(network.preprocessing))
                    overlaid(image, arrays[own]).save(_place(folder, "overlay", source, "jpg"))
                    arrays = {name: values for name, values in arrays.items() if own in asked or name != own}
                if as_stored:
                    windowed = network.preprocessing.window and is_tiff(source.path)  # which must be upright
                    turn = 1 if windowed else size_and_orientation(source.path, late=True)[1]
                    arrays = {name: turned_back(values, turn) for name, values in arrays.items()}
                line = _facts(source, seen, row, arrays, size, "coco" in formats)
                _write(folder, source, arrays, line, formats)
                lines.append(line | {"file": files[number]})
            with (folder / JOURNAL).open("a", encoding="utf-8") as journal:
                journal.writelines(json.dumps(line) + "\n" for line in lines)
            done.update((line["image"], line) for line in lines)
        ordered = [done[source.image] for source in sources]
        masks = tuple(ordered[0]["masks"])
        if "coco" in formats:
            for kind in masks:
                write_json(folder / f"{kind}.json", coco(kind, ordered, classes))
        if "yolo" in formats:
            (folder / "classes.txt").write_text("".join(f"{name}\n" for name in classes), encoding="utf-8")
    written = {"contributions", "overlay"} & set(asked)
    return MaskExport(folder, len(sources), len(todo), (*masks, *sorted(written - set(masks))))


class _Source(NamedTuple):
    """An image: its file, its path in the output, and what a data set says of it."""

    path: Path
    image: str
    name: str  # the same without suffix
    record: Record | None = None
    release: Release | None = None

    def read(self, prepared: Preprocessing) -> Any:
        """It, as the model takes it: upright, or as the data set's own masks count its pixels."""
        if self.record is None or self.release is None:
            return read_image(self.path, prepared=prepared)
        return read_sample(self.record, self.release, prepared).image

    def digest(self) -> str:
        """Another one where the file, its label or its name in the output has changed."""
        if not self.path.is_file():
            raise FileNotFoundError(f"{self.path} is not there; pass a folder, or paths of images")
        known = f"{self.name}\n{None if self.record is None else self.record.label}".encode()
        return hashlib.sha256(b"".join([*parts_of(self.path), known])).hexdigest()[:16]


class _Prepared(Dataset[tuple[Tensor, Tensor]]):
    """Images as the model takes them, with the (H, W) that they had."""

    def __init__(self, sources: Sequence[_Source], preprocessing: Preprocessing) -> None:
        self._sources, self._prepared = sources, preprocessing
        self._transform = v2.Compose([*preprocessing.resize_and_crop(), *preprocessing.normalise()])

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image = self._sources[index].read(self._prepared)
        return self._transform(image), torch.tensor(v2.functional.get_size(image))


def _check(network: nn.Module, what: Sequence[str], formats: Sequence[str], threshold: float | str | None) -> None:
    for name, values, known in (("what", what, get_args(What)), ("formats", formats, get_args(Format))):
        if isinstance(values, str) or not values or not set(values) <= set(known):
            raise ValueError(f"{name} must be a list of some of {', '.join(known)}, got {values!r}")
    if threshold not in (None, "otsu") and not (isinstance(threshold, int | float) and 0 <= threshold < 1):
        raise ValueError(f"threshold must be a share of the largest contribution, 0 to 1, or 'otsu', got {threshold!r}")
    if threshold is not None and "contributions" not in what:
        raise ValueError("threshold is for contributions; add 'contributions' to what")
    if "kept" in what and not isinstance(network, SecondLook):
        raise ValueError("what: 'kept' is of a second look, and the model is an AIM; use 'merged'")
    files = {"coco", "yolo"} & set(formats)
    if files and not set(what) - {"overlay"} - ({"contributions"} if threshold is None else set()):
        raise ValueError(f"formats: {' and '.join(sorted(files))} need a mask; of contributions, pass threshold='otsu'")
    if "coco" in formats:
        run_lengths(np.zeros((1, 1), bool))  # to see at the beginning that it can be written
    if network.preprocessing is None:
        raise ValueError(
            "model does not say how its images are prepared; assign aimwrap.Preprocessing(image_size, mean, std) to "
            "model.preprocessing, with the values that it was trained with"
        )


def _sources(images: str | Path | Sequence[str | Path] | ReleaseDataset, out: Path) -> tuple[Path, list[_Source]]:
    """A common folder, and the images, each with a name of its own below it, without masks that were written here."""
    records: list[Record | None] = []
    if isinstance(images, ReleaseDataset):
        records, release = list(images.records), images.release
        paths, root = [record.path for record in images.records], release.root
    elif isinstance(images, str | Path) and Path(images).is_dir():
        (root, release), unread = (Path(images), None), list[Path]()
        written = [
            out.resolve(),
            *(path.resolve().parent for path in root.rglob(JOURNAL) if path.with_name(SETTINGS).is_file()),
        ]
        paths = [root / name for name in pictures_below(root, unread)]
        paths = [path for path in paths if not any(map(path.resolve().is_relative_to, written))]
        there = {path.relative_to(root).with_suffix("").parts for path in paths}
        twins = seen_twice([path.relative_to(root).as_posix() for path in paths])[1]
        twins += ["/".join(parts[1:]) for parts in sorted(there) if parts[1:] in there]
        masks = [f"{one} is perhaps an image and its mask; --data leaves out a data set's masks" for one in twins[:1]]
        for note in (*left_out(unread, root), *masks):
            warnings.warn(note, stacklevel=3)
    else:
        paths, release = [Path(path) for path in ([images] if isinstance(images, str | Path) else images)], None
        root = paths[0].parent if paths else Path()
    if not paths:
        raise ValueError(f"images must have at least one picture, and {root} has none")
    root = root if all(path.is_relative_to(root) for path in paths) else Path(os.path.commonpath(paths)).parent
    names = [path.relative_to(root).as_posix() for path in paths]
    if len(set(names)) < len(names):
        raise ValueError("images must be different files, and one is there twice")
    stems = [name.rpartition(".")[0] or name for name in names]
    twice = {stem for stem, count in Counter(stems).items() if count > 1}  # a.jpg and a.png
    names_out = [name if stem in twice else stem for name, stem in zip(names, stems, strict=True)]
    names_out = names_out if len(set(names_out)) == len(names_out) else names  # a.jpg, a.png and a.jpg.png
    records = records or [None] * len(paths)
    return root, [_Source(*each, release) for each in zip(paths, names, names_out, records, strict=True)]


def _classes(network: Any, images: object) -> list[str]:
    if isinstance(images, ReleaseDataset):
        own = network.class_names or images.classes
        moved = [name for n, name in enumerate(own) if name in images.classes and images.classes.index(name) != n]
        if moved or len(images.classes) != max(2, network.num_classes):
            named = ", ".join(network.class_names or [f"{network.num_classes} without names"])[:200]
            raise ValueError(
                f"the model's classes are {named}, and the data set's "
                f"{', '.join(images.classes)[:200]}; use a model of these classes, or give the model's to the data "
                "set, by classes= of a table"
            )
        return list(images.classes)
    return list(network.class_names or map(str, range(max(2, network.num_classes))))


def _begin(folder: Path, settings: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The lines of the journal by image, in a folder of the same settings or a new one."""
    path, journal = folder / SETTINGS, folder / JOURNAL
    if path.is_file():
        try:
            found = read_json(path)
        except (ValueError, UnicodeDecodeError) as error:
            raise ValueError(f"{path} is damaged: {error}; name another folder, or remove this one") from error
        known = found if isinstance(found, dict) else dict.fromkeys(settings, "damaged")
        known.setdefault("folder of images", settings.get("folder of images"))  # not known of a list
        others = [name for name, value in settings.items() if known.get(name) != value]
        if others:
            raise ValueError(f"{folder} holds masks with other {', '.join(others)}; name another folder")
    elif journal.exists():
        raise ValueError(f"{folder} has a {JOURNAL} and no {SETTINGS}; name another folder")
    else:
        write_json(path, settings)
    lines: dict[str, dict[str, Any]] = {}
    text = journal.read_text(encoding="utf-8") if journal.is_file() else ""
    if not text.endswith("\n") and text:  # the last line of a process that was killed
        text = text[: text.rfind("\n") + 1]
        journal.write_text(text, encoding="utf-8")
    for number, written in enumerate(text.splitlines(), start=1):
        try:
            line = json.loads(written)
            lines[line["image"]] = line
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise ValueError(f"{journal}, line {number} is damaged; name another folder, or remove this one") from error
    return lines


def _masks_of(maps: dict[str, np.ndarray[Any, Any]], threshold: float | str | None) -> dict[str, np.ndarray[Any, Any]]:
    """Masks as truth values; contributions, too, with a threshold."""
    masks = {name: values > 0 for name, values in maps.items() if name != "contributions"}
    return masks | {n: v if threshold is None else above(v, threshold) for n, v in maps.items() if n not in masks}


def _facts(
    source: _Source, seen: Look, row: int, arrays: dict[str, np.ndarray[Any, Any]], size: list[int], lengths: bool
) -> dict[str, Any]:
    """An image's line of the journal."""
    logits = seen.logits[row].float()
    logits = nn.functional.pad(logits, (1, 0)) if len(logits) == 1 else logits  # the softmax is then its sigmoid
    predicted = int(logits.argmax())
    label = None if source.record is None else source.record.label
    number = predicted if label is None else label
    masks: dict[str, Any] = {}
    for name, mask in arrays.items():
        if mask.dtype == bool:
            masks[name] = {"pixels": int(mask.sum()), "box": box_around(mask)}
            masks[name] |= {"run_lengths": run_lengths(mask)} if lengths else {}
    shape = next((mask.shape for mask in arrays.values()), size)
    return {
        "image": source.image,
        "size": list(shape),
        "class": number,
        "predicted": predicted,
        "confidence": round(logits.softmax(0)[number].item(), 6),
        "masks": masks,
    }


def _write(
    folder: Path, source: _Source, arrays: dict[str, np.ndarray[Any, Any]], line: dict[str, Any], formats: Sequence[str]
) -> None:
    for name, values in arrays.items():
        if "png" in formats:
            Image.fromarray(grey(values)).save(_place(folder, name, source, "png"))
        if "npy" in formats:
            np.save(_place(folder, name, source, "npy"), values)
        if "yolo" in formats and name in line["masks"]:
            _place(folder, name, source, "txt").write_text(yolo(line, name), encoding="utf-8")


def _place(folder: Path, kind: str, source: _Source, suffix: str) -> Path:
    path = folder / kind / f"{source.name}.{suffix}"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
