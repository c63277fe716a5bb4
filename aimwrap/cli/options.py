"""Names of backbones for the shell's completion, read off timm's and torchvision's sources without importing them."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal, get_args

import typer

# The function below the decorator that registers a model; torchvision has another decorator in between.
_REGISTERED = re.compile(r"^@register_model\b.*\n(?:(?!def ).*\n)*?def (\w+)", re.MULTILINE)


def backbone_names(library: str) -> list[str]:
    """The classification models that a library registers.

    >>> "resnet18" in backbone_names("timm") and "resnet18" in backbone_names("torchvision")
    True

    Args:
        library: ``"timm"`` or ``"torchvision"``.

    Returns:
        Their names, sorted; none if the library is missing.
    """
    spec = find_spec(library)
    folders = [] if spec is None else spec.submodule_search_locations or []
    sources = (source for folder in folders for source in (Path(folder) / "models").glob("*.py"))
    return sorted({name for source in sources for name in _REGISTERED.findall(source.read_text(encoding="utf-8"))})


def complete_backbone(incomplete: str) -> list[str]:
    """Names that begin so: timm's, then those that torchvision alone has, then those with their library's name."""
    timm, torchvision = backbone_names("timm"), backbone_names("torchvision")
    both = [f"{library}/{name}" for library, names in (("timm", timm), ("torchvision", torchvision)) for name in names]
    known = [*timm, *(name for name in torchvision if name not in set(timm))]
    return [name for name in (both if "/" in incomplete else known) if name.startswith(incomplete)]


Data = Literal[
    "waterbirds",
    "cub",
    "traveling-birds",
    "hard-imagenet",
    "imagenet-100",
    "imagewoof",
    "built",
    "folder",
    "table",
]
Preset = Literal[
    "group-dro-erm",
    "dfr-base",
    "feature-learning-base",
    "gals-vanilla",
    "hard-imagenet-probe",
    "pip-net-convnext",
    "ours-birds",
    "ours-imagenet-subsets",
    "ours-frozen",
]
Head = Literal["feature-preserving", "paper"]
AreaPer = Literal["image", "batch"]
Frozen = Literal["nothing", "norm-statistics", "backbone"]
Optimizer = Literal["adamw", "adam", "sgd"]
Schedule = Literal["cosine", "constant", "step"]
Precision = Literal["32-true", "64-true", "bf16-mixed", "16-mixed"]
Augmentation = Literal["crop-and-flip", "jitter-crop-and-flip", "trivial-augment", "none"]
Selection = Literal["worst-group", "average", "last"]
Accelerator = Literal["auto", "cpu", "cuda"]
ExportFormat = Literal["onnx", "pt2", "aotinductor"]
FileFormat = Literal["jpg", "png"]
Placement = Literal["anywhere", "centre", "edge"]


# What the library's messages call an argument, and what it is here.
_AS_OPTIONS = (
    (r"from_pretrained\(.*?backbone=backbone\)", "--backbone package.module:name"),
    (r"pass it as backbone=; strict=False .* has$", "name it by --backbone package.module:name"),
    (r"^(path|output) must", "--out must"),
    (r"\bimage_size\b=?", "--image-size"),
    (r"\bdynamic_size=False", "--fixed-size"),
    (r"\bexport_program; --format", "--format"),
    (r"(?=\btolerance=)", "in Python, "),
    (r"\bexample_input=, a batch of images .*\)\.$", "--image-size, and --channels if they are not 3."),
    (r"\bexample_input=", "--image-size"),
)


def as_options(message: str, options: Sequence[tuple[str, str]] = _AS_OPTIONS) -> str:
    """A message of the library for those who called it by a command.

    >>> as_options("image_size must be at least 32 x 32; dynamic_size=False is silent")
    '--image-size must be at least 32 x 32; --fixed-size is silent'

    Args:
        message: of the library.
        options: a regular expression for what the library says, and what the command says, in this order.
    """
    for argument, option in options:
        message = re.sub(argument, option, message)
    return message


def first_name_as_option(message: str, names: Collection[str]) -> str:
    """A message that begins with an argument's name, with the option's in its place.

    >>> first_name_as_option("test_share must be a share from 0 to below 1", ["test_share"])
    '--test-share must be a share from 0 to below 1'

    Args:
        message: of the library.
        names: arguments that are options by the same names.
    """
    name, must, rest = message.partition(" must ")
    return f"--{name.replace('_', '-')}{must}{rest}" if must and name in names else message


DATA_SETS: tuple[str, ...] = get_args(Data)


def check_data(value: str | None) -> str | None:
    """The name of a data set, if there is one of that name.

    >>> check_data("cub")
    'cub'

    Args:
        value: as it was given; None where an option was left out.

    Raises:
        typer.BadParameter: if there is none.
    """
    if value is None or value in DATA_SETS:
        return value
    close = get_close_matches(value.lower().replace("_", "-"), DATA_SETS, n=1)
    hint = f"; did you mean {close[0]}?" if close else ""
    raise typer.BadParameter(f"there is no data set {value!r}, but {', '.join(DATA_SETS)}{hint}")


def complete_data(incomplete: str) -> list[str]:
    """Names of data sets that begin so.

    >>> complete_data("c")
    ['cub']
    """
    return [name for name in DATA_SETS if name.startswith(incomplete)]


def parse_seeds(text: str) -> list[int]:
    """Read ``--seeds``: a single number is how many, several are which.

    >>> parse_seeds("3"), parse_seeds("0,7")
    ([0, 1, 2], [0, 7])
    """
    try:
        numbers = [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        numbers = []
    if len(numbers) == 1 and "," not in text:
        numbers = list(range(numbers[0]))
    if not numbers or min(numbers) < 0:
        raise typer.BadParameter(f"--seeds must be a count from 1, such as 5, or a list such as 0,3,7; got {text!r}")
    if len(set(numbers)) < len(numbers):
        raise typer.BadParameter(f"--seeds must name each seed once; got {text!r}")
    return numbers


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


OUTPUT_PANEL = "What is printed"

AsJson = Annotated[
    bool,
    typer.Option(
        "--json",
        help="Print one JSON document instead of text; all else goes to the error output.",
        rich_help_panel=OUTPUT_PANEL,
    ),
]
Quiet = Annotated[
    bool,
    typer.Option("--quiet", "-q", help="No progress and no warnings: the result alone.", rich_help_panel=OUTPUT_PANEL),
]
Seeds = Annotated[str, typer.Option(help="How many seeds (5 means 0 to 4), or which: 0,3,7")]
Workers = Annotated[int, typer.Option(min=0, help="Processes that share the work; 0: none but this one.")]
BackboneName = Annotated[
    str,
    typer.Argument(
        help="A timm or torchvision model's name, or package.module:name.", autocompletion=complete_backbone
    ),
]
OneHead = Annotated[Head, typer.Option(help="The head of AIM.")]
