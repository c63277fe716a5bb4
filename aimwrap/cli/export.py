"""``aimwrap export`` on the command line."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .help import closing
from .options import AsJson, ExportFormat, Quiet, as_options
from .outcomes import answer, failing, say

if TYPE_CHECKING:
    from ..model import AIM


EPILOG = closing(
    [
        "aimwrap export runs/try/seed-0/model                # writes its model.onnx",
        "aimwrap export runs/try/seed-0/model --format pt2   # torch.export",
    ],
    "the file is written, and computes what the model does",
    "nothing was written, and the message says why",
)
SUFFIXES: Mapping[ExportFormat, str] = {"onnx": ".onnx", "pt2": ".pt2", "aotinductor": ".aotinductor.pt2"}


def export(
    folder: Annotated[Path, typer.Argument(help="A folder that AIM.save_pretrained or aimwrap train wrote.")],
    file_format: Annotated[
        ExportFormat, typer.Option("--format", help="pt2 is torch.export's; aotinductor is compiled for this machine.")
    ] = "onnx",
    out: Annotated[Path | None, typer.Option(help="The file to write. Default: model.onnx in the folder.")] = None,
    image_size: Annotated[
        int | None, typer.Option(min=1, help="Side of square images, in pixels. Default: the model's own.")
    ] = None,
    fixed_size: Annotated[bool, typer.Option("--fixed-size", help="Do not try for any image size.")] = False,
    backbone: Annotated[
        str | None,
        typer.Option(help="package.module:name of the backbone, where the folder cannot name it."),
    ] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Write a trained model for serving, and check that it computes what the model does.

    The file has its name only once it was compared with the model. ONNX needs the extra export.
    """
    path = out or folder / f"model{SUFFIXES[file_format]}"
    kinds = (ImportError, OSError, RuntimeError, TypeError, ValueError)

    def facts(error: Exception) -> Mapping[str, Any]:
        return {"path": str(path), "parity": [row._asdict() for row in getattr(error, "parity", ())]}

    with failing(*kinds, as_json=as_json, facts=facts, spoken=as_options), _warning_of_options(quiet):
        from ..export import export_aotinductor, export_onnx, export_program

        write = {"onnx": export_onnx, "pt2": export_program, "aotinductor": export_aotinductor}[file_format]
        written = write(_load(folder, backbone), path, image_size=image_size, dynamic_size=not fixed_size)
    answer(as_json, written.as_dict(), str(written))


def _load(folder: Path, backbone: str | None) -> AIM:
    """The model of a folder; its backbone is imported where a path to it is given."""
    from ..backbones.inspection import import_backbone
    from ..model import AIM

    sys.path.insert(0, "")  # a backbone of one's own is usually here
    model = AIM.from_pretrained(folder, backbone=None if backbone is None else import_backbone(backbone))
    if model.preprocessing is None:
        raise ValueError(
            f"{folder} does not say how images are prepared for its model, and what is exported has to. Say it once in "
            "Python, with the values that it was evaluated with, and export again: model.save_pretrained(folder, "
            "preprocessing=aimwrap.Preprocessing(image_size=(224, 224), mean=(0.485, 0.456, 0.406), "
            "std=(0.229, 0.224, 0.225)))"
        )
    return model


@contextmanager
def _warning_of_options(quiet: bool) -> Iterator[None]:
    """Print warnings, unless quiet, as one line each, without the place in the code that nobody called."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default", UserWarning)
        try:
            yield
        finally:
            for warning in [] if quiet else caught:
                say(f"warning: {as_options(str(warning.message))}", on_output=False)
