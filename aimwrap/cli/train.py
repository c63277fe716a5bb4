"""``aimwrap train`` on the command line."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .._files import replacing
from .help import closing
from .options import (
    DATA_SETS,
    Accelerator,
    AreaPer,
    AsJson,
    Augmentation,
    Frozen,
    Head,
    Optimizer,
    Precision,
    Preset,
    Quiet,
    Schedule,
    Seeds,
    Selection,
    check_data,
    complete_backbone,
    complete_data,
    first_name_as_option,
    parse_seeds,
)
from .outcomes import answer, ending_well, failing

if TYPE_CHECKING:
    from ..train import Result, Settings


# Settings whose options have the same names and values.
SAME_NAMES = (
    *("data", "root", "hold_out", "backbone", "frozen"),
    *("head", "anneal_share", "mask_weight", "area_per"),
    *("image_size", "crop", "augmentation"),
    *("epochs", "batch_size", "accumulate", "optimizer", "lr", "head_lr", "mask_lr", "weight_decay", "momentum"),
    *("schedule", "warmup_epochs", "step_epochs", "step_factor", "clip", "ema"),
    *("checkpoint_steps", "precision"),
)
_SWITCHES = ("labels_move_area", "sync_batchnorm")


def settings_of(preset: str | None, given: dict[str, Any]) -> Settings:
    """Settings from a preset and what was given beside it, which wins.

    >>> settings_of("ours-frozen", {"data": "built", "root": "data/stamps", "epochs": 6}).tau
    (0.1,)
    """
    from ..train import PRESETS, Settings

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


def parse_selection(text: Selection) -> str:
    """The rule's whole name.

    >>> parse_selection("worst-group")
    'validation worst group'
    """
    return text if text == "last" else f"validation {text.replace('-', ' ')}"


def as_option(message: str) -> str:
    """A message of the library for those who called it by the command.

    >>> as_option("hold_out=0.2 holds out a fifth, and batch_size must be 1 or more")
    '--hold-out 0.2 holds out a fifth, and --batch-size must be 1 or more'
    >>> as_option("frozen='backbone' trains the classifier alone; lower accumulate=4")
    '--frozen backbone trains the classifier alone; lower --accumulate 4'
    >>> as_option("stages is empty; stages=[2, 3] is the paper's usual choice")
    "stages is empty; --stages 2,3 is the paper's usual choice"
    """
    message = first_name_as_option(message, {*SAME_NAMES, "stages", "tau", "selection"} - {"data", "root"})
    for name in sorted([*SAME_NAMES, *_SWITCHES, "selection"], key=len, reverse=True):
        option = f"--{name.replace('_', '-')}"
        message = re.sub(rf"(?<![\w-]){name}='([^\s']+)'", rf"{option} \1", message)
        message = re.sub(rf"(?<![\w-]){name}=(?=\S)", f"{option} ", message)
        if "_" in name:  # what is one word may be meant as a word
            message = re.sub(rf"(?<![\w-]){name}(?![\w=])", option, message)
    return re.sub(r"stages=\[([^\]]+)\]", lambda found: "--stages " + re.sub(r"[\s']", "", found[1]), message)


EPILOG = closing(
    [
        "aimwrap train built digits95 --backbone resnet10t --no-pretrained \\",
        "    --epochs 2 --out runs/try",
        "aimwrap train waterbirds data/waterbirds --preset ours-birds --seeds 3",
        "aimwrap train folder data/mine --plain --hold-out 0.2 --out runs/plain",
    ],
    "each seed's folder has its model and its result",
    "there is no result, and the message says why",
)
DATA, MODEL, MASKS, IMAGES = "Data", "Model", "Masks, unless --plain", "Images"
OPTIMISER, RESULT, MACHINES = "Optimiser", "What is kept", "Machines"

_PROCESS = int(os.environ.get("RANK", os.environ.get("SLURM_PROCID", os.environ.get("LOCAL_RANK", "0"))))


def _list_presets(asked: bool) -> None:
    """Print the recipes, each with its source and what it sets."""
    if not asked:
        return
    from ..train import PRESETS

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
            metavar="DATA",
            help=f"The data set: {', '.join(DATA_SETS[:-1])} or {DATA_SETS[-1]}.",
            callback=check_data,
            autocompletion=complete_data,
        ),
    ],
    root: Annotated[str, typer.Argument(metavar="ROOT", help="The data set's folder; of table its CSV file.")],
    arguments: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME=VALUE]...", help="What else its reader takes, such as cub=data/CUB_200_2011."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Where to write; each seed has a folder in it.")] = Path("runs/train"),
    seeds: Seeds = "1",
    preset: Annotated[
        Preset | None,
        typer.Option(
            metavar="NAME",
            help="A recipe, whose values stand in for defaults; --presets lists them.",
        ),
    ] = None,
    presets: Annotated[
        bool,
        typer.Option("--presets", is_eager=True, callback=_list_presets, help="List the recipes, and stop."),
    ] = False,
    hold_out: Annotated[
        float | None,
        typer.Option(
            help="Share of the training images for validation, where there is none. Default: 0.", rich_help_panel=DATA
        ),
    ] = None,
    backbone: Annotated[
        str | None,
        typer.Option(
            help="A timm or torchvision model's name, or package.module:name. Default: convnext_tiny.",
            autocompletion=complete_backbone,
            rich_help_panel=MODEL,
        ),
    ] = None,
    no_pretrained: Annotated[
        bool, typer.Option("--no-pretrained", help="Begin with random weights.", rich_help_panel=MODEL)
    ] = False,
    plain: Annotated[
        bool,
        typer.Option("--plain", help="Train the backbone with its own classifier, without AIM.", rich_help_panel=MODEL),
    ] = False,
    frozen: Annotated[
        Frozen | None,
        typer.Option(
            metavar="WHAT",
            help="What is not trained: nothing, norm-statistics or backbone. Default: nothing.",
            rich_help_panel=MODEL,
        ),
    ] = None,
    stages: Annotated[
        str | None, typer.Option(help="Stages with masks, shallow to deep. Default: 2,3.", rich_help_panel=MASKS)
    ] = None,
    tau: Annotated[
        str | None, typer.Option(help="Area of the masks: one, or one per stage. Default: 0.25.", rich_help_panel=MASKS)
    ] = None,
    head: Annotated[
        Head | None, typer.Option(help="The head of AIM. Default: feature-preserving.", rich_help_panel=MASKS)
    ] = None,
    labels_move_area: Annotated[
        bool,
        typer.Option(
            "--labels-move-area",
            help="Let labels open and close masks as wholes, too, as the paper does.",
            rich_help_panel=MASKS,
        ),
    ] = False,
    anneal_share: Annotated[
        float | None,
        typer.Option(help="Share of the epochs in which tau falls from 1. Default: a third.", rich_help_panel=MASKS),
    ] = None,
    mask_weight: Annotated[
        float | None, typer.Option(help="The paper's lambda. Default: 6.", rich_help_panel=MASKS)
    ] = None,
    area_per: Annotated[
        AreaPer | None,
        typer.Option(help="Area per image, or per batch of all processes. Default: image.", rich_help_panel=MASKS),
    ] = None,
    image_size: Annotated[
        int | None,
        typer.Option(help="Side of square images, in pixels. Default: the backbone's own.", rich_help_panel=IMAGES),
    ] = None,
    crop: Annotated[
        float | None,
        typer.Option(help="Side of the central crop, of the image's. Default: its own.", rich_help_panel=IMAGES),
    ] = None,
    squash: Annotated[
        bool,
        typer.Option("--squash", help="Squash images to squares, do not keep proportions.", rich_help_panel=IMAGES),
    ] = False,
    augmentation: Annotated[
        Augmentation | None,
        typer.Option(
            metavar="NAME",
            help="crop-and-flip, jitter-crop-and-flip, trivial-augment or none. Default: crop-and-flip.",
            rich_help_panel=IMAGES,
        ),
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(help="Passes over the training images. Default: 20.", rich_help_panel=OPTIMISER)
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(help="Images per step, of all processes together. Default: 64.", rich_help_panel=OPTIMISER),
    ] = None,
    accumulate: Annotated[
        int | None,
        typer.Option(
            help="Parts that a step's images are seen in, for less memory. Default: 1.", rich_help_panel=OPTIMISER
        ),
    ] = None,
    sync_batchnorm: Annotated[
        bool,
        typer.Option("--sync-batchnorm", help="BatchNorm's statistics of all GPUs' images.", rich_help_panel=OPTIMISER),
    ] = False,
    optimizer: Annotated[
        Optimizer | None, typer.Option(help="What takes the steps. Default: adamw.", rich_help_panel=OPTIMISER)
    ] = None,
    lr: Annotated[
        float | None, typer.Option(help="Learning rate of the backbone. Default: 1e-5.", rich_help_panel=OPTIMISER)
    ] = None,
    head_lr: Annotated[
        float | None, typer.Option(help="Of everything new. Default: 1e-3.", rich_help_panel=OPTIMISER)
    ] = None,
    mask_lr: Annotated[
        float | None,
        typer.Option(help="Of the mask estimators. Default: that of everything new.", rich_help_panel=OPTIMISER),
    ] = None,
    weight_decay: Annotated[
        float | None, typer.Option(help="Norms, biases and masks have none. Default: 0.05.", rich_help_panel=OPTIMISER)
    ] = None,
    momentum: Annotated[float | None, typer.Option(help="Of sgd. Default: 0.9.", rich_help_panel=OPTIMISER)] = None,
    schedule: Annotated[
        Schedule | None, typer.Option(help="How the rates fall. Default: cosine.", rich_help_panel=OPTIMISER)
    ] = None,
    warmup_epochs: Annotated[
        float | None, typer.Option(help="In which the rates rise. Default: 0.", rich_help_panel=OPTIMISER)
    ] = None,
    step_epochs: Annotated[
        int | None,
        typer.Option(help="Epochs between steps of the schedule step. Default: 20.", rich_help_panel=OPTIMISER),
    ] = None,
    step_factor: Annotated[
        float | None,
        typer.Option(help="What the rates are then multiplied by. Default: 0.1.", rich_help_panel=OPTIMISER),
    ] = None,
    clip: Annotated[
        float | None, typer.Option(help="Largest norm of the gradients. Default: any.", rich_help_panel=OPTIMISER)
    ] = None,
    ema: Annotated[
        float | None,
        typer.Option(help="Decay of the weights' moving average, such as 0.999.", rich_help_panel=OPTIMISER),
    ] = None,
    selection: Annotated[
        Selection | None,
        typer.Option(
            metavar="RULE",
            help="The best epoch on validation, by worst-group or average, or the last. Default: average, if it can.",
            rich_help_panel=RESULT,
        ),
    ] = None,
    checkpoint_steps: Annotated[
        int | None,
        typer.Option(help="Steps between checkpoints. Default: one at each epoch's end.", rich_help_panel=RESULT),
    ] = None,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write curves and masks for TensorBoard too.", rich_help_panel=RESULT)
    ] = False,
    accelerator: Annotated[Accelerator, typer.Option(help="What to train on.", rich_help_panel=MACHINES)] = "auto",
    devices: Annotated[
        int | None,
        typer.Option(
            min=1, help="GPUs, or processes on a CPU, on each machine. Default: all GPUs.", rich_help_panel=MACHINES
        ),
    ] = None,
    nodes: Annotated[
        int, typer.Option(min=1, help="Machines, where neither torchrun nor SLURM says it.", rich_help_panel=MACHINES)
    ] = 1,
    workers: Annotated[
        int,
        typer.Option(
            min=0, help="Processes that read images, for each that trains; 0: none but these.", rich_help_panel=MACHINES
        ),
    ] = 2,
    precision: Annotated[
        Precision | None,
        typer.Option(
            metavar="NAME", help="32-true, 64-true, bf16-mixed or 16-mixed. Default: 32-true.", rich_help_panel=MACHINES
        ),
    ] = None,
    compile_model: Annotated[
        bool, typer.Option("--compile", help="Compile the model by torch.compile.", rich_help_panel=MACHINES)
    ] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Train a backbone, plain or with AIM, from a data set's name to a tested and saved model.

    The same command serves one CPU, one GPU and eight; under torchrun or srun it takes the processes that are there.
    Killed, it goes on when it is given again.
    """
    given = {name: value for name, value in locals().items() if name in SAME_NAMES and value is not None}
    numbers = parse_seeds(seeds)
    sys.path.insert(0, "")  # a backbone of one's own is usually here
    with _failing(ImportError, as_json=as_json), ending_well(_interrupted(out)):
        from ..data.registry import parse_reader_arguments
        from ..train import CheckpointError, DivergedError, ProcessError, launched_fabric

        switches = {
            "method": "plain" if plain else None,
            "pretrained": False if no_pretrained else None,
            "compile": compile_model or None,
            "squash": squash or None,
            "labels_move_area": labels_move_area or None,
            "sync_batchnorm": sync_batchnorm or None,
            "stages": None if stages is None else parse_stages(stages),
            "selection": None if selection is None else parse_selection(selection),
        }
        given |= {name: value for name, value in switches.items() if value is not None}
        with _refusing_settings():
            given["reader"] = parse_reader_arguments(arguments or [])
            given |= {} if tau is None else {"tau": parse_areas(tau)}
            settings = [settings_of(preset, {**given, "seed": seed}) for seed in numbers]
            check_all_used(settings[0], given)
        kinds = (CheckpointError, DivergedError, ImportError, OSError, TypeError, ValueError)
        with _failing(*kinds, as_json=as_json), failing(ProcessError, as_json=False):  # the latter in whatever process
            fabric = launched_fabric(settings[0].precision, devices, nodes, accelerator)
            results = [_run(one, out, fabric, workers, tensorboard, quiet or as_json) for one in settings]
            if _PROCESS == 0:
                _print_results(results, out, as_json)


def _run(settings: Settings, out: Path, fabric: Any, workers: int, tensorboard: bool, quiet: bool) -> Result:
    from ..train import run_training
    from ..train.report import format_epoch

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
    from ..train.report import format_results, summary

    with replacing(out / "summary.json") as path:
        path.write_text(json.dumps(summary(results), indent=2) + "\n", encoding="utf-8")
    models = ", ".join(f"{result.folder}/model" for result in results)
    text = f"\n{format_results(results)}\nModels: {models}"
    answer(as_json, [result._asdict() for result in results], text)


@contextmanager
def _failing(*kinds: type[Exception], as_json: bool) -> Iterator[None]:
    """As :func:`failing`, in the first process; the others stumbled over the same, and end without a word."""
    if _PROCESS == 0:
        with failing(*kinds, as_json=as_json, spoken=as_option):
            yield
        return
    try:
        yield
    except kinds as error:
        raise typer.Exit(1) from error


@contextmanager
def _refusing_settings() -> Iterator[None]:
    """Settings that no run can have are wrong usage."""
    try:
        yield
    except ValueError as error:
        raise typer.BadParameter(as_option(str(error))) from error


def _interrupted(out: Path) -> str:
    if _PROCESS != 0:
        return ""
    return (
        f"Interrupted. Give the same command again: it goes on from the last checkpoint in {out}, which is of an "
        "epoch's end or of --checkpoint-steps."
    )
