"""verify(): passes on honest models, fails and names the leak on sabotaged ones, and measures pixels fairly."""

import copy
import types
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from zoo import BACKBONES, HeadConvNet, lively_aim

from aimwrap import AIM, AIMOutput, MaskedFeatures, Verification, verify
from aimwrap.analysis.intervals import wilson_interval
from aimwrap.analysis.survival import fillings as fillings_of
from aimwrap.analysis.survival import highest as highest_of
from aimwrap.analysis.survival import moved as moved_of
from aimwrap.analysis.survival import other_images as other_images_of

SIX = ["tv_resnet18", "convnext_atto", "tf_efficientnet_lite0", "mobilenetv3_small_050", "tv_densenet", "regnetx_002"]


def guarantees(model: nn.Module, images: Tensor | None = None, **arguments: object) -> Verification:
    images = torch.randn(3, 3, 64, 64) if images is None else images
    return verify(model, images, measure_pixels=False, **arguments)


@pytest.mark.parametrize("head", [pytest.param("paper", marks=pytest.mark.slow), "feature-preserving"])
@pytest.mark.parametrize("name", [*SIX[:1], *(pytest.param(name, marks=pytest.mark.slow) for name in SIX[1:])])
def test_honest_models_of_six_families_pass(name: str, head: str, wrapped: Callable[..., AIM]) -> None:
    found = guarantees(wrapped(name, head), torch.randn(2, 3, 97, 97))
    assert found.passed, str(found)
    assert len(found.checks) == 6  # finite, binary, repeatable, two stages, contributions
    assert found.survival == ()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_dtypes_pass(dtype: torch.dtype) -> None:
    found = guarantees(lively_aim().to(dtype), torch.randn(3, 3, 64, 64, dtype=dtype))
    assert found.passed, str(found)


# ---- Sabotage -------------------------------------------------------------------------------------------------------


def unmask(model: AIM, stage: int) -> AIM:
    """One stage's mask is not applied."""
    honest, index = model.top_down.masked, model.stages.index(stage)

    def masked(features: list[Tensor], masks: list[Tensor]) -> list[Tensor]:
        return [*honest(features, masks)[:index], features[index], *honest(features, masks)[index + 1 :]]

    model.top_down.masked = masked
    return model


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_a_mask_that_is_not_applied_is_named(stage: int) -> None:
    found = guarantees(unmask(lively_aim(stages=(1, 2, 3)), stage))
    leak = next(check for check in found.failures if f"outside the mask of stage {stage} move" in check.name)
    assert "they reach the final logits" in leak.detail and f"the logits of stage {stage}" in leak.detail
    others = [check for check in found.checks if "move no logit" in check.name and check is not leak]
    assert all(check.passed for check in others)
    assert not found.passed and "FAILED" in str(found)


def test_an_unmasked_stage_also_adds_outside_the_merged_mask() -> None:
    found = guarantees(unmask(lively_aim(pooling="all"), 3))
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
    assert "a norm or a non-linearity, is between the pooled map and the logits" in leak.detail


def test_a_norm_inside_the_classifier_is_named() -> None:
    model = lively_aim()
    model.classifier = nn.Sequential(nn.LayerNorm(8), model.classifier)
    [leak] = guarantees(model).failures
    assert "model.classifier must be one nn.Linear, got Sequential" in leak.detail


def test_what_forward_adds_after_the_head_is_seen() -> None:
    """The promise is about what users call, not about its three steps."""

    class Leaky(AIM):
        def forward(self, images: Tensor, masks: object = None) -> AIMOutput:
            output = super().forward(images, masks)
            return output._replace(logits=output.logits + images.mean((1, 2, 3))[:, None])

    [leak] = guarantees(Leaky(HeadConvNet(), [2, 3], width=8, mask_width=4)).failures
    assert leak.name == "contributions add up to the logits"

    model = lively_aim()
    model.register_forward_hook(lambda *args: args[-1]._replace(logits=args[-1].logits.softmax(1)))
    assert [check.name for check in guarantees(model).failures] == ["contributions add up to the logits"]


def test_a_small_leak_is_seen_and_rounding_is_not() -> None:
    for share, passed in ((1e-4, False), (1e-8, True)):
        model = lively_aim()
        model.register_forward_hook(
            lambda *args, share=share: args[-1]._replace(logits=args[-1].logits * (1 + share) + share)
        )
        assert guarantees(model).passed == passed


@pytest.mark.parametrize("classes", [100, 1000])
def test_fresh_models_of_many_classes_and_few_positions_pass(classes: int) -> None:
    """Logits that nearly cancel: rounding is judged by their terms."""
    for seed in range(3):
        torch.manual_seed(seed)
        model = AIM(HeadConvNet(), [3], num_classes=classes, head="paper", mask_width=4)
        found = guarantees(model, torch.randn(32, 3, 64, 64))
        assert found.passed, str(found)


def test_reduced_matmul_precision_is_no_leak() -> None:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        assert guarantees(lively_aim()).passed
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)


def test_a_fuse_that_adds_something_of_its_own_is_named() -> None:
    model = lively_aim()
    honest = model.top_down.fuse

    def fuse(masked: list[Tensor], masks: list[Tensor]) -> tuple[Tensor, Tensor]:
        fused, merged = honest(masked, masks)
        return fused + 0.01 * merged, merged

    model.top_down.fuse = fuse
    [leak] = guarantees(model).failures
    assert "the stages' shares miss the sum" in leak.detail and "fuse() adds more than masked maps" in leak.detail


def test_a_classifier_without_bias() -> None:
    model = lively_aim()
    model.classifier = nn.Linear(8, 7, bias=False)
    assert guarantees(model).passed


def test_noise_left_on_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import aimwrap.model

    honest = aimwrap.model.perturb
    monkeypatch.setattr(aimwrap.model, "perturb", lambda logits, **given: honest(logits, **given | {"training": True}))
    found = guarantees(lively_aim())
    [leak] = [check for check in found.failures if check.name == "evaluation is repeatable"]
    assert "the mask of stage 2 differs from run to run: noise is left on in eval()" in leak.detail
    assert all(check.passed for check in found.checks if "move no logit" in check.name)  # blamed on nothing else


def test_dropout_left_on_is_named() -> None:
    model = lively_aim()
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
    assert any("the mask of stage 2 holds other values" in check.detail for check in guarantees(lively_aim()).failures)


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (lambda m: m.classifier.weight, "the logits are not"),
        (lambda m: m.stage_classifiers["stage_2"].weight, "the stage logits of stage 2 are not"),
        (lambda m: m.mask_estimators["stage_3"].where.weight, "the mask logits of stage 3 are not"),
        (lambda m: next(m.backbone.parameters()), "the backbone's map '2' is not"),
        (lambda m: m.backbone.get_submodule("block3.0").weight, "the backbone's map '3' is not"),
    ],
)
def test_values_that_are_not_finite_are_named(spoil: Callable[[AIM], Tensor], named: str) -> None:
    model = copy.deepcopy(lively_aim())
    spoil(model).data.fill_(float("nan"))
    found = guarantees(model)
    assert named in next(check.detail for check in found.failures if check.name == "values are finite")


def test_images_that_are_not_finite_are_named() -> None:
    images = torch.randn(2, 3, 64, 64)
    images[1, 0, 5, 5] = float("inf")
    assert "the images are not" in str(guarantees(lively_aim(), images))


def test_a_leak_in_a_later_batch_is_seen() -> None:
    images = torch.randn(3, 3, 64, 64)
    images[2] = float("nan")
    assert not guarantees(lively_aim(), images, batch_size=1).passed


# ---- Pixels ---------------------------------------------------------------------------------------------------------


def test_every_filling_is_measured_with_its_controls() -> None:
    plain = HeadConvNet().eval()
    found = verify(lively_aim(), torch.randn(5, 3, 64, 64), plain, batch_size=2)
    fillings = {"mean colour", "blur", "another image"}
    keys = {(row.region, row.filling, row.masks) for row in found.survival}
    assert keys == {
        *((r, f, m) for r in ("merged mask", "moved mask") for f in fillings for m in ("fixed", "recomputed")),
        *(("plain CAM", f, "none") for f in fillings),
    }
    assert all(0 <= row.low <= row.rate <= row.high <= 1 and row.images == 5 for row in found.survival)
    assert "plain CAM" in str(found) and 0 < found.area < 1


@pytest.mark.parametrize(("bias", "said"), [(1e4, "the masks are open everywhere"), (-1e4, "the masks are empty")])
def test_masks_of_which_nothing_can_be_learned_are_not_measured(bias: float, said: str) -> None:
    model = lively_aim()
    for estimator in model.mask_estimators.values():
        nn.init.constant_(estimator.how_much.bias, bias)
    found = verify(model, torch.randn(4, 3, 64, 64))
    assert found.survival == () and said in found.note and said in str(found)
    untested = ["not tested: the mask shows something of every position" in check.detail for check in found.checks]
    assert sum(untested) == (2 if bias > 0 else 0)


def test_models_that_are_not_finite_are_not_measured() -> None:
    model = lively_aim()
    model.classifier.weight.data.fill_(float("nan"))
    found = verify(model, torch.randn(4, 3, 64, 64))
    assert found.survival == () and "the logits are not" in found.note


def test_survival_counts_predictions_that_stay() -> None:
    """A plain model that answers with the sign of the mean: a filling with the mean colour never changes it."""

    def plain(images: Tensor) -> tuple[Tensor, Tensor]:
        means = images.mean((1, 2, 3))
        return torch.stack([means, -means], 1), torch.zeros(len(images), 4, 4)

    images = torch.ones(6, 3, 64, 64) * torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0, -1.0])[:, None, None, None]
    found = verify(lively_aim(), images, plain)
    rates = {row.filling: row.rate for row in found.survival if row.region == "plain CAM"}
    assert rates["mean colour"] == rates["blur"] == 1


def test_nothing_is_left_changed() -> None:
    model = lively_aim().train()
    generator, modes = torch.get_rng_state(), [module.training for module in model.modules()]
    first, second = (verify(model, torch.ones(2, 3, 64, 64)) for _ in range(2))
    assert torch.equal(generator, torch.get_rng_state())
    assert [module.training for module in model.modules()] == modes
    assert not model.top_down._forward_hooks
    assert first == second


def testfillings_of() -> None:
    images, others = torch.randn(3, 3, 40, 48), torch.randn(3, 3, 40, 48)
    fillings = fillings_of(images, others)
    assert torch.equal(fillings["another image"], others)
    torch.testing.assert_close(fillings["mean colour"], images.mean((2, 3), keepdim=True).expand_as(images))
    assert fillings["blur"].std() < 0.2 * images.std()
    ramp = torch.linspace(0, 1, 64).expand(1, 3, 64, 64)  # what changes slowly, a blur keeps
    assert (fillings_of(ramp, None)["blur"] - ramp).abs().max() < 0.15
    assert list(fillings_of(images, None)) == ["mean colour", "blur"]


def replaced(images: Tensor, region: Tensor, filling: str, others: Tensor) -> Tensor:
    return torch.where(region.bool(), images, fillings_of(images, others)[filling])


def test_survival_replayed() -> None:
    """What verify counts, counted again by hand: regions, fillings, masks fixed and recomputed, final predictions."""
    model, plain = lively_aim(), HeadConvNet().eval()
    images = torch.randn(24, 3, 96, 96)
    with torch.no_grad():  # so that all classes are predicted, whatever this torch's first weights are
        model.classifier.bias.sub_(model(images).logits.mean(0))
        plain.fc.bias.sub_(plain(images).mean(0))
    found = {(row.region, row.filling, row.masks): row.rate for row in verify(model, images, plain, seed=3).survival}
    generator = torch.Generator().manual_seed(3)
    verify_draws = [torch.randn(shape, generator=generator) for shape in ((24, 8, 6, 6), (24, 8, 3, 3))]
    assert len(verify_draws) == 2  # the checks draw first, one stage after the other
    order = torch.randperm(24, generator=generator)
    others = images[order.roll(1)[order.argsort()]]
    output = model(images)
    predicted = output.logits.argmax(1)
    merged = model.forward_masks(model.forward_backbone(images)).merged_mask
    region = nn.functional.interpolate(merged, size=(96, 96), mode="nearest")
    moved = moved_of(region, generator)
    for name, kept in (("merged mask", region), ("moved mask", moved)):
        for filling in ("mean colour", "blur", "another image"):
            shown = replaced(images, kept, filling, others)
            fixed = (model(shown, output.masks).logits.argmax(1) == predicted).float().mean().item()
            recomputed = (model(shown).logits.argmax(1) == predicted).float().mean().item()
            assert found[name, filling, "fixed"] == pytest.approx(fixed)
            assert found[name, filling, "recomputed"] == pytest.approx(recomputed)
    assert any(found[r, f, "fixed"] != found[r, f, m] for r, f, m in found if m == "recomputed")
    maps = plain.features(images)
    logits = plain(images)
    heatmap = torch.einsum("nc,nchw->nhw", plain.fc.weight[logits.argmax(1)], maps)
    kept = highest_of(heatmap, region)
    for filling in ("mean colour", "blur", "another image"):
        same = plain(replaced(images, kept, filling, others)).argmax(1) == logits.argmax(1)
        assert found["plain CAM", filling, "none"] == pytest.approx(same.float().mean().item())
    assert len(set(found.values())) > 3


def test_another_seed_draws_other_controls() -> None:
    model, images = lively_aim(), torch.randn(24, 3, 96, 96)
    first, again, other = (verify(model, images, seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert first.survival != other.survival


def test_a_moved_region_has_the_area_and_is_elsewhere() -> None:
    region = torch.zeros(40, 1, 32, 40)
    for n in range(40):
        region[n, :, n % 5 + 1 : n % 5 + 8, 4:14] = 1  # each image its own, 7 x 10
        region[n, :, n % 5 + 1, 4] = 0
    moved = moved_of(region, torch.Generator().manual_seed(0))
    assert (moved * region).sum() == 0  # a step is at least a quarter of each side: 8 and 10
    rows = {tuple(torch.where(each[0].any(1))[0].tolist()) for each in moved}
    columns = {tuple(torch.where(each[0].any(0))[0].tolist()) for each in moved}
    assert len(rows) > 5 and len(columns) > 5  # both axes, and not all images alike
    for before, after in zip(region[:, 0], moved[:, 0], strict=True):
        rolls = (before.roll((dy, dx), (0, 1)) for dy in range(8, 25) for dx in range(10, 31))
        assert any(torch.equal(after, roll) for roll in rolls)


def test_the_highest_pixels_are_as_many_as_the_region() -> None:
    region = (torch.rand(4, 1, 24, 24) < torch.tensor([0.0, 0.1, 0.5, 1.0])[:, None, None, None]).float()
    heatmap = torch.randn(4, 24, 24)
    highest = highest_of(heatmap, region)
    assert torch.equal(highest.sum((1, 2, 3)), region.sum((1, 2, 3)))
    for n in (1, 2):
        chosen = highest[n, 0].bool()
        assert heatmap[n][chosen].min() >= heatmap[n][~chosen].max()


def test_another_image_is_never_the_same_one() -> None:
    images = torch.arange(7.0)[:, None, None, None].expand(-1, 3, 4, 4)
    for seed in range(20):
        others = torch.cat(other_images_of(images.split(3), torch.Generator().manual_seed(seed)))
        assert (others != images).all()
        assert sorted(others[:, 0, 0, 0].tolist()) == list(range(7))
    assert other_images_of((images[:1],), torch.Generator()) == (None,)


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"), [(8, 10, 0.4902, 0.9433), (0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0)]
)
def testwilson_interval(successes: int, trials: int, low: float, high: float) -> None:
    assert wilson_interval(successes, trials) == pytest.approx((low, high), abs=1e-4)


def test_wrong_input() -> None:
    images = torch.randn(2, 3, 64, 64)
    with pytest.raises(TypeError, match="model must be an AIM, got HeadConvNet"):
        verify(HeadConvNet(), images)
    with pytest.raises(ValueError, match="images must hold at least one image, got none"):
        verify(lively_aim(), images[:0])
    with pytest.raises(TypeError, match=r"images must be a tensor .* got list; torch\.stack makes one"):
        verify(lively_aim(), [images[0]])
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        verify(lively_aim(), images, batch_size=0)
    with pytest.raises(TypeError, match=r"batch_size must be an int, got 2\.5"):
        verify(lively_aim(), images, batch_size=2.5)
    with pytest.raises(TypeError, match="plain must be a classifier, or a function, got str"):
        verify(lively_aim(), images, "resnet")
    with pytest.raises(ValueError, match=r"plain must return logits \(2, K\) and heatmaps \(2, h, w\), got Tensor"):
        verify(lively_aim(), images, lambda x: x)
    with pytest.raises(ValueError, match=r"got \[\(2, 7\), \(2, 1, 4, 4\)\]"):
        verify(lively_aim(), images, lambda x: (torch.zeros(2, 7), torch.zeros(2, 1, 4, 4)))
    with pytest.raises(ValueError, match="plain's heatmaps must be finite"):
        verify(lively_aim(), images, lambda x: (torch.zeros(2, 7), torch.full((2, 4, 4), float("nan"))))
    with pytest.raises(TypeError, match="plain must be the classifier without AIM"):
        verify(lively_aim(), images, lively_aim())
    vgg = BACKBONES["tv_vgg11_bn"]().eval()
    with pytest.raises(ValueError, match="plain must end in an average over positions and one linear layer"):
        verify(lively_aim(), images, vgg)
