"""area_curve(): what predict() says at every area, from one run of the backbone."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from aimwrap import AIM, AreaPoint, area_curve
from aimwrap.analysis.explanation import explain
from aimwrap.analysis.intervals import wilson_interval

Wrapped = Callable[..., AIM]
every_head = pytest.mark.parametrize("head", ["paper", "feature-preserving"])


def some_batches(sizes: tuple[int, ...] = (3, 2)) -> list[tuple[Tensor, Tensor, Tensor]]:
    return [(torch.randn(size, 3, 130, 97), torch.randint(0, 7, (size,)), torch.arange(size) % 2) for size in sizes]


@every_head
def test_every_point_is_what_predict_says(head: str, wrapped: Wrapped) -> None:
    model = wrapped("tv_resnet18", head)
    batches = some_batches()
    # Labels that the model without masks gets right, so that accuracy moves with the area.
    batches = [(images, model.predict(images, 0.5).logits.argmax(1), groups) for images, _, groups in batches]
    curve = area_curve(model, batches, areas=[0.5, 0.05])
    assert [point.asked for point in curve.points] == [0.05, 0.5] and curve.own.asked is None
    assert curve.images == 5 and curve.points[1].accuracy == 1.0
    labels, groups = (torch.cat([batch[index] for batch in batches]) for index in (1, 2))
    for point in (*curve.points, curve.own):
        predictions = [model.predict(images, point.asked) for images, _, _ in batches]
        right = torch.cat([p.logits.argmax(1) for p in predictions]) == labels
        assert point.accuracy == right.double().mean().item()
        assert (point.low, point.high) == wilson_interval(int(right.sum()), 5)
        assert point.worst_group == pytest.approx(min(right[groups == g].double().mean().item() for g in (0, 1)))
        for stage, area in point.stage_areas.items():
            assert area == pytest.approx(torch.cat([p.masks[stage] for p in predictions]).mean().item())
    merged = torch.cat([explain(model, images).merged_mask for images, _, _ in batches])
    assert curve.own.area == pytest.approx(merged.mean().item())


def test_the_backbone_and_the_estimators_run_once_per_batch(wrapped: Wrapped) -> None:
    model = copy.deepcopy(wrapped("tiny", "paper"))
    runs: list[str] = []
    model.backbone.register_forward_hook(lambda *_: runs.append("backbone"))
    model.mask_estimators["stage_2"].blocks.register_forward_hook(lambda *_: runs.append("estimator"))
    area_curve(model, some_batches(), areas=[0.1, 0.2, 0.3])
    assert runs == ["backbone", "estimator"] * 2


def test_a_full_area_opens_everything_and_the_own_point_is_the_models(wrapped: Wrapped) -> None:
    model, batches = wrapped("tiny", "paper"), [batch[:2] for batch in some_batches()]
    curve = area_curve(model, batches, areas=[1.0])
    full = {stage: torch.ones(1, 1, 1, 1) for stage in model.stages}
    with torch.no_grad():
        held = torch.cat([model(images, full).logits.argmax(1) == labels for images, labels in batches])
        own = torch.cat([model(images).logits.argmax(1) == labels for images, labels in batches])
    (point,) = curve.points
    assert point.accuracy == held.double().mean().item() and point.area == 1.0
    assert curve.own.accuracy == own.double().mean().item() and curve.own.worst_group is None


def test_the_model_keeps_its_mode_and_is_found_in_wrappers(wrapped: Wrapped) -> None:
    model = copy.deepcopy(wrapped("tiny", "paper")).train()
    batches = some_batches((2,))
    curve = area_curve(torch.nn.DataParallel(model), batches, areas=[0.2])
    assert model.training and model.backbone.training
    assert curve == area_curve(model.eval(), batches, areas=[0.2])


def test_printed_as_a_table(wrapped: Wrapped) -> None:
    batches = some_batches((4,))
    lines = str(area_curve(wrapped("tiny", "paper"), batches, areas=[0.25])).splitlines()
    assert [line.split()[0] for line in lines] == ["asked", "0.25", "own", "of"]
    assert "worst group" in lines[0] and lines[-1] == "of 4 images"
    assert "worst group" not in str(area_curve(wrapped("tiny", "paper"), [batches[0][:2]], areas=[0.25]))


def test_a_loader_whose_length_is_not_known(wrapped: Wrapped) -> None:
    class Stream(IterableDataset):
        def __iter__(self):
            yield from zip(torch.randn(3, 3, 64, 64), range(3), strict=True)

    assert area_curve(wrapped("tiny"), DataLoader(Stream(), batch_size=2), areas=[0.3]).images == 3


IMAGES, LABELS = torch.zeros(2, 3, 64, 64), torch.zeros(2, dtype=torch.long)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (([(IMAGES, LABELS)], 0.5), TypeError, r"areas must be a list of floats, got 0.5; write areas=\[0.5\]"),
        (([(IMAGES, LABELS)], [0.5, 0.5]), ValueError, "areas must not repeat"),
        (([(IMAGES, LABELS)], [0.0]), ValueError, r"areas must be in \(0, 1\]"),
        (([(IMAGES, LABELS)], []), ValueError, r"areas must be in \(0, 1\]"),
        (([],), ValueError, "at least one image, got none"),
        ((IMAGES,), TypeError, r"got Tensor; for one batch write \[\(images, labels\)\]"),
        (([(IMAGES, [0, 1])],), TypeError, r"got \['Tensor', 'list'\]"),
        (([(IMAGES,)],), ValueError, "got 1 of them"),
        (([(IMAGES, LABELS[:1])],), ValueError, r"labels must be whole numbers of shape \(2,\).*int64 of \(1,\)"),
        (([(IMAGES, LABELS.float())],), ValueError, "labels must be whole numbers.*float32"),
        (([(IMAGES, LABELS, LABELS - 1)],), ValueError, "groups must be numbers from 0, got -1"),
        (([(IMAGES, LABELS, LABELS), (IMAGES, LABELS)],), ValueError, "in some batches and none in others"),
    ],
)
def test_errors(arguments: tuple, error: type[Exception], message: str, wrapped: Wrapped) -> None:
    with pytest.raises(error, match=message):
        area_curve(wrapped("tiny"), *arguments)


def test_points_are_plain_numbers(wrapped: Wrapped) -> None:
    """They go into JSON as they are."""
    (point,) = area_curve(wrapped("tiny"), some_batches((2,)), areas=[0.3]).points
    assert isinstance(point, AreaPoint)
    assert all(type(value) is float for value in (point.area, point.accuracy, point.low, *point.stage_areas.values()))
