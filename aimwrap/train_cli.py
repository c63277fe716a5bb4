"""The command line's part on training: ``aimwrap train``."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .option_values import parse_seeds
from .replacing import replacing

if TYPE_CHECKING:
    from .train import Result, Settings

_PROCESS = int(os.environ.get("RANK", os.environ.get("SLURM_PROCID", os.environ.get("LOCAL_RANK", "0"))))


def _list_presets(asked: bool) -> None:
    """Print the recipes, each with its source and what it sets."""
    if not asked:
        return
    from .train import PRESETS

    for name, preset in PRESETS.items():
        typer.echo(f"{name} ({preset.source}): {preset.explained}")
        values = ", ".join(f"{key} {_value(value)}" for key, value in preset.settings.items())
        typer.echo(f"    {values}\n")
    raise typer.Exit


def _value(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def train(
    data: Annotated[
        str,
        typer.Argument(
            help="waterbirds, cub, traveling-birds, hard-imagenet, imagenet-100, imagewoof, built, folder or table."
        ),
    ],
    root: Annotated[str, typer.Argument(help="The data set's folder; of table its CSV file.")],
    arguments: Annotated[
        list[str] | None, typer.Argument(help="NAME=VALUE of its reader, such as cub=data/CUB_200_2011.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Where to write; each seed has a folder in it.")] = Path("runs/train"),
    preset: Annotated[
        str | None, typer.Option(help="A recipe, whose values stand in for defaults; --presets lists them.")
    ] = None,
    presets: Annotated[
        bool, typer.Option("--presets", is_eager=True, callback=_list_presets, help="List the recipes, and stop.")
    ] = False,
    backbone: Annotated[
        str | None, typer.Option(help="A timm or torchvision name, or package.module:function. Default: convnext_tiny.")
    ] = None,
    no_pretrained: Annotated[bool, typer.Option("--no-pretrained", help="Begin with random weights.")] = False,
    plain: Annotated[
        bool, typer.Option("--plain", help="Train the backbone with its own classifier, without AIM.")
    ] = False,
    stages: Annotated[str | None, typer.Option(help="Stages with masks, shallow to deep. Default: 2,3.")] = None,
    tau: Annotated[str | None, typer.Option(help="Area of the masks: one, or one per stage. Default: 0.25.")] = None,
    head: Annotated[str | None, typer.Option(help="feature-preserving or paper. Default: feature-preserving.")] = None,
    labels_move_area: Annotated[
        bool,
        typer.Option("--labels-move-area", help="Let labels open and close masks as wholes, too, as the paper does."),
    ] = False,
    anneal_share: Annotated[
        float | None, typer.Option(help="Share of the epochs in which tau falls from 1. Default: a third.")
    ] = None,
    mask_weight: Annotated[float | None, typer.Option(help="The paper's lambda. Default: 6.")] = None,
    area_per: Annotated[
        str | None, typer.Option(help="Area per image, or per batch of all processes. Default: image.")
    ] = None,
    frozen: Annotated[
        str | None, typer.Option(help="Of the backbone: nothing, norm-statistics or backbone. Default: nothing.")
    ] = None,
    seeds: Annotated[str, typer.Option(help="How many seeds (5 means 0 to 4), or which: 0,3,7")] = "1",
    epochs: Annotated[int | None, typer.Option(help="Passes over the training images. Default: 20.")] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Images per step, of all processes together. Default: 64.")
    ] = None,
    accumulate: Annotated[
        int | None, typer.Option(help="Parts that a step's images are seen in, for less memory. Default: 1.")
    ] = None,
    sync_batchnorm: Annotated[
        bool, typer.Option("--sync-batchnorm", help="BatchNorm's statistics of all GPUs' images.")
    ] = False,
    optimizer: Annotated[str | None, typer.Option(help="adamw, adam or sgd. Default: adamw.")] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate of the backbone. Default: 1e-5.")] = None,
    head_lr: Annotated[float | None, typer.Option(help="Of everything new. Default: 1e-3.")] = None,
    mask_lr: Annotated[
        float | None, typer.Option(help="Of the mask estimators. Default: that of everything new.")
    ] = None,
    weight_decay: Annotated[
        float | None, typer.Option(help="Norms, biases and masks have none. Default: 0.05.")
    ] = None,
    momentum: Annotated[float | None, typer.Option(help="Of sgd. Default: 0.9.")] = None,
    schedule: Annotated[str | None, typer.Option(help="cosine, constant or step. Default: cosine.")] = None,
    warmup_epochs: Annotated[float | None, typer.Option(help="In which the rates rise. Default: 0.")] = None,
    step_epochs: Annotated[
        int | None, typer.Option(help="Epochs between steps of the schedule step. Default: 20.")
    ] = None,
    step_factor: Annotated[
        float | None, typer.Option(help="What the rates are then multiplied by. Default: 0.1.")
    ] = None,
    clip: Annotated[float | None, typer.Option(help="Largest norm of the gradients. Default: any.")] = None,
    ema: Annotated[float | None, typer.Option(help="Decay of the weights' moving average, such as 0.999.")] = None,
    precision: Annotated[
        str | None, typer.Option(help="32-true, 64-true, bf16-mixed or 16-mixed. Default: 32-true.")
    ] = None,
    compile_model: Annotated[bool, typer.Option("--compile", help="Compile the model by torch.compile.")] = False,
    augmentation: Annotated[
        str | None,
        typer.Option(help="crop-and-flip, jitter-crop-and-flip, trivial-augment or none. Default: crop-and-flip."),
    ] = None,
    image_size: Annotated[int | None, typer.Option(help="Side of square images. Default: the backbone's own.")] = None,
    crop: Annotated[
        float | None, typer.Option(help="Side of the central crop, of the image's. Default: its own.")
    ] = None,
    squash: Annotated[bool, typer.Option("--squash", help="Squash images to squares, do not keep proportions.")] = (
        False
    ),
    selection: Annotated[
        str | None,
        typer.Option(help="worst-group, average or last. Default: average; last without a validation split."),
    ] = None,
    hold_out: Annotated[
        float | None, typer.Option(help="Share of the training images for validation, where there is none. Default: 0.")
    ] = None,
    checkpoint_steps: Annotated[
        int | None, typer.Option(help="Steps between checkpoints. Default: one at each epoch's end.")
    ] = None,
    devices: Annotated[
        int | None, typer.Option(min=1, help="GPUs, or processes on a CPU, on each machine. Default: all GPUs.")
    ] = None,
    nodes: Annotated[int, typer.Option(min=1, help="Machines, where neither torchrun nor SLURM says it.")] = 1,
    accelerator: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    workers: Annotated[int, typer.Option(min=0, help="Processes that read images, for each that trains.")] = 2,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write curves and masks for TensorBoard too.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON, and nothing else.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars and no lines per epoch.")] = False,
) -> None:
    """Train a backbone, plain or with AIM, from a data set's name to a tested and saved model.

    The same command serves one CPU, one GPU and eight; under torchrun or srun it takes the processes that are there.
    Killed, it goes on when it is given again.

    Exit code 1 says that there is no result, and the message why.
    """
    given = {name: value for name, value in locals().items() if name in _NAMES and value is not None}
    numbers = parse_seeds(seeds)
    sys.path.insert(0, "")  # a backbone of one's own is usually here
    try:
        from .train import CheckpointError, DivergedError, ProcessError, launched_fabric
        from .train.datasets import parse_reader_arguments
    except ImportError as error:
        raise typer.BadParameter(str(error)) from error
    try:
        switches = {
            "method": "plain" if plain else None,
            "pretrained": False if no_pretrained else None,
            "compile": compile_model or None,
            "squash": squash or None,
            "labels_move_area": labels_move_area or None,
            "sync_batchnorm": sync_batchnorm or None,
            "reader": parse_reader_arguments(arguments or []),
            "stages": None if stages is None else parse_stages(stages),
            "tau": None if tau is None else parse_areas(tau),
            "selection": None if selection is None else parse_selection(selection),
        }
        given |= {name: value for name, value in switches.items() if value is not None}
        settings = [settings_of(preset, {**given, "seed": seed}) for seed in numbers]
        check_all_used(settings[0], given)
        fabric = launched_fabric(settings[0].precision, devices, nodes, accelerator)
        results = [_run(one, out, fabric, workers, tensorboard, quiet or as_json) for one in settings]
    except (CheckpointError, DivergedError, ImportError, OSError, TypeError, ValueError) as error:
        _fail(as_option(str(error)), as_json)
        raise typer.Exit(1) from error
    except ProcessError as error:  # the others wait for this one, and would say nothing
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from error
    if _PROCESS == 0:
        _print_results(results, out, as_json)


_NAMES = (
    *("data", "root", "backbone", "head", "anneal_share", "mask_weight", "area_per", "frozen", "epochs"),
    *(
        "batch_size",
        "accumulate",
        "optimizer",
        "lr",
        "head_lr",
        "mask_lr",
        "weight_decay",
        "momentum",
        "schedule",
        "warmup_epochs",
    ),
    *("step_epochs", "step_factor", "clip", "ema", "precision", "augmentation", "image_size", "crop", "hold_out"),
    "checkpoint_steps",
)
_SWITCHES = ("labels_move_area", "sync_batchnorm")


def settings_of(preset: str | None, given: dict[str, Any]) -> Settings:
    """Settings from a preset and what was given beside it, which wins.

    >>> settings_of("ours-frozen", {"data": "built", "root": "data/stamps", "epochs": 6}).tau
    (0.1,)
    """
    from .train import PRESETS, Settings

    if preset is not None and preset not in PRESETS:
        raise ValueError(f"preset must be one of {', '.join(PRESETS)}, got {preset!r}")
    recipe = {} if preset is None else PRESETS[preset].settings
    return Settings(**{**recipe, **given})


def check_all_used(settings: Settings, given: Iterable[str]) -> None:
    """Refuse options that would do nothing beside the others.

    Args:
        settings: what the options came to.
        given: the names that were given, without those of the preset.

    Raises:
        ValueError: naming the option, and what it goes with.
    """
    of_aim = ("stages", "tau", "head", "labels_move_area", "anneal_share", "mask_weight", "area_per", "mask_lr")
    unused = {
        **dict.fromkeys(of_aim if settings.method == "plain" else (), "masks, and a plain backbone has none"),
        **dict.fromkeys(("momentum",) if settings.optimizer != "sgd" else (), "--optimizer sgd"),
        **dict.fromkeys(("step_epochs", "step_factor") if settings.schedule != "step" else (), "--schedule step"),
    }
    for name in given:
        if name in unused:
            raise ValueError(f"--{name.replace('_', '-')} is an option of {unused[name]}; leave it out")


def parse_stages(text: str) -> tuple[int | str, ...]:
    """Read ``--stages``.

    >>> parse_stages("2,3"), parse_stages("layer3,layer4")
    ((2, 3), ('layer3', 'layer4'))
    """
    return tuple(int(part) if part.strip().isdecimal() else part.strip() for part in text.split(",") if part.strip())


def parse_areas(text: str) -> tuple[float, ...]:
    """Read ``--tau``.

    >>> parse_areas("0.35,0.25")
    (0.35, 0.25)
    """
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"tau must be one number or one per stage, such as 0.25 or 0.35,0.25; got {text!r}") from None


def parse_selection(text: str) -> str:
    """Read ``--selection``: the rule's whole name, or its end.

    >>> parse_selection("worst-group")
    'validation worst group'
    """
    rule = text.replace("-", " ").removeprefix("validation ")
    if rule not in ("worst group", "average", "last"):
        raise ValueError(f"selection must be worst-group, average or last, got {text!r}")
    return rule if rule == "last" else f"validation {rule}"


def as_option(message: str) -> str:
    """A message of the library for those who called it by the command.

    >>> as_option("hold_out=0.2 holds out a fifth, and batch_size must be 1 or more")
    '--hold-out 0.2 holds out a fifth, and --batch-size must be 1 or more'
    >>> as_option("frozen='backbone' trains the classifier alone; lower accumulate=4")
    '--frozen backbone trains the classifier alone; lower --accumulate 4'
    >>> as_option("stages is empty; stages=[2, 3] is the paper's usual choice")
    "stages is empty; --stages 2,3 is the paper's usual choice"
    """
    names = sorted([*_NAMES, *_SWITCHES, "selection"], key=len, reverse=True)
    for name in names:
        option = f"--{name.replace('_', '-')}"
        message = re.sub(rf"(?<![\w-]){name}='([^\s']+)'", rf"{option} \1", message)
        message = re.sub(rf"(?<![\w-]){name}=(?=\S)", f"{option} ", message)
        if "_" in name:  # what is one word may be meant as a word
            message = re.sub(rf"(?<![\w-]){name}(?![\w=])", option, message)
    return re.sub(r"stages=\[([^\]]+)\]", lambda found: "--stages " + re.sub(r"[\s']", "", found[1]), message)


def _run(settings: Settings, out: Path, fabric: Any, workers: int, tensorboard: bool, quiet: bool) -> Result:
    from .train import run_training
    from .train.report import format_epoch

    def report(line: dict[str, Any], seconds: float) -> None:
        if not quiet and _PROCESS == 0:
            typer.echo(format_epoch(line, seconds))
            for finding in line["mask_findings"]:
                typer.echo(f"  warning: {finding}", err=True)

    def say(text: str) -> None:
        if not quiet and _PROCESS == 0:
            typer.echo(text)

    folder = out / f"seed-{settings.seed}"
    return run_training(
        settings, folder, fabric, workers=workers, report=report, say=say, quiet=quiet, tensorboard=tensorboard
    )


def _print_results(results: list[Result], out: Path, as_json: bool) -> None:
    from .train.report import format_results, summary

    with replacing(out / "summary.json") as path:
        path.write_text(json.dumps(summary(results), indent=2) + "\n", encoding="utf-8")
    if as_json:
        typer.echo(json.dumps([result._asdict() for result in results], indent=2))
        return
    typer.echo(f"\n{format_results(results)}")
    typer.echo(f"Models: {', '.join(f'{result.folder}/model' for result in results)}")


def _fail(message: str, as_json: bool) -> None:
    if _PROCESS == 0:
        typer.echo(json.dumps({"error": message}) if as_json else message, err=not as_json)
