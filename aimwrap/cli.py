"""The command line: ``aimwrap demo``, ``inspect``, ``train``, ``report``, ``export`` and ``data``.

Needs the extra ``cli``; the demo needs ``demo``, training ``train``, reports ``report``, and ONNX ``export``.
"""

from __future__ import annotations

import json
import re
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, get_args

import torch

try:
    import typer
except ImportError as error:
    raise ImportError('the command line needs typer: pip install "aimwrap[cli]"') from error

from .data_cli import app as data_app
from .export import ParityError, export_aotinductor, export_onnx, export_program
from .export.formats import Format
from .inspection import import_backbone, inspect_backbone
from .model import AIM
from .option_values import one_of, parse_seeds
from .report_cli import report
from .top_down import Head
from .train_cli import train

# What the library's messages call an argument, and what it is here.
_AS_OPTIONS = (
    (r"from_pretrained\(.*?backbone=backbone\)", "--backbone package.module:name"),
    (r"pass it as backbone=; strict=False .* has$", "name it by --backbone package.module:name"),
    (r"^path must", "--output must"),
    (r"\bimage_size\b=?", "--image-size"),
    (r"\bdynamic_size=False", "--fixed-size"),
    (r"\bexport_program; --format", "--format"),
    (r"(?=\btolerance=)", "in Python, "),
    (r"\bexample_input=, a batch of images .*\)\.$", "--image-size, and --channels if they are not 3."),
    (r"\bexample_input=", "--image-size"),
)

app = typer.Typer(no_args_is_help=True, add_completion=False)
app.add_typer(data_app, name="data")
app.command()(train)
app.command()(report)


@app.callback()
def aimwrap() -> None:
    """Make any CNN choose where it looks, and see what it chose."""


@app.command()
def demo(
    seeds: Annotated[str, typer.Option(help="How many seeds (5 means 0 to 4), or which: 0,3,7")] = "1",
    ties: Annotated[str, typer.Option(help="Shares of the training labels that the background is tied to.")] = "0.95,1",
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the training images, for every variant.")] = 8,
    tau: Annotated[float, typer.Option(min=0.01, max=1.0, help="Area that AIM's masks are to keep.")] = 0.25,
    heads: Annotated[
        str, typer.Option(help="AIM's heads: feature-preserving, paper, or both with a comma between.")
    ] = ("feature-preserving"),
    output: Annotated[Path, typer.Option(help="Where to write the picture.")] = Path("demo.png"),
    as_json: Annotated[bool, typer.Option("--json", help="Print the scores as JSON instead of tables.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars.")] = False,
) -> None:
    """Train a plain CNN and the same CNN with AIM where the background gives the label away, and see where they look.

    Prints a table per tie and writes a picture. Five seeds, as in the documentation: aimwrap demo --seeds 5
    """
    seed_numbers, tie_shares, head_names = parse_seeds(seeds), parse_ties(ties), parse_heads(heads)
    try:
        from .demo import Settings, format_report, run_demo

        settings = Settings(epochs=epochs, tau=tau, quiet=quiet or as_json)
        started = time.perf_counter()
        runs = run_demo(tie_shares, seed_numbers, settings, output, head_names)
    except ImportError as error:
        raise typer.BadParameter(str(error)) from error
    if as_json:
        flat = [{**run._asdict(), "scores": run.scores._asdict()} for run in runs]
        typer.echo(json.dumps(flat, indent=2))
        return
    typer.echo(f"\n{format_report(runs, settings)}\n")
    typer.echo(f"{time.perf_counter() - started:.0f} seconds in all. The picture is in {output}.")


@app.command()
def inspect(
    backbone: Annotated[str, typer.Argument(help="A timm or torchvision model's name, or package.module:name.")],
    image_size: Annotated[
        int | None, typer.Option(min=1, help="Side of square images; by default what the model was made for.")
    ] = None,
    channels: Annotated[int, typer.Option(min=1, help="Channels of the images, where --image-size is given.")] = 3,
    head: Annotated[str, typer.Option(help="The head whose cost is shown: feature-preserving or paper.")] = (
        "feature-preserving"
    ),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Show a backbone's stages, how they were found, what AIM on them costs, and the two lines to paste.

    Needs no weights and no data. Exit code 1 says that the backbone cannot be tapped, and the message why.
    """
    (chosen,) = parse_heads(head)[:1]
    sys.path.insert(0, "")  # a backbone of one's own is usually here
    example_input = None if image_size is None else torch.zeros(1, channels, image_size, image_size)
    try:
        found = inspect_backbone(backbone, head=chosen, example_input=example_input)
    except (TypeError, ValueError) as error:
        said = as_options(str(error))
        typer.echo(json.dumps({"name": backbone, "error": said}) if as_json else said, err=not as_json)
        raise typer.Exit(1) from error
    typer.echo(json.dumps(found.as_dict(), indent=2) if as_json else str(found))


@app.command()
def export(
    folder: Annotated[Path, typer.Argument(help="A folder that AIM.save_pretrained wrote.")],
    file_format: Annotated[str, typer.Option("--format", help="onnx, pt2 (torch.export) or aotinductor.")] = "onnx",
    output: Annotated[Path | None, typer.Option(help="The file to write; by default model.onnx in the folder.")] = None,
    image_size: Annotated[
        int | None, typer.Option(min=1, help="Side of square images; by default the model's own size.")
    ] = None,
    fixed_size: Annotated[bool, typer.Option("--fixed-size", help="Do not try for any image size.")] = False,
    backbone: Annotated[
        str | None, typer.Option(help="package.module:name of the backbone, where the folder cannot name it.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Write a trained model for serving, and check that it computes what the model does.

    Exit code 1 says that nothing was written, since it does not or since it cannot be exported, and the message why.
    """
    chosen = one_of(file_format, get_args(Format), "--format")
    suffix = {"onnx": ".onnx", "pt2": ".pt2", "aotinductor": ".aotinductor.pt2"}[chosen]
    write = {"onnx": export_onnx, "pt2": export_program, "aotinductor": export_aotinductor}[chosen]
    path = output or folder / f"model{suffix}"
    try:
        with _warning_of_options():
            written = write(_load(folder, backbone), path, image_size=image_size, dynamic_size=not fixed_size)
    except (ImportError, OSError, RuntimeError, TypeError, ValueError) as error:
        rows, said = error.parity if isinstance(error, ParityError) else (), as_options(str(error))
        found = {"path": str(path), "error": said, "parity": [row._asdict() for row in rows]}
        typer.echo(json.dumps(found, indent=2) if as_json else said, err=not as_json)
        raise typer.Exit(1) from error
    typer.echo(json.dumps(written.as_dict(), indent=2) if as_json else str(written))


def _load(folder: Path, backbone: str | None) -> AIM:
    """The model of a folder; its backbone is imported where a path to it is given."""
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


def as_options(message: str) -> str:
    """A message of the library for those who called it by a command.

    >>> as_options("image_size must be at least 32 x 32; dynamic_size=False is silent")
    '--image-size must be at least 32 x 32; --fixed-size is silent'
    """
    for argument, option in _AS_OPTIONS:
        message = re.sub(argument, option, message)
    return message


@contextmanager
def _warning_of_options() -> Iterator[None]:
    """Print warnings as one line each, without the place in the code that nobody called."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default", UserWarning)
        try:
            yield
        finally:
            for warning in caught:
                typer.echo(f"warning: {as_options(str(warning.message))}", err=True)


def parse_ties(text: str) -> list[float]:
    """Read ``--ties``.

    >>> parse_ties("0.95,1")
    [0.95, 1.0]
    """
    try:
        shares = [float(part) for part in text.split(",") if part.strip()]
    except ValueError:
        shares = []
    if not shares or not all(0.5 <= share <= 1 for share in shares):
        raise typer.BadParameter(f"--ties must be shares from 0.5 to 1, such as 0.95,1; got {text!r}")
    return shares


def parse_heads(text: str) -> list[Head]:
    """Read ``--heads``.

    >>> parse_heads("paper, feature-preserving")
    ['paper', 'feature-preserving']
    """
    names = [part.strip() for part in text.split(",") if part.strip()]
    heads = [head for name in names for head in get_args(Head) if head == name]
    if not heads or len(heads) != len(names):
        raise typer.BadParameter(f"--heads must be among {', '.join(get_args(Head))}; got {text!r}")
    return heads


def main() -> None:
    """Entry point of the ``aimwrap`` command."""
    app()
