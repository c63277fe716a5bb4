"""Arguments and options that several commands share, and completion of names."""

from __future__ import annotations

import inspect
import re
import shutil
import sys
from collections.abc import Callable
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from .._choices import DATA_SETS, Head

if TYPE_CHECKING:
    from torch import nn

    from ..model import AIM
    from ..second_look import SecondLook

# The function after the decorator that registers a model; torchvision has another decorator in between.
_REGISTERED = re.compile(r"^@register_model\b.*\n(?:(?!def ).*\n)*?def (\w+)", re.MULTILINE)


def backbone_names(library: str) -> list[str]:
    """Sorted names of the models of ``timm`` or ``torchvision``, read from its sources: importing it takes seconds."""
    spec = find_spec(library)
    folders = [] if spec is None else spec.submodule_search_locations or []
    sources = (source for folder in folders for source in (Path(folder) / "models").glob("*.py"))
    return sorted({name for source in sources for name in _REGISTERED.findall(source.read_text(encoding="utf-8"))})


def complete_backbone(incomplete: str) -> list[str]:
    """Names of backbones that begin so: without a library's name from timm first, then those of torchvision alone."""
    library, slash, _ = incomplete.partition("/")
    if slash:
        names = [f"{library}/{name}" for name in backbone_names(library)] if library in ("timm", "torchvision") else []
    else:
        names = list(dict.fromkeys([*backbone_names("timm"), *backbone_names("torchvision")]))
    return [name for name in names if name.startswith(incomplete)]


def check_data(value: str | None) -> str | None:
    """Check the name of a data set; None is an option that was not given."""
    if value is None or value in DATA_SETS:
        return value
    close = get_close_matches(value.lower().replace("_", "-"), DATA_SETS, n=1)
    hint = f"; did you mean {close[0]}?" if close else ""
    raise typer.BadParameter(f"unknown data set {value!r}; use one of {', '.join(DATA_SETS)}{hint}")


def complete_data(incomplete: str) -> list[str]:
    """Names of data sets that begin so."""
    return [name for name in DATA_SETS if name.startswith(incomplete)]


def help_on_data(name: str, command: str) -> str:
    """The layout of a data set and its own options, as its reader's docstring has them, with examples."""
    from ..data.registry import READERS

    text = inspect.cleandoc(READERS[name].read.__doc__ or "").partition("\n\nReturns:")[0].replace("``", "")
    text = re.sub(r"\n {4}(\w+): ", r"\n\n\1=VALUE: ", re.sub(r"Args:\n {4}\w+", "ROOT", text))
    needed = [each.name for each in inspect.signature(READERS[name]).parameters.values() if each.default is each.empty]
    more = needed[1:] or ["masks"] * (name == "folder")
    place = f"data/mine{'.csv' if name == 'table' else ''}"
    paragraphs = [
        f"The data set {name}, as in: aimwrap train {name} ROOT [NAME=VALUE]... [OPTIONS]",
        *re.sub(r"[^.]*::\n\n( {4}.*\n?)+", "\n", text).split("\n\n"),  # without examples in Python
        "A value is a path, a name, or true, false, null (None), a number or a list as in JSON.",
        f"Example: aimwrap train {name} {place} {' '.join(f'{each}=data/{each}' for each in more)}",
        f"Check it: aimwrap data doctor {place} --as {name} "
        + " ".join(f"--{each.replace('_', '-')} data/{each}" for each in more),
        f"All other options: {command} --help",
    ]
    width = min(100, shutil.get_terminal_size().columns)
    return "\n".join(fill(" ".join(each.split()), width, subsequent_indent="    ") for each in paragraphs)


def import_from_here() -> None:
    """Let modules of the current folder be imported, where custom backbones usually are."""
    if "" not in sys.path:
        sys.path.insert(0, "")


def imported_backbone(paths: str | None, look: int = 0) -> nn.Module | None:
    """The backbone of a look at the paths of ``--backbone``, if one is given."""
    from ..backbones.inspection import import_backbone

    import_from_here()
    path = [*(paths or "").split(","), ""][look]
    return import_backbone(path) if path else None


def loaded_model(folder: Path, backbone: str | None) -> AIM | SecondLook:
    """The model that a folder holds, with one look or two; ``backbone`` has the paths of ``--backbone``."""
    from ..model import AIM
    from ..second_look import SecondLook
    from ..sharing.files import CONFIG, parsed

    twice = (folder / CONFIG).is_file() and parsed(folder / CONFIG).get("second_look") is not None
    first, second = (imported_backbone(backbone, look) for look in (0, 1))
    given = first if second is None or not twice else (first, second)
    return (SecondLook if twice else AIM).from_pretrained(folder, backbone=given)


def listed(text: str, convert: Callable[[str], Any] = str.strip) -> list[Any]:
    """The parts of a text between commas; none of them if one cannot be converted."""
    try:
        return [convert(part) for part in text.split(",") if part.strip()]
    except ValueError:
        return []


def parse_seeds(text: str) -> list[int]:
    """Read ``--seeds``: one number is a count, several are the seeds themselves.

    >>> parse_seeds("3"), parse_seeds("0,7")
    ([0, 1, 2], [0, 7])
    """
    numbers = listed(text, int)
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
    shares = listed(text, float)
    if not shares or not all(0.5 <= share <= 1 for share in shares):
        raise typer.BadParameter(f"--ties must be shares from 0.5 to 1, such as 0.95,1; got {text!r}")
    return shares


def parse_heads(text: str) -> list[Head]:
    """Read ``--heads``.

    >>> parse_heads("paper, feature-preserving")
    ['paper', 'feature-preserving']
    """
    names = listed(text)
    heads = [head for name in names for head in get_args(Head) if head == name]
    if not heads or len(heads) != len(names):
        raise typer.BadParameter(f"--heads must be among {', '.join(sorted(get_args(Head)))}; got {text!r}")
    return heads


def options_in(panel: str | None) -> Callable[..., Any]:
    """What declares the options of one panel of the help: default, help text, and names other than the parameter's."""

    def option(default: Any, help: str, *names: str, **further: Any) -> Any:
        return typer.Option(default, *names, help=help, rich_help_panel=panel, **further)

    return option


option = options_in(None)

_OUTPUT = "Output"

AsJson = Annotated[
    bool,
    typer.Option("--json", help="Print one JSON document; messages go to the error output.", rich_help_panel=_OUTPUT),
]
Quiet = Annotated[
    bool,
    typer.Option("--quiet", "-q", help="Print the result only: no progress, no warnings.", rich_help_panel=_OUTPUT),
]
Seeds = Annotated[str, typer.Option(help="Number of seeds (5 means 0 to 4), or a list of seeds such as 0,3,7.")]
Workers = Annotated[int, typer.Option(min=0, help="Number of worker processes; with 0, the main process works.")]
BackboneName = Annotated[
    str,
    typer.Argument(
        help="Name of a timm or torchvision model, or package.module:name.", autocompletion=complete_backbone
    ),
]
BackbonePath = Annotated[
    str | None,
    typer.Option(
        help="Backbone as package.module:name, if the folder does not name it; for two FIRST,SECOND.",
        show_default=False,
    ),
]
Data = Annotated[
    str,
    typer.Argument(
        metavar="DATA",
        help=f"Kind of data set: {', '.join(DATA_SETS)}.",
        callback=check_data,
        autocompletion=complete_data,
    ),
]
Root = Annotated[str, typer.Argument(metavar="ROOT", help="Folder of the data set; for table the CSV file.")]
ReaderArguments = Annotated[
    list[str] | None,
    typer.Argument(metavar="NAME=VALUE", help="Options of this kind of data set, such as cub=data/CUB_200_2011."),
]
ModelFolder = Annotated[Path, typer.Argument(metavar="MODEL", help="Folder of a model, as saved by aimwrap train.")]
