"""Wrap every torchvision and timm classifier, and judge the stages by statements that are not ours.

    python benchmarks/coverage/coverage.py              # all of them: hours on one core; resumes where it stopped
    python benchmarks/coverage/coverage.py --jobs 2 --only 'timm/resnet*'
    python benchmarks/coverage/coverage.py --summary    # the table of the docs, from coverage.csv

Everything runs on the meta device, without memory or values. torchvision's stages are compared with a table written by
hand (table.py). timm's are compared with the tensors of its own ``features_only=True`` at their reductions: not by
shape, which neighbouring blocks share, but by fingerprint: the complete computation that led to a tensor
(fingerprints.py). Each timm model is judged twice: as users get it, and by the module-boundary rule alone, with
timm's knowledge switched off.

Verdicts: right; convention (the same except for a trailing norm, activation or head expansion, which is named); refused
(with the reason); wrong; failed (neither right nor refused: an error that is no refusal, or the time limit).
"""

from __future__ import annotations

import argparse
import csv
import fnmatch
import functools
import itertools
import math
import multiprocessing
import re
import signal
import sys
import time
import warnings
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import timm
import torch
import torchvision
from fingerprints import Fingerprints, relation
from table import by_hand, expected_nodes
from timm.models._registry import _model_to_module
from torch import nn
from tqdm import tqdm

from aimwrap.taps import tap_backbone
from aimwrap.taps.backbone import TappedBackbone
from aimwrap.taps.extraction import extract
from aimwrap.taps.probe import probe
from aimwrap.taps.stages import find_stages

HERE = Path(__file__).parent
RESULTS = HERE / "coverage.csv"
SUMMARY = HERE / "coverage.md"
FIELDS = (
    "model",
    "family",
    "kind",
    "verdict",
    "stages",
    "nodes",
    "found_by",
    "reason",
    "alone",
    "alone_reason",
    "seconds",
)
ORDER = ("right", "convention", "refused", "wrong", "failed")


def main() -> None:
    arguments = parse_arguments()
    if not arguments.summary:
        run(arguments)
    text = summary(read_rows())
    SUMMARY.write_text(text)
    print(text)


def run(arguments: argparse.Namespace) -> None:
    done = {row["model"] for row in read_rows()}
    names = [name for name in every_model() if fnmatch.fnmatch(name, arguments.only) and name not in done]
    new = not RESULTS.exists()
    judge_one = functools.partial(judge, limit=arguments.limit)
    with RESULTS.open("a", newline="") as file, multiprocessing.Pool(arguments.jobs, maxtasksperchild=40) as pool:
        writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
        if new:
            writer.writeheader()
        for row in tqdm(pool.imap_unordered(judge_one, names), total=len(names), unit="model"):
            writer.writerow(row)
            file.flush()
            if row["verdict"] in ("wrong", "failed") or row["alone"] in ("wrong", "failed"):
                tqdm.write(f"{row['model']}: {row['verdict']} {row['reason']} | {row['alone']} {row['alone_reason']}")


def every_model() -> list[str]:
    """torchvision's, then timm's, its families in turn: a run that is cut short has seen something of each."""
    families: dict[str, list[str]] = defaultdict(list)
    for name in timm.list_models():
        families[_model_to_module[name]].append(f"timm/{name}")
    in_turn = itertools.chain.from_iterable(itertools.zip_longest(*families.values()))
    torchvision_names = torchvision.models.list_models(module=torchvision.models)
    return [f"torchvision/{name}" for name in torchvision_names] + [name for name in in_turn if name is not None]


def judge(name: str, limit: int) -> dict[str, Any]:
    """One row: what wrapping gives, and what it should."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    library, _, short = name.partition("/")
    row: dict[str, Any] = dict.fromkeys(FIELDS, "") | {"model": name}
    begun = time.monotonic()
    signal.signal(signal.SIGALRM, out_of_time)
    signal.alarm(limit)
    try:
        row |= judge_torchvision(short) if library == "torchvision" else judge_timm(short)
    except Exception as error:
        row |= {"verdict": "failed", "reason": one_line(error)}
    finally:
        signal.alarm(0)
    return row | {"seconds": f"{time.monotonic() - begun:.1f}"}


def judge_torchvision(name: str) -> dict[str, Any]:
    family = re.match(r"[a-z]+(_v\d)?", name)
    model = build(name, torchvision.models.get_model)
    expected = expected_nodes(name)
    row: dict[str, Any] = {"family": family.group() if family else name, "kind": "hierarchical" if expected else "flat"}
    measured = probe(model)
    found = find_stages(model, measured)
    row["found_by"] = found.found_by
    stages = sorted(found.nodes) or [2, 3]
    try:
        tapped = tap_backbone(model, stages, final=True)
    except (TypeError, ValueError) as refusal:
        return row | {"verdict": "refused", "reason": one_line(refusal)}
    nodes = [tap.node for tap in tapped.taps]
    row |= {"stages": said(stages), "nodes": said(nodes)}
    return row | {
        "verdict": "right" if nodes == expected else "wrong",
        "reason": "" if nodes == expected else f"{expected}",
    }


def judge_timm(name: str) -> dict[str, Any]:
    model = build(name, timm.create_model)
    info = getattr(model, "feature_info", None)
    reductions = [entry["reduction"] for entry in getattr(info, "info", info) or []]
    row: dict[str, Any] = {
        "family": _model_to_module[name],
        "kind": "hierarchical" if len(set(reductions)) > 1 else "flat",
    }
    measured = probe(model)
    found = find_stages(model, measured)
    row["found_by"] = found.found_by
    count = len(found.blocks)
    stages: list[Any] = sorted(found.nodes) if found.nodes and not count else [(count - 1) // 2, count - 1]
    if not found.nodes and count and count - 1 <= 3:
        stages = [found.blocks[index].node for index in stages]
    row["stages"] = said(stages)
    images = torch.empty(measured.image_shape, device="meta")
    reference, missing = reference_of(name, images, len(reductions), stages if not found.nodes and count else None)
    try:
        tapped = tap_backbone(model, stages, final=True)
    except (TypeError, ValueError) as refusal:
        row |= {"verdict": "refused", "reason": one_line(refusal)}
    else:
        row["nodes"] = said([tap.node for tap in tapped.taps])
        strides = {str(tap.stage): tap.stride for tap in tapped.taps}
        row["verdict"], row["reason"] = compared(tapped.backbone, strides, images, reference, missing, by_hand(name))
    if row["kind"] == "hierarchical":
        row["alone"], row["alone_reason"] = judge_rule(model, measured, images, reference, missing, by_hand(name))
    return row


def judge_rule(
    model: nn.Module, measured: Any, images: torch.Tensor, reference: Any, missing: str, conventions_of: dict[str, str]
) -> tuple[str, str]:
    """The module-boundary rule without timm's knowledge."""
    found = find_stages(model, measured, trust_records=False)
    if found.obstacle is not None or not found.nodes:
        return "refused", found.obstacle or "no stage found"
    places = {str(stage): place for stage, place in found.nodes.items()}
    try:
        extraction = extract(model, measured, places, frozenset(places), {})
    except ValueError as refusal:
        return "refused", one_line(refusal)
    strides = {name: measured.stride(extraction.shapes[name]) for name in places}
    backbone = TappedBackbone(model, extraction.program, extraction.layouts)
    return compared(backbone, strides, images, reference, missing, conventions_of)


def reference_of(name: str, images: torch.Tensor, levels: int, blocks: list[Any] | None) -> tuple[Any, str]:
    """timm's own feature maps, by reduction, or by block where there is one resolution only."""
    try:
        if blocks is not None and any(isinstance(block, str) for block in blocks):
            return None, "blocks by name"
        features = features_only(name, tuple(range(levels)) if blocks is None else tuple(blocks))
        with torch.no_grad(), Fingerprints(images) as marks:
            maps = features(images)
            fingerprints = [marks.of(a_map) for a_map in maps]
    except Exception as error:
        return None, f"timm has no features_only for it: {one_line(error)}"
    keys = features.feature_info.reduction() if blocks is None else blocks
    shapes = [tuple(a_map.shape) for a_map in maps]
    return [(key, mark, shape) for key, mark, shape in zip(keys, fingerprints, shapes, strict=True)], ""


def features_only(name: str, indices: tuple[Any, ...]) -> nn.Module:
    """timm's extractor at these indices, or at those that timm chooses where it cannot give these."""
    try:
        return build(name, functools.partial(timm.create_model, features_only=True, out_indices=indices)).eval()
    except AssertionError:  # TResNet's first entry names no module
        return build(name, functools.partial(timm.create_model, features_only=True)).eval()


def compared(
    backbone: nn.Module,
    strides: dict[str, int],
    images: torch.Tensor,
    reference: Any,
    missing: str,
    conventions_of: dict[str, str],
) -> tuple[str, str]:
    """Each tapped map against timm's at the same reduction (or block): by fingerprint and shape."""
    if reference is None:
        return "unjudged", missing
    with torch.no_grad(), Fingerprints(images) as marks:
        maps = backbone.eval()(images)
        mine = {name: (marks.of(maps[name]), tuple(maps[name].shape)) for name in strides}
        conventions, wrong = [], []
        for name, stride in strides.items():
            blocks = all(str(key) in strides for key, _, _ in reference)
            same = [(m, s) for key, m, s in reference if (str(key) == name if blocks else near(key, stride))]
            if not same:
                continue  # timm says nothing about this resolution
            their_mark, their_shape = same[-1]
            my_mark, my_shape = mine[name]
            how = relation(my_mark, their_mark) or conventions_of.get(name)
            if how == "same" and sorted(my_shape) == sorted(their_shape):  # timm leaves some with channels last
                continue
            (wrong if how is None or how == "same" else conventions).append(f"stage {name}: {how or 'another map'}")
    if wrong:
        return "wrong", "; ".join(wrong)
    return ("convention", "; ".join(conventions)) if conventions else ("right", "")


def near(reduction: int, stride: int) -> bool:
    return abs(math.log2(reduction / stride)) < 0.35  # timm says 7 and 14 where we round to 8 and 16


def build(name: str, builder: Any) -> nn.Module:
    try:
        with torch.device("meta"):
            return builder(name).eval()
    except Exception:  # torchvision's RegNet and a few others compute with values while they are built
        return builder(name).eval().to("meta")


def out_of_time(signal_number: int, frame: Any) -> None:
    raise TimeoutError("the time limit of this benchmark")


def one_line(error: BaseException) -> str:
    prefix = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
    return (prefix + " ".join(str(error).split()))[:240]


def said(values: list[Any]) -> str:
    return " ".join(str(value).replace(" ", "") for value in values)


def read_rows() -> list[dict[str, str]]:
    if not RESULTS.exists():
        return []
    with RESULTS.open(newline="") as file:
        return list(csv.DictReader(file))


def summary(rows: list[dict[str, str]]) -> str:
    """Counts per library and judge, and what was refused and why."""
    lines = ["| models | judged | right | convention | refused | wrong | failed |", "|---|---|---|---|---|---|---|"]

    def line(title: str, some: list[dict[str, str]], column: str) -> None:
        counts = Counter(row[column] for row in some)
        judged = sum(counts[verdict] for verdict in ORDER)
        cells = " | ".join(str(counts[verdict]) for verdict in ORDER)
        lines.append(f"| {title} | {judged} | {cells} |")

    for library in ("torchvision", "timm"):
        for kind in ("hierarchical", "flat"):
            some = [row for row in rows if row["model"].startswith(library) and row["kind"] == kind]
            line(f"{library}, {kind}", some, "verdict")
    hierarchical = [row for row in rows if row["model"].startswith("timm") and row["kind"] == "hierarchical"]
    line("timm, hierarchical, by the rule alone", hierarchical, "alone")
    unjudged = sum(row["verdict"] == "unjudged" for row in rows)
    missing = len(set(every_model()) - {row["model"] for row in rows})
    lines += ["", f"Wrapped but not judged, for lack of an independent statement: {unjudged}; not run yet: {missing}."]
    lines.append("")
    lines += ["| family | models refused | reason of one of them |", "|---|---|---|"]
    by_family = defaultdict(list)
    for row in rows:
        if row["verdict"] in ("refused", "failed", "wrong"):
            by_family[row["model"].split("/")[0] + ", " + row["family"]].append(row)
    for family, some in sorted(by_family.items()):
        reason = some[0]["reason"].replace("|", "\\|")
        lines.append(f"| {family} | {len(some)} | {reason[:100]} … |")
    return "\n".join(lines) + "\n"


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="*", help="models whose library/name fits this pattern")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--limit", type=int, default=900, help="seconds per model")
    parser.add_argument("--summary", action="store_true", help="write coverage.md from coverage.csv, running nothing")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
