"""An export computes what the model does and says so; otherwise no file is left."""

import json
import os
import runpy
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from zoo import TIMM, TORCHVISION, TinyNet

from aimwrap import AIM, AIMOutput, explain
from aimwrap.export import (
    Exported,
    Parity,
    ParityError,
    ServingModel,
    export_aotinductor,
    export_onnx,
    export_program,
    formats,
)
from aimwrap.export.formats import _plain_attention
from aimwrap.export.parity import measure_parity, seeded_images
from aimwrap.export.serving import _mask_names
from aimwrap.preprocessing import Preprocessing

pytest.importorskip("onnxruntime")

Wrapped = Callable[..., AIM]
HEADS = ["paper", "feature-preserving"]
SERVE = Path(__file__).parents[1] / "examples" / "serve_onnx.py"
NAMES = [f"class {letter}" for letter in "abcdefg"]
OUTPUTS = ["logits", "mask_2", "mask_3", "merged_mask", "contributions"]
FREE = ("batch", "height", "width")

PREPARATION = Preprocessing((64, 96), (0.4, 0.5, 0.6), (0.2, 0.3, 0.25), "bilinear", 0.8)
SQUARE = PREPARATION._replace(image_size=(64, 64))


def needs_torch(wanted: formats.Format) -> pytest.MarkDecorator:
    """Skip where this torch is too old for the format."""
    oldest, this = formats.OLDEST_TORCH[wanted], tuple(map(int, torch.__version__.split(".")[:2]))
    return pytest.mark.skipif(this < oldest, reason=f"{wanted} needs torch {oldest[0]}.{oldest[1]}")


def images_of(*shape: int) -> Tensor:
    return seeded_images(shape)


def assert_same(got: dict[str, Tensor], model: AIM, images: Tensor) -> None:
    """As explain() has it, whose numbers come by another way."""
    explanation = explain(model, images)
    assert list(got) == OUTPUTS
    for name, mask in zip(OUTPUTS[1:4], (*explanation.masks.values(), explanation.merged_mask), strict=True):
        assert set(got[name].unique().tolist()) <= {0.0, 1.0}
        assert torch.equal(got[name], mask)
    torch.testing.assert_close(got["logits"], explanation.logits, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(got["contributions"], explanation.contributions, rtol=1e-4, atol=1e-5)


# What is exported.


@pytest.mark.parametrize("head", HEADS)
def test_serving_model_gives_what_explain_gives(head: str, wrapped: Wrapped) -> None:
    model = wrapped("tiny", head)
    images = images_of(2, 3, 64, 97)
    assert_same(ServingModel(model)(images), model, images)


def test_serving_model_is_a_copy_in_evaluation_mode_and_float32(wrapped: Wrapped) -> None:
    model = AIM(TinyNet(dropout=0.5), [2, 3]).bfloat16().train()
    serving = ServingModel(torch.compile(model))
    assert model.training and not any(module.training for module in serving.modules())
    assert all(parameter.dtype == torch.bfloat16 and parameter.requires_grad for parameter in model.parameters())
    assert all(parameter.dtype == torch.float32 for parameter in serving.parameters())
    assert not {id(p) for p in model.parameters()} & {id(p) for p in serving.parameters()}


def test_names_of_stages_become_names_of_outputs(backbone_of: Callable[[str], nn.Module]) -> None:
    serving = ServingModel(AIM(backbone_of("tiny"), ["block2.0", "block3"]))
    assert tuple(serving(images_of(1, 3, 64, 64))) == serving.output_names
    assert serving.output_names == ("logits", "mask_block2_0", "mask_block3", "merged_mask", "contributions")
    assert list(_mask_names(["a.b", "a_b"]).values()) == ["mask_a_b", "mask_a_b_"]


def test_metadata_says_what_a_server_needs(wrapped: Wrapped) -> None:
    serving = ServingModel(wrapped("tiny"))
    facts = serving.metadata(NAMES, PREPARATION)
    assert facts["variant"] == "TinyNet+AIM [3, 25%], paper head" and facts["head"] == "paper"
    assert json.loads(facts["stages"]) == [2, 3] and json.loads(facts["masks"]) == {"2": "mask_2", "3": "mask_3"}
    assert json.loads(facts["class_names"]) == NAMES
    assert json.loads(facts["preprocessing"]) == json.loads(json.dumps(PREPARATION._asdict()))
    assert json.loads(serving.metadata(None, PREPARATION)["class_names"]) == ["0", "1", "2", "3", "4", "5", "6"]
    few = {"image_size": (64, 64), "mean": (0.5,) * 3, "std": (0.5,) * 3}
    found = json.loads(serving.metadata(None, few)["preprocessing"])
    assert (found["interpolation"], found["crop"], found["squash"]) == ("bicubic", 0.875, False)


def test_metadata_are_the_models_own_where_it_has_them() -> None:
    model = AIM(TinyNet(), [2, 3])
    model.class_names, model.preprocessing = tuple(NAMES), PREPARATION
    facts = ServingModel(model).metadata(None, None)
    assert json.loads(facts["class_names"]) == NAMES and json.loads(facts["preprocessing"])["crop"] == 0.8


def test_metadata_keep_the_models_window() -> None:
    """Where what is given does not name one: else a server would show the model other values."""
    model, few = AIM(TinyNet(), [2, 3]), {name: PREPARATION._asdict()[name] for name in ("image_size", "mean", "std")}
    model.preprocessing = PREPARATION._replace(window=(0, 4095))
    for given, window in ((few, [0, 4095]), (few | {"window": None}, None), (PREPARATION, None), (None, [0, 4095])):
        facts = ServingModel(model).metadata(None, given)
        assert json.loads(facts["preprocessing"])["window"] == window


@pytest.mark.parametrize(
    ("names", "preparation", "error", "message"),
    [
        (None, None, ValueError, r"does not know how its images are prepared.*pass preprocessing=dict\(image_size"),
        (
            None,
            {"mean": (0.5,) * 3},
            TypeError,
            r"must have image_size, mean and std, .*without \['image_size', 'std'\]",
        ),
        (None, 3, TypeError, "got 3, without"),
        (None, PREPARATION._replace(mean=(0.5,)), ValueError, r"mean must have one value per channel of the images, 3"),
        (["a", "b"], PREPARATION, ValueError, "class_names must be 7 strings, one per class, got 2"),
        (range(7), PREPARATION, ValueError, r"class_names must be 7 strings, one per class, got 7: \[0, 1"),
    ],
)
def test_errors_of_metadata(
    names: list[str] | None, preparation: object, error: type[Exception], message: str, wrapped: Wrapped
) -> None:
    with pytest.raises(error, match=message):
        ServingModel(wrapped("tiny")).metadata(names, preparation)


# Parity.


def outputs(logits: list[list[float]], masks: list[list[float]]) -> dict[str, Tensor]:
    return {"logits": torch.tensor(logits), "mask_3": torch.tensor(masks)}


def test_parity_by_hand() -> None:
    batch = [torch.zeros(2, 1)]
    expected = outputs([[4.0, -8.0], [1.0, 2.0]], [[1.0, 0.0], [1.0, 1.0]])
    got = outputs([[4.0, -7.0], [9.0, 9.0]], [[1.0, 0.0], [1.0, 0.0]])  # the second image's mask flips: not its logits
    assert measure_parity(lambda x: expected, lambda x: got, batch) == (
        Parity("logits", 0.125, None),
        Parity("mask_3", None, 0.75),
    )


@pytest.mark.parametrize(
    ("parity", "holds"),
    [
        (Parity("logits", 1e-4, None), True),
        (Parity("logits", 2e-3, None), False),
        (Parity("mask_3", None, 0.996), True),
        (Parity("mask_3", None, 0.99), False),
    ],
)
def test_what_passes(parity: Parity, holds: bool) -> None:
    assert parity.holds(1e-3) is holds


def test_parity_fails_where_nothing_can_be_compared() -> None:
    batch, fine = [torch.zeros(1, 1)], outputs([[1.0]], [[1.0]])
    for wrong in (outputs([[float("nan")]], [[1.0]]), outputs([[1.0]], [[0.0]])):
        assert not measure_parity(lambda x: fine, lambda x, wrong=wrong: wrong, batch)[0].holds(1e9)
    with pytest.raises(ValueError, match=r"logits must be \(1, 1\), the artefact gives \(1, 2\)"):
        measure_parity(lambda x: fine, lambda x: outputs([[1.0, 1.0]], [[1.0]]), batch)


# Artefacts.


@pytest.fixture(scope="module")
def onnx_model(wrapped: Wrapped, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    path = tmp_path_factory.mktemp("onnx") / "folder" / "model.onnx"
    return export_onnx(wrapped("tiny", "paper"), path, class_names=NAMES, preprocessing=PREPARATION)


def run_onnx(path: Path, images: Tensor) -> dict[str, Tensor]:
    import onnxruntime

    session = onnxruntime.InferenceSession(path)
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, map(torch.from_numpy, session.run(None, {"images": images.numpy()})), strict=True))


@needs_torch("onnx")
def test_onnx_runtime_gives_what_explain_gives(onnx_model: Exported, wrapped: Wrapped) -> None:
    assert onnx_model.dynamic == FREE and onnx_model.image_size == (64, 96)
    assert [row.output for row in onnx_model.parity] == OUTPUTS
    assert all(row.holds(1e-5) for row in onnx_model.parity)
    assert os.listdir(onnx_model.path.parent) == ["model.onnx"]
    model = wrapped("tiny", "paper")
    for shape in ((1, 3, 64, 96), (4, 3, 75, 131)):
        images = torch.rand(shape)
        assert_same(run_onnx(onnx_model.path, images), model, images)


@needs_torch("onnx")
def test_exported_prints_a_table_and_turns_into_json(onnx_model: Exported) -> None:
    text = str(onnx_model)
    assert "model.onnx (onnx): any batch size and image size" in text
    assert "mask_3" in text and "100.00%" in text and "Tried on images of 1 x 3 x 64 x 96, 3 x 3 x 64 x 96" in text
    plain = json.loads(json.dumps(onnx_model.as_dict()))
    assert plain["parity"][1] == {"output": "mask_2", "difference": None, "agreement": 1.0}


def serve(path: Path, image: Path) -> str:
    """What the example prints, in a process that has no torch."""
    source = f"import sys, runpy; sys.modules['torch'] = None; sys.argv[1:] = {[str(path), str(image)]}\n"
    source += f"runpy.run_path({str(SERVE)!r}, run_name='__main__'); assert 'aimwrap' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, cwd=path.parent)
    assert done.returncode == 0, done.stderr
    return done.stdout


def noise(mode: str, width: int, height: int) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (5, 7, 4), dtype=np.uint8)
    return Image.fromarray(values).resize((width, height), Image.Resampling.BICUBIC).convert(mode)


def printed(model: AIM, images: Tensor) -> str:
    logits = model(images).logits[0]
    return f"{NAMES[logits.argmax()]} {logits.softmax(0).max():.1%}\n"


SERVED = {
    "not square": (PREPARATION, noise("RGB", 130, 193)),  # to 178.2 rows
    "not square, rounded up": (PREPARATION, noise("RGB", 173, 131)),  # to 90.9 rows
    "square": (SQUARE._replace(crop=0.875, interpolation="bicubic"), noise("RGB", 131, 158)),  # to 88.05 rows
    "square, rounded down": (SQUARE, noise("RGB", 131, 157)),  # to 95.9 rows
    "squashed": (PREPARATION._replace(squash=True, crop=1.0), noise("RGB", 173, 130)),
    "small and grey": (SQUARE, noise("L", 50, 31)),
    "alpha": (SQUARE, noise("RGBA", 100, 80)),
}


@needs_torch("onnx")
@pytest.mark.parametrize("case", SERVED)
def test_serving_example_does_what_preprocessing_and_the_model_do(
    case: str, onnx_model: Exported, wrapped: Wrapped, tmp_path: Path
) -> None:
    """To the pixel: it says the model's class, and darkens what the mask leaves out."""
    import onnx

    preprocessing, image = SERVED[case]
    proto = onnx.load(onnx_model.path)
    (entry,) = [entry for entry in proto.metadata_props if entry.key == "preprocessing"]
    entry.value = json.dumps(preprocessing._asdict())
    onnx.save(proto, tmp_path / "model.onnx")
    image.save(tmp_path / "image.png")

    images = preprocessing.transform()(image.convert("RGB"))[None]
    assert serve(tmp_path / "model.onnx", tmp_path / "image.png") == printed(wrapped("tiny", "paper"), images)
    overlay = np.asarray(Image.open(tmp_path / "image.mask.png"))
    mask = explain(wrapped("tiny", "paper"), images).merged_mask
    kept = nn.functional.interpolate(mask, size=preprocessing.image_size)[0, 0].bool().numpy()
    unit = preprocessing._replace(mean=(0.0,) * 3, std=(1.0,) * 3)
    shown = (255 * unit.transform()(image.convert("RGB"))).round().permute(1, 2, 0).numpy()
    assert 0 < kept.mean() < 1
    assert (overlay[kept] == shown[kept]).all() and (overlay[~kept] == shown[~kept] // 4).all()


@needs_torch("onnx")
def test_serving_example_turns_photographs_upright(onnx_model: Exported, wrapped: Wrapped, tmp_path: Path) -> None:
    image, exif = noise("RGB", 173, 131), Image.Exif()
    exif[0x0112] = 6  # the camera was held upright
    image.save(tmp_path / "image.png", exif=exif)
    upright = image.transpose(Image.Transpose.ROTATE_270)
    model, prepare = wrapped("tiny", "paper"), PREPARATION.transform()
    said = serve(onnx_model.path, tmp_path / "image.png")
    assert said == printed(model, prepare(upright)[None]) != printed(model, prepare(image)[None])


@needs_torch("onnx")
@pytest.mark.parametrize("kind", [np.uint16, np.uint8])
def test_serving_example_looks_through_the_window(
    kind: type, onnx_model: Exported, wrapped: Wrapped, tmp_path: Path
) -> None:
    import onnx

    most = 4095 if kind is np.uint16 else 255
    values = np.random.default_rng(0).integers(0, most + 1, (80, 100)).astype(kind)
    preprocessing = SQUARE._replace(window=(0.25 * most, 0.75 * most))
    proto = onnx.load(onnx_model.path)
    (entry,) = [entry for entry in proto.metadata_props if entry.key == "preprocessing"]
    entry.value = json.dumps(preprocessing._asdict())
    onnx.save(proto, tmp_path / "model.onnx")
    Image.fromarray(values).save(tmp_path / "image.png")
    images = preprocessing.transform()(values)[None]
    assert serve(tmp_path / "model.onnx", tmp_path / "image.png") == printed(wrapped("tiny", "paper"), images)
    assert np.asarray(Image.open(tmp_path / "image.mask.png")).shape[:2] == (64, 64)


@needs_torch("onnx")
@pytest.mark.slow
def test_from_saving_to_serving(tmp_path: Path) -> None:
    """A model by name, saved, exported by the command line, and served without torch."""
    pytest.importorskip("typer")
    from typer.testing import CliRunner

    from aimwrap.cli import app

    model = AIM("timm/resnet10t", backbone_kwargs={"num_classes": 7}, width=16).eval()
    for parameter in model.classifier.parameters():
        nn.init.normal_(parameter)  # so that classes differ
    folder, image = tmp_path / "saved", noise("RGB", 120, 97)
    model.save_pretrained(folder, class_names=NAMES, preprocessing=SQUARE)
    result = CliRunner().invoke(app, ["export", str(folder), "--fixed-size", "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.output)["path"] == str(folder / "model.onnx")
    image.save(tmp_path / "image.png")
    assert serve(folder / "model.onnx", tmp_path / "image.png") == printed(model, SQUARE.transform()(image)[None])


@pytest.fixture(scope="module")
def program(wrapped: Wrapped, tmp_path_factory: pytest.TempPathFactory) -> tuple[Exported, dict[str, int]]:
    """One of fixed size, and which tensors the model had before."""
    path, model = tmp_path_factory.mktemp("program") / "model.pt2", wrapped("tiny", "feature-preserving")
    before = tensors(model)
    mine = images_of(2, 3, 64, 64)
    return export_program(model, path, preprocessing=SQUARE, images=mine, dynamic_size=False), before


def tensors(model: AIM) -> dict[str, int]:
    return {name: id(value) for name, value in model.state_dict(keep_vars=True).items()}


@pytest.mark.slow
def test_program_gives_what_explain_gives_and_the_model_is_as_it_was(
    program: tuple[Exported, dict[str, int]], wrapped: Wrapped
) -> None:
    (exported, before), model = program, wrapped("tiny", "feature-preserving")
    assert before == tensors(model)
    assert exported.dynamic == ("batch",) and exported.tried[-1] == (2, 3, 64, 64) and len(exported.tried) == 3
    assert "any batch size, images of 64 x 64" in str(exported)
    extra = {"aimwrap.json": ""}
    module = torch.export.load(exported.path, extra_files=extra).module()
    assert json.loads(extra["aimwrap.json"])["head"] == "feature-preserving"
    images = torch.rand(5, 3, 64, 64)
    assert_same(module(images), model, images)


@pytest.mark.slow
def test_the_model_itself_can_be_saved_as_a_program(tmp_path: Path, wrapped: Wrapped) -> None:
    model, images = wrapped("tiny"), images_of(2, 3, 64, 64)
    torch.export.save(torch.export.export(model, (images,), strict=False), tmp_path / "model.pt2")
    output = torch.export.load(tmp_path / "model.pt2").module()(images)
    assert type(output) is AIMOutput and list(output.masks) == [2, 3]
    assert torch.equal(output.logits, model(images).logits)


def test_what_computes_something_else_is_not_written(
    program: tuple[Exported, dict[str, int]], tmp_path: Path, wrapped: Wrapped, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.pt2"
    path.write_text("an older one")
    model, traced = wrapped("tiny", "feature-preserving"), torch.export.load(program[0].path)

    def load(self: object, path: Path) -> Callable[[Tensor], dict[str, Tensor]]:
        serving = ServingModel(model)
        return lambda images: {name: value + 0.01 * (name == "logits") for name, value in serving(images).items()}

    monkeypatch.setattr(torch.export, "export", lambda *arguments, **options: traced)  # the same again
    monkeypatch.setattr(formats._Program, "write", lambda self, p, s, path, m: path.write_text("new"))
    monkeypatch.setattr(formats._Program, "load", load)
    arguments = {"preprocessing": SQUARE, "dynamic_size": False}
    with pytest.raises(
        ParityError, match=r"not written.*computes: logits: largest relative difference \d.*tolerance="
    ) as e:
        export_program(model, path, **arguments)
    assert [row.output for row in e.value.parity if not row.holds(1e-3)] == ["logits"]
    assert "dynamic_size" not in str(e.value)
    with pytest.raises(
        ParityError, match=r"logits: .* dynamic_size=False \(--fixed-size\), or another version of torch .* may do bett"
    ):
        export_program(model, path, preprocessing=SQUARE)
    assert os.listdir(tmp_path) == ["model.pt2"] and path.read_text() == "an older one"
    assert export_program(model, path, **arguments, tolerance=1e9).dynamic == ("batch",)
    assert path.read_text() == "new"


class FixedSize(TinyNet):
    """Adds a position embedding of one size, as ViTs do."""

    def __init__(self) -> None:
        super().__init__()
        self.where = nn.Parameter(torch.randn(1, 16, 4, 4))

    def features(self, x: Tensor) -> Tensor:
        return self.block3(self.block2(self.block1(self.block0(self.stem(x)))) + self.where)


@pytest.mark.slow
def test_a_backbone_that_fixes_the_image_size_is_exported_with_it(tmp_path: Path) -> None:
    model = AIM(FixedSize(), [2, 3], example_input=torch.zeros(2, 3, 64, 64))
    with pytest.warns(
        UserWarning, match=r"model.pt2 takes images of 64 x 64 only; for any size: \w+: .*dynamic_size=F"
    ):
        exported = export_program(model, tmp_path / "model.pt2", preprocessing=PREPARATION, image_size=64)
    assert exported.dynamic == ("batch",) and exported.tried == ((1, 3, 64, 64), (3, 3, 64, 64))
    assert "any batch size, images of 64 x 64" in str(exported)


def test_a_backbone_tapped_by_hooks_cannot_be_exported(tmp_path: Path, wrapped: Wrapped) -> None:
    with pytest.raises(ValueError, match=r"cannot be exported to pt2: .*Branching is tapped by hooks"):
        export_program(wrapped("branching"), tmp_path / "model.pt2", preprocessing=PREPARATION, dynamic_size=False)
    assert not os.listdir(tmp_path)


class Positioned(TinyNet):
    """Knows where each position of its images is, as some transformers do, and so takes one size."""

    def __init__(self) -> None:
        super().__init__()
        self.position = nn.Parameter(torch.rand(16, 4, 4))

    def features(self, x: Tensor) -> Tensor:
        return self.block3(self.block2(self.block1(self.block0(self.stem(x)))) + self.position)


@pytest.mark.parametrize(
    ("image_size", "message"),
    [
        (31, r"image_size must be at least 32 x 32, .*Positioned\+AIM \[.*deepest map, got 31 x 31; 64 x 64 works"),
        ((64, 20), r"must be at least 32 x 32, .*, got 64 x 20"),
        (96, r"must be one that the backbone takes, got 96 x 96: RuntimeError: .*; 64 x 64 works"),
        (0, r"image_size must be \(H, W\) in pixels, or the side of square images, got 0"),
        ((64, 64, 3), r"image_size must be \(H, W\) in pixels, .*got \(64, 64, 3\)"),
        ((64.0, 64), r"image_size must be \(H, W\) in pixels, .*got \(64\.0, 64\)"),
    ],
)
def test_sizes_that_do_not_work_name_one_that_does(
    image_size: object, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = AIM(Positioned(), [2, 3], example_input=torch.zeros(1, 3, 64, 64))
    monkeypatch.setattr(torch.export, "export", None)  # nothing is traced for it
    with pytest.raises(ValueError, match=message):
        export_program(model, tmp_path / "model.pt2", preprocessing=SQUARE, image_size=image_size)
    assert not os.listdir(tmp_path)


def test_errors_at_the_boundary(tmp_path: Path, wrapped: Wrapped, monkeypatch: pytest.MonkeyPatch) -> None:
    model = wrapped("tiny")
    monkeypatch.setattr(torch, "__version__", "2.6.0")
    for export, message in (
        (export_onnx, r"onnx needs torch 2\.7 or newer, this is 2\.6\.0: pip install -U torch, or .* --format pt2"),
        (export_aotinductor, r"aotinductor needs torch 2\.9 or newer, this is 2\.6\.0"),
    ):
        with pytest.raises(RuntimeError, match=message):
            export(model, tmp_path / "model.pt2", preprocessing=PREPARATION)
    monkeypatch.setattr(torch, "__version__", "2.10.1+cpu")
    with pytest.raises(ValueError, match=r"path must end in \.onnx for the format onnx, got"):
        export_onnx(model, tmp_path / "model.pt2", preprocessing=PREPARATION)
    with pytest.raises(TypeError, match="model must be an AIM, got TinyNet"):
        export_program(TinyNet(), tmp_path / "model.pt2")
    with pytest.raises(ValueError, match=r"images must be \(N, C, 64, 96\), .* got \(1, 3, 64, 64\)"):
        export_program(model, tmp_path / "model.pt2", preprocessing=PREPARATION, images=torch.zeros(1, 3, 64, 64))
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ImportError, match=r'pip install "aimwrap\[export\]"'):
        export_onnx(model, tmp_path / "model.onnx")
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(RuntimeError, match=r"AOTInductor needs a C\+\+ compiler.*CXX"):
        export_aotinductor(model, tmp_path / "model.pt2")
    assert not os.listdir(tmp_path)


# Backbones and formats, each with one of the heads, in turns.

TRANSFORMERS = ["tv_swin", "twins"]
CNNS = [name for name in (*TORCHVISION, *TIMM) if name not in TRANSFORMERS]
ROUNDING = "tf_efficientnet_lite0"  # pads as TensorFlow does
LARGE = {"tv_densenet", "densenet121", "tv_efficientnet_b0", "tv_regnet_y_400mf", "regnetx_002", "tv_resnet18"}


def with_rare_ones(names: Sequence[str], first: int) -> list[Any]:
    """Each name with one of the heads; the large ones are left to the rare tests."""
    marks = {name: pytest.mark.rare if name in LARGE else () for name in names}
    return [pytest.param(name, HEADS[i % 2 - first], marks=marks[name]) for i, name in enumerate(names)]


@needs_torch("onnx")
@pytest.mark.slow
@pytest.mark.parametrize(("name", "head"), with_rare_ones(CNNS, 0))
def test_onnx_of_many_backbones(name: str, head: str, wrapped: Wrapped, tmp_path: Path) -> None:
    dynamic_size = name in ("resnet10t", "convnext_atto")  # it takes twice the time
    path = tmp_path / "model.onnx"
    exported = export_onnx(wrapped(name, head), path, preprocessing=SQUARE, dynamic_size=dynamic_size)
    assert exported.dynamic == (FREE if dynamic_size else ("batch",))
    assert all(row.holds(1e-3) for row in exported.parity)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "head"), [p for p in with_rare_ones(["tiny", *CNNS], 1) if p.values[0] != ROUNDING])
def test_programs_of_many_backbones(name: str, head: str, wrapped: Wrapped, tmp_path: Path) -> None:
    exported = export_program(wrapped(name, head), tmp_path / "model.pt2", preprocessing=SQUARE)
    assert exported.dynamic == FREE and all(row.holds(1e-5) for row in exported.parity)
    images = images_of(1, 3, 97, 75)
    assert_same(torch.export.load(exported.path).module()(images), wrapped(name, head), images)


@pytest.mark.slow
def test_sizes_that_are_rounded_up_are_fixed_at_once(wrapped: Wrapped, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"64 x 64 only; for any size: the backbone pads as TensorFlow does"):
        exported = export_program(wrapped(ROUNDING, "paper"), tmp_path / "model.pt2", preprocessing=SQUARE)
    assert exported.dynamic == ("batch",) and all(row.holds(1e-5) for row in exported.parity)


@pytest.mark.slow
def test_artefacts_load_without_the_library(wrapped: Wrapped, tmp_path: Path) -> None:
    path = export_program(wrapped("tiny"), tmp_path / "model.pt2", preprocessing=SQUARE, dynamic_size=False).path
    source = f"import sys, torch; sys.modules['aimwrap'] = None; torch.export.load({str(path)!r}).module()"
    subprocess.run([sys.executable, "-c", source], check=True, capture_output=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", TRANSFORMERS)
@pytest.mark.parametrize(
    ("export", "path"),
    [pytest.param(export_onnx, "model.onnx", marks=needs_torch("onnx")), (export_program, "model.pt2")],
)
def test_transformers_with_their_size(
    name: str, export: Callable[..., Exported], path: str, wrapped: Wrapped, tmp_path: Path
) -> None:
    exported = export(wrapped(name, "feature-preserving"), tmp_path / path, preprocessing=SQUARE, dynamic_size=False)
    assert exported.dynamic == ("batch",)


COMPILED = [
    *("head_conv", "parameters", "normalising"),
    *("resnet10t", "convnext_atto", "tv_densenet"),
]


@needs_torch("aotinductor")
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "head", "dynamic_size"),
    [
        pytest.param("tiny", "paper", True, marks=pytest.mark.rare),
        *(pytest.param(*p.values, False, marks=p.marks) for p in with_rare_ones(COMPILED, 1)),
    ],
)
def test_aotinductor(name: str, head: str, dynamic_size: bool, wrapped: Wrapped, tmp_path: Path) -> None:
    model, path = wrapped(name, head), tmp_path / "model.pt2"
    exported = export_aotinductor(model, path, class_names=NAMES, preprocessing=SQUARE, dynamic_size=dynamic_size)
    assert exported.dynamic == (FREE if dynamic_size else ("batch",))
    assert all(row.holds(1e-4) for row in exported.parity)
    loaded = torch._inductor.aoti_load_package(str(path))
    assert json.loads(loaded.get_metadata()["class_names"]) == NAMES
    images = images_of(5, 3, *((97, 75) if dynamic_size else (64, 64)))
    assert_same(loaded(images), model, images)


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"is_causal": True},
        {"scale": 0.3, "attn_mask": torch.arange(35.0).view(5, 7).cos()},
        {"attn_mask": torch.arange(35).view(5, 7) % 3 > 0},
    ],
)
def test_attention_spelled_out_is_torchs(given: dict[str, Any]) -> None:
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(2, 3, 4, tokens, 6, generator=generator) for tokens in (5, 7, 7))
    expected = F.scaled_dot_product_attention(query, key, value, **given)
    assert torch.allclose(_plain_attention(query, key, value, **given), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "window", "options"),
    [
        ("u1", (-160, 240), {}),  # Hounsfield units
        ("u1", (0, 1), {}),
        (">i2", (-160, 240), {"byteorder": ">", "compression": "zlib"}),
        ("u4", (0, 4e9), {}),
    ],
)
def test_serving_example_refuses_values_that_the_window_is_not_for(
    kind: str,
    window: tuple[float, float],
    options: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    tifffile.imwrite(tmp_path / "image.tif", np.full((80, 100), 200, kind), **options)
    facts = {"class_names": "[]", "preprocessing": json.dumps(SQUARE._replace(window=window)._asdict())}
    session = SimpleNamespace(get_modelmeta=lambda: SimpleNamespace(custom_metadata_map=facts))
    monkeypatch.setitem(sys.modules, "onnxruntime", SimpleNamespace(InferenceSession=lambda path: session))
    monkeypatch.setattr(sys, "argv", ["serve_onnx.py", "x", str(tmp_path / "image.tif")])
    with pytest.raises(SystemExit, match="1"):
        runpy.run_path(str(SERVE), run_name="__main__")
    reason = "it has 8 bits, and" if kind == "u1" else "Pillow reads other values than the file has"
    assert reason in capsys.readouterr().err
