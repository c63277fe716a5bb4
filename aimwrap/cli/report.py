"""``aimwrap report`` on the command line."""

# ruff: noqa: B008  # typer makes the options of the defaults
from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from .options import (
    AsJson,
    BackbonePath,
    Data,
    ModelFolder,
    Quiet,
    ReaderArguments,
    Root,
    Workers,
    imported_backbone,
    loaded_model,
    option,
)
from .outcomes import GIVEN, closing, echo, exit_on_error, print_result, warnings_printed

if TYPE_CHECKING:
    from torch import nn

    from ..data import ReleaseDataset


EPILOG = closing(
    [
        "aimwrap report runs/a/seed-0/model waterbirds data/waterbirds",
        "aimwrap report runs/a/seed-0/model folder data/images \\",
        "    --plain runs/plain/seed-0/model",
        "aimwrap report runs/a/seed-0/model built digits95 \\",
        "    --compare runs/b/seed-0/model",
    ],
    "the page and its JSON file are written",
    "nothing was written; the error message says why",
)


def report(
    context: typer.Context,
    model: ModelFolder,
    data: Data,
    root: Root,
    arguments: ReaderArguments = None,
    split: str | None = option(
        None, "Split to report on: train, val, test or all.", show_default="test, else val, else all"
    ),
    plain: Path | None = option(
        None, "Folder of a plain model, whose energy pointing and results in verify are shown next to those of AIM."
    ),
    compare: Path | None = option(
        None, "Folder of a second model; the gallery starts with the images on which the two models differ most."
    ),
    backbone: BackbonePath = None,
    out: Path = option(Path("report.html"), "HTML page to write; a JSON file of the same name is written too."),
    title: str | None = option(None, "Title of the page.", show_default="names of the model and the data set"),
    limit: int = option(
        1000,
        "Largest number of images in the gallery: half of them are the worst, half are random. Scores use all images.",
        min=1,
    ),
    verify_images: int = option(
        256, "Number of random images on which verify checks the masks. This check takes the most time.", min=1
    ),
    no_verify: bool = option(False, "Skip the check of the masks (verify).", "--no-verify"),
    background_images: int = option(
        500, "Number of random training images on which the background's share is measured. 0: none.", min=0
    ),
    batch_size: int = option(32, "Number of images per forward pass.", min=1),
    workers: Workers = 2,
    device: str | None = option(None, "Device, such as cpu, cuda or cuda:1.", show_default="cuda if available"),
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Write an HTML report on a model: scores, groups, checks of its masks, and a gallery of images with masks.

    Each image has exactly one class. The page is one file and needs no network. A JSON file next to it has the same
    content.
    """
    kinds = (ImportError, OSError, RuntimeError, TypeError, ValueError)
    with exit_on_error(*kinds, as_json=as_json, facts={"path": str(out)}), warnings_printed(quiet):
        from ..report import build_report
        from ..report.content import check_page

        check_page(out, "out")
        images, notes = read_split(data, root, arguments or [], split)
        found = build_report(
            _loaded(model, backbone, device),
            images,
            other=None if compare is None else _loaded(compare, backbone, device),
            plain=None if plain is None else _loaded(plain, backbone, device),
            name=str(model),
            other_name=str(compare),
            plain_name=str(plain),
            title=title,
            root=root,
            command=shlex.join(["aimwrap", "report", *context.meta[GIVEN]]),
            notes=tuple(notes),
            limit=limit,
            verify_images=0 if no_verify else verify_images,
            background_images=background_images,
            batch_size=batch_size,
            workers=workers,
            progress=not (quiet or as_json),
        )
        written = found.write(out)
    for line in [] if quiet else found.content["notes"]:
        echo(f"{'note' if line in images.release.notes else 'warning'}: {line}", err=True)
    text = f"{found}\n\n{_size(written.page)} and {_size(written.numbers)}"
    print_result(as_json, {"path": str(out), **found.headline}, text)


def read_split(name: str, root: str, arguments: list[str], split: str | None) -> tuple[ReleaseDataset, list[str]]:
    """The images of the split, by default the best one for a result; and notes on that choice."""
    from ..data import ReleaseDataset
    from ..data.registry import parse_reader_arguments, read_by_name

    everything = read_by_name(name, root, None, parse_reader_arguments(arguments))
    notes = []
    if split is None:
        split = next((name for name in ("test", "val") if name in everything.splits), "all")
        notes = [f"{_WITHOUT[split]} are too high."] if split in _WITHOUT else []
    return everything if split == "all" else ReleaseDataset(everything.release, split), notes


_WITHOUT = {
    "val": "There is no test split, so these are validation images: scores of a model that was selected on them",
    "all": "There is neither a test nor a validation split, so these are all images: scores of a model that was "
    "trained on them",
}


def _loaded(folder: Path, backbone: str | None, device: str | None) -> nn.Module:
    """The model of a folder, with AIM or plain, on the device."""
    import torch

    from ..backbones.create import is_import_path
    from ..backbones.plain import CONFIG, load_plain
    from ..sharing.files import parsed

    place = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if not (folder / CONFIG).is_file():
        return loaded_model(folder, backbone).to(place)
    # Where the folder names a model of a library, --backbone is another folder's.
    own = is_import_path(str(parsed(folder / CONFIG).get("backbone")))
    return load_plain(folder, backbone=imported_backbone(backbone if own else None)).to(place)


def _size(path: Path) -> str:
    return f"{path} ({path.stat().st_size / 1e6:.1f} MB)"
