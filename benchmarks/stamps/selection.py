"""Which epoch to keep where no groups are known? Each epoch, scored on held-out training images and on the test.

    python benchmarks/stamps/selection.py --seeds 0,1,2       # trains: three minutes per seed and tie on one core
    python benchmarks/stamps/selection.py --print             # the table alone, from results/selection.jsonl

AIM as in the headline (frozen backbone, tau 0.1, 20 epochs), on 80 % of the training images of each class. The others
are what `aimwrap train --hold-out 0.2` selects on: they have the tie of the training images, and so show the same
animals and photographs. Only epochs in which tau has its target count. The oracle knows the test's worst group.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any

import torch
from bootstrap import Estimate, difference, estimate
from records import append_result, read_results, results_of
from report import RESULTS, few, interval, markdown, signed
from study import numbers
from tqdm import tqdm
from variants import Config, Data, aim_outcome, load_data, part_of, rows_of, train

from aimwrap import AIM, TauScheduler
from aimwrap.analysis.survival import survive
from aimwrap.metrics import worst_group_accuracy

PART, HELD_OUT = "selection", 0.2
Epoch = dict[str, Any]

# What keeps an epoch: of equal ones the later, as in aimwrap train.
RULES: dict[str, Callable[[Epoch], float]] = {
    "last epoch": lambda epoch: epoch["epoch"],
    "accuracy": lambda epoch: epoch["accuracy"],
    "worst class": lambda epoch: epoch["worst_class"],
    "survival": lambda epoch: epoch["survival"],
    "accuracy on the kept pixels": lambda epoch: epoch["accuracy_there"],
    "area nearest to tau": lambda epoch: -abs(epoch["area"] - 0.1),
    "the oracle: worst group of the test": lambda epoch: epoch["test"]["worst_group"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=numbers(int), default=[0, 1, 2, 3, 4], help="0,1,2 (default: 0 to 4)")
    parser.add_argument("--ties", type=numbers(float), default=[0.95, 1.0])
    parser.add_argument("--print", action="store_true", help="print the table of the results, and train nothing")
    arguments = parser.parse_args()
    if not arguments.print:
        run(arguments.seeds, arguments.ties)
    table = table_of(read_results(results_of(PART)))
    (RESULTS / f"{PART}.md").write_text(f"{table}\n")
    print(table)


def run(seeds: Sequence[int], ties: Sequence[float]) -> None:
    """Train what is not in the results yet."""
    from aimwrap.demo.backbone import load_pretrained_backbone

    torch.set_num_threads(1)
    backbone = load_pretrained_backbone()
    for seed in seeds:
        for tie in tqdm(ties, desc=f"seed {seed}", unit="tie"):
            config = Config("aim", tie, seed)
            if config.key not in [record["config"] for record in read_results(results_of(PART))]:
                append_result(results_of(PART), record_of(config, load_data(tie, seed, backbone), backbone))


def record_of(config: Config, data: tuple[Data, Data], backbone: torch.nn.Module) -> dict[str, Any]:
    """Train once, and score the weights of each epoch in which tau has its target."""
    out = held_out(data[0].labels, config.seed)
    fit, held, test = rows_of(data[0], (~out).nonzero()[:, 0]), rows_of(data[0], out.nonzero()[:, 0]), data[1]
    groups, epochs = 2 * test.labels + test.places, list[Epoch]()
    number, anneal_epochs = 0, round(config.anneal_share * config.epochs)

    def watch(model: torch.nn.Module, schedule: TauScheduler | None) -> None:
        nonlocal number
        number += 1
        if number > anneal_epochs:
            assert isinstance(model, AIM)
            model.eval()
            scores = scores_of(config, model, held) | {"test": tested(config, model, test, groups)}
            epochs.append({"epoch": number} | scores)

    train(config, (fit, test), backbone, watch)
    images = {"cutout": test.cutouts.tolist(), "group": groups.tolist()}
    return {"config": config.key, "held_out": int(out.sum()), "epochs": epochs, "images": images}


def held_out(labels: torch.Tensor, seed: int) -> torch.Tensor:
    """Which images are held out, (N,): a share of each class, since no groups are known."""
    generator, out = torch.Generator().manual_seed(seed), torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique():
        members = (labels == label).nonzero()[:, 0]
        out[members[torch.randperm(len(members), generator=generator)[: round(HELD_OUT * len(members))]]] = True
    return out


@torch.no_grad()
def scores_of(config: Config, model: AIM, held: Data) -> Epoch:
    """What can be known of an epoch without groups and without object masks."""
    outcome = aim_outcome(config, model, held)
    batches = torch.arange(len(held.labels)).split(50)
    same = torch.cat([survive(model, held.images[rows], part_of(outcome, rows).look) for rows in batches])
    predicted = outcome.look.logits.argmax(1)
    right = predicted == held.labels
    assert outcome.look.merged_mask is not None
    return {
        "accuracy": right.float().mean().item(),
        "worst_class": worst_group_accuracy(predicted, held.labels, held.labels, 2).item(),
        "area": outcome.look.merged_mask.mean().item(),
        "survival": same.float().mean().item(),
        "accuracy_there": (same == right).float().mean().item(),  # what changes is the other one of two classes
    }


def tested(config: Config, model: AIM, test: Data, groups: torch.Tensor) -> Epoch:
    """Accuracies on the test, and which images are right, as a text of 0 and 1."""
    predicted = aim_outcome(config, model, test).look.logits.argmax(1)
    right = predicted == test.labels
    return {
        "accuracy": right.float().mean().item(),
        "worst_group": worst_group_accuracy(predicted, test.labels, groups, 4).item(),
        "right": "".join(map(str, right.int().tolist())),
    }


def chosen(record: dict[str, Any], rule: str) -> Epoch:
    """The epoch that a rule keeps."""
    return max(record["epochs"], key=lambda epoch: (RULES[rule](epoch), epoch["epoch"]))


def kept(record: dict[str, Any], rule: str) -> dict[str, Any]:
    """A run as it ends by a rule, for the bootstrap."""
    right = [int(digit) for digit in chosen(record, rule)["test"]["right"]]
    return {"config": record["config"], "images": {**record["images"], "right": right}}


def table_of(records: Sequence[dict[str, Any]]) -> str:
    """The worst group that each choice gives, and its difference from the choice by accuracy."""
    rows = []
    for tie in sorted({record["config"]["tie"] for record in records}):
        runs = [record for record in records if record["config"]["tie"] == tie]
        by_accuracy = [kept(record, "accuracy") for record in runs]
        for rule in RULES:
            ends = [kept(record, rule) for record in runs]
            gain: Estimate = difference(ends, by_accuracy, "worst_group")
            epochs = ", ".join(str(chosen(record, rule)["epoch"]) for record in runs)
            cells = [interval(estimate(ends, measure)) for measure in ("accuracy", "worst_group")]
            shown = "" if rule == "accuracy" else signed(gain)
            rows.append([f"{100 * tie:.0f}\u00a0%", f"{rule}{few(runs)}", *cells, shown, epochs])
    header = ["tie", "epoch with the best", "accuracy", "worst group", "minus the choice by accuracy", "by seed"]
    return markdown(header, rows)


if __name__ == "__main__":
    main()
