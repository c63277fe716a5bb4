"""Run the study: every variant with every seed, one JSON line per run, resuming where it stopped.

    python benchmarks/stamps/fetch.py                              # once: the pictures
    python benchmarks/stamps/study.py headline                     # the frozen backbone: about an hour on one core
    python benchmarks/stamps/study.py aim-search
    python benchmarks/stamps/study.py control-search
    python benchmarks/stamps/study.py paper-head
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
    python benchmarks/stamps/report.py                             # tables and figures from the results

Runs go seed by seed, since each seed has its own images. Results are appended to results/<part>.jsonl beside this file;
a run that stands there is not repeated.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from look_again import look_again as train_second_look
from look_again import pixels_again as train_as_a_module
from rivals import RIVALS, train_rival
from torch import Tensor
from tqdm import tqdm
from variants import Config, Data, Outcome, load_data, train

from aimwrap import AIM, verify
from aimwrap.demo.backbone import load_pretrained_backbone
from aimwrap.metrics import energy_pointing_game, mask_precision, mask_recall, worst_group_accuracy

RESULTS = Path(__file__).parent / "results"
LOOKS = ("AIM, second look", "CAM, second look")
TIES = (0.95, 1.0)


def headline(tie: float, seed: int) -> list[Config]:
    """Plain with its search, the control, and AIM with the feature-preserving head."""
    probes = [
        Config("plain", tie, seed, epochs=epochs, learning_rate=rate)
        for epochs, rate in itertools.product((1, 3, 6, 20, 60), (1e-4, 3e-4, 1e-3, 3e-3))
    ]
    return [
        *probes,
        Config("open", tie, seed),
        Config("open", tie, seed, epochs=6, learning_rate=3e-4),
        Config("aim", tie, seed, tau=0.1),
        Config("aim", tie, seed, tau=0.25),
    ]


SEARCHED = ((6, 1e-3), (6, 3e-4), (6, 3e-3), (20, 3e-4), (20, 3e-3), (6, 1e-4), (3, 3e-4), (3, 1e-3))


def aim_search(tie: float, seed: int) -> list[Config]:
    """The search that plain gets, for AIM: without it, plain's favour would be ours to lose."""
    return [Config("aim", tie, seed, epochs=epochs, learning_rate=rate) for epochs, rate in SEARCHED]


def control_search(tie: float, seed: int) -> list[Config]:
    """The same search for the control."""
    of_the_headline = (6, 3e-4)
    return [
        Config("open", tie, seed, epochs=epochs, learning_rate=rate)
        for epochs, rate in SEARCHED
        if (epochs, rate) != of_the_headline
    ]


def paper_head(tie: float, seed: int) -> list[Config]:
    """The same with the paper's head, and its own control: four times as slow, so apart."""
    return [
        Config("open", tie, seed, head="paper"),
        Config("aim", tie, seed, tau=0.25, head="paper"),
    ]


def oracle(tie: float, seed: int) -> list[Config]:
    """What is left to win: the linear probe without a background, and the true mask on the features."""
    return [
        Config("oracle", tie, seed),
        *(Config("true mask", tie, seed, epochs=e, learning_rate=rate) for e, rate in ((20, 1e-3), (6, 3e-4))),
    ]


def second_look(tie: float, seed: int) -> list[Config]:
    """A step beyond the paper, with and without, at AIM's two settings."""
    settings: tuple[dict[str, Any], ...] = (
        {"epochs": 6, "learning_rate": 3e-4},
        {"epochs": 6},
        {"epochs": 6, "tau": 0.25},
    )
    return [
        *(Config("aim", tie, seed, second_look=True, **setting) for setting in settings),
        Config("aim", tie, seed, epochs=6, tau=0.25),
    ]


def look_again(tie: float, seed: int) -> list[Config]:
    """A second look at the enlarged pixels that the masks keep, and at the plain map's, each with plain's search."""
    return [
        Config(method, tie, seed, epochs=epochs, learning_rate=rate)
        for method in LOOKS
        for epochs, rate in itertools.product((1, 3, 6, 20, 60), (1e-4, 3e-4, 1e-3, 3e-3))
    ]


def pixels_again(tie: float, seed: int) -> list[Config]:
    """A second look at one setting, for how many of its predictions survive on other pixels."""
    return [Config("AIM, second look, pixels", tie, seed, epochs=6, learning_rate=3e-4)]


def rivals(tie: float, seed: int) -> list[Config]:
    """Other methods, with plain's search where they are as cheap, AIM's where they see the images again."""
    probes = [
        Config(method, tie, seed, epochs=epochs, learning_rate=rate)
        for method in ("balanced sampling", "group DRO")
        for epochs, rate in itertools.product((1, 3, 6, 20, 60), (1e-4, 3e-4, 1e-3, 3e-3))
    ]
    masktune = [
        Config("MaskTune", tie, seed, epochs=epochs, learning_rate=rate)
        for epochs, rate in itertools.product((1, 3, 6, 20), (3e-4, 1e-3))
    ]
    return [
        *probes,
        *masktune,
        Config("DFR", tie, seed),
        Config("AIM with DFR", tie, seed),
        Config("AIM with DFR", tie, seed, epochs=6, learning_rate=3e-4),
    ]


def table_1(tie: float, seed: int) -> list[Config]:
    """The paper's AIM [1 | 2, 25 % | 35 %] on these images: stages from stride 8 or from stride 16."""
    return [
        Config("aim", tie, seed, stages=stages, tau=tau)
        for stages, tau in itertools.product(((2, 3), (1, 2, 3)), (0.25, 0.35))
        if (stages, tau) != ((2, 3), 0.25)  # of the headline
    ]


def bottom_up(tie: float, seed: int) -> list[Config]:
    """The paper's Table 2: masks that feed the next stage."""
    return [
        Config("bottom-up", tie, seed, tau=0.25),
        Config("bottom-up", tie, seed, tau=0.25, labels_move_area=True),
        Config("bottom-up", tie, seed),
    ]


def ablations(tie: float, seed: int) -> list[Config]:
    """One setting changed at a time, from AIM at tau 0.1 with the feature-preserving head."""
    changes: list[dict[str, Any]] = [
        {"refinement": "intersection"},
        {"refinement": "union"},
        {"refinement": "finest"},
        {"stages": (3,)},
        {"stages": (1, 2, 3)},
        {"tau": 0.05},
        {"tau": 0.35},
        {"pooling": "all"},
        {"tau_start": 0.5},
        {"anneal_share": 0.2},
        {"anneal_share": 0.8},
        {"temperature": 0.5},
        {"temperature": 2.0},
        {"mask_width": 8},
        {"mask_width": 64},
        {"mask_norm": "batch"},
        {"mask_norm": "none"},
        {"mask_weight": 2.0},
        {"mask_weight": 20.0},
        {"stage_weight": 0.0},
        {"area_per": "batch"},
        {"labels_move_area": True},
        {"epochs": 60},
    ]
    return [Config("aim", tie, seed, **change) for change in changes]


def fine_tuned(tie: float, seed: int) -> list[Config]:
    """The backbone trained too, plain and AIM with the same rates and epochs."""
    return [
        Config(method, tie, seed, epochs=6, backbone_rate=rate, norms=norms)
        for rate, norms in ((1e-5, "kept"), (1e-4, "kept"), (3e-5, "kept"), (1e-5, "adapted"))
        for method in ("plain", "aim", "open")
    ]


PARTS = {
    "headline": headline,
    "aim-search": aim_search,
    "control-search": control_search,
    "paper-head": paper_head,
    "oracle": oracle,
    "ablations": ablations,
    "fine-tuned": fine_tuned,
    "second-look": second_look,
    "look-again": look_again,
    "pixels-again": pixels_again,
    "bottom-up": bottom_up,
    "rivals": rivals,
    "table-1": table_1,
}
ONE_TIE = ("oracle", "ablations", "second-look", "bottom-up", "pixels-again")  # only at 100 %


def ties_of(part: str) -> tuple[float, ...]:
    return (1.0,) if part in ONE_TIE else TIES


def main() -> None:
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    path = RESULTS / f"{arguments.part}.jsonl"
    path.parent.mkdir(exist_ok=True)
    backbone = load_pretrained_backbone()
    for seed, tie in itertools.product(arguments.seeds, arguments.ties or ties_of(arguments.part)):
        done = [record["config"] for record in read_results(path)]
        missing = [config for config in PARTS[arguments.part](tie, seed) if config.key not in done]
        if not missing:
            continue
        data = load_data(tie, seed, backbone if any(needs_maps(config) for config in missing) else None)
        for config in tqdm(missing, desc=f"tie {tie}, seed {seed}", unit="run"):
            outcome = trainer_of(config)(config, data, backbone)
            record = measure(config, outcome, data[1])
            if arguments.part == "headline" and is_shown(config):
                record["survival"] = survival(outcome, data, backbone, seed)
            if arguments.part == "pixels-again":
                found = verify(outcome.model, data[1].images, batch_size=50)
                record["survival"] = [row._asdict() for row in found.survival]
                record["kept_pixels"] = found.area
            with path.open("a") as file:
                file.write(json.dumps(record, separators=(",", ":")) + "\n")
            scores = {name: value for name, value in record.items() if isinstance(value, float)}
            tqdm.write(f"{config.method} {json.dumps(changes_of(config))} {json.dumps(scores)}", file=sys.stderr)


def trainer_of(config: Config) -> Callable[[Config, tuple[Data, Data], torch.nn.Module], Outcome]:
    if config.method in LOOKS:
        return train_second_look
    if config.method == "AIM, second look, pixels":
        return train_as_a_module
    return train_rival if config.method in RIVALS else train


def needs_maps(config: Config) -> bool:
    return not config.backbone_rate and config.method != "oracle"


def is_shown(config: Config) -> bool:
    """The one setting of AIM whose pixels are replaced too: the feature-preserving head's at tau 0.1."""
    return config.method == "aim" and config.head == "feature-preserving" and config.tau == 0.1


def measure(config: Config, outcome: Outcome, test: Data) -> dict[str, Any]:
    """Everything the report needs: means, and per image what the bootstrap resamples."""
    groups = 2 * test.labels + test.places
    right = outcome.logits.argmax(1) == test.labels
    pointing = energy_pointing_game(outcome.heatmap, test.object_masks, zero_energy=0.0)
    # every map averaged down to the plain network's 5 x 5 grid, so that no map gains by being finer
    coarse = F.adaptive_avg_pool2d(outcome.heatmap[:, None], (5, 5))[:, 0]
    matched = energy_pointing_game(coarse, test.object_masks, zero_energy=0.0)
    record: dict[str, Any] = {
        "config": config.key,
        "accuracy": right.float().mean().item(),
        "worst_group": worst_group_accuracy(outcome.logits, test.labels, groups, 4).item(),
        "pointing": pointing.mean().item(),
        "pointing_matched": matched.mean().item(),
        "without_energy": (outcome.heatmap.clamp(min=0).sum((1, 2)) == 0).sum().item(),
        "chance": test.object_masks.mean().item(),
        "seconds": outcome.seconds,
        "areas": outcome.areas,
    }
    images = {
        "cutout": test.cutouts.tolist(),
        "group": groups.tolist(),
        "right": right.int().tolist(),
        "pointing": rounded(pointing),
        "pointing_matched": rounded(matched),
    }
    if outcome.merged_mask is not None:
        # an empty mask has precision 0; no object is empty
        precision = mask_precision(outcome.merged_mask, test.object_masks, empty=0.0)
        recall = mask_recall(outcome.merged_mask, test.object_masks)
        record |= {
            "area": outcome.merged_mask.mean().item(),
            "precision": precision.mean().item(),
            "recall": recall.mean().item(),
        }
        images |= {"precision": rounded(precision), "recall": rounded(recall)}
    if outcome.kept is not None:
        record |= {
            "kept_area": outcome.kept.mean().item(),
            "kept_precision": mask_precision(outcome.kept, test.object_masks, empty=0.0).mean().item(),
            "kept_recall": mask_recall(outcome.kept, test.object_masks).mean().item(),
        }
    return record | {"images": images}


def survival(outcome: Outcome, data: tuple[Data, Data], backbone: torch.nn.Module, seed: int) -> list[dict[str, Any]]:
    """How often AIM's and the linear probe's predictions survive when pixels are replaced."""
    assert isinstance(outcome.model, AIM)
    probe = train(Config("plain", 1.0, seed), data, backbone).model.eval()
    found = verify(outcome.model, data[1].images, probe, batch_size=50)
    if not found.passed:
        raise RuntimeError(f"the trained model breaks a guarantee:\n{found}")
    return [row._asdict() for row in found.survival]


def rounded(values: Tensor) -> list[float]:
    return [round(value, 4) for value in values.tolist()]


def changes_of(config: Config) -> dict[str, Any]:
    """The fields that differ from the defaults."""
    default = Config(config.method, config.tie, config.seed).key
    return {name: value for name, value in config.key.items() if value != default[name]}


def read_results(path: Path) -> list[dict[str, Any]]:
    """The runs of a part; settings that came later than a run stand at their defaults."""
    records = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    for record in records:
        config = record["config"]
        record["config"] = Config(config["method"], config["tie"], config["seed"]).key | config
    return records


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=list(PARTS))
    parser.add_argument("--seeds", type=numbers(int), default=[0, 1, 2, 3, 4], help="0,1,2 (default: 0 to 4)")
    parser.add_argument("--ties", type=numbers(float), help="0.95,1 (default: as the part needs)")
    parser.add_argument("--threads", type=int, default=1, help="of torch; run two processes with other seeds instead")
    return parser.parse_args()


def numbers(kind: type) -> Any:
    def parse(text: str) -> Iterable[Any]:
        return [kind(part) for part in text.split(",")]

    return parse


if __name__ == "__main__":
    main()
