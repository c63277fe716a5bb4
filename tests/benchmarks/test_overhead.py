"""The benchmark of costs measures what it says."""

import sys
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks" / "overhead"
if not BENCHMARKS.exists():
    pytest.skip("the benchmarks are in the repository only", allow_module_level=True)
sys.path.append(str(BENCHMARKS))
import overhead  # noqa: E402

sys.path.remove(str(BENCHMARKS))


def test_peak_memory_is_the_most_that_is_held_at_once() -> None:
    def one_after_the_other() -> None:
        for _ in range(3):
            torch.empty(2**20, dtype=torch.uint8)

    def all_at_once() -> None:
        kept = [torch.empty(2**20, dtype=torch.uint8) for _ in range(3)]
        del kept

    assert overhead.peak_bytes(one_after_the_other, "cpu") == 2**20
    assert overhead.peak_bytes(all_at_once, "cpu") == 3 * 2**20


def test_ratios_are_the_second_over_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overhead, "seconds", lambda run, device: run())
    assert overhead.compare(lambda: 2.0, lambda: 3.0, pairs=5) == "1.500 [1.500, 1.500]"
