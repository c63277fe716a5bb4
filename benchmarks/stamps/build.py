"""Write Stamps to disk, with masks and Waterbirds' table: python benchmarks/stamps/build.py FOLDER --tie 0.95"""

import argparse
from pathlib import Path

from dataset import Stamps

from aimwrap.data.builder import build_composed

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--tie", type=float, default=0.95)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    splits = {split: Stamps(split, arguments.tie, arguments.seed) for split in ("train", "test")}
    made_of = {"stamps": {"tie": arguments.tie, "seed": arguments.seed}}
    build_composed(arguments.out, splits, made_of, file_format="png", workers=arguments.workers)
