"""The judge of the coverage table: it separates a stage from its neighbours, and calls nothing right that is wrong."""

import csv
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

COVERAGE = Path(__file__).parents[2] / "benchmarks" / "coverage"
if not COVERAGE.exists():
    pytest.skip("the benchmarks are in the repository only", allow_module_level=True)
sys.path.append(str(COVERAGE))
from fingerprints import Fingerprints, relation  # noqa: E402
from table import expected_nodes  # noqa: E402

sys.path.remove(str(COVERAGE))


class Net(nn.Module):
    """What a stage may end in, one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)
        self.norm, self.expand = nn.BatchNorm2d(3), nn.Conv2d(3, 8, 1)
        self.standardised, self.again = nn.Conv2d(3, 5, 1), nn.Conv2d(8, 9, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        first = self.first(x)
        second = self.second(first)
        norm = self.norm(second)
        weight = F.layer_norm(self.standardised.weight, (3, 1, 1)) * 2
        return {
            "images": x,
            "first": first,
            "second": second,
            "last": second.permute(0, 2, 3, 1).contiguous(),
            "norm": norm,
            "relu": F.relu(norm),
            "expansion": self.expand(second),
            "standardised": F.conv2d(second, weight),
            "twice expanded": self.again(self.expand(second)),
            "residual": second + first,
            "pool": F.max_pool2d(second, 2),
        }


@pytest.mark.parametrize(
    ("mine", "theirs", "expected"),
    [
        ("second", "second", "same"),
        ("last", "second", "same"),  # layouts do not matter
        ("norm", "second", "ours behind a norm"),
        ("second", "relu", "timm's behind a norm"),
        ("relu", "norm", "ours behind an activation"),
        ("second", "expansion", "timm's behind a head expansion"),
        ("second", "standardised", "timm's behind a head expansion"),
        ("pool", "second", "ours behind a pool"),
        ("residual", "second", None),  # another map, though only an addition away
        ("second", "residual", None),
        ("expansion", "norm", None),
        ("first", "second", None),  # a 3 x 3 convolution is no head expansion
        ("second", "twice expanded", None),  # nor are two
    ],
)
def test_relations_between_maps(mine: str, theirs: str, expected: str | None) -> None:
    images = torch.empty(1, 3, 8, 8, device="meta")
    with torch.device("meta"):
        nets = Net().eval(), Net().eval()
    with torch.no_grad(), Fingerprints(images) as marks:
        own = marks.of(nets[0](images)[mine])
    with torch.no_grad(), Fingerprints(images) as marks:
        other = marks.of(nets[1](images)[theirs])
    assert relation(own, other) == expected


def test_the_block_before_is_another_map_though_its_shape_is_the_same() -> None:
    images = torch.empty(1, 3, 8, 8, device="meta")
    with torch.device("meta"):
        net = nn.ModuleList(nn.Conv2d(3, 3, 3, padding=1) for _ in range(2))
    with torch.no_grad(), Fingerprints(images) as marks:
        first = net[0](images)
        second = F.relu(net[1](first)) + first
    assert relation(marks.of(first), marks.of(second)) is None


def test_the_tables_rows() -> None:
    """All models of the timm that they were made with: nothing wrong, nothing failed, all of torchvision's right."""
    with (COVERAGE / "coverage.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["model"] for row in rows if "wrong" in (row["verdict"], row["alone"])] == []
    assert [row["model"] for row in rows if "failed" in (row["verdict"], row["alone"])] == []
    torchvision_rows = {row["model"].split("/")[1]: row for row in rows if row["model"].startswith("torchvision/")}
    assert len(torchvision_rows) == 80
    for name, row in torchvision_rows.items():
        assert row["verdict"] == ("right" if expected_nodes(name) else "refused")
    assert len([row for row in rows if row["model"].startswith("timm/")]) == 1371
    hierarchical = [row for row in rows if row["model"].startswith("timm/") and row["kind"] == "hierarchical"]
    refused = [row for row in hierarchical if row["verdict"] == "refused"]
    assert all(row["reason"] for row in refused) and len(refused) <= 0.03 * len(hierarchical)
