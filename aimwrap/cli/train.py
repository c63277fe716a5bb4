"""``aimwrap train`` on the command line: an option for each setting of a run, and those of the machine."""

# ruff: noqa: B008  # typer makes the options of the defaults
from __future__ import annotations

import inspect
import os
from collections.abc import Mapping
from dataclasses import Field, fields
from pathlib import Path
from textwrap import indent
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

import typer

from .._files import write_json
from ..train.presets import PRESETS
from ..train.settings import MACHINES, MASKS, PANELS, RESULT, Settings, kind_of
from .options import (
    AsJson,
    Data,
    Quiet,
    ReaderArguments,
    Root,
    Seeds,
    complete_backbone,
    import_from_here,
    listed,
    option,
    options_in,
    parse_seeds,
)
from .outcomes import closing, exit_on_error, exit_on_interrupt, in_options, print_result

if TYPE_CHECKING:
    from ..train import Result

EPILOG = closing(
    [
        "aimwrap train built digits95 --backbone resnet10t --no-pretrained \\",
        "    --epochs 2 --out runs/try",
        "aimwrap train waterbirds data/waterbirds --preset ours-birds --seeds 3",
        "aimwrap train folder data/mine --plain --hold-out 0.2 --out runs/plain",
    ],
    "training is done; each seed's folder has its model and its result",
    "training failed; the error message says why",
)
_result, _machine = options_in(RESULT), options_in(MACHINES)
INTERRUPTED = (
    "Interrupted. Run the same command again: it continues from the last checkpoint in {}. A checkpoint is written "
    "after each epoch, and every --checkpoint-steps steps."
)
_PROCESS = int(os.environ.get("RANK", os.environ.get("SLURM_PROCID", os.environ.get("LOCAL_RANK", "0"))))


def option_of(each: Field[Any]) -> inspect.Parameter:
    """The option of a setting; its value is None where it was not given, so that a preset or the default holds."""
    about, kind = each.metadata, kind_of(each.name)
    words: dict[str, Any] = {"help": f"{about['help']}.", "rich_help_panel": about["panel"]}
    if each.name in ("backbone", "second_backbone"):
        words["autocompletion"] = complete_backbone
    names = [about.get("flag", f"--{each.name.replace('_', '-')}")]
    if not _is_switch(each):
        words["show_default"] = about["shown"] or (f"{each.default:g}" if kind is float else str(each.default))
        if "parse" in about:
            kind = str
        elif kind is bool:
            names = [f"{names[0]}/--no-{names[0][2:]}"]
        elif get_origin(kind) is Literal:
            kind = Literal[tuple(about.get("words", get_args(kind)))]
    option = typer.Option(False if _is_switch(each) else None, *names, **words)
    typed = bool if _is_switch(each) else kind | None
    return inspect.Parameter(each.name, inspect.Parameter.KEYWORD_ONLY, default=option, annotation=typed)


def _is_switch(each: Field[Any]) -> bool:
    """Whether its option takes no value and has no opposite, so that False means that it was not given."""
    return "sets" in each.metadata or each.default is False


def given_settings(options: dict[str, Any]) -> dict[str, Any]:
    """The settings that options stand for, without those that were not given."""
    found = {}
    for name, value in options.items():
        each = Settings.__dataclass_fields__[name]
        about = each.metadata
        if value is None or (value is False and _is_switch(each)):
            continue
        if "sets" in about:
            found[name] = about["sets"]
        elif "words" in about:
            found[name] = about["words"][value]
        else:
            found[name] = about["parse"](value) if "parse" in about else value
    return found


def settings_of(preset: str | None, given: dict[str, Any]) -> Settings:
    """Settings from a preset and from what was given, which wins.

    >>> settings_of("ours-frozen", {"data": "built", "root": "data/stamps", "epochs": 6}).tau
    (0.1,)
    """
    if preset is not None and preset not in PRESETS:
        raise ValueError(f"preset must be one of {', '.join(PRESETS)}, got {preset!r}")
    return Settings(**{**({} if preset is None else PRESETS[preset].settings), **given})


def check_all_used(settings: Settings, given: Mapping[str, Any]) -> None:
    """Refuse options that have no effect with the others; ``given`` are those of the command, without the preset's.

    Raises:
        ValueError: naming the option, and what it needs.
    """
    for name, value in given.items():
        about = Settings.__dataclass_fields__[name].metadata
        needs = about.get("needs")
        if needs is not None and getattr(settings, needs[0]) != needs[1]:
            option = f"--{'no-' if value is False else ''}{name.replace('_', '-')}"
            present = getattr(settings, needs[0])
            if needs[1] is True:
                needed = f"--{needs[0].replace('_', '-')}"
                raise ValueError(f"{option} has no effect without {needed}; add it, or leave {option} out")
            if needs == ("method", "aim") or (settings.method == "plain" and about["panel"] == MASKS):
                raise ValueError(f"{option} has no effect on a plain backbone (--plain); leave it out")
            raise ValueError(f"{option} needs {needs[0]} {needs[1]}, and it is {present} here; leave it out")


def _list_presets(asked: bool) -> None:
    if not asked:
        return
    for name, preset in PRESETS.items():
        values = (
            f"{key} {f'{value:.4g}' if isinstance(value, float) else value}" for key, value in preset.settings.items()
        )
        typer.echo(f"{name} ({preset.source})\n{indent(preset.explained, '    ')}\n\n    {', '.join(values)}\n")
    raise typer.Exit


def train(
    data: Data,
    root: Root,
    arguments: ReaderArguments = None,
    out: Path = option(Path("runs/train"), "Output folder; each seed gets a folder in it."),
    seeds: Seeds = "1",
    preset: Literal[tuple(PRESETS)] | None = option(  # type: ignore[valid-type]  # names that the table of presets has
        None, "Preset that replaces the defaults; --presets describes them.", show_default="no preset"
    ),
    presets: bool = option(
        False, "Describe the presets, and exit.", "--presets", is_eager=True, callback=_list_presets
    ),
    logger: str = _result("", "Loggers, separated by commas: tensorboard, csv, wandb, mlflow.", show_default="none"),
    keep_masks: int = _result(
        0, "Number of test images whose masks are written after each epoch.", min=0, show_default="none"
    ),
    accelerator: Literal["auto", "cpu", "cuda"] = _machine("auto", "Device to train on."),
    devices: int | None = _machine(
        None, "Number of GPUs, or of processes on a CPU, per machine.", min=1, show_default="all GPUs, or 1 process"
    ),
    nodes: int = _machine(1, "Number of machines, unless torchrun or SLURM sets it.", min=1),
    workers: int = _machine(
        2, "Number of processes that read images, per training process; 0 reads in the training process.", min=0
    ),
    as_json: AsJson = False,
    quiet: Quiet = False,
    **options: Any,
) -> None:
    """Train a backbone, plain or with AIM, on a data set; test it and save it.

    Each image has exactly one class. The same command works on one CPU, one GPU and several GPUs. Under torchrun or
    srun it uses the processes that were started. If it is interrupted, run the same command again to continue.
    """
    numbers = parse_seeds(seeds)
    import_from_here()
    silent = _PROCESS != 0  # the others meet the same error as the first process, and end without a message
    interrupted = exit_on_interrupt("" if silent else INTERRUPTED.format(out))
    with exit_on_error(ImportError, as_json=as_json, silent=silent), interrupted:
        from ..data.registry import parse_reader_arguments
        from ..train import CheckpointError, DivergedError, ProcessError, launched_fabric
        from ..train.report import format_results, summary

        try:
            reader = parse_reader_arguments(arguments or [])
            given = {"data": data, "root": root, "reader": reader, **given_settings(options)}
            settings = [settings_of(preset, {**given, "seed": seed}) for seed in numbers]
            check_all_used(settings[0], given)
            if keep_masks and settings[0].method == "plain":
                raise ValueError("--keep-masks has no effect on a plain backbone (--plain); leave it out")
        except ValueError as error:
            raise typer.BadParameter(str(error)) from error
        kinds = (CheckpointError, DivergedError, ImportError, OSError, TypeError, ValueError)
        loggers = listed(logger)
        more: dict[str, Any] = {"workers": workers, "loggers": loggers, "keep_masks": keep_masks}
        # A ProcessError is printed by the process that it happened in, whichever that is.
        with exit_on_error(*kinds, as_json=as_json, silent=silent), exit_on_error(ProcessError, as_json=False):
            fabric = launched_fabric(settings[0].precision, devices, nodes, accelerator)
            results = [_run(one, out, fabric, quiet or as_json or silent, more) for one in settings]
            if not silent:
                write_json(out / "summary.json", summary(results))
                last = [one.second_look or one.exchange for one in results]
                models = [
                    part["folder"] if part else f"{one.folder}/model" for one, part in zip(results, last, strict=True)
                ]
                shown = [each._replace(mask_findings=[*map(in_options, each.mask_findings)]) for each in results]
                text = f"\n{format_results(shown)}\nModels: {', '.join(models)}"
                print_result(as_json, [result._asdict() for result in results], text)


def _signature() -> inspect.Signature:
    """The command's own parameters, and an option for each setting in the place of ``**options``."""
    own = inspect.signature(train, eval_str=True)
    found = [parameter.replace(kind=parameter.KEYWORD_ONLY) for parameter in own.parameters.values()]
    settings = [option_of(each) for each in fields(Settings) if each.metadata and each.name != "seed"]
    settings.sort(key=lambda one: PANELS.index(Settings.__dataclass_fields__[one.name].metadata["panel"]))
    return own.replace(parameters=[*found[:7], *settings, *found[7:-1]])


def _run(settings: Settings, out: Path, fabric: Any, quiet: bool, more: dict[str, Any]) -> Result:
    from ..train import run_training
    from ..train.report import format_epoch

    told: set[str] = set()  # remedies, which are long and the same at every epoch

    def report(line: dict[str, Any], seconds: float) -> None:
        typer.echo(format_epoch(line, seconds))
        for finding in line["mask_findings"]:
            state, _, remedy = finding.partition(": ")
            typer.echo(f"  warning: {state if remedy in told else in_options(finding)}", err=True)
            told.add(remedy)

    words: dict[str, Any] = {} if quiet else {"report": report, "say": typer.echo}
    return run_training(settings, out / f"seed-{settings.seed}", fabric, quiet=quiet, **words, **more)


train.__signature__ = _signature()  # type: ignore[attr-defined]  # which typer makes the options of
