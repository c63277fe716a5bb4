"""A second look is shown the kept pixels and nothing else, enlarged, and takes its logits apart exactly."""

import copy
from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor, nn
from zoo import HeadConvNet

from aimwrap import AIM, AIMLoss, MaskHealth, SecondLook, exchange_backgrounds, explain, verify
from aimwrap.analysis.look import look
from aimwrap.second_look import boxes_around, enlarge, kept_pixels
from aimwrap.taps import FINAL, count_macs


@pytest.fixture(scope="module")
def built() -> AIM:
    """With masks so small that, grown, they keep a tenth to four tenths of an image, and no box is all of it."""
    torch.manual_seed(0)
    model = AIM(timm.create_model("test_resnet", num_classes=3), stages=[2, 3])
    for estimator in model.mask_estimators.values():
        nn.init.constant_(estimator.how_much.bias, -7.0)
    return model


@pytest.fixture
def model(built: AIM) -> AIM:
    return copy.deepcopy(built)


@pytest.fixture
def images() -> Tensor:
    return torch.randn(4, 3, 96, 128, generator=torch.Generator().manual_seed(1))


def test_hidden_pixels_move_no_bit_whatever_they_are(model: AIM, images: Tensor) -> None:
    second = SecondLook(model)
    output = second(images)
    assert 0 < output.kept.mean() < 1
    noise = 1e3 * torch.randn_like(images)
    replaced = torch.where(output.kept > 0, images, noise)
    assert torch.equal(second.logits_of(replaced, output.kept, output.boxes), output.logits)
    assert not torch.equal(second.logits_of(replaced, torch.ones_like(output.kept), output.boxes), output.logits)


def test_kept_pixels_move_the_logits(model: AIM, images: Tensor) -> None:
    second = SecondLook(model)
    output = second(images)
    replaced = torch.where(output.kept > 0, -images, images)
    assert not torch.equal(second.logits_of(replaced, output.kept, output.boxes), output.logits)


@pytest.mark.parametrize(("margin", "least"), [(0, 0.1), (1, 0.7), (2, 0.3)])
def test_the_second_look_is_the_backbone_on_the_cut_image(
    margin: int, least: float, model: AIM, images: Tensor
) -> None:
    """A naive transcription: grow, cut, crop, enlarge, average, classify."""
    model.eval()
    second = SecondLook(model, margin=margin, least=least, fill=0.5).eval()
    output = second(images)
    merged = model.forward_masks(model.forward_backbone(images)).merged_mask
    for number, image in enumerate(images):
        grown = torch.zeros_like(merged[number, 0])
        for row, column in merged[number, 0].nonzero().tolist():
            grown[max(0, row - margin) : row + margin + 1, max(0, column - margin) : column + margin + 1] = 1
        cell = image.shape[-1] // grown.shape[-1]
        kept = grown.repeat_interleave(cell, 0).repeat_interleave(cell, 1)
        assert torch.equal(output.kept[number, 0], kept)
        assert torch.equal(output.boxes[number], boxes_around(kept[None, None], least)[0])
        shown = enlarge(torch.where(kept > 0, image, 0.5)[None], output.boxes[number : number + 1])
        with torch.no_grad():
            mean = model.forward_backbone(shown)[FINAL].mean((2, 3))
            expected = mean @ second.classifier.weight.T + second.classifier.bias
        torch.testing.assert_close(output.logits[number], expected[0], rtol=1e-4, atol=1e-5)


def test_contributions_add_up(model: AIM, images: Tensor) -> None:
    second = SecondLook(model)
    nn.init.normal_(second.classifier.bias)
    shares = explain(second, images).contributions
    assert shares.shape[:2] == (4, 3)
    torch.testing.assert_close(shares.sum((2, 3)) + second.classifier.bias, second(images).logits, rtol=1e-4, atol=1e-5)
    rows, columns = explain(second, torch.cat([images, images], 2)).contributions.shape[2:]
    assert (rows, columns) == (2 * images.shape[2] // 32, images.shape[3] // 32)


def test_contributions_add_up_under_autocast_without_a_bias_and_for_no_image(model: AIM, images: Tensor) -> None:
    second = SecondLook(model)
    second.classifier = nn.Linear(second.classifier.in_features, 3, bias=False)
    with torch.autocast("cpu", torch.bfloat16):
        shares, features = explain(second, images).contributions, second.features(images)
    assert shares.dtype == torch.float32
    expected = features.float() @ second.classifier.weight.T
    torch.testing.assert_close(shares.sum((2, 3)), expected, rtol=1e-2, atol=1e-2)
    assert explain(second, images[:0]).contributions.shape == (0, *shares.shape[1:])
    assert verify(second, images, measure_pixels=False, progress=False).passed


def test_another_classifier_decides_but_is_not_taken_apart(model: AIM, images: Tensor) -> None:
    second = SecondLook(model)
    second.classifier = nn.Sequential(second.classifier, nn.Tanh())
    assert second(images).logits.abs().max() < 1
    with pytest.raises(TypeError, match=r"model.classifier must be one nn.Linear, got Sequential: after"):
        explain(second, images)
    failures = verify(second, images, progress=False).failures
    assert [failure.name for failure in failures] == ["contributions add up to the logits"]
    assert "must be one nn.Linear, got Sequential" in failures[0].detail


def test_only_the_classifier_learns_and_the_first_look_has_no_noise(model: AIM, images: Tensor) -> None:
    model.train()
    second = SecondLook(model).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    first, again = second(images), second(images)
    assert torch.equal(first.kept, again.kept) and torch.equal(first.logits, again.logits)
    first.logits.sum().backward()
    assert second.classifier.weight.grad is not None
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
    assert not first.first.logits.requires_grad and not explain(second, images).contributions.requires_grad
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training, "the user's model is left in its mode"


def test_its_classifier_begins_with_small_weights_and_its_arguments_are_shown(model: AIM) -> None:
    second = SecondLook(model)
    assert second.classifier.weight.std().item() == pytest.approx(0.02, rel=0.15) and not second.classifier.bias.any()
    assert second.extra_repr() == "margin=1, least=0.3, fill=0.0"


def test_it_reads_the_final_map_after_the_last_stage(images: Tensor) -> None:
    second = SecondLook(AIM(HeadConvNet(), stages=[2, 3]))
    assert second.features(images).shape == (4, 40) and second(images).logits.shape == (4, 7)


def test_cached_features_are_what_the_classifier_reads(model: AIM, images: Tensor) -> None:
    second = SecondLook(model)
    torch.testing.assert_close(second.classifier(second.features(images)), second(images).logits)


def test_copies_show_the_mask_on_another_image_and_keep_their_own_region(model: AIM, images: Tensor) -> None:
    """The core of a mask is pasted; what the margin shows of it, and the box, stay those of the image."""
    second = SecondLook(model.train())
    found = second.features(images, 2, generator=torch.Generator().manual_seed(3))
    assert found.shape == (4, 3, second.classifier.in_features) and not found.requires_grad
    torch.testing.assert_close(found[:, 0], second.features(images))
    assert model.training
    model.eval()
    merged = model.forward_masks(model.forward_backbone(images)).merged_mask
    kept, boxes = second.region(merged, images)
    draws = torch.Generator().manual_seed(3)
    for copy_of in (1, 2):
        pasted = exchange_backgrounds(images, merged, margin=0, generator=draws)
        shown = enlarge(torch.where(kept > 0, pasted, 0), boxes)
        expected = model.forward_backbone(shown)[FINAL].mean((2, 3))
        torch.testing.assert_close(found[:, copy_of], expected)
        assert not torch.allclose(found[:, copy_of], found[:, 0])
    assert not torch.allclose(found[:, 1], found[:, 2])


@pytest.mark.parametrize(("copies", "kind"), [(-1, "positive"), (1.5, "whole"), (True, "positive")])
def test_copies_are_counted(copies: int, kind: str, model: AIM, images: Tensor) -> None:
    with pytest.raises(ValueError, match=f"copies must be a {kind} number, got {copies}"):
        SecondLook(model).features(images, copies)


def test_copies_of_images_that_are_not_finite_are_refused(model: AIM, images: Tensor) -> None:
    images[0, 0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="got NaN; a model's are NaN where its images or weights are not finite"):
        SecondLook(model).features(images, 1)


def test_its_weights_load_again(model: AIM, images: Tensor) -> None:
    second, other = SecondLook(model), SecondLook(copy.deepcopy(model))
    for parameter in other.parameters():
        nn.init.zeros_(parameter)
    other.load_state_dict(second.state_dict())
    assert torch.equal(other(images).logits, second(images).logits)


def test_wrapped_models_are_found_and_others_refused(model: AIM) -> None:
    assert SecondLook(torch.nn.DataParallel(model)).first is model
    with pytest.raises(TypeError, match=r"model must be an AIM, got Linear; wrap the backbone"):
        SecondLook(nn.Linear(1, 1))
    for wrong in (SecondLook(model), nn.DataParallel(SecondLook(model))):
        with pytest.raises(TypeError, match=r"model must be an AIM, got \w+; pass the one in it, model\..*first"):
            SecondLook(wrong)
    paper = AIM(timm.create_model("test_resnet", num_classes=3), stages=[2, 3], head="paper")
    with pytest.raises(ValueError, match=r"feature-preserving head.*got the paper head: AIM\(backbone, head="):
        SecondLook(paper)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"margin": -1}, r"margin must be a whole number of positions, 0 to 1000, got -1"),
        ({"margin": 1.0}, r"margin must be a whole number of positions, 0 to 1000, got 1.0"),
        ({"margin": True}, r"margin must be a whole number of positions, 0 to 1000, got True"),
        ({"least": 0}, r"least must be a share of the image's sides in \(0, 1\], got 0"),
        ({"least": 1.5}, r"least must be a share of the image's sides in \(0, 1\], got 1.5"),
        ({"least": None}, r"least must be a share of the image's sides in \(0, 1\], got None"),
        ({"fill": (0.5, 0.4, 0.3)}, r"fill must be one finite number for all channels.* got \(0.5, 0.4, 0.3\)"),
        ({"fill": float("nan")}, r"fill must be one finite number for all channels.* got nan"),
    ],
)
def test_arguments_out_of_range_are_named(model: AIM, arguments: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        SecondLook(model, **arguments)


def test_masks_and_boxes_of_other_images_are_refused(model: AIM, images: Tensor) -> None:
    second = SecondLook(model)
    kept, boxes = torch.ones(4, 1, 96, 128), torch.tensor([[0.0, 0.0, 128.0, 96.0]]).repeat(4, 1)
    for wrong in (kept[:1], kept[:, 0], kept[..., :64], kept.mT):
        with pytest.raises(ValueError, match=r"kept must be of shape \(4, 1, 96, 128\), the images' own, got \("):
            second.logits_of(images, wrong, boxes)
    for wrong in (boxes[:2], boxes[:, :3]):
        with pytest.raises(ValueError, match=r"boxes must be of shape \(4, 4\), left, top, right and bottom.* got \("):
            second.logits_of(images, kept, wrong)
    with pytest.raises(ValueError, match=r"got \(3, 96, 128\); add a batch dimension"):
        second.logits_of(images[0], kept, boxes)
    assert torch.equal(second.logits_of(images, kept.bool(), boxes), second.logits_of(images, kept, boxes))


def test_boxes_hold_what_is_kept_have_the_image_s_shape_and_lie_within_it() -> None:
    generator = torch.Generator().manual_seed(0)
    kept = torch.zeros(50, 1, 30, 60)
    for one in kept:
        top, left = torch.randint(0, 25, (), generator=generator), torch.randint(0, 50, (), generator=generator)
        one[0, top : top + 4, left : left + 9] = 1
    boxes = boxes_around(kept, least=0.1)
    left, top, right, bottom = boxes.unbind(1)
    torch.testing.assert_close((right - left) / (bottom - top), torch.full((50,), 2.0))
    assert (boxes >= 0).all() and (right <= 60).all() and (bottom <= 30).all()
    for one, box in zip(kept, boxes, strict=True):
        rows, columns = one[0].amax(1).nonzero(), one[0].amax(0).nonzero()
        assert box[0] <= columns.min() and columns.max() + 1 <= box[2]
        assert box[1] <= rows.min() and rows.max() + 1 <= box[3]
    torch.testing.assert_close((right - left) / 60, torch.full((50,), 9 / 60))  # no larger than needed


def test_a_small_box_is_as_large_as_asked_and_an_empty_mask_keeps_nothing_of_the_complete_image() -> None:
    kept = torch.zeros(2, 1, 20, 20)
    kept[0, 0, 19, 0] = 1
    assert boxes_around(kept, least=0.5).tolist() == [[0, 10, 10, 20], [0, 0, 20, 20]]
    kept[0] = 0
    kept[0, 0, 4:7, 4:8] = 1
    assert boxes_around(kept[:1], least=0.25).tolist() == [[3.5, 3, 8.5, 8]], "in the middle, between pixels"


def test_an_empty_mask_says_the_same_of_every_image(model: AIM, images: Tensor) -> None:
    second = SecondLook(model)
    for estimator in model.mask_estimators.values():
        estimator.forward = lambda *maps: -torch.ones_like(maps[0][:, :1])  # type: ignore[method-assign]
    output = second(images)
    assert output.kept.sum() == 0
    assert torch.equal(output.logits, output.logits[:1].expand_as(output.logits))


def test_enlarging_the_complete_image_changes_nothing_and_halves_are_interpolated() -> None:
    images = torch.randn(2, 3, 8, 12)
    whole = torch.tensor([[0.0, 0.0, 12.0, 8.0]]).repeat(2, 1)
    torch.testing.assert_close(enlarge(images, whole), images)
    constant = torch.full((1, 1, 8, 8), 3.0)
    torch.testing.assert_close(enlarge(constant, torch.tensor([[1.0, 2.0, 5.0, 6.0]])), constant)
    ramp = torch.arange(8.0).expand(1, 1, 8, 8)
    inner = enlarge(ramp, torch.tensor([[2.0, 2.0, 6.0, 6.0]]))[0, 0, 0]
    torch.testing.assert_close(inner, 2 + (torch.arange(8) + 0.5) / 2 - 0.5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_enlarges_each_image_s_own_box(dtype: torch.dtype) -> None:
    """Neither which image a box belongs to, nor the boxes' edges may be rounded."""
    many = (torch.arange(2100) % 7).to(dtype).view(-1, 1, 1, 1).expand(-1, 1, 2, 2)
    assert torch.equal(enlarge(many, torch.tensor([[0.0, 0.0, 2.0, 2.0]]).expand(len(many), -1)), many)
    wide = torch.randn(1, 1, 4, 600).to(dtype)
    boxes = torch.tensor([[257.5, 0.0, 557.5, 2.0]])
    assert torch.equal(enlarge(wide, boxes), enlarge(wide.float(), boxes).to(dtype))


def test_a_margin_of_nothing_keeps_the_mask_itself() -> None:
    mask = (torch.rand(2, 1, 5, 7, generator=torch.Generator().manual_seed(0)) > 0.7).float()
    images = torch.empty(2, 3, 10, 14)
    assert torch.equal(kept_pixels(mask, images), mask.repeat_interleave(2, 2).repeat_interleave(2, 3))
    assert kept_pixels(mask, images, margin=1).mean() > mask.mean()


def test_verify_holds_it_against_its_guarantees(model: AIM, images: Tensor) -> None:
    found = verify(SecondLook(model), images, batch_size=3, progress=False)
    assert found.passed, found
    assert "pixels that are not kept move no logit: to the bit" in str(found)
    assert [(row.region, row.masks, row.filling, row.images) for row in found.survival] == [
        ("kept pixels", "recomputed", filling, 4) for filling in ("mean colour", "blur", "another image")
    ]
    assert 0 < found.area < 1
    with pytest.raises(ValueError, match=r"verify\(second.first, images, plain\)"):
        verify(SecondLook(model), images, model)


def test_verify_finds_it_inside_wrappers(model: AIM, images: Tensor) -> None:
    second = SecondLook(model).train()
    for wrapped in (nn.DataParallel(second), torch.compile(second, backend="eager")):
        assert str(verify(wrapped, images, progress=False)) == str(verify(second, images, progress=False))
    assert second.training and model.training


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_verify_passes_in_other_dtypes(dtype: torch.dtype, model: AIM, images: Tensor) -> None:
    found = verify(SecondLook(model.to(dtype)), images.to(dtype), measure_pixels=False, progress=False)
    assert found.passed, found


@pytest.mark.parametrize(
    ("openness", "said", "tested"),
    [
        (100.0, "the masks are open everywhere once grown by margin=1, so", "not tested: the masks, with their margin"),
        (-100.0, "the masks are empty, so", "to the bit, 49152 pixels of 49152 replaced"),
    ],
)
def test_verify_measures_nothing_that_would_be_no_news(
    openness: float, said: str, tested: str, model: AIM, images: Tensor
) -> None:
    for estimator in model.mask_estimators.values():
        nn.init.constant_(estimator.how_much.bias, openness)
    found = verify(SecondLook(model), images, progress=False)
    assert found.passed and not found.survival
    assert said in found.note and tested in str(found)


class Deciding(SecondLook):
    """Decides by whether the image is bright, and keeps the left quarter of it."""

    def forward(self, images: Tensor) -> object:
        output = super().forward(images)
        kept = torch.zeros_like(output.kept)
        kept[..., : kept.shape[-1] // 4] = 1
        bright = images.mean((1, 2, 3)) > 0
        return output._replace(kept=kept, logits=nn.functional.one_hot(bright.long(), 3).to(images))


def test_verify_counts_over_all_images_what_other_pixels_change(model: AIM) -> None:
    """By hand: of the first and the last image the kept quarter outweighs their mean colour, and does not a blur."""
    left, right = torch.tensor([4.0, 1, -1, -4]), torch.tensor([-2.0, 1, -1, 2])
    images = torch.cat([left.repeat(32, 1), right.repeat(96, 1)]).T[:, None, None].repeat(1, 3, 96, 1)
    found = verify(Deciding(model), images, batch_size=3, progress=False)
    rates = {row.filling: row.rate for row in found.survival}
    assert (rates["mean colour"], rates["blur"], found.area) == (0.5, 1.0, 0.25)


class Leaking(SecondLook):
    """Sees a little of every pixel."""

    def closer(self, images: Tensor, kept: Tensor, boxes: Tensor) -> Tensor:
        return super().closer(images, kept, boxes) + images.mean()


class Squashing(SecondLook):
    """A non-linearity between the average and the classifier."""

    def logits_of(self, images: Tensor, kept: Tensor, boxes: Tensor) -> Tensor:
        return super().logits_of(images, kept, boxes).tanh()

    def forward(self, images: Tensor) -> object:
        output = super().forward(images)
        return output._replace(logits=output.logits.tanh())


@pytest.mark.parametrize(
    ("sabotaged", "check", "says"),
    [
        (Leaking, "pixels that are not kept move no logit", "shown more than its first one kept"),
        (Squashing, "contributions add up to the logits", "is between the pooled map and the logits"),
    ],
)
def test_verify_names_the_leak(sabotaged: type[SecondLook], check: str, says: str, model: AIM, images: Tensor) -> None:
    second = sabotaged(model)
    nn.init.normal_(second.classifier.bias)
    found = verify(second, images, measure_pixels=False, progress=False)
    failures = found.failures
    assert not found.survival
    assert [failure.name for failure in failures] == [check]
    assert says in failures[0].detail


def test_verify_does_not_take_rounding_for_a_leak(model: AIM, images: Tensor) -> None:
    """Large weights whose sum over channels cancels at every position leave rounding alone."""
    second = SecondLook(model)
    with torch.no_grad():
        positions = torch.linalg.qr(second.look(images[:1])[0][0].flatten(1)).Q
        second.classifier.weight.normal_()
        second.classifier.weight -= second.classifier.weight @ positions @ positions.T
    assert verify(second, images[:1], measure_pixels=False, progress=False).passed


class Wandering(SecondLook):
    """Grows the mask by one position, then by two, and so on."""

    def forward(self, images: Tensor) -> object:
        self.margin = 3 - self.margin
        return super().forward(images)


class Noisy(SecondLook):
    """Dropout that evaluation does not switch off."""

    def forward(self, images: Tensor) -> object:
        output = super().forward(images)
        return output._replace(logits=nn.functional.dropout(output.logits))


@pytest.mark.parametrize(
    ("sabotaged", "says"),
    [(Wandering, "the kept pixels differ from run to run"), (Noisy, "the same pixels are kept but logits differ")],
)
def test_verify_names_what_does_not_repeat(sabotaged: type[SecondLook], says: str, model: AIM, images: Tensor) -> None:
    failure = verify(sabotaged(model), images, measure_pixels=False, progress=False).failures[0]
    assert failure.name == "evaluation is repeatable" and says in failure.detail


def test_verify_names_values_that_are_not_finite(model: AIM, images: Tensor) -> None:
    second = SecondLook(model)
    nn.init.constant_(second.classifier.weight, float("nan"))
    found = verify(second, images, progress=False)
    assert "its classifier diverged" in found.failures[0].detail and not found.survival
    assert found.note == found.failures[0].detail
    nn.init.constant_(model.classifier.weight, float("nan"))
    found = verify(second, images, measure_pixels=False, progress=False)
    assert (
        "the first look's logits are not: verify(second.first, images)" in found.failures[0].detail and not found.note
    )


def test_one_look_says_the_same(model: AIM, images: Tensor) -> None:
    second = SecondLook(model).eval()
    output, seen = second(images), look(second, images)
    torch.testing.assert_close(seen.logits, output.logits)
    assert seen.kept is not None and torch.equal(seen.kept, output.kept)
    assert torch.equal(seen.output.masks[3], output.first.masks[3])
    assert seen.heatmap.shape == images[:, 0].shape and (seen.heatmap[seen.kept[:, 0] == 0] == 0).all()


def test_contributions_lie_on_the_image_with_the_same_sums(model: AIM, images: Tensor) -> None:
    """Against a naive transcription: every position is cut into a thousand points that bring equal shares."""
    second = SecondLook(model, margin=0, least=0.2)
    explanation = explain(second, images, classes=[2, 0])
    placed, box = explanation.on_the_image(), explanation.boxes
    assert placed.shape == (4, 2, 96, 128) and box is not None
    torch.testing.assert_close(placed.sum((2, 3)), explanation.contributions.sum((2, 3)), rtol=1e-5, atol=1e-7)
    rows, columns = explanation.contributions.shape[2:]
    for number, (left, top, right, bottom) in enumerate(box.tolist()):
        points = torch.zeros(96, 128, dtype=torch.float64)
        fine = 1000
        y = (top + (bottom - top) * (torch.arange(rows * fine) + 0.5) / (rows * fine)).long()
        x = (left + (right - left) * (torch.arange(columns * fine) + 0.5) / (columns * fine)).long()
        share = explanation.contributions[number, 0].double() / fine**2
        each_row = nn.functional.one_hot(y, 96).double().unflatten(0, (rows, fine)).sum(1)
        each_column = nn.functional.one_hot(x, 128).double().unflatten(0, (columns, fine)).sum(1)
        points = each_row.T @ share @ each_column
        largest = placed[number, 0].abs().max().item()
        torch.testing.assert_close(placed[number, 0].double(), points, rtol=0, atol=0.03 * largest)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(explanation.on_the_image(), placed)
    with pytest.raises(ValueError, match="an AIM's grid is laid on the whole image"):
        explain(model, images).on_the_image()


def test_what_is_explained_is_what_it_returns(model: AIM, images: Tensor) -> None:
    second = SecondLook(model)
    output, explanation = second(images), explain(second, images)
    assert torch.equal(explanation.logits, output.logits)
    assert torch.equal(explanation.kept, output.kept) and torch.equal(explanation.boxes, output.boxes)
    assert all(torch.equal(explanation.masks[stage], output.first.masks[stage]) for stage in model.stages)
    assert torch.equal(explanation.merged_mask, explain(model, images).merged_mask)
    assert explanation.stage_contributions == {}


def test_given_masks_replace_the_first_look(model: AIM, images: Tensor) -> None:
    second = SecondLook(model)
    masks = torch.zeros(4, 1, 12, 16)
    masks[:, :, 3:6, 2:9] = 1
    output = second(images, masks)
    assert output.first is None
    assert torch.equal(output.kept, kept_pixels(masks, images)), "and does not grow them"
    assert torch.equal(second(images, masks.bool()).logits, output.logits)
    noise = torch.where(output.kept > 0, images, 1e3 * torch.randn_like(images))
    assert torch.equal(second(noise, masks).logits, output.logits)
    assert not torch.equal(second(images, masks.flip(3)).logits, output.logits)
    own = second(images)
    assert torch.equal(second(images, own.kept).logits, own.logits)


@pytest.mark.parametrize(
    ("masks", "error", "says"),
    [
        (torch.full((4, 1, 6, 8), 0.3), ValueError, r"masks must be zeros and ones, .* got other values; masks > 0\.5"),
        (torch.full((4, 1, 6, 8), torch.nan), ValueError, r"got NaN"),
        (torch.ones(4, 6, 8), ValueError, r"\(4, 1, h, w\), the pixels to show, got \(4, 6, 8\)"),
        (torch.ones(1, 1, 6, 8), ValueError, r"got \(1, 1, 6, 8\)"),
        ({2: torch.ones(4, 1, 6, 8)}, TypeError, r"got dict"),
    ],
)
def test_masks_that_are_none_are_refused(
    masks: object, error: type[Exception], says: str, model: AIM, images: Tensor
) -> None:
    with pytest.raises(error, match=says):
        SecondLook(model)(images, masks)  # type: ignore[arg-type]


def test_predict_serves_the_same_logits_and_any_area(model: AIM, images: Tensor) -> None:
    second = SecondLook(model).eval()
    served = second.predict(images)
    assert torch.equal(served.logits, second(images).logits)
    wide = second.predict(images, area=1.0)
    everything = torch.ones(4, 1, 96, 128)
    assert torch.equal(wide.logits, second.logits_of(images, everything, boxes_around(everything)))
    assert all(mask.all() for mask in wide.masks.values())
    with pytest.raises(RuntimeError, match=r"training mode; call model\.eval\(\)"):
        second.train().predict(images)


def test_its_cost_is_counted(model: AIM) -> None:
    second = SecondLook(model)
    cost, side = second.cost(), model.cost().image_size
    assert cost.macs == count_macs(second, (1, 3, *side))
    assert cost.parameters == sum(parameter.numel() for parameter in second.parameters())
    assert (cost.backbone_macs, cost.backbone_parameters) == model.cost()[3:1:-1]
    assert cost.macs - cost.head_macs == model.cost().macs - model.cost().head_macs, "one pass is the backbone's own"


def test_health_takes_its_output(model: AIM, images: Tensor) -> None:
    reports = []
    for output in (model.eval()(images), SecondLook(model)(images)):
        health = MaskHealth(AIMLoss(tau=0.25))
        health.update(output, training=False)
        reports.append(health.report())
    assert reports[0] == reports[1] != []


def test_data_parallel_training_has_no_unused_parameters(model: AIM, images: Tensor, tmp_path: Path) -> None:
    """DistributedDataParallel raises in the second step where a parameter that it knows got no gradient."""
    second = SecondLook(model)
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        parallel = nn.parallel.DistributedDataParallel(second)
        for _ in range(2):
            parallel(images).logits.sum().backward()
    finally:
        torch.distributed.destroy_process_group()
    assert second.classifier.weight.grad is not None
    assert all(parameter.grad is None for parameter in model.parameters())
