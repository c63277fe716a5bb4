"""What the study trains does what its configs say, on made-up images."""

import copy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

STAMPS = Path(__file__).parents[2] / "benchmarks" / "stamps"
if not STAMPS.is_dir():
    pytest.skip("the benchmarks come with a checkout, not with the package's sources", allow_module_level=True)
with pytest.MonkeyPatch.context() as patch:
    patch.setattr(sys, "path", [str(STAMPS), *sys.path])
    from centre_bias import joined
    from parts import PARTS
    from records import RESULTS
    from report import tables
    from study import TRAINERS
    from variants import STAGES, VARIANTS, Config, Data, Outcome, maps_of, object_cells, part_of, rows_of, train

    from aimwrap import AIM, AIMOutput
    from aimwrap.analysis.look import Look
    from aimwrap.demo.backbone import load_pretrained_backbone


@pytest.fixture(scope="module")
def backbone() -> nn.Module:
    return load_pretrained_backbone()


@pytest.fixture(scope="module")
def data(backbone: nn.Module) -> tuple[Data, Data]:
    torch.manual_seed(0)
    images, labels, places = torch.randn(8, 3, 96, 96), torch.arange(8) % 2, torch.arange(8) // 4
    object_masks = torch.zeros(8, 1, 96, 96)
    object_masks[:, :, 32:64, 16:80] = 1
    tapping = AIM(backbone, list(STAGES), num_classes=2, head="feature-preserving").eval()
    split = Data(images, labels, places, object_masks, torch.arange(8), maps_of(tapping, images))
    return split, split


FROZEN: list[dict[str, Any]] = [
    {"method": "plain"},
    {"method": "oracle"},
    {"method": "open"},
    {"method": "aim"},
    {"method": "aim", "second_look": True},
    {"method": "true mask"},
    {"method": "bottom-up"},
]


@pytest.mark.slow
@pytest.mark.parametrize("changes", FROZEN, ids=str)
def test_a_frozen_backbone_stays_as_it_was(
    changes: dict[str, Any], data: tuple[Data, Data], backbone: nn.Module
) -> None:
    """Its norms' statistics, too: a second look runs it while everything else trains."""
    before = copy.deepcopy(backbone.state_dict())
    outcome = train(Config(tie=1.0, seed=0, epochs=1, **changes), data, backbone)
    torch.testing.assert_close(backbone.state_dict(), before, rtol=0, atol=0)
    assert outcome.look.logits.shape == (8, 2) and outcome.look.logits.isfinite().all()


@pytest.mark.parametrize("method", ["aim", *(pytest.param(m, marks=pytest.mark.slow) for m in ("plain", "open"))])
def test_a_trained_backbone_moves_a_copy_and_keeps_statistics(
    method: str, data: tuple[Data, Data], backbone: nn.Module
) -> None:
    before = copy.deepcopy(backbone.state_dict())
    outcome = train(Config(method, 1.0, 0, epochs=1, backbone_rate=1e-3), data, backbone)
    torch.testing.assert_close(backbone.state_dict(), before, rtol=0, atol=0)
    trained = outcome.model.backbone if method != "plain" else outcome.model
    state = trained.state_dict()
    moved = {n.split(".")[-1] for n, value in state.items() if not torch.equal(value, before.get(n, value))}
    assert "weight" in moved and not moved & {"running_mean", "running_var", "num_batches_tracked"}


def test_the_true_mask_is_the_object_on_the_grid(data: tuple[Data, Data], backbone: nn.Module) -> None:
    outcome = train(Config("true mask", 1.0, 0, epochs=1), data, backbone)
    expected = torch.zeros(8, 1, 6, 6)
    expected[:, :, 2:4, 1:5] = 1
    assert outcome.look.merged_mask is not None and torch.equal(outcome.look.merged_mask, expected)
    speck = torch.zeros(1, 1, 96, 96)
    speck[0, 0, 40, 40] = 1
    assert object_cells(speck, 16).sum() == 1  # never empty


def test_rows_and_parts_belong_together(data: tuple[Data, Data]) -> None:
    test = data[1]
    both = joined([test, rows_of(test, torch.tensor([5, 1]))])
    assert len(both.labels) == 10
    torch.testing.assert_close(both.images[8:], test.images[[5, 1]], rtol=0, atol=0)
    assert all(torch.equal(maps[8:], test.maps[name][[5, 1]]) for name, maps in both.maps.items())
    numbers = torch.arange(10.0)
    look = Look(AIMOutput(numbers, {}, {}), numbers, (1, 1), numbers)
    outcome = Outcome(look, {}, 0.0, nn.Identity())
    part = part_of(outcome, slice(8, 10))
    assert part.look.logits.tolist() == part.look.heatmap.tolist() == [8.0, 9.0]
    assert part.look.merged_mask is not None and part.look.merged_mask.tolist() == [8.0, 9.0]


def test_every_method_of_the_study_has_a_trainer_and_no_other_has() -> None:
    methods = {config.method for part in PARTS.values() for tie in (0.95, 1.0) for config in part(tie, 0)}
    assert methods - set(TRAINERS) == set(VARIANTS)
    assert set(TRAINERS) <= methods


@pytest.mark.slow
def test_the_tables_of_the_documentation_are_those_of_the_committed_runs() -> None:
    for name, table in tables().items():
        assert (RESULTS / f"{name}.md").read_text() == f"{table}\n", f"run benchmarks/stamps/report.py: {name} is old"
