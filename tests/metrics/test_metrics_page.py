"""The code on the documentation's page of metrics runs, and its comments are true."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"


def test_code_blocks_run_in_their_order_and_say_the_truth() -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), flags=re.DOTALL | re.MULTILINE)
    assert len(blocks) == 7
    page: dict[str, Any] = {}
    after = []
    for block in blocks:
        exec(block, page)
        after.append(dict(page))
    assert after[0]["score"].item() == pytest.approx(0.8)
    assert after[0]["chance"].item() == 0.25
    assert after[0]["corrected"].item() == pytest.approx(0.55 / 0.75)
    assert page["free"].item() == pytest.approx(0.49, abs=0.005)
    torch.testing.assert_close(*page["same"])
    assert list(after[3]["scores"]) == ["energy_pointing", "chance", "area_corrected", "zero_energy", "empty_object"]
    assert after[3]["scores"]["zero_energy"].item() == 1
    assert page["values"].shape == (5,)
    assert page["hit"].tolist() == [1.0]
    assert list(after[5]["scores"]) == ["precision", "recall", "iou", "empty_mask", "empty_object"]
    assert page["scores"]["landbird on water"].item() == page["scores"]["worst_group"].item() == 0.0
