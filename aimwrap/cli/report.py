"""The command line's part on reports: ``aimwrap report``."""

from __future__ import annotations

import os
import shlex
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .help import closing
from .options import DATA_SETS, AsJson, Quiet, Workers, as_options, check_data, complete_data
from .outcomes import GENERAL, answer, ending_well, failing, say

if TYPE_CHECKING:
    from torch import nn

    from ..data import ReleaseDataset
    from ..report import Report
    from ..report.subjects import Role


EPILOG = closing(
    [
        "aimwrap report runs/birds/seed-0/model waterbirds data/waterbirds --out birds.html",
        "aimwrap report runs/aim/seed-0/model folder data/images --plain runs/plain/seed-0/model",
        "aimwrap report runs/a/seed-0/model built digits95 --compare runs/b/seed-0/model",
    ],
    "the page and its JSON are written",
    "nothing was written, and the message says why",
)

# What the library's messages call an argument, and what it is here.
_AS_OPTIONS = (
    (r"^(limit|workers|split) must", r"--\1 must"),
    (r"^(batch|verify)_(size|images) must", r"--\1-\2 must"),
    (r"^path must", "--out must"),
    (r"^plain(?='s | must | does | has | calls | takes )", "--plain"),
    (r"^other(?='s | must | does | has | calls | takes )", "--compare"),
    (r"compare two by other=", "compare two by --compare"),
    (r"from_pretrained\(.*?backbone=backbone\)", "--backbone package.module:name"),
    (r"pass it as backbone=; strict=False .* has$", "name it by --backbone package.module:name"),
    (r"pass preprocessing=.*$", "save it with model.save_pretrained(folder, preprocessing=...)"),
)


def report(
    context: typer.Context,
    model: Annotated[Path, typer.Argument(help="A folder that AIM.save_pretrained or `aimwrap train` wrote.")],
    data: Annotated[
        str,
        typer.Argument(
            help=f"Kind of data set: {', '.join(DATA_SETS)}.", callback=check_data, autocompletion=complete_data
        ),
    ],
    root: Annotated[str, typer.Argument(help="The data set's folder; of table its CSV file.")],
    arguments: Annotated[
        list[str] | None, typer.Argument(help="NAME=VALUE of its reader, such as cub=data/CUB_200_2011.")
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="train, val, test or all. Default: test, else val, else all there is.")
    ] = None,
    plain: Annotated[
        Path | None, typer.Option(help="A plain model, for the scatter of energy pointing and verify's control.")
    ] = None,
    compare: Annotated[
        Path | None, typer.Option(help="A second model: the gallery begins where the two differ most.")
    ] = None,
    backbone: Annotated[
        str | None, typer.Option(help="package.module:name of the backbone, where a folder cannot name it.")
    ] = None,
    out: Annotated[Path, typer.Option(help="The page to write; its JSON goes beside it.")] = Path("report.html"),
    title: Annotated[str | None, typer.Option(help="Of the page. Default: the model's and the data set's names.")] = (
        None
    ),
    limit: Annotated[
        int, typer.Option(min=1, help="Images in the gallery; all are measured. Of more: half the worst, half by lot.")
    ] = 1000,
    verify_images: Annotated[
        int,
        typer.Option(min=1, help="Images that verify checks the masks on, drawn by lot; most of the time goes there."),
    ] = 256,
    no_verify: Annotated[bool, typer.Option("--no-verify", help="Leave verify out.")] = False,
    batch_size: Annotated[int, typer.Option(min=1, help="Images per forward pass.")] = 32,
    workers: Workers = 2,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 ... Default: cuda where there is one.")] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Write one page that shows what a model does: numbers, groups, mask health, verify, and a gallery of its masks.

    The page is one HTML file that needs no network, with the same content as JSON beside it.
    """
    sys.path.insert(0, "")  # a backbone of one's own is usually here
    options: dict[str, Any] = {
        "title": title,
        "limit": limit,
        "verify_images": 0 if no_verify else verify_images,
        "batch_size": batch_size,
        "workers": workers,
        "progress": not (quiet or as_json),
        "command": command_of(context),
    }
    kinds = (ImportError, OSError, RuntimeError, TypeError, ValueError)
    with (
        failing(*kinds, as_json=as_json, facts=lambda _: {"path": str(out)}, spoken=as_option),
        ending_well(GENERAL),
        warnings.catch_warnings(record=True) as caught,
    ):
        warnings.simplefilter("default", UserWarning)
        _check_out(out)
        images, notes = read_split(data, root, arguments or [], split)
        folders: dict[Role, Path | None] = {"model": model, "other": compare, "plain": plain}
        models = {role: _loaded(path, backbone, device) for role, path in folders.items() if path is not None}
        found = _built(models, folders, images, root, notes, options)
        written = found.write(out)
    for line in [*(str(warning.message) for warning in caught), *found.content["notes"]]:
        if not quiet:
            say(f"warning: {as_option(line)}", on_output=False)
    text = f"{found}\n\n{_size(written.page)} and {_size(written.numbers)}"
    answer(as_json, {"path": str(out), **found.headline}, text)


def as_option(message: str) -> str:
    """A message of the library for those who called it by the command.

    >>> as_option("batch_size must be a whole number from 1, got 0")
    '--batch-size must be a whole number from 1, got 0'
    >>> as_option("plain must be a classifier without AIM"), as_option("plain/plain.json is damaged")
    ('--plain must be a classifier without AIM', 'plain/plain.json is damaged')
    """
    return as_options(message, _AS_OPTIONS)


def command_of(context: typer.Context) -> str:
    """The command that was given, to be given again."""
    words = ["aimwrap", "report"]
    for parameter in context.command.params:
        value = context.params.get(parameter.name or "")
        source = context.get_parameter_source(parameter.name or "")
        if source is None or source.name != "COMMANDLINE" or value is None:
            continue
        values = [str(one) for one in value] if isinstance(value, list | tuple) else [str(value)]
        if parameter.param_type_name == "argument":
            words += values
        else:
            words += [parameter.opts[0]] if value is True else [parameter.opts[0], *values]
    return shlex.join(words)


def _check_out(out: Path) -> None:
    """Before the long work, and not behind it."""
    if out.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"--out must end in .html, got {str(out)!r}")
    if out.is_dir():
        raise ValueError(f"--out must be a file, and {out} is a folder; write {out / 'report.html'}")
    try:
        import jinja2  # noqa: F401  # only asked whether it is there
    except ImportError as error:
        raise ImportError('reports need Jinja2: pip install "aimwrap[report]"') from error
    out.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(out.parent, os.W_OK):
        raise PermissionError(f"--out must lie in a folder that can be written to, and {out.parent} cannot")


def _built(
    models: dict[Role, nn.Module],
    folders: dict[Role, Path | None],
    images: ReleaseDataset,
    root: str,
    notes: list[str],
    options: dict[str, Any],
) -> Report:
    from ..report import build_report

    names = {role: None if folder is None else str(folder) for role, folder in folders.items()}
    return build_report(
        models["model"],
        images,
        other=models.get("other"),
        plain=models.get("plain"),
        name=names["model"],
        other_name=names["other"],
        plain_name=names["plain"],
        root=root,
        notes=tuple(notes),
        **options,
    )


def read_split(name: str, root: str, arguments: list[str], split: str | None) -> tuple[ReleaseDataset, list[str]]:
    """The images of the split that was asked for, or of the one that a result belongs on.

    Returns:
        The images, and what readers of the report must know of the choice.
    """
    from ..data import ReleaseDataset
    from ..data.registry import parse_reader_arguments, read_by_name

    everything = read_by_name(name, root, None, parse_reader_arguments(arguments))
    if split == "all":
        return everything, []
    if split is not None:
        return ReleaseDataset(everything.release, split), []
    if "test" in everything.splits:
        return ReleaseDataset(everything.release, "test"), []
    if "val" in everything.splits:
        note = "There is no test split, so these are validation images: a model that was selected on them is flattered."
        return ReleaseDataset(everything.release, "val"), [note]
    note = (
        "There is neither a test nor a validation split, so these are all images: a model trained on them is flattered."
    )
    return everything, [note]


def _loaded(folder: Path, backbone: str | None, device: str | None) -> nn.Module:
    """The model of a folder, with AIM or plain, on the device."""
    import torch

    from ..backbones.inspection import import_backbone
    from ..backbones.plain import CONFIG, load_plain
    from ..model import AIM

    place = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if (folder / CONFIG).is_file():
        return load_plain(folder).to(place)
    return AIM.from_pretrained(folder, backbone=None if backbone is None else import_backbone(backbone)).to(place)


def _size(path: Path) -> str:
    return f"{path} ({path.stat().st_size / 1e6:.1f} MB)"
