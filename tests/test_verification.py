"""verify(): passes on honest models, fails and names the leak on sabotaged ones, and measures pixels fairly."""

import copy
import types
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from zoo import BACKBONES, HeadConvNet

from aimwrap import AIM, AIMOutput, MaskedFeatures, Verification, verify
from aimwrap.verification import _fillings, _highest, _moved, _strangers, _wilson_interval

SIX = ["tv_resnet18", "convnext_atto", "tf_efficientnet_lite0", "mobilenetv3_small_050", "tv_densenet", "regnetx_002"]
HEADS = ["paper", "feature-preserving"]


def aim(head: str = "paper", stages: tuple = (2, 3), **arguments: object) -> AIM:
    model = AIM(HeadConvNet(), list(stages), head=head, width=8, mask_width=4, **arguments)
    for module in (model.top_down, model.mask_estimators, model.stage_classifiers, model.classifier):
        for parameter in module.parameters():
            parameter.data.add_(0.3 * torch.randn_like(parameter))
    return model.eval()


def guarantees(model: nn.Module, images: Tensor | None = None, **arguments: object) -> Verification:
    images = torch.randn(3, 3, 64, 64) if images is None else images
    return verify(model, images, measure_pixels=False, **arguments)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("name", SIX)
def test_honest_models_of_six_families_pass(name: str, head: str, wrapped: Callable[..., AIM]) -> None:
    found = guarantees(wrapped(name, head), torch.randn(2, 3, 97, 97))
    assert found.passed, str(found)
    assert len(found.checks) == 6  # finite, binary, repeatable, two stages, contributions
    assert found.survival == ()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_dtypes_pass(dtype: torch.dtype) -> None:
    found = guarantees(aim().to(dtype), torch.randn(3, 3, 64, 64, dtype=dtype))
    assert found.passed, str(found)


# ---- Sabotage -------------------------------------------------------------------------------------------------------


def unmask(model: AIM, stage: int) -> AIM:
    """One stage's mask is not applied."""
    index = model.stages.index(stage)
    honest = model.forward_masks

    def forward_masks(self: AIM, maps: dict[str, Tensor], masks: object = None) -> MaskedFeatures:
        features = honest(maps, masks)
        transformed, _ = self.top_down([maps[str(s)] for s in self.stages], maps.get("final map"))
        masked = dict(features.masked)
        masked[stage] = transformed[index]
        fused, _ = self.top_down.fuse(list(masked.values()), list(features.masks.values()))
        return features._replace(masked=masked, fused=fused)

    model.forward_masks = types.MethodType(forward_masks, model)
    return model


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_a_mask_that_is_not_applied_is_named(stage: int) -> None:
    found = guarantees(unmask(aim(stages=(1, 2, 3)), stage))
    leak = next(check for check in found.failures if f"outside the mask of stage {stage} move" in check.name)
    assert "they reach the final logits" in leak.detail and f"the logits of stage {stage}" in leak.detail
    others = [check for check in found.checks if "move no logit" in check.name and check is not leak]
    assert all(check.passed for check in others)
    assert not found.passed and "FAILED" in str(found)


def test_an_unmasked_stage_also_adds_outside_the_merged_mask() -> None:
    found = guarantees(unmask(aim(pooling="all"), 3))
    assert any("outside the merged mask" in check.detail for check in found.failures)


def test_a_norm_between_pooling_and_logits_is_named() -> None:
    class Normalised(AIM):
        def forward_head(self, features: MaskedFeatures) -> AIMOutput:
            output = super().forward_head(features)
            pooled = features.fused.sum((2, 3)) / features.merged_mask.sum((2, 3)).clamp(min=1)
            return output._replace(logits=self.classifier(nn.functional.layer_norm(pooled, pooled.shape[-1:])))

    model = Normalised(HeadConvNet(), [2, 3], width=8, mask_width=4).eval()
    [leak] = guarantees(model).failures
    assert leak.name == "contributions add up to the logits"
    assert "a norm or a non-linearity, stands between the pooled map and the logits" in leak.detail


def test_a_norm_inside_the_classifier_is_named() -> None:
    model = aim()
    model.classifier = nn.Sequential(nn.LayerNorm(8), model.classifier)
    [leak] = guarantees(model).failures
    assert "model.classifier must be one nn.Linear, got Sequential" in leak.detail


def test_noise_left_on_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import aimwrap.model

    honest = aimwrap.model.perturb
    monkeypatch.setattr(aimwrap.model, "perturb", lambda logits, *, training: honest(logits, training=True))
    found = guarantees(aim())
    [leak] = [check for check in found.failures if check.name == "evaluation is repeatable"]
    assert "the mask of stage 2 differs from run to run: noise is left on in eval()" in leak.detail
    assert all(check.passed for check in found.checks if "move no logit" in check.name)  # blamed on nothing else


def test_dropout_left_on_is_named() -> None:
    model = aim()
    honest = model.forward_head

    def forward_head(self: AIM, features: MaskedFeatures) -> AIMOutput:
        output = honest(features)
        return output._replace(logits=nn.functional.dropout(output.logits, 0.5, training=True))

    model.forward_head = types.MethodType(forward_head, model)
    assert "masks repeat but logits do not" in next(
        check.detail for check in guarantees(model).failures if check.name == "evaluation is repeatable"
    )


def test_a_soft_mask_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import aimwrap.model

    monkeypatch.setattr(aimwrap.model, "straight_through", lambda logits, temperature: torch.sigmoid(logits))
    assert any("the mask of stage 2 holds other values" in check.detail for check in guarantees(aim()).failures)


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (lambda m: m.classifier.weight, "the logits are not"),
        (lambda m: m.stage_classifiers["stage_2"].weight, "the stage logits of stage 2 are not"),
        (lambda m: m.mask_estimators["stage_3"].where.weight, "the mask logits of stage 3 are not"),
        (lambda m: next(m.backbone.parameters()), "the backbone's map '2' is not"),
    ],
)
def test_values_that_are_not_finite_are_named(spoil: Callable[[AIM], Tensor], named: str) -> None:
    model = copy.deepcopy(aim())
    spoil(model).data.fill_(float("nan"))
    found = guarantees(model)
    assert named in next(check.detail for check in found.failures if check.name == "values are finite")


def test_images_that_are_not_finite_are_named() -> None:
    images = torch.randn(2, 3, 64, 64)
    images[1, 0, 5, 5] = float("inf")
    assert "the images are not" in str(guarantees(aim(), images))


def test_a_leak_in_a_later_batch_is_seen() -> None:
    images = torch.randn(3, 3, 64, 64)
    images[2] = float("nan")
    assert not guarantees(aim(), images, batch_size=1).passed


# ---- Pixels ---------------------------------------------------------------------------------------------------------


def test_every_filling_is_measured_with_its_controls() -> None:
    plain = HeadConvNet().eval()
    found = verify(aim(), torch.randn(5, 3, 64, 64), plain, batch_size=2)
    fillings = {"mean colour", "blur", "another image"}
    keys = {(row.region, row.filling, row.masks) for row in found.survival}
    assert keys == {
        *((r, f, m) for r in ("merged mask", "moved mask") for f in fillings for m in ("fixed", "recomputed")),
        *(("plain CAM", f, "none") for f in fillings),
    }
    assert all(0 <= row.low <= row.rate <= row.high <= 1 and row.images == 5 for row in found.survival)
    assert "plain CAM" in str(found) and 0 < found.area < 1


def test_a_model_that_keeps_everything_survives_everything() -> None:
    model = aim()
    for estimator in model.mask_estimators.values():
        nn.init.constant_(estimator.how_much.bias, 1e4)
    found = verify(model, torch.randn(4, 3, 64, 64))
    assert found.area == 1
    assert all(row.rate == 1 for row in found.survival)


def test_survival_counts_predictions_that_stay() -> None:
    """A plain model that answers with the sign of the mean: a filling with the mean colour never changes it."""

    def plain(images: Tensor) -> tuple[Tensor, Tensor]:
        means = images.mean((1, 2, 3))
        return torch.stack([means, -means], 1), torch.zeros(len(images), 4, 4)

    images = torch.ones(6, 3, 64, 64) * torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0, -1.0])[:, None, None, None]
    found = verify(aim(), images, plain)
    rates = {row.filling: row.rate for row in found.survival if row.region == "plain CAM"}
    assert rates["mean colour"] == rates["blur"] == 1


def test_nothing_is_left_changed() -> None:
    model = aim().train()
    generator, modes = torch.get_rng_state(), [module.training for module in model.modules()]
    first, second = (verify(model, torch.ones(2, 3, 64, 64)) for _ in range(2))
    assert torch.equal(generator, torch.get_rng_state())
    assert [module.training for module in model.modules()] == modes
    assert not model.top_down._forward_hooks
    assert first == second


def test_fillings() -> None:
    images, others = torch.randn(3, 3, 40, 48), torch.randn(3, 3, 40, 48)
    fillings = _fillings(images, others)
    assert torch.equal(fillings["another image"], others)
    torch.testing.assert_close(fillings["mean colour"], images.mean((2, 3), keepdim=True).expand_as(images))
    assert fillings["blur"].std() < 0.2 * images.std()
    ramp = torch.linspace(0, 1, 64).expand(1, 3, 64, 64)  # what changes slowly, a blur keeps
    assert (_fillings(ramp, None)["blur"] - ramp).abs().max() < 0.15
    assert list(_fillings(images, None)) == ["mean colour", "blur"]


def test_pixels_inside_the_region_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the model is shown equals the image where the region is, and the filling elsewhere."""
    model, images = aim(), torch.randn(2, 3, 64, 64)
    shown: list[Tensor] = []
    honest = AIM.forward

    def forward(self: AIM, pixels: Tensor, masks: object = None) -> AIMOutput:
        shown.append(pixels)
        return honest(self, pixels, masks)

    monkeypatch.setattr(AIM, "forward", forward)
    verify(model, images)
    merged = model.forward_masks(model.forward_backbone(images)).merged_mask
    region = nn.functional.interpolate(merged, size=(64, 64), mode="nearest").bool().expand_as(images)
    assert 0 < region.float().mean() < 1
    mean = images.mean((2, 3), keepdim=True).expand_as(images)
    assert torch.equal(shown[-12], torch.where(region, images, mean))  # merged mask, mean colour, masks fixed
    assert torch.equal(shown[-11], shown[-12])  # and recomputed
    moved = shown[-6]
    assert (moved[0] == images[0]).float().mean() == pytest.approx(region[0].float().mean().item(), abs=0.01)
    assert not torch.equal(moved, shown[-12])


def test_a_moved_region_has_the_area_and_lies_elsewhere() -> None:
    region = torch.zeros(8, 1, 32, 40)
    region[:, :, 4:12, 4:12] = 1
    moved = _moved(region)
    assert torch.equal(moved.sum((1, 2, 3)), region.sum((1, 2, 3)))
    assert (moved * region).sum() == 0


def test_the_highest_pixels_are_as_many_as_the_region() -> None:
    region = (torch.rand(4, 1, 24, 24) < torch.tensor([0.0, 0.1, 0.5, 1.0])[:, None, None, None]).float()
    heatmap = torch.randn(4, 24, 24)
    highest = _highest(heatmap, region)
    assert torch.equal(highest.sum((1, 2, 3)), region.sum((1, 2, 3)))
    for n in (1, 2):
        chosen = highest[n, 0].bool()
        assert heatmap[n][chosen].min() >= heatmap[n][~chosen].max()


def test_another_image_is_never_the_same_one() -> None:
    images = torch.arange(7.0)[:, None, None, None].expand(-1, 3, 4, 4)
    for _ in range(20):
        strangers = torch.cat(_strangers(images.split(3)))
        assert (strangers != images).all()
        assert sorted(strangers[:, 0, 0, 0].tolist()) == list(range(7))
    assert _strangers((images[:1],)) == (None,)


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"), [(8, 10, 0.4902, 0.9433), (0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0)]
)
def test_wilson_interval(successes: int, trials: int, low: float, high: float) -> None:
    assert _wilson_interval(successes, trials) == pytest.approx((low, high), abs=1e-4)


def test_wrong_input() -> None:
    images = torch.randn(2, 3, 64, 64)
    with pytest.raises(TypeError, match="model must be an AIM, got HeadConvNet"):
        verify(HeadConvNet(), images)
    with pytest.raises(ValueError, match="of at least one image"):
        verify(aim(), images[:0])
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        verify(aim(), images, batch_size=0)
    with pytest.raises(TypeError, match="plain must be the classifier without AIM"):
        verify(aim(), images, aim())
    vgg = BACKBONES["tv_vgg11_bn"]().eval()
    with pytest.raises(ValueError, match="plain must end in global average pooling and one linear layer"):
        verify(aim(), images, vgg)
