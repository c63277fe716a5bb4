"""Half precision rounds what the backbone and the wide maps hold; counts, masks and what decides them stay exact."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from zoo import TinyNet

from aimwrap import AIM, AIMLoss, AIMOutput, MaskEstimator
from aimwrap._numerics import without_autocast
from aimwrap.mask_estimator import ProjectedConv3x3
from aimwrap.resizing import sum_to
from aimwrap.top_down import FeaturePreservingTopDown, PaperTopDown

Wrapped = Callable[..., AIM]
HALVES = [torch.bfloat16, torch.float16]
every_head = pytest.mark.parametrize("head", ["paper", "feature-preserving"])
every_half = pytest.mark.parametrize("dtype", HALVES, ids=str)


def same(got: dict, expected: dict) -> float:
    """Share of the positions of all masks that are equal."""
    pairs = [(got[stage].float(), expected[stage].float()) for stage in expected]
    return torch.cat([(a == b).flatten() for a, b in pairs]).double().mean().item()


def trained(head: str, dtype: torch.dtype | None, steps: int = 40) -> tuple[AIM, list[float]]:
    """A model after some steps, and its losses; under autocast if there is a dtype. A bright square shows the class.

    Without autocast it is trained in double precision, so that it is the same one whatever the number of threads and
    the order in which they sum.
    """
    torch.manual_seed(0)
    model = AIM(TinyNet(), tau=0.25, head=head, width=16, mask_width=8).train()
    if dtype is None:
        model.double()
    model.freeze_norm_statistics()
    criterion = AIMLoss(tau=model.tau)
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    scaler = torch.amp.GradScaler("cpu", init_scale=256.0, enabled=dtype == torch.float16)
    losses = []
    for step in range(steps):
        torch.manual_seed(step)
        images, labels = some_images(8)
        images = images.to(model.classifier.weight.dtype)
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=dtype, enabled=dtype is not None):
            output = model(images)
            loss = criterion(output, labels)
        assert all(((mask == 0) | (mask == 1)).all() for mask in output.masks.values())
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
        scaler.step(optimizer)
        scaler.update()
        losses.append(loss.item())
    return model.float().eval(), losses


def some_images(count: int, side: int = 128) -> tuple[Tensor, Tensor]:
    labels = torch.arange(count) % 3
    images = 0.3 * torch.randn(count, 3, side, side)
    for image, label in zip(images, labels.tolist(), strict=True):
        row, column = torch.randint(0, side - side // 3, (2,)).tolist()
        image[label, row : row + side // 3, column : column + side // 3] += 2
    return images, labels


# ---- Counts ----------------------------------------------------------------------------------------------------------


@every_half
@pytest.mark.parametrize("side", [15, 16, 17, 50])
def test_counts_stay_exact_under_autocast(side: int, dtype: torch.dtype) -> None:
    """bfloat16 counts to 256, float16 to 2048."""
    with torch.autocast("cpu", dtype=dtype):
        counts = sum_to(torch.ones(1, 1, side, side), torch.empty(1, 1))
    assert counts.dtype == torch.float32 and counts.item() == side * side


@every_half
def test_a_mean_is_rounded_once_under_autocast(dtype: torch.dtype) -> None:
    """Not map by map, nor by the counts."""
    final, mask = torch.randn(2, 5, 2, 2), (torch.rand(2, 1, 60, 60) < 0.3).float()
    top_down = FeaturePreservingTopDown([4], 5)
    _, expected = top_down.means([final], [mask], "active")
    with torch.autocast("cpu", dtype=dtype):
        assert torch.equal(top_down.means([final], [mask], "active")[1], expected)


# ---- What decides the masks ------------------------------------------------------------------------------------------


@every_half
def test_after_its_stem_an_estimator_does_not_follow_autocast(dtype: torch.dtype) -> None:
    estimator = MaskEstimator(6, width=8)
    rounded = torch.randn(2, 8, 10, 10).to(dtype)
    estimator.stem.forward = lambda _: rounded
    features = torch.zeros(2, 6, 10, 10)
    with torch.autocast("cpu", dtype=dtype):
        scores = estimator.score(features)
    rounded = rounded.float()
    assert scores.dtype == torch.float32 and torch.equal(scores, estimator.score(features))


def summed_parts(stem: ProjectedConv3x3, features: Tensor, dtype: torch.dtype) -> Tensor:
    """The nine kernel positions, each rounded, and summed in float32."""
    height, width = features.shape[2:]
    rows, columns = [0, *range(height), height - 1], [0, *range(width), width - 1]
    total = stem.bias.float()[:, None, None]
    for k in range(9):
        weight = stem.weight[:, :, k // 3, k % 3, None, None].to(dtype)
        part = F.conv2d(features.to(dtype), weight).float()[:, :, rows][..., columns]
        total = total + part[..., k // 3 : k // 3 + height, k % 3 : k % 3 + width]
    return total


@every_half
def test_a_stem_rounds_its_parts_and_not_their_sums(dtype: torch.dtype) -> None:
    """Under autocast the result is float32; of a model in half precision it is rounded once."""
    stem, features = ProjectedConv3x3(40, 8), torch.randn(2, 40, 9, 7)
    nn.init.normal_(stem.bias)
    expected = summed_parts(stem, features, dtype)
    with torch.autocast("cpu", dtype=dtype):
        got = stem(features)
    assert got.dtype == torch.float32 and torch.equal(got, expected)
    assert not torch.equal(got, got.to(dtype).float())
    halved = stem.to(dtype)
    got = halved(features.to(dtype))
    assert got.dtype == dtype
    assert torch.equal(got, summed_parts(halved, features, dtype).to(dtype))


@every_half
@every_head
def test_means_have_the_maps_dtype(head: str, dtype: torch.dtype) -> None:
    """The classifiers are given what they are given without masks: what autocast made of the maps."""
    top_down = PaperTopDown([4, 6], 8) if head == "paper" else FeaturePreservingTopDown([4, 6], 8)
    maps, final = [torch.randn(2, 4, 12, 12), torch.randn(2, 6, 6, 6)], torch.randn(2, 8, 6, 6)
    for few in (1.0, 0.1):
        masks = [(torch.rand(2, 1, *x.shape[2:]) < few).float() for x in maps]
        for made in (torch.float32, dtype):
            with torch.autocast("cpu", dtype=dtype):
                stages, fused = top_down.means(top_down([x.to(made) for x in maps], final.to(made)), masks, "active")
            assert {x.dtype for x in (*stages, fused)} == {dtype if head == "paper" else made}


@every_half
@every_head
def test_autocast_does_not_widen_the_masked_maps(head: str, dtype: torch.dtype, wrapped: Wrapped) -> None:
    """Masks are float32 there, and a product with them would be too."""
    model = wrapped("tiny", head)
    with torch.no_grad(), torch.autocast("cpu", dtype=dtype):
        features = model.forward_masks(model.forward_backbone(torch.randn(2, 3, 64, 64)))
        for stage in model.stages:
            assert features.masks[stage].dtype == torch.float32
            assert features.masked[stage].dtype == features.features[stage].dtype
            assert torch.equal(features.masked[stage] != 0, (features.masked[stage] * features.masks[stage]) != 0)


def test_autocast_is_left_where_it_is_on_and_not_entered_elsewhere() -> None:
    ones = torch.full((1, 1), 1 + 2**-10)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with without_autocast(ones):
            assert (ones @ ones).dtype == torch.float32
        assert (ones @ ones).dtype == torch.bfloat16
    for device in ("cpu", "meta"):
        with without_autocast(torch.ones(1, device=device)) as entered:
            assert entered is None


@every_half
@every_head
def test_trained_masks_are_nearly_those_of_float32(head: str, dtype: torch.dtype) -> None:
    """AIM's own arithmetic under autocast, on the same maps: what a backbone loses is its own matter.

    Only the stem rounds. Logits spread over about 4; were all of the estimator rounded, bfloat16 would move them by
    0.02.
    """
    model, _ = trained(head, None)
    with torch.no_grad():
        maps = model.forward_backbone(some_images(150)[0])
        expected = model.forward_masks(maps)
        with torch.autocast("cpu", dtype=dtype):
            got = model.forward_masks(maps)
    areas = [mask.mean().item() for mask in expected.masks.values()]
    assert all(0.05 < area < 0.95 for area in areas)
    moved = [(got.mask_logits[stage] - expected.mask_logits[stage]).flatten() for stage in model.stages]
    assert torch.cat(moved).abs().median() < (0.007 if dtype == torch.bfloat16 else 0.001)
    assert same(got.masks, expected.masks) >= (0.998 if dtype == torch.bfloat16 else 0.9995)


def test_compilers_follow_and_exporters_see_no_autocast() -> None:
    estimator, features = MaskEstimator(6, width=8).eval(), torch.randn(2, 6, 10, 10)
    compiled = torch.compile(estimator, fullgraph=True, backend="eager")
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(compiled(features), estimator(features))
    exported = torch.export.export(estimator, (features,))
    assert not any("autocast" in str(node.target) for node in exported.graph.nodes)


@every_half
@every_head
def test_predict_agrees_with_forward_under_autocast(head: str, dtype: torch.dtype, wrapped: Wrapped) -> None:
    model, images = wrapped("tiny", head), torch.randn(2, 3, 320, 320)
    with torch.no_grad(), torch.autocast("cpu", dtype=dtype):
        output, prediction = model(images), model.predict(images)
        sparse = model.predict(images, area=0.02)
        held = model(images, sparse.masks)
    assert same(prediction.masks, output.masks) == 1
    for got, expected in ((prediction, output), (sparse, held)):
        assert (got.logits - expected.logits).abs().max() <= 0.03 * expected.logits.abs().max()


# ---- Training --------------------------------------------------------------------------------------------------------


@every_half
@every_head
def test_training_under_autocast_follows_float32(head: str, dtype: torch.dtype) -> None:
    model, losses = trained(head, dtype, steps=12)
    _, expected = trained(head, None, steps=12)
    assert losses[0] == pytest.approx(expected[0], rel=0.02)  # the same noise; a mask near 0 may turn
    assert losses[-1] == pytest.approx(expected[-1], rel=0.1)
    assert all(p.isfinite().all() and p.dtype == torch.float32 for p in model.parameters())


@every_head
def test_training_in_bfloat16_stays_finite(head: str) -> None:
    model = AIM(TinyNet(), head=head, width=16, mask_width=8).bfloat16().train()
    criterion, optimizer = AIMLoss(tau=model.tau), torch.optim.SGD(model.parameters(), 0.01)
    for _ in range(5):
        images, labels = some_images(4, 64)
        output = model(images.bfloat16())
        loss = criterion(output, labels)
        assert loss.dtype == torch.float32 and loss.isfinite()
        assert all(((mask == 0) | (mask == 1)).all() for mask in output.masks.values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert all(p.isfinite().all() for p in model.parameters())


@every_half
def test_losses_are_computed_in_float32(dtype: torch.dtype) -> None:
    """Of half-precision logits: the same value as of their float32 copies, to the bit."""
    logits, mask, labels = torch.randn(4, 3).to(dtype), torch.ones(4, 1, 2, 2, dtype=dtype), torch.arange(4) % 3
    half = AIMOutput(logits, {3: logits}, {3: mask})
    full = AIMOutput(logits.float(), {3: logits.float()}, {3: mask.float()})
    criterion = AIMLoss(tau=0.25)
    assert torch.equal(criterion(half, labels), criterion(full, labels))
    double = AIMOutput(logits.double(), {3: logits.double()}, {3: mask.double()})
    assert criterion(double, labels).dtype == torch.float64


def test_the_papers_transforms_follow_autocast() -> None:
    """They are what costs, and decide no mask."""
    top_down = PaperTopDown([4], 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        (transformed,) = top_down([torch.randn(1, 4, 6, 6)], None)
    assert transformed.dtype == torch.bfloat16
