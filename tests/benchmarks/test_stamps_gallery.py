"""The gallery's rules pick what their titles say."""

import sys
from pathlib import Path

import pytest
import torch

STAMPS = Path(__file__).parents[2] / "benchmarks" / "stamps"
if not STAMPS.is_dir():
    pytest.skip("the benchmarks come with a checkout, not with the package's sources", allow_module_level=True)
with pytest.MonkeyPatch.context() as patch:
    patch.setattr(sys, "path", [str(STAMPS), *sys.path])
    from gallery import RULES, Facts, picked

FACTS = Facts(
    right=torch.tensor([True, False, True, False, True, False]),
    pointing=torch.tensor([0.9, 0.1, 0.5, float("nan"), 0.4, 0.95]),
    confidence=torch.tensor([0.99, 0.6, 0.7, 0.8, 0.9, 0.7]),
    area=torch.tensor([0.3, 0.2, 0.1, 0.0, 0.1, 0.4]),
)
EXPECTED = {
    "typical": [2, 4, 0],  # the median is 0.5
    "best": [0, 2, 4],  # 5 points better, and is wrong
    "worst": [1, 4, 2],  # 3 has no score, and is not shown
    "wrong": [3, 5, 1],
    "smallest": [3, 2, 4],  # of the equal ones, the first
}


@pytest.mark.parametrize("name", RULES)
def test_a_rule_picks_what_its_title_says(name: str) -> None:
    assert picked(RULES[name], FACTS, count=3).tolist() == EXPECTED[name]


def test_a_rule_shows_only_what_it_asks_for() -> None:
    assert picked(RULES["wrong"], FACTS).tolist() == [3, 5, 1] and picked(RULES["best"], FACTS).tolist() == [0, 2, 4]
