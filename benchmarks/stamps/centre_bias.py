"""The paper's Table 3: does a model that was trained on centred objects find them at the edge?

    python benchmarks/stamps/centre_bias.py --seeds 0,1,2

Training shows every animal in the middle of the image; the test shows it there, anywhere, and over an edge with a
quarter to a half of it cut off. Places are untied, so that nothing but the position changes. Appends to
results/centre-bias.jsonl.
"""

from __future__ import annotations

import argparse

import torch
from measuring import measure
from records import append_result, read_results, results_of
from study import numbers
from tqdm import tqdm
from variants import Config, Data, load_split, part_of, train

from aimwrap.demo.backbone import load_pretrained_backbone

UNTIED = 0.5
PLACEMENTS = ("centre", "anywhere", "edge")


def configs(seed: int) -> list[Config]:
    """The best settings that the study found for the linear probe, and AIM's two."""
    return [
        Config("plain", UNTIED, seed, epochs=6, learning_rate=3e-4),
        Config("plain", UNTIED, seed),
        Config("open", UNTIED, seed),
        Config("aim", UNTIED, seed),
        Config("aim", UNTIED, seed, epochs=6, learning_rate=3e-4),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=numbers(int), default=[0, 1, 2], help="0,1,2 (default)")
    seeds = parser.parse_args().seeds
    torch.set_num_threads(1)
    path = results_of("centre-bias")
    backbone = load_pretrained_backbone()
    for seed in seeds:
        done = [record["config"] for record in read_results(path)]
        missing = [config for config in configs(seed) if config.key not in done]
        if not missing:
            continue
        train_set = load_split("train", UNTIED, seed, backbone, placement="centre")
        tests = [load_split("test", UNTIED, seed, backbone, placement=placement) for placement in PLACEMENTS]
        for config in tqdm(missing, desc=f"seed {seed}", unit="run"):
            outcome = train(config, (train_set, joined(tests)), backbone)
            for number, (placement, test) in enumerate(zip(PLACEMENTS, tests, strict=True)):
                rows = slice(number * len(test.labels), (number + 1) * len(test.labels))
                append_result(path, measure(config, part_of(outcome, rows), test) | {"placement": placement})


def joined(tests: list[Data]) -> Data:
    """Several test sets as one."""
    maps = {name: torch.cat([test.maps[name] for test in tests]) for name in tests[0].maps}
    columns = [torch.cat(values) for values in list(zip(*tests, strict=True))[:-1]]
    return Data(*columns, maps)


if __name__ == "__main__":
    main()
