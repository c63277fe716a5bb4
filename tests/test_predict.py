"""predict(): what forward says, on the shortest way, and masks of an exact area."""

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from aimwrap import AIM, Prediction, budgeted_mask
from aimwrap.top_down import PaperTopDown, Transform, _pays_to_gather

Wrapped = Callable[..., AIM]
HEADS = ["paper", "feature-preserving"]
TEN = [
    "tiny",
    "head_conv",
    "branching",
    *(
        pytest.param(name, marks=pytest.mark.slow)
        for name in (
            "tv_resnet18",
            "tv_swin",
            "tv_convnext",
            "tv_efficientnet_b0",
            "tv_mobilenet_v3_small",
            "tv_densenet",
            "tv_regnet_y_400mf",
            "convnext_atto",
            "twins",
        )
    ),
]
every_head = pytest.mark.parametrize("head", HEADS)


def assert_same_logits(got: Tensor, expected: Tensor) -> None:
    """Within 1e-6 of the largest logit."""
    assert ((got - expected).abs().max() / expected.abs().max()).item() < 1e-6


def given_masks(model: AIM, maps: dict[str, Tensor], kind: str) -> dict[object, Tensor]:
    masks = {stage: torch.zeros_like(maps[str(stage)][:, :1]) for stage in model.stages}
    for stage, mask in masks.items():
        if kind == "all on":
            mask.fill_(1)
        elif kind == "corner":
            mask[..., 0, 0] = 1
        elif kind == "opposite corner":
            mask[..., -1, -1] = 1
        elif kind == "one image off":
            mask[1:] = (torch.rand_like(mask[1:]) < 0.5).float()
        elif kind == "sparse":
            masks[stage] = (torch.rand_like(mask) < 0.1).float()
        elif kind == "dense":
            masks[stage] = (torch.rand_like(mask) < 0.8).float()
    return masks


KINDS = ["all on", "all off", "corner", "opposite corner", "one image off", "sparse", "dense"]


# ---- Against forward -------------------------------------------------------------------------------------------------


@every_head
@pytest.mark.parametrize("name", TEN)
def test_predict_is_forward_but_for_rounding(name: str, head: str, wrapped: Wrapped) -> None:
    model = wrapped(name, head)
    for size in ((64, 96), (160, 160)):
        images = torch.randn(3, 3, *size)
        with torch.no_grad():
            output = model(images)
        prediction = model.predict(images)
        assert type(prediction) is Prediction
        assert list(prediction.masks) == [2, 3]
        assert all(torch.equal(prediction.masks[stage], output.masks[stage]) for stage in model.stages)
        assert_same_logits(prediction.logits, output.logits)


@pytest.mark.parametrize("pooling", ["active", "all"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["tiny", pytest.param("tv_resnet18", marks=pytest.mark.slow)])
@every_head
def test_every_mask_gives_the_logits_of_the_long_way(
    head: str, name: str, kind: str, pooling: str, wrapped: Wrapped
) -> None:
    model = copy.deepcopy(wrapped(name, head))
    model.pooling = pooling
    for module in (model.top_down, model.classifier):  # biases and norms that are not zero and one
        for parameter in module.parameters():
            parameter.data.add_(0.1 * torch.randn_like(parameter))
    with torch.no_grad():
        maps = model.forward_backbone(torch.randn(3, 3, 250, 190))
        masks = given_masks(model, maps, kind)
        expected = model.forward_head(model.forward_masks(maps, masks)).logits
        tapped = [maps[str(stage)] for stage in model.stages]
        mean = model.top_down.final_mean(tapped, maps.get("final map"), list(masks.values()), pooling)
        assert_same_logits(model.classifier(mean), expected)


@given(
    size=st.tuples(st.integers(10, 17), st.integers(10, 17)),
    open_share=st.sampled_from([0.0, 0.01, 0.2, 0.45]),
    seed=st.integers(0, 99),
)
def test_gathering_sums_what_the_whole_map_sums(size: tuple[int, int], open_share: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    transform = Transform(5, 8).double()
    features = torch.randn(2, 5, *size, dtype=torch.float64, generator=generator)
    counts = torch.randint(1, 5, (2, 1, *size), generator=generator)
    counts = counts * (torch.rand(2, 1, *size, generator=generator) < open_share)
    got = transform.sum_where(features, counts)
    torch.testing.assert_close(got, (transform(features) * counts).sum((2, 3)), rtol=1e-9, atol=1e-9)


def test_closed_positions_are_not_transformed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few open positions are refined one by one; many, few in all, and graphs take the whole map."""
    refined: list[int] = []
    honest = F.linear
    monkeypatch.setattr(F, "linear", lambda x, *rest: (refined.append(len(x)), honest(x, *rest))[1])
    transform, features = Transform(3, 4), torch.randn(2, 3, 10, 10)
    counts = torch.zeros(2, 1, 10, 10)
    counts[0, 0, :3, :4] = 2
    transform.sum_where(features, counts)
    assert refined == [12]
    transform.sum_where(features, torch.ones(2, 1, 10, 10))
    transform.sum_where(features, (torch.arange(200).view(2, 1, 10, 10) < 101).float())
    transform.sum_where(features[..., :5, :5], counts[..., 5:, 5:])
    compiled = torch.compile(transform.sum_where, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(features, counts), transform.sum_where(features, counts))
    assert refined == [12, 12]


def test_nothing_is_gathered_where_a_count_would_have_to_be_waited_for() -> None:
    few = torch.zeros(1, 1, 20, 20)
    assert _pays_to_gather(few)
    assert not _pays_to_gather(few.to("meta"))  # as on a GPU; and a meta tensor cannot be counted


@every_head
def test_predict_pools_as_the_model_does(head: str, wrapped: Wrapped) -> None:
    model, images = copy.deepcopy(wrapped("tiny", head)), torch.randn(2, 3, 64, 64)
    model.pooling = "all"
    with torch.no_grad():
        assert_same_logits(model.predict(images).logits, model(images).logits)


@every_head
def test_predict_runs_no_stage_classifier_and_keeps_no_graph(head: str, wrapped: Wrapped) -> None:
    model = copy.deepcopy(wrapped("tiny", head))
    for classifier in model.stage_classifiers.values():
        classifier.register_forward_hook(lambda *_: pytest.fail("a stage classifier ran"))
    prediction = model.predict(torch.randn(2, 3, 64, 64))
    assert not prediction.logits.requires_grad


def test_predict_is_for_evaluation(wrapped: Wrapped) -> None:
    model = copy.deepcopy(wrapped("tiny", "paper")).train()
    with pytest.raises(RuntimeError, match=r"in training mode; call model\.eval\(\)"):
        model.predict(torch.randn(1, 3, 64, 64))
    with pytest.raises(ValueError, match="add a batch dimension"):
        model.eval().predict(torch.randn(3, 64, 64))


# ---- Budgets ---------------------------------------------------------------------------------------------------------


@every_head
@pytest.mark.parametrize("area", [0.001, np.float32(0.25), 1.0, [0.1, 0.5], np.array([0.1, 0.5])])
def test_a_budget_opens_exactly_that_many_positions_the_highest(
    head: str, area: float | list[float], wrapped: Wrapped
) -> None:
    model, images = wrapped("tiny", head), torch.randn(3, 3, 130, 97)
    with torch.no_grad():
        features = model.forward_masks(model.forward_backbone(images))
    prediction = model.predict(images, area=area)
    for index, stage in enumerate(model.stages):
        mask, logits = prediction.masks[stage], features.mask_logits[stage]
        wanted = area[index] if isinstance(area, list | np.ndarray) else float(area)
        assert (mask.sum((1, 2, 3)) == max(1, round(wanted * mask[0].numel()))).all()
        for image, ranks in zip(mask, logits, strict=True):
            closed = ranks[image == 0]
            assert len(closed) == 0 or ranks[image == 1].min() >= closed.max()
    with torch.no_grad():
        held = model.forward_head(model.forward_masks(model.forward_backbone(images), prediction.masks))
    assert_same_logits(prediction.logits, held.logits)


def test_a_budget_ranks_beyond_the_bound_of_the_logits(wrapped: Wrapped) -> None:
    """Bounded logits are equal there, and reading order would decide."""
    model = copy.deepcopy(wrapped("tiny", "paper"))
    for estimator in model.mask_estimators.values():
        estimator.logit_range = 0.5
    images = torch.randn(2, 3, 128, 128)
    assert torch.equal(model.predict(images, area=0.2).masks[2], wrapped("tiny", "paper").predict(images, 0.2).masks[2])
    assert not torch.equal(model.predict(images, area=0.2).masks[2], budgeted_mask(torch.zeros(2, 1, 8, 8), 0.2))


def test_budgets_that_make_no_sense(wrapped: Wrapped) -> None:
    model, images = wrapped("tiny", "paper"), torch.randn(1, 3, 64, 64)
    with pytest.raises(ValueError, match=r"area must lie in \(0, 1\], got 0"):
        model.predict(images, area=0)
    with pytest.raises(ValueError, match=r"area must be one float or one per stage: 2 stage\(s\), 3 value\(s\)"):
        model.predict(images, area=[0.1, 0.2, 0.3])
    with pytest.raises(TypeError, match="area must be a float"):
        model.predict(images, area="half")


def test_equal_scores_are_taken_in_reading_order() -> None:
    assert budgeted_mask(torch.ones(2, 1, 3, 3), 0.45).flatten(1).tolist() == [[1.0] * 4 + [0.0] * 5] * 2


def test_the_papers_final_mean_counts_readers_along_the_chain() -> None:
    """At odd sizes a coarse position is read by unequally many fine ones."""
    top_down = PaperTopDown([2, 3, 4], 5).double()
    maps = [torch.randn(2, c, *size).double() for c, size in ((2, (13, 9)), (3, (7, 5)), (4, (4, 3)))]
    masks = [(torch.rand(2, 1, *x.shape[2:]) < 0.5).double() for x in maps]
    for pooling in ("active", "all"):
        _, expected = top_down.means(top_down(maps, None), masks, pooling)
        torch.testing.assert_close(top_down.final_mean(maps, None, masks, pooling), expected)
