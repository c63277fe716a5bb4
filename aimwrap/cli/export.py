"""``aimwrap export`` on the command line."""

# ruff: noqa: B008  # typer makes the options of the defaults
from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .._choices import ExportFormat
from .options import AsJson, BackbonePath, ModelFolder, Quiet, loaded_model, option
from .outcomes import closing, exit_on_error, print_result, warnings_printed

EPILOG = closing(
    [
        "aimwrap export runs/try/seed-0/model                # writes its model.onnx",
        "aimwrap export runs/try/seed-0/model --format pt2   # torch.export",
    ],
    "the file is written, and its outputs match the model's",
    "nothing was written; the error message says why",
)
SUFFIXES: Mapping[ExportFormat, str] = {"onnx": ".onnx", "pt2": ".pt2", "aotinductor": ".aotinductor.pt2"}


def export(
    folder: ModelFolder,
    file_format: ExportFormat = option(
        "onnx", "File format: ONNX, torch.export (pt2), or compiled for this machine (aotinductor).", "--format"
    ),
    out: Path | None = option(None, "File to write.", show_default="model.onnx or model.pt2 in the model folder"),
    image_size: int | None = option(None, "Side of square images, in pixels.", min=1, show_default="that of the model"),
    fixed_size: bool = option(
        False,
        "Export for one image size only; without it, the file takes any size if the backbone allows it.",
        "--fixed-size",
    ),
    backbone: BackbonePath = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Export a trained model, and check that the file computes the same outputs.

    A file that fails the check is not kept. ONNX needs the extra export.
    """
    path = out or folder / f"model{SUFFIXES[file_format]}"
    kinds = (ImportError, OSError, RuntimeError, TypeError, ValueError)

    facts: dict[str, Any] = {"path": str(path), "parity": []}
    with exit_on_error(*kinds, as_json=as_json, facts=facts), warnings_printed(quiet):
        from ..export import ParityError, export_aotinductor, export_onnx, export_program

        write = {"onnx": export_onnx, "pt2": export_program, "aotinductor": export_aotinductor}[file_format]
        try:
            model = loaded_model(folder, backbone)
            written = write(model, path, image_size=image_size, dynamic_size=not fixed_size)
        except ParityError as error:
            facts["parity"] = [row._asdict() for row in error.parity]
            raise
    print_result(as_json, written.as_dict(), str(written))
