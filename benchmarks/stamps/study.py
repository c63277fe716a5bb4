"""Run the study: every variant with every seed, one JSON line per run, resuming where it stopped.

    python benchmarks/stamps/fetch.py                              # once: the images
    python benchmarks/stamps/study.py headline                     # the frozen backbone: about an hour on one core
    python benchmarks/stamps/study.py aim-search
    python benchmarks/stamps/study.py control-search
    python benchmarks/stamps/study.py paper-head
    python benchmarks/stamps/study.py paper-design                 # section 3 of the paper; then paper-search,
    python benchmarks/stamps/study.py sparsity                     # paper-norms and paper-fine-tuned
    python benchmarks/stamps/study.py oracle
    python benchmarks/stamps/study.py second-look --seeds 0,1
    python benchmarks/stamps/study.py look-again
    python benchmarks/stamps/study.py pixels-again --seeds 0,1,2
    python benchmarks/stamps/study.py bottom-up --seeds 0,1
    python benchmarks/stamps/study.py rivals                       # other methods, the backbone frozen
    python benchmarks/stamps/study.py table-1                      # the paper's four settings of stages and tau
    python benchmarks/stamps/study.py ablations --seeds 0,1,2
    python benchmarks/stamps/study.py fine-tuned --seeds 0         # an hour per tie
    python benchmarks/stamps/centre_bias.py
    python benchmarks/stamps/selection.py                          # which epoch to keep: half an hour
    python benchmarks/stamps/report.py                             # tables and figures from the results

Runs go seed by seed, since each seed has its own images. Results are appended to results/<part>.jsonl here;
a run that is already there is not repeated.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Callable, Iterable
from typing import Any

import torch
from look_again import look_again, pixels_again
from measuring import measure, survival_beside_plain, survival_by_itself
from parts import LOOK, LOOK_AS_A_MODULE, LOOK_BY_CAM, PARTS, ties_of
from records import append_result, read_results, results_of
from rivals import RIVALS, train_rival
from tqdm import tqdm
from variants import Config, Data, Outcome, load_data, train

from aimwrap.demo.backbone import load_pretrained_backbone

Trainer = Callable[[Config, tuple[Data, Data], torch.nn.Module], Outcome]
# Methods with a trainer of their own; the others are variants of plain and AIM.
TRAINERS: dict[str, Trainer] = {
    LOOK: look_again,
    LOOK_BY_CAM: look_again,
    LOOK_AS_A_MODULE: pixels_again,
    **dict.fromkeys(RIVALS, train_rival),
}


def main() -> None:
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    path = results_of(arguments.part)
    backbone = load_pretrained_backbone()
    for seed, tie in itertools.product(arguments.seeds, arguments.ties or ties_of(arguments.part)):
        done = [record["config"] for record in read_results(path)]
        missing = [config for config in PARTS[arguments.part](tie, seed) if config.key not in done]
        if not missing:
            continue
        data = load_data(tie, seed, backbone if any(needs_maps(config) for config in missing) else None)
        for config in tqdm(missing, desc=f"tie {tie}, seed {seed}", unit="run"):
            outcome = TRAINERS.get(config.method, train)(config, data, backbone)
            record = measure(config, outcome, data[1])
            if arguments.part == "headline" and is_shown(config):
                record |= survival_beside_plain(outcome, data, backbone, seed)
            if arguments.part == "pixels-again":
                record |= survival_by_itself(outcome, data[1])
            append_result(path, record)
            scores = {name: value for name, value in record.items() if isinstance(value, float)}
            tqdm.write(f"{config.method} {json.dumps(changes_of(config))} {json.dumps(scores)}", file=sys.stderr)


def needs_maps(config: Config) -> bool:
    return not config.backbone_rate and config.method != "oracle"


def is_shown(config: Config) -> bool:
    """The one setting of AIM whose pixels are replaced too: the feature-preserving head's at tau 0.1."""
    return config.method == "aim" and config.head == "feature-preserving" and config.tau == 0.1


def changes_of(config: Config) -> dict[str, Any]:
    """The fields that differ from the defaults."""
    default = Config(config.method, config.tie, config.seed).key
    return {name: value for name, value in config.key.items() if value != default[name]}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=list(PARTS))
    parser.add_argument("--seeds", type=numbers(int), default=[0, 1, 2, 3, 4], help="0,1,2 (default: 0 to 4)")
    parser.add_argument("--ties", type=numbers(float), help="0.95,1 (default: as the part needs)")
    parser.add_argument("--threads", type=int, default=1, help="torch threads of this process")
    return parser.parse_args()


def numbers(kind: type) -> Any:
    def parse(text: str) -> Iterable[Any]:
        return [kind(part) for part in text.split(",")]

    return parse


if __name__ == "__main__":
    main()
