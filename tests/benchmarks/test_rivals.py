"""The benchmark's rival methods do what their papers say, on features made here."""

import sys
from pathlib import Path

import pytest
import torch

STAMPS = Path(__file__).parents[2] / "benchmarks" / "stamps"
if not STAMPS.is_dir():
    pytest.skip("the benchmarks come with a checkout, not with the package's sources", allow_module_level=True)
with pytest.MonkeyPatch.context() as patch:
    patch.setattr(sys, "path", [str(STAMPS), *sys.path])
    from rivals import DRO_STEP, WorstGroups, groups_equally_often, last_layer, masktune
    from variants import Config, Data


def data_of(groups: torch.Tensor, features: torch.Tensor | None = None) -> Data:
    """Images whose pooled features are given, (N, C)."""
    count = len(groups)
    features = torch.zeros(count, 2) if features is None else features
    images, masks = torch.zeros(count, 3, 8, 8), torch.ones(count, 1, 8, 8)
    maps = {"final map": features[:, :, None, None]}
    return Data(images, groups // 2, groups % 2, masks, torch.arange(count), maps)


def test_groups_are_drawn_equally_often() -> None:
    groups = torch.tensor([0] * 90 + [1] * 5 + [2] * 5 + [3] * 900)
    order = groups_equally_often(data_of(groups))
    drawn = groups[torch.cat([order(torch.Generator().manual_seed(seed)) for seed in range(10)])]
    assert (drawn.bincount(minlength=4) / len(drawn) - 0.25).abs().max() < 0.03
    two = torch.tensor([0] * 10 + [3] * 30)  # a perfect tie
    drawn = two[groups_equally_often(data_of(two))(torch.Generator().manual_seed(0))]
    assert set(drawn.tolist()) == {0, 3}


def test_group_dro_follows_its_update() -> None:
    objective = WorstGroups()
    logits, labels = torch.tensor([[2.0, 0.0], [0.0, 1.0], [0.0, 3.0]]), torch.tensor([0, 0, 1])
    groups = torch.tensor([0, 1, 3])
    losses = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    expected = torch.full((4,), 0.25)
    for _ in range(3):
        means = torch.tensor([losses[0], losses[1], 0.0, losses[2]])
        expected = expected * (DRO_STEP * means).exp()
        expected = expected / expected.sum()
        assert torch.allclose(objective(logits, labels, groups), (expected * means).sum())
    assert objective.weights.argmax() == 1


def test_the_last_layer_ignores_what_is_untied() -> None:
    generator = torch.Generator().manual_seed(0)
    groups = torch.arange(4).repeat(60)[torch.randperm(240, generator=generator)]
    label, place = 2.0 * (groups // 2) - 1, 2.0 * (groups % 2) - 1
    noise = torch.randn(240, 3, generator=generator)
    untied = data_of(groups)
    features = torch.stack([7 + label + noise[:, 0] / 4, 5 * place + noise[:, 1], noise[:, 2]], 1)
    layer = last_layer(features, untied)
    assert (layer(features).argmax(1) == untied.labels).float().mean() > 0.99
    weight = (layer.weight[1] - layer.weight[0]).abs() * features.std(0)
    assert weight[0] > 10 * weight[1]


def test_masktune_hides_what_the_map_is_brightest_on() -> None:
    """Images with one pixel that shows the label, which a copy of the network no longer sees in the last epoch."""

    class Pixels(torch.nn.Module):
        num_features = 1
        seen: list[torch.Tensor]

        def forward_features(self, images: torch.Tensor) -> torch.Tensor:
            self.seen.append(images)
            return images[:, :1]

    groups = torch.tensor([0, 3] * 32)
    images = torch.zeros(64, 3, 8, 8)
    images[groups == 3, :, 2, 5] = 10.0
    images[groups == 0, :, 6, 1] = -10.0
    data = data_of(groups)._replace(images=images, maps={"final map": images[:, :1]})
    backbone = Pixels()
    backbone.seen = []
    config = Config("MaskTune", 1.0, 0, epochs=20, learning_rate=1e-1)
    outcome = masktune(config, (data, data), backbone)
    hidden = torch.cat(backbone.seen)
    assert hidden[groups == 3].abs().sum() == 0 and hidden[groups == 0].abs().sum() == 0
    assert outcome.look.logits.shape == (64, 2)
