"""The benchmark of costs measures what it says."""

import sys
from pathlib import Path

import pytest
import torch
from zoo import TinyNet

from aimwrap import AIM

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


@pytest.mark.parametrize("share", [0.05, 0.25, 0.75])
def test_masks_get_the_share_that_is_asked_for(share: float) -> None:
    model, images = AIM(TinyNet(), mask_width=4).eval(), torch.randn(4, 3, 128, 128)
    overhead.open_share(model, images, share)
    areas = torch.stack([mask.mean() for mask in model.predict(images).masks.values()])
    assert (areas - share).abs().max() <= 1 / 64
    assert overhead.blobs(2, 14, share).mean().item() == pytest.approx(share, abs=0.01)


@pytest.mark.parametrize("shortcut", ["concatenated_convolution", "resized_features"])
def test_the_plain_ways_compute_the_same_and_are_put_back(shortcut: str) -> None:
    model, images = AIM(TinyNet(), [1, 2, 3], mask_width=4).eval(), torch.randn(2, 3, 97, 61)

    def methods() -> tuple[object, object]:
        return overhead.TapConv3x3.forward, overhead.FeaturePreservingTopDown.means

    own, expected = methods(), model(images)
    with getattr(overhead, shortcut)():
        assert methods() != own
        got = model(images)
    assert methods() == own
    torch.testing.assert_close(got.logits, expected.logits, rtol=1e-4, atol=1e-5)
