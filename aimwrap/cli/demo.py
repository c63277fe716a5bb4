"""``aimwrap demo`` on the command line."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from .help import closing
from .options import AsJson, Quiet, Seeds, as_options, parse_heads, parse_seeds, parse_ties
from .outcomes import answer, ending_well, failing

EPILOG = closing(
    [
        "aimwrap demo",
        "aimwrap demo --seeds 5             # as in the documentation",
        "aimwrap demo --ties 1 --heads paper",
    ],
    "the table is printed and the picture written",
    "it failed, and the message says why",
)


def demo(
    seeds: Seeds = "1",
    ties: Annotated[str, typer.Option(help="Shares of the training labels that the background is tied to.")] = "0.95,1",
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the training images, for every variant.")] = 8,
    tau: Annotated[float, typer.Option(min=0.01, max=1.0, help="Area that AIM's masks are to keep.")] = 0.25,
    heads: Annotated[
        str, typer.Option(help="AIM's heads: feature-preserving, paper, or both with a comma between.")
    ] = "feature-preserving",
    out: Annotated[Path, typer.Option(help="Where to write the picture.")] = Path("demo.png"),
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Train a plain CNN and the same CNN with AIM where the background gives the label away, and see where they look.

    Prints a table per tie and writes a picture. Nothing is downloaded. Needs the extra demo.
    """
    seed_numbers, tie_shares, head_names = parse_seeds(seeds), parse_ties(ties), parse_heads(heads)
    with failing(ImportError, OSError, ValueError, as_json=as_json, spoken=as_options), ending_well(_INTERRUPTED):
        from ..demo import Settings, format_report, run_demo

        settings = Settings(epochs=epochs, tau=tau, quiet=quiet or as_json)
        started = time.perf_counter()
        runs = run_demo(tie_shares, seed_numbers, settings, out, head_names)
    seconds = time.perf_counter() - started
    answer(
        as_json,
        [{**run._asdict(), "scores": run.scores._asdict()} for run in runs],
        f"\n{format_report(runs, settings)}\n\n{seconds:.0f} seconds in all. The picture is in {out}.",
    )


_INTERRUPTED = (
    "Interrupted. The demo keeps nothing: give the command again, with fewer --seeds or --epochs to be done sooner."
)
