"""AIMLoss against values worked out by hand, its terms as free functions, and what it says to wrong input."""

import copy
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from aimwrap import AIMLoss, AIMOutput, active_area, active_area_loss

LN3 = math.log(3)


def worked_example() -> tuple[AIMOutput, Tensor]:
    """Two images, two stages, two classes, labels 0 and 1.

    Logits (ln 3, 0) give the probabilities 3/4 and 1/4; (0, 0) give 1/2 each. So the cross-entropies, averaged
    over the two images,

        stage 2: image 0 (ln 3, 0), label 0: ln 4/3; image 1 (0, 0), label 1: ln 2    -> (ln 4/3 + ln 2) / 2
        stage 3: image 0 (0, ln 3), label 0: ln 4;   image 1 (0, ln 3), label 1: ln 4/3 -> (ln 4 + ln 4/3) / 2
        final:   image 0 (0, 0),    label 0: ln 2;   image 1 (ln 3, 0), label 1: ln 4   -> (ln 2 + ln 4) / 2

    Active areas: stage 2, of 4 positions, 1/4 and 3/4, batch 1/2; stage 3, of 2 positions, 1/2 and 1, batch 3/4.
    With tau = (0.5, 0.25):

        per image: stage 2 ((1/4 - 1/2)^2 + (3/4 - 1/2)^2) / 2 = 1/16
                   stage 3 ((1/2 - 1/4)^2 + (1 - 1/4)^2) / 2 = (1/16 + 9/16) / 2 = 5/16
        per batch: stage 2 (1/2 - 1/2)^2 = 0;  stage 3 (3/4 - 1/4)^2 = 1/4

    Total: 6 (1/16 + 5/16) = 2.25 per image, 6 (0 + 1/4) = 1.5 per batch, plus the three cross-entropies.
    """
    zero, lean0, lean1 = [0.0, 0.0], [LN3, 0.0], [0.0, LN3]
    output = AIMOutput(
        logits=torch.tensor([zero, lean0]),
        stage_logits={2: torch.tensor([lean0, zero]), 3: torch.tensor([lean1, lean1])},
        masks={
            2: torch.tensor([[[[1.0, 0.0], [0.0, 0.0]]], [[[1.0, 1.0], [0.0, 1.0]]]]),
            3: torch.tensor([[[[0.0, 1.0]]], [[[1.0, 1.0]]]]),
        },
    )
    return output, torch.tensor([0, 1])


STAGE_2 = (math.log(4 / 3) + math.log(2)) / 2
STAGE_3 = (math.log(4) + math.log(4 / 3)) / 2
FINAL = (math.log(2) + math.log(4)) / 2


@pytest.mark.parametrize(("per", "areas"), [("image", (1 / 16, 5 / 16)), ("batch", (0.0, 1 / 4))])
def test_worked_example(per: str, areas: tuple[float, float]) -> None:
    output, labels = worked_example()
    criterion = AIMLoss(tau=(0.5, 0.25), area_per=per)
    parts = criterion.components(output, labels)
    assert list(parts.active_area_loss) == list(parts.stage_classification) == list(parts.active_area) == [2, 3]
    assert [v.item() for v in parts.active_area_loss.values()] == pytest.approx(list(areas))
    assert [v.item() for v in parts.stage_classification.values()] == pytest.approx([STAGE_2, STAGE_3])
    assert [v.item() for v in parts.active_area.values()] == pytest.approx([0.5, 0.75])
    assert parts.final_classification.item() == pytest.approx(FINAL)
    expected = 6 * sum(areas) + STAGE_2 + STAGE_3 + FINAL
    assert parts.total.item() == pytest.approx(expected)
    assert criterion(output, labels).item() == parts.total.item()
    assert criterion(output, labels).shape == ()


def test_default_is_r_per_image() -> None:
    output, labels = worked_example()
    assert AIMLoss(tau=(0.5, 0.25))(output, labels).item() == pytest.approx(2.25 + STAGE_2 + STAGE_3 + FINAL)


def test_one_tau_serves_all_stages() -> None:
    """tau = 1/2: stage 2 as above, 1/16; stage 3 ((1/2 - 1/2)^2 + (1 - 1/2)^2) / 2 = 1/8."""
    output, labels = worked_example()
    parts = AIMLoss(tau=0.5).components(output, labels)
    assert [v.item() for v in parts.active_area_loss.values()] == pytest.approx([1 / 16, 1 / 8])


@given(
    weights=st.tuples(*[st.floats(0, 20)] * 3),
    per=st.sampled_from(["image", "batch"]),
    tau=st.tuples(*[st.floats(0.01, 1)] * 2),
)
def test_components_sum_to_the_total_with_their_weights(
    weights: tuple[float, float, float], per: str, tau: tuple[float, float]
) -> None:
    mask_weight, stage_weight, final_weight = weights
    criterion = AIMLoss(
        tau, mask_weight=mask_weight, stage_weight=stage_weight, final_weight=final_weight, area_per=per
    )
    parts = criterion.components(*worked_example())
    total = (
        mask_weight * sum(v.item() for v in parts.active_area_loss.values())
        + stage_weight * sum(v.item() for v in parts.stage_classification.values())
        + final_weight * parts.final_classification.item()
    )
    assert parts.total.item() == pytest.approx(total, rel=1e-5)


def test_active_area_by_hand() -> None:
    output, _ = worked_example()
    assert active_area(output.masks[2]).tolist() == [0.25, 0.75]
    assert active_area(torch.ones(1, 1, 3, 3)).tolist() == [1]
    assert active_area(torch.zeros(1, 1, 3, 3)).tolist() == [0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_active_area_counts_large_half_precision_masks(dtype: torch.dtype) -> None:
    mask = torch.ones(1, 1, 300, 300, dtype=dtype)
    mask[..., :3] = 0
    area = active_area(mask)
    assert area.dtype == torch.float32
    assert area.item() == pytest.approx(0.99)


def test_active_area_loss_by_hand() -> None:
    output, _ = worked_example()
    assert active_area_loss(output.masks[2], 0.5).item() == pytest.approx(1 / 16)
    assert active_area_loss(output.masks[2], 0.5, per="batch").item() == 0
    with pytest.raises(ValueError, match="per must be 'image' or 'batch', got 'Batch'"):
        active_area_loss(output.masks[2], 0.5, per="Batch")
    assert active_area_loss(output.masks[3], torch.tensor(0.25)).item() == pytest.approx(5 / 16)


@given(areas=st.lists(st.integers(0, 16), min_size=1, max_size=5), tau=st.floats(0.01, 1))
def test_area_loss_per_batch_is_never_more_than_per_image(areas: list[int], tau: float) -> None:
    """(mean r - tau)^2 <= mean (r - tau)^2, equal where all areas are."""
    mask = torch.stack([(torch.arange(16.0) < area).float().reshape(1, 4, 4) for area in areas])
    per_image, per_batch = (active_area_loss(mask, tau, per).item() for per in ("image", "batch"))
    assert per_batch <= per_image + 1e-6
    if len(set(areas)) == 1:
        assert per_batch == pytest.approx(per_image, abs=1e-6)


def test_area_loss_gradient_by_hand() -> None:
    """d/dB_j (r - tau)^2 = 2 (r - tau) / (H W), mean of 2 images: 2 (1/4 - 1/2) / 4 / 2 = -1/16, then +1/16."""
    mask = worked_example()[0].masks[2].requires_grad_()
    active_area_loss(mask, 0.5).backward()
    assert mask.grad.flatten(1).tolist() == [[-1 / 16] * 4, [1 / 16] * 4]


def test_label_smoothing() -> None:
    """Label smoothing e: (1 - e) CE + e mean over classes of -log p. Stage 2, e = 0.5, image 0: p = 3/4, 1/4."""
    output, labels = worked_example()
    criterion = AIMLoss(tau=0.5, classification_loss=nn.CrossEntropyLoss(label_smoothing=0.5))
    by_hand = 0.5 * STAGE_2 + 0.5 * ((math.log(4 / 3) + math.log(4)) / 2 + math.log(2)) / 2
    assert criterion.components(output, labels).stage_classification[2].item() == pytest.approx(by_hand)


def test_soft_labels() -> None:
    output, labels = worked_example()
    one_hot = nn.functional.one_hot(labels).float()
    assert AIMLoss(tau=0.5)(output, one_hot).item() == pytest.approx(AIMLoss(tau=0.5)(output, labels).item())
    mixed = AIMLoss(tau=0.5).components(output, torch.full((2, 2), 0.5))
    # Stage 3, both images: (ln 4 + ln 4/3) / 2.
    assert mixed.stage_classification[3].item() == pytest.approx((math.log(4) + math.log(4 / 3)) / 2)


def test_binary_cross_entropy() -> None:
    """Final logits (0, 0) and (ln 3, 0), targets all 1: (ln 2 + ln 2 + ln 4/3 + ln 2) / 4."""
    output, _ = worked_example()
    criterion = AIMLoss(tau=0.5, classification_loss=nn.BCEWithLogitsLoss())
    by_hand = (3 * math.log(2) + math.log(4 / 3)) / 4
    assert criterion.components(output, torch.ones(2, 2)).final_classification.item() == pytest.approx(by_hand)


def test_any_module_is_called_with_each_logits_and_the_target() -> None:
    class Spy(nn.Module):
        def forward(self, logits: Tensor, target: Tensor) -> Tensor:
            return logits.sum() * 0 + target

    output, _ = worked_example()
    parts = AIMLoss(tau=1.0, classification_loss=Spy(), mask_weight=0).components(output, torch.tensor(3.0))
    assert parts.total.item() == 9.0


def test_ignore_index_is_respected() -> None:
    output, _ = worked_example()
    loss = AIMLoss(tau=0.5).components(output, torch.tensor([0, -100])).stage_classification[2]
    assert loss.item() == pytest.approx(math.log(4 / 3))


def test_active_area_of_the_components_carries_no_gradient() -> None:
    output, labels = worked_example()
    masks = {stage: mask.requires_grad_() for stage, mask in output.masks.items()}
    parts = AIMLoss(tau=0.5).components(output._replace(masks=masks), labels)
    assert not any(v.requires_grad for v in parts.active_area.values())
    assert all(v.requires_grad for v in parts.active_area_loss.values())


def test_tau_is_a_float32_buffer_and_the_target_stays() -> None:
    criterion = AIMLoss(tau=[0.3, 0.5])
    assert criterion.tau.dtype == torch.float32 and criterion.tau.tolist() == pytest.approx([0.3, 0.5])
    assert "tau" in criterion.state_dict()
    assert list(criterion.parameters()) == []
    assert criterion.target_tau == (0.3, 0.5)
    assert AIMLoss(tau=0.3).tau.shape == ()
    assert AIMLoss(tau=1).target_tau == 1.0
    twin = copy.deepcopy(criterion)
    twin.tau.fill_(0.9)
    assert criterion.tau.tolist() == pytest.approx([0.3, 0.5])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_areas_are_float32_in_half_precision(dtype: torch.dtype) -> None:
    output, labels = worked_example()
    half = AIMOutput(
        output.logits.to(dtype),
        {s: v.to(dtype) for s, v in output.stage_logits.items()},
        {s: v.to(dtype) for s, v in output.masks.items()},
    )
    parts = AIMLoss(tau=(0.5, 0.25)).components(half, labels)
    assert all(v.dtype == torch.float32 for v in parts.active_area_loss.values())
    assert parts.total.item() == pytest.approx(2.25 + STAGE_2 + STAGE_3 + FINAL, rel=0.02)


def test_there_is_no_default_tau() -> None:
    with pytest.raises(TypeError, match="tau"):
        AIMLoss()


def test_repr_shows_the_arguments() -> None:
    text = repr(AIMLoss(tau=0.25, area_per="batch"))
    assert "tau=0.25, mask_weight=6, stage_weight=1, final_weight=1, area_per='batch'" in text


@pytest.mark.parametrize("tau", [0.0, -0.1, 1.01, 25, math.nan, [0.5, 0.0], [], ()])
def test_tau_outside_its_range(tau: object) -> None:
    with pytest.raises(ValueError, match=r"tau must be in \(0, 1\], got .*share of a mask that stays open"):
        AIMLoss(tau=tau)


@pytest.mark.parametrize("tau", [None, "0.25", [0.25, None], {"a": 1}])
def test_tau_of_the_wrong_type(tau: object) -> None:
    with pytest.raises((TypeError, ValueError), match="tau must"):
        AIMLoss(tau=tau)


@pytest.mark.parametrize("name", ["mask_weight", "stage_weight", "final_weight"])
@pytest.mark.parametrize("weight", [-1.0, math.nan])
def test_negative_weight(name: str, weight: float) -> None:
    with pytest.raises(ValueError, match=f"{name} must not be negative, got .*; 0 switches the term off"):
        AIMLoss(tau=0.5, **{name: weight})


def test_parts_of_weight_0_have_gradients_of_0() -> None:
    """Else DistributedDataParallel would wait for those of their layers."""
    output, labels = worked_example()
    given = [output.logits, *output.stage_logits.values(), *output.masks.values()]
    criterion = AIMLoss(tau=(0.5, 0.25), mask_weight=0, stage_weight=0, final_weight=0)
    for tensor in given:
        tensor.requires_grad_()
    criterion(output, labels).backward()
    assert [tensor.grad is not None and not tensor.grad.any() for tensor in given] == [True] * 5


def test_unknown_area_per() -> None:
    with pytest.raises(ValueError, match="area_per must be one of 'image', 'batch', got 'stage'"):
        AIMLoss(tau=0.5, area_per="stage")


def test_logits_instead_of_the_output() -> None:
    output, labels = worked_example()
    pattern = r"takes the AIMOutput that AIM returns, got Tensor; call criterion\(model\(images\)"
    with pytest.raises(TypeError, match=pattern):
        AIMLoss(tau=0.5)(output.logits, labels)


def test_another_models_stages() -> None:
    pattern = r"tau for 3 stage\(s\), the output has 2 \(2, 3\); build it with AIMLoss\(tau=model.tau"
    with pytest.raises(ValueError, match=pattern):
        AIMLoss(tau=(0.2, 0.3, 0.4))(*worked_example())


@pytest.mark.parametrize("shape", [(2, 1), (3,), (2, 2), ()])
def test_labels_of_the_wrong_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"labels must be class indices of shape \(2,\), got .*squeeze.*argmax"):
        AIMLoss(tau=0.5)(worked_example()[0], torch.zeros(shape, dtype=torch.long))


@pytest.mark.parametrize("shape", [(2,), (2, 3), (2, 1)])
def test_soft_labels_of_the_wrong_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"soft labels must have the logits' shape \(2, 2\), got .*labels.long\(\)"):
        AIMLoss(tau=0.5)(worked_example()[0], torch.zeros(shape))


@pytest.mark.parametrize("label", [-1, 2, 999])
def test_label_out_of_range(label: int) -> None:
    with pytest.raises(ValueError, match=rf"labels must be in 0..1, got {label}; .*2 classes, set num_classes="):
        AIMLoss(tau=0.5)(worked_example()[0], torch.tensor([0, label]))


def test_slips_with_labels_and_losses() -> None:
    output = AIMOutput(torch.zeros(2, 3), {3: torch.zeros(2, 3)}, {3: torch.ones(2, 1, 1, 1)})
    with pytest.raises(TypeError, match=r"labels must be int64, got torch.int32; call labels.long\(\)"):
        AIMLoss(tau=0.5)(output, torch.tensor([0, 1], dtype=torch.int32))
    with pytest.raises(TypeError, match=r"labels must be a tensor, got list"):
        AIMLoss(tau=0.5)(output, [0, 1])
    with pytest.raises(TypeError, match=r"must be a module.*got CrossEntropyLoss; was \(\) forgotten"):
        AIMLoss(tau=0.5, classification_loss=nn.CrossEntropyLoss)
    with pytest.raises(ValueError, match=r'must return a scalar; build it with reduction="mean"'):
        AIMLoss(tau=0.5, classification_loss=nn.CrossEntropyLoss(reduction="none"))
    with pytest.raises(TypeError, match="tau must be a float"):
        AIMLoss(tau=True)
