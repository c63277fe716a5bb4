"""Overlays survive being packed."""

import base64

import numpy as np
import pytest
import torch

from aimwrap.report.cards import packed_contributions, packed_mask


@pytest.mark.parametrize("size", [(1, 1), (7, 7), (5, 3), (8, 8), (14, 9)])
def test_masks_come_back_bit_by_bit(size: tuple[int, int]) -> None:
    mask = (torch.rand(size) < 0.4).float()
    packed = base64.b64decode(packed_mask(mask))
    bits = [packed[n // 8] >> (7 - n % 8) & 1 for n in range(mask.numel())]
    assert bits == mask.flatten().int().tolist()
    assert len(packed) == -(-mask.numel() // 8)
    assert packed_mask(mask.bfloat16()) == packed_mask(mask)


@pytest.mark.parametrize("size", [1e-6, 1.0, 1e5])
def test_contributions_come_back_to_a_127th_of_the_largest(size: float) -> None:
    contributions = torch.randn(9, 11) * size * (torch.rand(9, 11) < 0.5)
    packed = packed_contributions(contributions)
    values = np.frombuffer(base64.b64decode(packed["values"]), np.int8).reshape(9, 11) / 127 * packed["scale"]
    assert np.abs(values - contributions.numpy()).max() <= 0.51 * packed["scale"] / 127 + 1e-3 * packed["scale"]
    assert (values[contributions.numpy() == 0] == 0).all()
    assert packed["scale"] == pytest.approx(contributions.abs().max().item(), rel=1e-3)


def test_no_contributions() -> None:
    packed = packed_contributions(torch.zeros(2, 3))
    assert packed["scale"] == 0.0 and base64.b64decode(packed["values"]) == bytes(6)
