"""A second look is compiled and exported as an AIM is, and hidden pixels move no bit in any format."""

import copy
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from test_export import CNNS, FREE, LARGE, NAMES, ROUNDING, SERVE, SQUARE, TRANSFORMERS, needs_torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter
from zoo import BACKBONES, NUM_CLASSES, HeadConvNet, TinyNet, aim, balanced, lively

from aimwrap import AIM, SecondLook, explain
from aimwrap.export import Exported, ServingModel, export_aotinductor, export_onnx, export_program
from aimwrap.export.parity import seeded_images
from aimwrap.mask_estimator import MaskEstimator
from aimwrap.second_look import enlarge, kept_pixels

OUTPUTS = ["logits", "mask_2", "mask_3", "merged_mask", "kept", "boxes", "contributions"]
HOOKED = "branching"  # cannot be exported


def looking_twice(first: AIM, **arguments: Any) -> SecondLook:
    """With masks that keep about half of the positions, of which no margin makes all, and a classifier of its own."""
    torch.manual_seed(0)
    second = SecondLook(balanced(first, seeded_images((8, first.in_channels, 64, 64))), margin=0, **arguments)
    nn.init.normal_(second.classifier.weight)
    nn.init.normal_(second.classifier.bias)
    return second.eval()


@pytest.fixture
def second() -> SecondLook:
    return looking_twice(lively(aim("feature-preserving", backbone=HeadConvNet())), fill=0.25)


class Corner(MaskEstimator):
    """Mask logits that no pixel can change: the upper left quarter is open."""

    def forward(self, evidence: Tensor, *more: Tensor) -> Tensor:
        rows, columns = (torch.arange(side) < (side + 1) // 2 for side in evidence.shape[2:])
        return torch.where(rows[:, None] & columns, 1.0, -1.0).expand(evidence.shape[0], 1, -1, -1)


def with_corner_masks(second: SecondLook) -> SecondLook:
    for estimator in second.first.mask_estimators.values():
        estimator.__class__ = Corner
    return second


def images_of(*shape: int) -> Tensor:
    return seeded_images(shape)


def assert_same(got: dict[str, Tensor], second: SecondLook, images: Tensor) -> None:
    """As explain() has it."""
    found = explain(second, images)
    assert list(got) == OUTPUTS
    for name, mask in zip(OUTPUTS[1:5], (*found.masks.values(), found.merged_mask, found.kept), strict=True):
        assert torch.equal(got[name], mask), name
    for name in ("logits", "boxes", "contributions"):
        torch.testing.assert_close(got[name], getattr(found, name), rtol=1e-4, atol=1e-5)
    sums = got["contributions"].sum((2, 3)) + second.classifier.bias
    torch.testing.assert_close(sums, got["logits"], rtol=1e-4, atol=1e-4)


def run_onnx(path: Path) -> Callable[[Tensor], dict[str, Tensor]]:
    session = pytest.importorskip("onnxruntime").InferenceSession(path)
    names = [output.name for output in session.get_outputs()]
    return lambda x: dict(zip(names, map(torch.from_numpy, session.run(None, {"images": x.numpy()})), strict=True))


RUN: dict[Callable[..., Exported], Callable[[Path], Callable[[Tensor], dict[str, Tensor]]]] = {
    export_onnx: run_onnx,
    export_program: lambda path: torch.export.load(path).module(),
    export_aotinductor: lambda path: torch._inductor.aoti_load_package(str(path)),
}
every_format = pytest.mark.parametrize(
    ("export", "name"),
    [
        pytest.param(export_onnx, "model.onnx", marks=needs_torch("onnx"), id="onnx"),
        pytest.param(export_program, "model.pt2", id="pt2"),
        pytest.param(export_aotinductor, "model.pt2", marks=needs_torch("aotinductor"), id="aotinductor"),
    ],
)


# What is exported.


def test_serving_model_gives_what_explain_gives(second: SecondLook) -> None:
    images = images_of(3, 3, 64, 97)
    for serving in (ServingModel(second), ServingModel(nn.DataParallel(second))):
        assert serving.output_names == tuple(OUTPUTS)
        assert_same(serving(images), second, images)
    assert 0 < explain(second, images).kept.mean() < 1


def test_serving_model_is_a_copy_in_evaluation_mode_and_float32(second: SecondLook) -> None:
    serving = ServingModel(second.bfloat16().train())
    assert second.training and second.first.training and second.classifier.weight.dtype == torch.bfloat16
    assert not any(module.training for module in serving.modules())
    assert all(p.dtype == torch.float32 and not p.requires_grad for p in serving.parameters())


def test_metadata_has_the_second_looks_arguments(second: SecondLook) -> None:
    facts = ServingModel(second).metadata(NAMES, SQUARE)
    assert json.loads(facts["second_look"]) == {"margin": 0, "least": 0.3, "fill": 0.25}
    assert facts["variant"] == second.first.variant and json.loads(facts["class_names"]) == NAMES
    assert "second_look" not in ServingModel(second.first).metadata(NAMES, SQUARE)


@pytest.mark.parametrize("arguments", [{"size": 48}, {"backbone": "timm/test_efficientnet", "size": 80}])
@pytest.mark.slow
def test_a_network_and_a_size_of_its_own_are_served_and_traced(arguments: dict[str, Any]) -> None:
    first = lively(AIM("timm/test_resnet", backbone_kwargs={"num_classes": NUM_CLASSES}))
    second, images = looking_twice(first, **arguments), images_of(3, 3, 64, 97)
    serving = ServingModel(second)
    assert_same(serving(images), second, images)
    program = torch.export.export(serving, (images,), strict=False).module()
    assert_same(program(images), second, images)
    facts = json.loads(serving.metadata(NAMES, SQUARE)["second_look"])
    assert facts == {"margin": 0, "least": 0.3, "fill": 0.0, "size": arguments["size"]}


# The parts that exporters and precisions get wrong.


def test_borders_between_positions_are_where_whole_numbers_put_them() -> None:
    """F.interpolate puts one a pixel off at these sizes, and ONNX Runtime does not."""
    for cells, pixels in ((8, 122), (16, 244), (20, 305), (50, 396), (7, 97), (3, 2)):
        mask = (torch.arange(cells) % 2).float().expand(1, 1, 2, -1)
        kept = kept_pixels(mask, torch.empty(1, 3, 4, pixels))
        expected = [pixel * cells // pixels % 2 for pixel in range(pixels)]
        assert kept.shape == (1, 1, 4, pixels) and kept[0, 0, 3].tolist() == expected


def test_the_complete_image_comes_back_bit_for_bit_and_what_is_not_finite_stays() -> None:
    for height, width in ((33, 47), (97, 75)):
        image = torch.randn(1, 3, height, width)
        assert torch.equal(enlarge(image, torch.tensor([[0.0, 0.0, width, height]])), image)
    image[0, 0, 50, 40] = torch.nan
    assert enlarge(image, torch.tensor([[10.0, 20.0, 70.0, 90.0]]))[0, 0].isnan().any()


def test_enlarging_is_bilinear_at_the_centres_of_pixels() -> None:
    """A naive transcription."""
    image, (left, top, right, bottom) = torch.randn(1, 1, 9, 7), (1.3, 2.0, 5.1, 6.7)
    got = enlarge(image, torch.tensor([[left, top, right, bottom]]))[0, 0]
    for i in range(9):
        for j in range(7):
            y, x = top + (i + 0.5) * (bottom - top) / 9 - 0.5, left + (j + 0.5) * (right - left) / 7 - 0.5
            a, b = int(y), int(x)
            near = image[0, 0, a : a + 2, b : b + 2]
            across = near[:, 0] * (1 - x + b) + near[:, 1] * (x - b)
            assert got[i, j].item() == pytest.approx((across[0] * (1 - y + a) + across[1] * (y - a)).item(), abs=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_see_the_same_pixels(dtype: torch.dtype, second: SecondLook) -> None:
    """With given masks, since a mask's own logit may fall on the other side of 0."""
    images, masks = images_of(3, 3, 64, 97), torch.rand(3, 1, 4, 7) > 0.6
    expected = second(images, masks=masks)
    output = copy.deepcopy(second).to(dtype)(images.to(dtype), masks=masks)
    assert output.logits.dtype == output.kept.dtype == dtype and output.boxes.dtype == torch.float32
    assert torch.equal(output.kept.float(), expected.kept) and torch.equal(output.boxes, expected.boxes)
    rough = {torch.float16: 0.01, torch.bfloat16: 0.1, torch.float64: 1e-5}[dtype]
    assert (output.logits - expected.logits).abs().max() <= rough * expected.logits.abs().max()


def test_batches_and_memory_formats_do_not_matter(second: SecondLook) -> None:
    images = images_of(5, 3, 64, 97)
    expected = second(images)
    alone = [second(images[n : n + 1]) for n in range(5)]
    torch.testing.assert_close(torch.cat([output.logits for output in alone]), expected.logits, rtol=1e-4, atol=1e-5)
    assert torch.equal(torch.cat([output.kept for output in alone]), expected.kept)
    assert second(images[:0]).logits.shape == (0, NUM_CLASSES)
    last = copy.deepcopy(second).to(memory_format=torch.channels_last)
    output = last(images.contiguous(memory_format=torch.channels_last))
    assert torch.equal(output.kept, expected.kept)
    torch.testing.assert_close(output.logits, expected.logits, rtol=1e-4, atol=1e-5)


def test_threads_may_share_a_training_second_look(second: SecondLook) -> None:
    images = images_of(2, 3, 64, 64)
    with torch.no_grad():
        expected = second(images).logits
        second.train()
        got: list[Tensor] = []
        threads = [threading.Thread(target=lambda: got.extend(second(images).logits for _ in range(5))) for _ in "abcd"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(got) == 20 and all(torch.equal(logits, expected) for logits in got)
    assert all(module.training for module in second.modules())


# Compiled, and traced by itself.


@pytest.fixture
def fresh() -> None:
    torch._dynamo.reset()


@pytest.mark.parametrize("sizes", [(2, 2), pytest.param((4, 4, 3, 5, 2), marks=pytest.mark.slow)])
def test_it_compiles_as_one_graph_in_evaluation_mode(sizes: tuple[int, ...], second: SecondLook, fresh: None) -> None:
    """Once, and once more for all other batch sizes."""
    counter = CompileCounter()
    compiled = torch.compile(second, fullgraph=True, backend=counter)
    with torch.no_grad():
        for size in sizes:
            images = images_of(size, 3, 64, 64)
            output, expected = compiled(images), second(images)
            assert torch.equal(output.logits, expected.logits) and torch.equal(output.kept, expected.kept)
    assert counter.frame_count == min(2, len(set(sizes)))


@pytest.mark.slow
def test_it_compiles_with_given_masks_and_while_its_classifier_is_trained(second: SecondLook, fresh: None) -> None:
    images, masks = images_of(2, 3, 64, 64), torch.rand(2, 1, 4, 4) > 0.5
    compiled = torch.compile(second, fullgraph=True, backend="eager")
    assert torch.equal(compiled(images, masks=masks).logits, second(images, masks=masks).logits)
    second.train()
    expected = second(images).logits
    torch._dynamo.reset()
    output = torch.compile(second, backend="eager")(images)  # it switches the first look's mode, which is no graph's
    output.logits.sum().backward()
    assert torch.equal(output.logits, expected) and second.classifier.weight.grad is not None
    assert second.first.training and second.first.classifier.weight.grad is None


@pytest.mark.slow
@pytest.mark.parametrize("size", [None, 48])
@pytest.mark.parametrize("strict", [False, True])
def test_the_model_itself_is_traced_with_any_batch_and_size(strict: bool, size: int | None, second: SecondLook) -> None:
    second.size = size
    batch, free = torch.export.Dim("batch", min=1, max=100), torch.export.Dim.DYNAMIC
    sizes = ({0: batch, 2: free, 3: free}, {0: batch, 2: free, 3: free})
    given = (images_of(2, 3, 64, 96), torch.ones(2, 1, 4, 6))
    program = torch.export.export(second, given[:1], dynamic_shapes=sizes[:1], strict=strict).module()
    shown = torch.export.export(second, given, dynamic_shapes=sizes, strict=strict).module()
    images, masks = images_of(3, 3, 97, 75), (torch.rand(3, 1, 5, 7) > 0.5).float()
    assert torch.equal(program(images).logits, second(images).logits)
    assert torch.equal(shown(images, masks).logits, second(images, masks=masks).logits)


# Artefacts.


@needs_torch("onnx")
def test_onnx_runtime_moves_no_bit_for_hidden_pixels_and_the_example_serves_it(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    second = with_corner_masks(looking_twice(aim("feature-preserving", backbone=TinyNet())))
    path = tmp_path / "model.onnx"
    exported = export_onnx(second, path, class_names=NAMES, preprocessing=SQUARE, dynamic_size=False)
    assert [row.output for row in exported.parity] == OUTPUTS and all(row.holds(1e-5) for row in exported.parity)
    assert_hidden_pixels_move_nothing(run_onnx(path), second)

    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (80, 100, 3), dtype=np.uint8))
    image.save(tmp_path / "image.png")
    command = [sys.executable, str(SERVE), str(path), "image.png"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    logits = second(SQUARE.transform()(image)[None]).logits[0]
    assert done.stdout == f"{NAMES[logits.argmax()]} {logits.softmax(0).max():.1%}\n", done.stderr
    overlay = np.asarray(Image.open(tmp_path / "image.mask.png"))
    unit = SQUARE._replace(mean=(0.0,) * 3, std=(1.0,) * 3)
    whole = (255 * unit.transform()(image)).round().permute(1, 2, 0).numpy()
    assert (overlay[:32, :32] == whole[:32, :32]).all()
    assert (overlay[32:] == whole[32:] // 4).all() and (overlay[:, 32:] == whole[:, 32:] // 4).all()


def assert_hidden_pixels_move_nothing(run: Callable[[Tensor], dict[str, Tensor]], second: SecondLook) -> None:
    """The artefact as it is: its first look sees the noise, but its masks are a corner whatever it sees."""
    images = images_of(3, 3, 64, 64)
    before = run(images)
    assert_same(before, second, images)
    assert before["kept"].mean() == 0.25
    noise = 1e3 * torch.randn_like(images)
    noise[:, :, -1] = torch.nan
    after = run(torch.where(before["kept"] > 0, images, noise))
    for name in OUTPUTS:
        assert torch.equal(after[name], before[name]), name
    assert not torch.equal(run(torch.where(before["kept"] > 0, -images, images))["logits"], before["logits"])


@every_format
@pytest.mark.slow
@pytest.mark.parametrize("own", [{}, {"backbone": TinyNet(), "size": 96}], ids=["shared", "own network"])
def test_hidden_pixels_move_no_bit_in_any_format(
    own: dict[str, Any], export: Callable[..., Exported], name: str, tmp_path: Path
) -> None:
    second = with_corner_masks(looking_twice(aim("feature-preserving", backbone=HeadConvNet()), fill=0.5, **own))
    export(second, tmp_path / name, preprocessing=SQUARE, dynamic_size=False)
    assert_hidden_pixels_move_nothing(RUN[export](tmp_path / name), second)


@pytest.mark.slow
def test_a_program_loads_without_this_library_and_torchvision(second: SecondLook, tmp_path: Path) -> None:
    path = export_program(second, tmp_path / "model.pt2", preprocessing=SQUARE, dynamic_size=False).path
    source = "import sys, torch; sys.modules.update(aimwrap=None, torchvision=None); "
    source += f"print(torch.export.load({str(path)!r}).module()(torch.zeros(3, 3, 64, 64))['kept'].shape)"
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=False)
    assert done.stdout == "torch.Size([3, 1, 64, 64])\n", done.stderr


@needs_torch("onnx")
@pytest.mark.slow
def test_from_saving_to_onnx_by_the_command_line(tmp_path: Path) -> None:
    pytest.importorskip("typer")
    from typer.testing import CliRunner

    from aimwrap.cli import app

    second = looking_twice(AIM("timm/resnet10t", backbone_kwargs={"num_classes": NUM_CLASSES}))
    second.save_pretrained(tmp_path, class_names=NAMES, preprocessing=SQUARE)
    result = CliRunner().invoke(app, ["export", str(tmp_path), "--fixed-size", "--json"])
    assert result.exit_code == 0, result.output
    assert [row["output"] for row in json.loads(result.output)["parity"]] == OUTPUTS
    images = images_of(2, 3, 64, 64)
    assert_same(run_onnx(tmp_path / "model.onnx")(images), second, images)


EXPORTED = [name for name in BACKBONES if name not in (*TRANSFORMERS, HOOKED, ROUNDING)]


def large_are_rare(names: Iterable[str]) -> list[Any]:
    return [pytest.param(name, marks=pytest.mark.rare if name in LARGE else ()) for name in names]


def of_the_zoo(name: str, wrapped: Callable[..., AIM]) -> SecondLook:
    return looking_twice(copy.deepcopy(wrapped(name, "feature-preserving")))


@pytest.mark.slow
@pytest.mark.parametrize("name", large_are_rare(EXPORTED))
def test_programs_of_many_backbones(name: str, wrapped: Callable[..., AIM], tmp_path: Path) -> None:
    second = of_the_zoo(name, wrapped)
    exported = export_program(second, tmp_path / "model.pt2", preprocessing=SQUARE)
    assert exported.dynamic == FREE and all(row.holds(1e-5) for row in exported.parity)
    assert len(exported.tried) == 4
    images = images_of(1, 3, 97, 75)
    assert_same(torch.export.load(exported.path).module()(images), second, images)


@needs_torch("onnx")
@pytest.mark.slow
@pytest.mark.parametrize("name", large_are_rare(["tiny", *CNNS]))
def test_onnx_of_many_backbones(name: str, wrapped: Callable[..., AIM], tmp_path: Path) -> None:
    dynamic_size = name in ("tiny", "resnet10t", "convnext_atto")  # it takes twice the time
    second, path = of_the_zoo(name, wrapped), tmp_path / "model.onnx"
    exported = export_onnx(second, path, preprocessing=SQUARE, dynamic_size=dynamic_size)
    assert exported.dynamic == (FREE if dynamic_size else ("batch",))
    assert all(row.holds(1e-3) for row in exported.parity)
    assert set(run_onnx(path)(images_of(2, 3, 64, 64))["kept"].unique().tolist()) <= {0.0, 1.0}


@pytest.mark.slow
@pytest.mark.parametrize("name", TRANSFORMERS)
def test_transformers_with_their_size(name: str, wrapped: Callable[..., AIM], tmp_path: Path) -> None:
    arguments = {"preprocessing": SQUARE, "dynamic_size": False}
    assert export_program(of_the_zoo(name, wrapped), tmp_path / "model.pt2", **arguments).dynamic == ("batch",)


@needs_torch("aotinductor")
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "dynamic_size"), [("resnet10t", False), pytest.param("tiny", True, marks=pytest.mark.rare)]
)
def test_aotinductor(name: str, dynamic_size: bool, wrapped: Callable[..., AIM], tmp_path: Path) -> None:
    second, path = of_the_zoo(name, wrapped), tmp_path / "model.pt2"
    exported = export_aotinductor(second, path, preprocessing=SQUARE, dynamic_size=dynamic_size)
    assert exported.dynamic == (FREE if dynamic_size else ("batch",))
    assert all(row.holds(1e-4) for row in exported.parity)
    images = images_of(5, 3, *((97, 75) if dynamic_size else (64, 64)))
    assert_same(RUN[export_aotinductor](path)(images), second, images)


def test_what_is_neither_is_refused(second: SecondLook, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="model must be an AIM, got Linear"):
        export_program(nn.Linear(1, 1), tmp_path / "model.pt2")
    second.classifier = nn.Sequential(second.classifier)
    with pytest.raises(TypeError, match=r"model.classifier must be one nn.Linear, got Sequential"):
        ServingModel(second)(images_of(1, 3, 64, 64))
