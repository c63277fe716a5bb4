"""Figures say what the tensors say: panels, captions, scores and counts are read off the figures again."""

import importlib
import math
import re
import sys
from collections.abc import Callable
from itertools import combinations

import pytest
import torch
from torch import Tensor

pytest.importorskip("matplotlib")

from matplotlib.figure import Figure
from matplotlib.text import Text

import aimwrap.plot
from aimwrap import AreaCurve, AreaPoint
from aimwrap.metrics import energy_pointing_game
from aimwrap.plot import (
    Panel,
    Result,
    draw_mask,
    plot_area_curves,
    plot_heatmaps,
    plot_mask_evolution,
    plot_masks,
    plot_panels,
    plot_results,
    plot_scatter,
)


def captions(figure: Figure) -> list[str]:
    return [axes.get_xlabel() for axes in figure.axes]


def explanation(figure: Figure) -> str:
    return " ".join(figure.texts[-1].get_text().split())


def mask_with(area: float, side: int = 4, count: int = 1) -> Tensor:
    mask = torch.zeros(side * side)
    mask[: round(area * side * side)] = 1
    return mask.view(1, 1, side, side).repeat(count, 1, 1, 1)


def some_masks(count: int = 2, stages: int = 2) -> Figure:
    masks = {stage: mask_with(0.25, 2 ** (4 - stage), count) for stage in range(4 - stages, 4)}
    return plot_masks(torch.rand(count, 3, 32, 32), masks, mask_with(0.5, 4, count))


def some_heatmaps(count: int = 2) -> Figure:
    object_masks = (torch.rand(count, 1, 32, 48) > 0.5).float()
    return plot_heatmaps(
        torch.rand(count, 3, 32, 48),
        torch.randn(count, 2, 3),
        torch.randn(count, 4, 6),
        object_masks,
        labels=torch.arange(count) % 2,
        predictions=(torch.zeros(count, dtype=torch.long), torch.ones(count, dtype=torch.long)),
        class_names=["a bird with a long name, and more", "mammal"],
        names=("plain, fine-tuned for many epochs", "AIM"),
    )


def some_evolution(count: int = 2, epochs: int = 3) -> Figure:
    history = [
        (epoch, {2: mask_with(1 / (epoch + 1), 4, count), "x": mask_with(1, 2, count)}) for epoch in range(epochs)
    ]
    return plot_mask_evolution(torch.rand(count, 3, 32, 32), history, [1 / (epoch + 1) for epoch in range(epochs)])


def some_scatter(groups: int = 12) -> Figure:
    scores = torch.rand(2, 60)
    return plot_scatter(*scores, groups=torch.arange(60) % groups, chance=0.2, names=("plain " * 9, "AIM"))


def some_results() -> Figure:
    rows = [Result.of_seeds(f"method {i}, " + "described at length " * i, [0.1 * i, 0.1 * i + 0.05]) for i in range(4)]
    grid = {(tie, measure): rows for tie in ("95 %", "100 %") for measure in ("accuracy", "pointing")}
    return plot_results(grid, baseline="method 0, ", chance={"pointing": 0.1})


def some_curve(accuracy: float = 0.8, worst_group: float | None = 0.6, images: int = 400) -> AreaCurve:
    def point(asked: float | None, area: float) -> AreaPoint:
        value = accuracy + 0.05 * area
        return AreaPoint(asked, area, {3: area}, value, value - 0.1, value + 0.05, worst_group)

    return AreaCurve(tuple(point(area, area) for area in (0.02, 0.1, 0.5, 1.0)), point(None, 0.23), images)


def some_area_curves(count: int = 4) -> Figure:
    return plot_area_curves({f"a model, described at length, {i}": some_curve(0.2 * i) for i in range(count)}, chance=0)


FIGURES: dict[str, Callable[[], Figure]] = {
    "masks": some_masks,
    "masks, one row": lambda: some_masks(1, 1),
    "masks, three stages": lambda: some_masks(4, 3),
    "heatmaps": some_heatmaps,
    "heatmaps, one row": lambda: some_heatmaps(1),
    "evolution": some_evolution,
    "evolution, one epoch": lambda: some_evolution(1, 1),
    "evolution, many epochs": lambda: some_evolution(1, 13),
    "scatter": some_scatter,
    "scatter, one group": lambda: some_scatter(1),
    "results": some_results,
    "area curves": some_area_curves,
    "area curve, one": lambda: plot_area_curves(some_curve(worst_group=None), title="How much " * 9),
    "area curves, one panel": lambda: plot_area_curves(
        {f"{i} feature-preserving": some_curve(worst_group=None) for i in range(5)}
    ),
}


@pytest.mark.parametrize("name", FIGURES)
def test_texts_stay_in_the_figure_and_off_each_other(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)  # not needed: an import of it would raise
    figure = FIGURES[name]()
    assert figure.get_suptitle() and len(explanation(figure)) > 60
    figure.canvas.draw()
    page = figure.bbox
    outside = set()  # ticks beyond the ends of their axis, which are not drawn
    for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)):
        low, high = sorted(axis.get_view_interval())
        outside |= {tick.label1 for tick in axis.get_major_ticks() if not low <= tick.get_loc() <= high}
    texts = [text for text in figure.findobj(Text) if text.get_text().strip() and text not in outside]
    boxes = {text: text.get_window_extent() for text in texts if text.get_visible() and text.get_rotation() != 45}
    assert len(boxes) > 4
    for text, box in boxes.items():
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= page.x1 and box.y1 <= page.y1, text.get_text()
    for (text, box), (other, other_box) in combinations(boxes.items(), 2):
        assert not box.padded(-1).overlaps(other_box.padded(-1)), (text.get_text(), other.get_text())


def test_matplotlib_is_imported_only_to_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aimwrap, "plot", aimwrap.plot)  # what is imported again below is forgotten after the test
    for name in [name for name in sys.modules if name.startswith("aimwrap.plot")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    again = importlib.import_module("aimwrap.plot")
    assert again.plot_masks is not plot_masks


@pytest.mark.parametrize("draw", [some_masks, some_heatmaps, some_evolution, some_scatter, some_results])
def test_without_matplotlib_the_extra_is_named(draw: Callable[[], Figure], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=re.escape('pip install "aimwrap[plot]"')):
        draw()


def test_masks_show_a_row_per_image_with_areas() -> None:
    masks = {2: torch.cat([mask_with(0.25), mask_with(0.5)]), 3: mask_with(1, 2, 2)}
    merged = torch.cat([mask_with(0), mask_with(0.75)])
    figure = plot_masks(
        torch.rand(2, 3, 16, 16),
        masks,
        merged,
        labels=[0, 1],
        predictions=torch.tensor([0, 0]),
        class_names=["cat", "dog"],
    )
    assert len(figure.axes) == 2 * 4
    assert captions(figure)[:4] == ["cat\npredicted right", "25% open", "100% open", "0% open"]
    assert captions(figure)[4:] == ["dog\nwrong: predicted cat", "50% open", "100% open", "75% open"]
    titles = [axes.get_title() for axes in figure.axes[:4]]
    assert titles == ["image", "mask, stage 2\n(4 × 4)", "mask, stage 3\n(2 × 2)", "merged mask\n(4 × 4)"]
    right, wrong = (figure.axes[i].xaxis.label.get_color() for i in (0, 4))
    assert right != wrong


def test_classes_of_the_same_name_are_not_the_same() -> None:
    """They were compared by name: a wrong prediction was said to be right."""
    given = {"class_names": ["cat", "cat", "dog"], "labels": [0, 2]}
    mask = mask_with(1, 2, 2)
    figure = plot_masks(torch.rand(2, 3, 8, 8), {2: mask}, mask, predictions=[1, 2], **given)
    assert captions(figure)[::3] == ["cat (0)\nwrong: predicted cat (1)", "dog (2)\npredicted right"]
    maps = torch.rand(2, 2, 2)
    figure = plot_heatmaps(torch.rand(2, 3, 8, 8), maps, maps, predictions=([0, 2], [1, 2]), **given)
    assert captions(figure)[1:3] == ["cat (0): right", "cat (1): wrong"]


def test_areas_next_to_none_and_all_are_not_rounded_to_them() -> None:
    almost_none, almost_all = torch.zeros(1, 1, 20, 20), torch.ones(1, 1, 20, 20)
    almost_none[..., 0, 0], almost_all[..., 0, 0] = 1, 0
    figure = plot_masks(torch.rand(1, 3, 40, 40), {"tap": almost_none}, almost_all)
    assert captions(figure)[1:] == ["<1% open", ">99% open"]
    assert figure.axes[1].get_title() == "mask, tap\n(20 × 20)"


def test_a_masked_image_is_itself_inside_and_dark_grey_outside() -> None:
    image, mask = torch.full((1, 3, 4, 4), 0.8), torch.zeros(1, 1, 2, 2)
    image[:, 0] = 0.5
    mask[..., 0, 0] = 1
    shown = plot_masks(image, {2: mask}, mask).axes[1].images[0].get_array()
    assert torch.allclose(torch.as_tensor(shown[0, 0]), torch.tensor([0.5, 0.8, 0.8]))
    assert torch.allclose(torch.as_tensor(shown[3, 3]), torch.full((3,), 0.21))


def test_heatmaps_carry_the_energy_pointing_score_and_mark_the_higher() -> None:
    object_masks = torch.zeros(2, 1, 8, 8)
    object_masks[..., :4, :] = 1
    plain_maps = torch.tensor([[[1.0], [3.0]], [[1.0], [1.0]]])
    aim_maps = torch.tensor([[[1.0], [-5.0]], [[0.0], [0.0]]])
    figure = plot_heatmaps(torch.rand(2, 3, 8, 8), plain_maps, aim_maps, object_masks, resolution=(2, 1))
    assert captions(figure) == [
        *("", "energy pointing 0.25", "▲ energy pointing 1.00"),
        *("", "energy pointing 0.50", "energy pointing undefined"),
    ]
    assert "0.50 on average" in explanation(figure) and "common grid of 2 × 1" in explanation(figure)


def test_heatmaps_score_like_the_metric_and_warn_of_different_grids() -> None:
    torch.manual_seed(1)
    maps, object_masks = torch.rand(3, 2, 2), (torch.rand(3, 1, 16, 16) > 0.6).float()
    figure = plot_heatmaps(torch.rand(3, 3, 16, 16), maps, torch.rand(3, 4, 4), object_masks)
    expected = energy_pointing_game(maps, object_masks)
    assert [float(text.split()[-1]) for text in captions(figure)[1::3]] == [round(float(s), 2) for s in expected]
    assert "grids differ" in explanation(figure)
    same = plot_heatmaps(torch.rand(3, 3, 16, 16), maps, maps, object_masks)
    assert "grids differ" not in explanation(same) and "▲ energy" not in "".join(captions(same))


def test_heatmaps_without_masks_take_scores_as_they_are() -> None:
    images, maps = torch.rand(1, 3, 8, 8), torch.rand(1, 2, 2)
    assert captions(plot_heatmaps(images, maps, maps)) == ["", "", ""]
    scored = plot_heatmaps(images, maps, maps, scores=([0.2], torch.tensor([math.nan])), measure="IoU", labels=[3])
    assert captions(scored) == ["3", "IoU 0.20", "IoU undefined"]
    said = plot_heatmaps(images, maps, maps, predictions=([1], [3]), labels=[3])
    assert captions(said) == ["3", "1: wrong", "3: right"]


def test_scatter_counts_what_is_above_and_what_is_left_out() -> None:
    plain_scores = torch.tensor([0.1, 0.2, 0.5, 0.4, math.nan, 0.3])
    aim_scores = torch.tensor([0.6, 0.7, 0.3, 0.4, 0.9, math.nan])
    figure = plot_scatter(plain_scores, aim_scores, groups=[0, 0, 1, 1, 0, 1], group_names=["land", "sea"], chance=0.25)
    text = explanation(figure)
    assert figure.get_suptitle() == "AIM scores higher in 2 of 4 images (50.0%)"
    assert "AIM scores higher (2 images), below it plain (1 image), on it both are equal (1 image)" in text
    assert "plain 0.30, AIM 0.50" in text and "Left out: 2 images" in text and "chance level, 0.25" in text
    legend = [entry.get_text() for entry in figure.axes[0].get_legend().get_texts()]
    assert legend == ["equal scores", "chance level, 0.25", "land\n2 of 2 higher", "sea\n0 of 2 higher", "mean of all"]


def test_a_scatters_title_and_legend_do_not_overlap() -> None:
    figure = plot_scatter([0.2, 0.3], [0.6, 0.7], names=("linear probe", "AIM"), title="A long title " * 6)
    figure.canvas.draw()
    legend = figure.axes[0].get_legend().get_window_extent()
    assert not figure._suptitle.get_window_extent().overlaps(legend)


def test_scatter_draws_the_diagonal_and_every_marker_at_its_scores() -> None:
    figure = plot_scatter([0.1, 0.2, 1.4], [0.6, -0.3, 0.5], groups=[0, 1, 1])
    (axes,) = figure.axes
    assert axes.get_xlabel() == "energy pointing, plain" and axes.get_ylabel() == "energy pointing, AIM"
    assert axes.get_xlim() == axes.get_ylim()
    diagonal = next(line for line in axes.lines if line.get_label() == "equal scores")
    assert list(diagonal.get_xdata()) == list(diagonal.get_ydata()) == list(axes.get_xlim())
    drawn = [collection for collection in axes.collections if len(collection.get_offsets())]
    points = [point for collection in drawn[:2] for point in collection.get_offsets().tolist()]
    assert torch.allclose(torch.tensor(points), torch.tensor([[0.1, 0.6], [0.2, -0.3], [1.4, 0.5]]))
    first, second = drawn[:2]
    assert first.get_paths()[0].vertices.shape != second.get_paths()[0].vertices.shape  # another marker
    assert first.get_facecolor().tolist() != second.get_facecolor().tolist()


def test_chance_per_image_is_averaged_over_the_images_shown() -> None:
    figure = plot_scatter([0.1, math.nan], [0.2, 0.3], chance=torch.tensor([0.1, 0.9]))
    assert "chance level, 0.10" in explanation(figure)


def test_evolution_shows_epochs_as_columns_and_the_area_next_to_tau() -> None:
    history = [(0, {2: mask_with(1), 3: mask_with(1, 2)}), (7, {2: mask_with(0.25), 3: mask_with(0.5, 2)})]
    figure = plot_mask_evolution(torch.rand(1, 3, 16, 16), history, [1.0, 0.3])
    *panels, curve = figure.axes
    assert len(panels) == 2 * 3
    assert [axes.get_title() for axes in panels[:3]] == ["image", "epoch 0", "epoch 7"]
    assert [axes.get_ylabel() for axes in panels[::3]] == ["image 1\nstage 2", "image 1\nstage 3"]
    assert captions(figure)[1:3] == ["100% open", "25% open"] and captions(figure)[4:6] == ["100% open", "50% open"]
    assert {line.get_label(): list(line.get_ydata()) for line in curve.lines} == {
        "tau": [1.0, 0.3],
        "stage 2": [1.0, 0.25],
        "stage 3": [1.0, 0.5],
    }


def test_evolution_points_stand_under_their_columns() -> None:
    figure = some_evolution(count=1, epochs=4)
    *panels, curve = figure.axes
    for epoch, axes in enumerate(panels[1:5]):
        box = axes.get_position()
        x, _ = figure.transFigure.inverted().transform(curve.transData.transform((epoch, 0)))
        assert x == pytest.approx((box.x0 + box.x1) / 2, abs=1e-3)


def test_evolution_of_one_stage_or_of_plain_tensors() -> None:
    history = [("start", {2: mask_with(1), 3: mask_with(0.5)}), ("end", {2: mask_with(0.25), 3: mask_with(0.75)})]
    figure = plot_mask_evolution(torch.rand(1, 3, 16, 16), history, stages=[3])
    assert captions(figure) == ["", "50% open", "75% open", "epoch"]
    assert figure.axes[1].get_title() == "start" and "tau" not in explanation(figure)
    merged = plot_mask_evolution(torch.rand(1, 3, 16, 16), [(0, mask_with(0.5))])
    assert captions(merged) == ["", "50% open", "epoch"] and merged.axes[0].get_ylabel() == "image 1"


def test_results_are_dots_with_intervals_seeds_and_a_baseline() -> None:
    rows = [Result("plain", 0.5, 0.4, 0.7, [0.4, 0.6]), ("AIM", 0.8, 0.8, 0.8)]
    figure = plot_results({"accuracy": rows}, baseline="plain", interval="95 % interval", chance={"accuracy": 0.25})
    (axes,) = figure.axes
    lines = [(list(line.get_xdata()), list(line.get_ydata())) for line in axes.lines]
    assert ([0.4, 0.7], [0, 0]) in lines and ([0.5], [0]) in lines and ([0.8], [1]) in lines
    assert ([0.5, 0.5], [0, 1]) in lines and ([0.25, 0.25], [0, 1]) in lines  # through the panel: baseline and chance
    assert [text.get_text() for text in axes.get_yticklabels()] == ["plain (baseline)", "AIM"]
    assert {text.get_text() for text in axes.texts} == {"0.500", "0.800"}
    assert axes.collections[0].get_offsets()[:, 0].tolist() == [0.4, 0.6]
    text = explanation(figure)
    assert "95 % interval" in text and "single seeds" in text and "the baseline, plain" in text and "chance" in text


def test_results_keyed_by_pairs_share_the_axis_of_a_measure() -> None:
    figure = plot_results(
        {
            ("95 %", "accuracy"): [("AIM", 0.9, 0.8, 1.0)],
            ("95 %", "pointing"): [("AIM", 0.3, 0.2, 0.4)],
            ("100 %", "accuracy"): [("plain", 0.1, 0.0, 0.2)],
        }
    )
    first, pointing, second = figure.axes
    assert first.get_xlim() == second.get_xlim() != pointing.get_xlim()
    assert first.get_xlim()[0] < 0 and first.get_xlim()[1] > 1
    assert [first.get_ylabel(), second.get_ylabel()] == ["95 %", "100 %"]


def test_percentages_need_fewer_decimals_and_many_panels_more_rows() -> None:
    rows = [("AIM", 89.25, 88.0, 90.0)]
    figure = plot_results({f"measure {i}": rows for i in range(5)})
    assert figure.axes[0].texts[0].get_text() == "89.2"
    assert len({round(axes.get_position().y0, 3) for axes in figure.axes}) == 2


def test_result_of_seeds_by_hand() -> None:
    result = Result.of_seeds("AIM", torch.tensor([1.0, 2.0, 3.0]).tolist())
    assert result == Result("AIM", 2.0, 1.0, 3.0, [1.0, 2.0, 3.0])
    assert Result.of_seeds("AIM", [0.5])[1:4] == (0.5, 0.5, 0.5)
    with pytest.raises(ValueError, match="at least one score of 'AIM'"):
        Result.of_seeds("AIM", [])


def test_area_curves_say_what_was_measured() -> None:
    curves = {"feature-preserving": some_curve(0.8), "paper": some_curve(0.7, images=200)}
    figure = plot_area_curves(curves, chance=0.5)
    accuracy, worst = figure.axes
    assert (accuracy.get_title(), worst.get_title()) == ("accuracy", "worst group's accuracy")
    lines = [line for line in accuracy.get_lines() if line.get_gid() == "curve"]
    for line, curve in zip(lines, curves.values(), strict=True):
        assert line.get_xdata().tolist() == [point.area for point in curve.points]
        assert line.get_ydata().tolist() == [point.accuracy for point in curve.points]
    stars = [line for line in accuracy.get_lines() if line.get_marker() == "*"]
    assert [(star.get_xdata()[0], star.get_ydata()[0]) for star in stars] == [
        (curve.own.area, curve.own.accuracy) for curve in curves.values()
    ]
    assert {tuple(line.get_ydata()) for line in worst.get_lines()} == {(0.6,) * 4, (0.6,)}
    assert len({(line.get_color(), line.get_marker()) for line in lines}) == 2
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == list(curves)
    said = explanation(figure)
    assert "200 to 400 images" in said and "chance, 0.50" in said and "worst group" in said
    low, high = lines[0].get_ydata()[0] - 0.1, lines[0].get_ydata()[0] + 0.05
    band = accuracy.collections[0].get_paths()[0].vertices
    assert band[:, 1].min() == pytest.approx(low) and high == pytest.approx(curves["feature-preserving"].points[0].high)


@pytest.mark.parametrize("others", [(0.1, 1.0), ()])
def test_a_model_with_closed_masks_has_its_star_on_the_left_edge(others: tuple[float, ...]) -> None:
    """A logarithm has no zero: the star was nowhere, and without other areas there was an error."""
    points = tuple(AreaPoint(area, area, {3: area}, 0.9, 0.8, 0.95, None) for area in others)
    figure = plot_area_curves(AreaCurve(points, AreaPoint(None, 0.0, {3: 0.0}, 0.2, 0.1, 0.3, None), images=10))
    (axes,) = figure.axes
    figure.canvas.draw()
    (star,) = (line for line in axes.get_lines() if line.get_marker() == "*")
    assert axes.get_xlim() == pytest.approx((min((*others, 1.0)) / 1.25, 1.25))
    assert star.get_xdata()[0] == axes.get_xlim()[0] and star.get_ydata()[0] == 0.2 and not star.get_clip_on()
    assert "On the left edge no position is open" in explanation(figure)
    assert "left edge" not in explanation(some_area_curves())


def test_worst_groups_are_shown_where_all_curves_have_them() -> None:
    some, none = some_curve(), some_curve(worst_group=None)
    assert len(plot_area_curves(some).axes) == 2
    figure = plot_area_curves({"a": some, "b": none})
    assert len(figure.axes) == 1 and "worst group" not in explanation(figure)


def test_inputs_may_carry_gradients_and_any_type_and_stay_as_they_are() -> None:
    images = torch.rand(2, 3, 16, 16, requires_grad=True)
    masks = {2: mask_with(0.25, count=2).requires_grad_(), 3: mask_with(1, 2, 2).bool()}
    merged, maps = mask_with(0.5, count=2).to(torch.bfloat16), torch.randn(2, 3, 3, requires_grad=True)
    scores = torch.rand(2, 2, requires_grad=True)
    before = [tensor.detach().clone() for tensor in (images, masks[2], merged, maps, scores)]
    plot_masks(images, masks, merged)
    plot_heatmaps(images, maps, maps.half(), masks[3].repeat_interleave(8, 2).repeat_interleave(8, 3))
    plot_mask_evolution(images, [(0, masks)])
    plot_scatter(scores[0], scores[1])
    for tensor, copy in zip((images, masks[2], merged, maps, scores), before, strict=True):
        assert torch.equal(tensor, copy)
    assert images.requires_grad and masks[3].dtype == torch.bool and images.grad is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_inputs_may_be_on_a_gpu() -> None:
    images, mask = torch.rand(1, 3, 16, 16).cuda(), mask_with(0.5).cuda()
    plot_masks(images, {2: mask}, mask, labels=torch.zeros(1, dtype=torch.long).cuda())
    plot_heatmaps(images, mask[:, 0], mask[:, 0], torch.ones(1, 1, 16, 16).cuda())
    plot_mask_evolution(images, [(0, mask)])
    plot_scatter(torch.rand(3).cuda(), torch.rand(3).cuda(), groups=torch.arange(3).cuda(), chance=torch.rand(3).cuda())
    plot_panels([[Panel(mask=mask[0])]], ["a"], ["b"], "title", "explanation")


def test_a_fine_mask_alone_has_no_grid_of_lines() -> None:
    figure = Figure()
    coarse, fine = figure.subplots(1, 2)
    draw_mask(coarse, torch.ones(1, 4, 4))
    draw_mask(fine, torch.ones(1, 56, 56))
    assert len(coarse.get_xticks()) == 5 and coarse.get_xgridlines()[0].get_visible()
    assert not fine.get_xgridlines()[0].get_visible()


IMAGES, MASK, MAPS = torch.rand(2, 3, 8, 8), torch.ones(2, 1, 2, 2), torch.rand(2, 2, 2)


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: plot_masks(IMAGES[0], {2: MASK}, MASK), r"images must be \(N, 3, H, W\).*image\[None\]"),
        (lambda: plot_masks(IMAGES[:0], {2: MASK}, MASK), "at least one image"),
        (lambda: plot_masks(3 * IMAGES - 1, {2: MASK}, MASK), r"from 0 to 1, got .*undo the normalisation"),
        (lambda: plot_masks(IMAGES, {}, MASK), "dict from stage to mask"),
        (lambda: plot_masks(IMAGES, {2: MASK[:1]}, MASK), r"masks\[2\] must be \(2, 1, h, w\).*mask\[:len\(images\)\]"),
        (lambda: plot_masks(IMAGES, {2: MASK}, 0.3 * MASK), "merged_mask must hold zeros and ones, got 0.3.*>= 0.5"),
        (lambda: plot_masks(IMAGES, {2: MASK}, 7 * MASK), "zeros and ones, got 7"),
        (lambda: plot_masks(IMAGES, {2: MASK}, math.nan * MASK), "zeros and ones, got nan"),
        (lambda: plot_masks(IMAGES, {2: MASK}, MASK, labels=[0]), r"labels must be \(2,\) class numbers"),
        (lambda: plot_masks(IMAGES, {2: MASK}, MASK, predictions=torch.rand(2)), "predictions must be .*argmax"),
        (lambda: plot_masks(IMAGES, {2: MASK}, MASK, labels=[0, 5], class_names=["a"]), r"got 1 names.*\[5\]"),
        (lambda: plot_masks(IMAGES, {2: MASK}, MASK, row_titles=["a"]), r"row_titles must be 2 texts, got \['a'\]"),
        (lambda: plot_heatmaps(IMAGES, MAPS[:1], MAPS), r"plain_heatmaps must be \(2, h, w\)"),
        (lambda: plot_heatmaps(IMAGES, MAPS, MASK), r"aim_heatmaps must be .*sum\(dim=1\)"),
        (lambda: plot_heatmaps(IMAGES, MAPS, MAPS / 0), r"aim_heatmaps must be finite.*images \[0, 1\]"),
        (lambda: plot_heatmaps(IMAGES, MAPS, MAPS, MASK), "as large as the images, 8 × 8, got 2 × 2"),
        (lambda: plot_heatmaps(IMAGES, MAPS, MAPS, scores=([1.0], [1.0, 2.0])), r"scores\[0\] must be \(2,\)"),
        (lambda: plot_heatmaps(IMAGES, MAPS, MAPS, scores=([0.1, 0.2],)), "scores must be a pair"),
        (lambda: plot_heatmaps(IMAGES, MAPS, MAPS, names=("plain",)), "names must be 2 texts"),
        (lambda: plot_scatter([0.1, 0.2], [0.1]), r"aim_scores must be \(2,\), one score per image, got \(1,\)"),
        (lambda: plot_scatter(torch.rand(2, 2), [0.1, 0.2]), r"plain_scores must be \(N,\)"),
        (lambda: plot_scatter([math.inf], [0.1]), "plain_scores must be finite, or NaN"),
        (lambda: plot_scatter([math.nan], [0.1]), "an image with both scores"),
        (lambda: plot_scatter([0.1], [0.1], groups=[0, 1]), r"groups must be \(1,\) group numbers"),
        (lambda: plot_scatter([0.1], [0.1], groups=[-1]), "from 0.*smallest -1"),
        (lambda: plot_scatter([0.1], [0.1], groups=[1], group_names=["a"]), "group_names must name every group"),
        (lambda: plot_scatter([0.1], [0.1], group_names=["a"]), "group_names needs groups"),
        (lambda: plot_scatter([0.1], [0.1], chance=torch.rand(3)), r"chance must be one number or \(1,\)"),
        (lambda: plot_scatter([0.1], [0.1], chance=math.nan), "chance must be finite"),
        (lambda: plot_mask_evolution(IMAGES, []), "at least one epoch"),
        (lambda: plot_mask_evolution(IMAGES, {0: MASK}), r"list\(the_dict.items\(\)\)"),
        (lambda: plot_mask_evolution(IMAGES, [(0, {2: MASK}), (1, {3: MASK})]), r"same stages.*\[3\] at epoch 1"),
        (lambda: plot_mask_evolution(IMAGES, [(4, {2: MASK[:1]})]), r"masks_by_epoch \(epoch 4\)\[2\] must be"),
        (lambda: plot_mask_evolution(IMAGES, [(0, {2: MASK})], stages=[3]), r"stages must be some of \[2\]"),
        (lambda: plot_mask_evolution(IMAGES, [(0, MASK)], [1.0, 0.5]), "tau_by_epoch must be 1 numbers.*got 2"),
        (lambda: plot_results({}), "at least one panel"),
        (lambda: plot_results({"a": []}), r"results\['a'\] must hold one row per method"),
        (lambda: plot_results({"a": [("x", 1, 0, 2), ("x", 1, 0, 2)]}), "each once"),
        (lambda: plot_results({"a": [("x", 1)]}), "rows of"),
        (lambda: plot_results({"a": [("x", 3, 0, 2)]}), "low <= value <= high"),
        (lambda: plot_results({"a": [("x", math.nan, 0, 2)]}), "finite numbers.*leave a method out"),
        (lambda: plot_results({"a": [("x", 1, 0, 2)]}, baseline="y"), r"baseline must be one of the methods \['x'\]"),
        (lambda: plot_results({"a": [("x", 1, 0, 2)]}, chance={"b": 0}), r"chance must name measures.*\['b'\]"),
        (lambda: plot_results({"a": [("x", 1, 0, 2)], ("a", "b"): [("x", 1, 0, 2)]}), "all by pairs"),
        (lambda: plot_area_curves({}), "curves must be 1 to 6.*got 0"),
        (lambda: plot_area_curves({str(i): some_curve() for i in range(7)}), "curves must be 1 to 6.*got 7"),
        (lambda: plot_area_curves(some_curve(), chance=50), "chance must be an accuracy from 0 to 1, got 50"),
        (lambda: plot_panels([], [], [], "title", "explanation"), "rows must be"),
    ],
)
def test_errors_name_the_argument_and_the_way_out(draw: Callable[[], Figure], message: str) -> None:
    with pytest.raises(ValueError, match=f"(?s){message}"):
        draw()


# ---- A second look ---------------------------------------------------------------------------------------------------


def frames(figure: Figure) -> list[list[list[float]]]:
    """The dashed frame of each panel as its corners, empty where there is none."""
    dashed = [[line for line in axes.lines if line.get_linestyle() == "--"] for axes in figure.axes]
    return [lines[0].get_xydata()[:4].tolist() if lines else [] for lines in dashed]


def test_a_second_looks_kept_pixels_have_a_column_with_its_box() -> None:
    kept, images, masks = torch.zeros(2, 1, 32, 48), torch.rand(2, 3, 32, 48), {3: mask_with(0.5, 2, 2)}
    kept[..., 8:16, 12:24] = 1
    boxes = torch.tensor([[6.0, 4.0, 30.0, 20.0], [0.0, 0.0, 48.0, 32.0]])
    figure = plot_masks(images, masks, masks[3], second_look=(kept, boxes))
    assert captions(figure) == ["", "50% open", "50% open", "6% open"] * 2
    assert figure.axes[3].get_title() == "kept pixels"
    assert frames(figure)[:4] == [[], [], [], [[6, 4], [30, 4], [30, 20], [6, 20]]]
    assert figure.axes[7].get_xlim() == figure.axes[4].get_xlim() == (0, 48)
    assert "all that a second look sees" in explanation(figure) and "dashed: the box" in explanation(figure)
    assert "second look" not in explanation(plot_masks(images, masks, masks[3]))
    for wrong, got in (((None, None), r"\[None, None\]"), ((kept[..., :9], boxes), r"\[\(2, 1, 32, 9\), \(2, 4\)\]")):
        with pytest.raises(
            ValueError, match=rf"second_look must be kept pixels and boxes.*got {got}: take explanation"
        ):
            plot_masks(images, masks, masks[3], second_look=wrong)


def test_a_second_looks_contributions_are_placed_by_its_boxes() -> None:
    images, boxes = torch.rand(1, 3, 32, 48), torch.tensor([[24.0, 16.0, 48.0, 32.0]])
    on_object = torch.zeros(1, 1, 32, 48)
    on_object[..., 16:24, 24:36] = 1  # the upper left quarter of the box
    kept = torch.zeros(1, 1, 32, 48)
    kept[..., 16:32, 24:36] = 1  # its left half
    over_box = torch.tensor([[[3.0, 2.0], [1.0, -4.0]]])
    figure = plot_heatmaps(images, torch.ones(1, 2, 2), over_box, on_object, second_look=(kept, boxes))
    assert captions(figure)[1:] == ["energy pointing 0.06", "▲ energy pointing 0.75"]
    assert figure.axes[2].get_title().endswith("(2 × 2 on the box)")
    assert frames(figure) == [[], [], [[24, 16], [48, 16], [48, 32], [24, 32]]]
    drawn = figure.axes[2].images[-1].get_array()
    assert drawn[16:24, 24:36].min() > 0.999 and drawn[:16].max() == drawn[:, :24].max() == drawn[:, 36:].max() == 0
    assert "Dashed: the box" in explanation(figure)
