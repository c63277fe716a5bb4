"""``aimwrap demo`` on the command line."""

# ruff: noqa: B008  # typer makes the options of the defaults
from __future__ import annotations

import time
from pathlib import Path

from .help import closing
from .options import AsJson, Quiet, Seeds, option, parse_heads, parse_seeds, parse_ties
from .outcomes import exit_on_error, exit_on_interrupt, print_result

EPILOG = closing(
    [
        "aimwrap demo",
        "aimwrap demo --seeds 5             # as in the documentation",
        "aimwrap demo --ties 1 --heads paper",
    ],
    "the table is printed and the image is written",
    "the demo failed; the error message says why",
)


def demo(
    seeds: Seeds = "1",
    ties: str = option(
        "0.95,1", "Ties, separated by commas: the share of training images that are on their label's background."
    ),
    epochs: int = option(8, "Number of passes over the training images, for each variant.", min=1),
    tau: float = option(0.25, "Target share of the image that AIM's masks keep.", min=0.01, max=1.0),
    heads: str = option(
        "feature-preserving", "AIM heads to train: feature-preserving, paper, or both separated by a comma."
    ),
    out: Path = option(Path("demo.png"), "Image file to write."),
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Train a CNN with and without AIM on images whose background predicts the label, and compare the two.

    Prints a table of scores for each tie, and writes an image that shows where both models look. Downloads nothing.
    Needs the extra demo.
    """
    seed_numbers, tie_shares, head_names = parse_seeds(seeds), parse_ties(ties), parse_heads(heads)
    with exit_on_error(ImportError, OSError, ValueError, as_json=as_json), exit_on_interrupt(_INTERRUPTED):
        from ..demo import Settings, format_report, run_demo

        settings = Settings(epochs=epochs, tau=tau, quiet=quiet or as_json)
        started = time.perf_counter()
        runs = run_demo(tie_shares, seed_numbers, settings, out, head_names)
    seconds = time.perf_counter() - started
    print_result(
        as_json,
        [{**run._asdict(), "scores": run.scores._asdict()} for run in runs],
        f"\n{format_report(runs, settings)}\n\n{seconds:.0f} seconds in total. The image is in {out}.",
    )


_INTERRUPTED = "Interrupted. The demo keeps nothing: run the command again. Fewer --seeds or --epochs make it faster."
