"""The gradients that train the masks, and numbers that cannot overflow."""

import math

import pytest
import torch
from torch import Tensor, nn
from zoo import NUM_CLASSES, aim, every_head, lively

from aimwrap import AIM, AIMLoss


def mask_gradients(model: AIM, loss: AIMLoss) -> dict[str, Tensor]:
    """Gradients on the estimators after one batch, under one seed."""
    torch.manual_seed(3)
    images = torch.randn(4, 3, 64, 64).double()
    model.zero_grad()
    loss(model.double().train()(images), torch.arange(4) % NUM_CLASSES).backward()
    return {name: p.grad.clone() for name, p in model.mask_estimators.named_parameters()}


@pytest.mark.parametrize("pooling", ["active", "all"])
@every_head
def test_labels_order_positions_and_the_area_loss_opens_them(head: str, pooling: str) -> None:
    """The classification losses pull at no estimator's openness; its order of positions they train as ever."""
    arguments = {"pooling": pooling, "tau": 0.3}  # an area that no mask of so few positions has
    model = lively(aim(head, (1, 2, 3), **arguments))
    twin = lively(aim(head, (1, 2, 3), **arguments, labels_move_area=True))
    twin.load_state_dict(model.state_dict())
    labels_only = AIMLoss(model.tau, mask_weight=0)
    area_only = AIMLoss(model.tau, stage_weight=0, final_weight=0)
    from_labels, as_the_paper = mask_gradients(model, labels_only), mask_gradients(twin, labels_only)
    for name, gradient in from_labels.items():
        if "how_much" in name:
            assert gradient.abs().max() < 1e-5 * as_the_paper[name].abs().max()
        else:
            assert gradient.abs().max() > 0
            torch.testing.assert_close(gradient, as_the_paper[name], rtol=1e-3, atol=1e-6)
    from_area = mask_gradients(model, area_only)
    assert all(from_area[name].abs().max() > 0 for name in from_area if "how_much" in name)
    for name, gradient in mask_gradients(twin, area_only).items():
        assert torch.equal(gradient, from_area[name])


@every_head
def test_what_trains_the_area_changes_no_value(head: str) -> None:
    model = lively(aim(head)).train()
    twin = aim(head, labels_move_area=True).train()
    twin.load_state_dict(model.state_dict())
    images, outputs = torch.randn(2, 3, 64, 64), []
    for each in (model, twin):
        torch.manual_seed(7)
        outputs.append(each(images))
    assert torch.equal(outputs[0].logits, outputs[1].logits)
    for stage in model.stages:
        assert torch.equal(outputs[0].masks[stage], outputs[1].masks[stage])
        assert torch.equal(outputs[0].stage_logits[stage], outputs[1].stage_logits[stage])


@every_head
def test_a_mask_and_its_selection_are_one_mask(head: str) -> None:
    model = lively(aim(head)).train()
    features = model.forward_masks(model.forward_backbone(torch.randn(2, 3, 97, 61)))
    for stage in model.stages:
        assert torch.equal(features.masks[stage], features.selections[stage])


# ---- Numbers that cannot overflow ------------------------------------------------------------------------------------


@pytest.mark.parametrize("logit_range", [6.0, math.inf])
@pytest.mark.parametrize("bias", [-1e4, 0.0, 1e4])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@every_head
def test_autocast_with_extreme_logits_stays_finite(
    head: str, dtype: torch.dtype, bias: float, logit_range: float
) -> None:
    model = aim(head, logit_range=logit_range).train()
    for estimator in model.mask_estimators.values():
        nn.init.constant_(estimator.how_much.bias, bias)
    with torch.autocast("cpu", dtype=dtype):
        output = model(torch.randn(2, 3, 64, 64))
        loss = AIMLoss(model.tau)(output, torch.tensor([0, 1]))
    loss.backward()
    assert loss.dtype == torch.float32 and loss.isfinite()
    assert all(set(mask.unique().tolist()) <= {0.0, 1.0} for mask in output.masks.values())
    assert all(logits.isfinite().all() for logits in (output.logits, *output.stage_logits.values()))
    assert all(p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
@every_head
def test_complete_model_in_another_dtype(head: str, dtype: torch.dtype) -> None:
    model = aim(head).to(dtype).train()
    output = model(torch.randn(2, 3, 64, 64, dtype=dtype))
    AIMLoss(model.tau)(output, torch.tensor([0, 1])).backward()
    assert output.logits.dtype == output.masks[2].dtype == dtype
    assert all(set(mask.unique().tolist()) <= {0.0, 1.0} for mask in output.masks.values())
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
