"""Reports of models with one logit: above 0 it is class 1, and its sigmoid is the probability."""

import math
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from timm.loss import AsymmetricLossMultiLabel, LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from torch import Tensor, nn
from zoo import TinyNet

from aimwrap import AIM, AIMLoss, AIMOutput, Preprocessing, SecondLook, area_curve, explain, verify
from aimwrap._checks import check_one_logit
from aimwrap._numerics import predicted_classes
from aimwrap.analysis.look import look, measure
from aimwrap.backbones.pooled import PooledClassifier
from aimwrap.export import ServingModel
from aimwrap.metrics import GroupAccuracy, average_accuracy, group_accuracies

UNIT = Preprocessing((64, 64), (0.0,) * 3, (1.0,) * 3)
SERVE = Path(__file__).parents[2] / "examples" / "serve_onnx.py"


@pytest.fixture(scope="module")
def model() -> AIM:
    """Its decisions differ between images of noise, and half of them are class 1."""
    torch.manual_seed(0)
    model = AIM(TinyNet(), [2, 3], num_classes=1, mask_width=4).eval()
    nn.init.normal_(model.classifier.weight)
    with torch.no_grad():
        model.classifier.bias.sub_(model(some_images()).logits.quantile(0.5))  # between two images' logits
    return model


def some_images(count: int = 8) -> Tensor:
    return torch.randn(count, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def signs(model: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        return (model(images).logits[:, 0] > 0).long()


def test_group_accuracy_goes_by_the_sign() -> None:
    """Reported: 0.52 and worst group 0, where the sign is right for 200 of 200 images."""
    labels = torch.arange(200) % 2
    logits = (labels * 2.0 - 1)[:, None]
    metric = GroupAccuracy(num_groups=2)
    metric.update(logits, labels, labels)
    found = metric.compute()
    assert found["average"] == found["worst_group"] == 1
    assert average_accuracy(-logits, labels) == 0
    assert predicted_classes(torch.tensor([[0.0], [1e-9], [-1.0]])).tolist() == [0, 1, 0]


def test_a_column_of_whole_numbers_is_no_logit() -> None:
    with pytest.raises(ValueError, match=r"predictions must be \(2,\), one value per label, got \(2, 1\)"):
        group_accuracies(torch.tensor([[2], [0]]), torch.tensor([2, 0]), torch.tensor([0, 0]), 1)


def test_the_area_curve_goes_by_the_sign(model: AIM) -> None:
    """Reported: 0.520 at every area."""
    images = some_images()
    labels = signs(model, images)
    curve = area_curve(model, [(images, labels), (images, 1 - labels)])
    assert 0 < labels.sum() < len(labels) and curve.own.accuracy == 0.5
    assert area_curve(model, [(images, labels)]).own.accuracy == 1.0


def test_what_survives_is_counted_by_the_sign(model: AIM) -> None:
    """Reported: every survival 1.000."""
    images = some_images()
    found = verify(model, images, TinyNet(1).eval(), progress=False)
    assert found.passed and found.survival and min(row.rate for row in found.survival) < 1.0


def test_a_look_explains_the_class_of_the_sign(model: AIM) -> None:
    """The heatmap adds up, with the bias, to the logit of class 1 or to its negative; the confidence is the sigmoid."""
    images, labels = some_images(), torch.arange(8) % 2
    classes = signs(model, images)
    seen = look(model, images)
    sided = torch.where(classes == 1, seen.logits[:, 0], -seen.logits[:, 0])
    bias = torch.where(classes == 1, 1, -1) * model.classifier.bias.detach()
    torch.testing.assert_close(seen.heatmap.sum((1, 2)) + bias, sided, rtol=1e-4, atol=1e-4)
    measured = measure(seen, labels, torch.zeros(8, 1, 64, 64), (2, 2))
    assert measured.predicted.tolist() == classes.tolist() and measured.right.tolist() == (classes == labels).tolist()
    torch.testing.assert_close(measured.confidence, sided.sigmoid())
    of_label = seen.logits[:, 0].sigmoid()
    torch.testing.assert_close(measured.true_confidence, torch.where(labels == 1, of_label, 1 - of_label))


def test_plain_and_second_looks_do_the_same(model: AIM) -> None:
    images, plain = some_images(), TinyNet(1).eval()
    logits, heatmap = PooledClassifier(plain).explained(images)
    classes = (logits[:, 0] > 0).long()
    sided = torch.where(classes == 1, logits[:, 0], -logits[:, 0])
    torch.testing.assert_close(heatmap.mean((1, 2)) + PooledClassifier(plain).bias[classes], sided)
    second = SecondLook(model).eval()
    seen = look(second, images)
    contributions = explain(second, images).contributions[:, 0].sum((1, 2))
    assert torch.equal(measure(seen, classes, seen.kept, (2, 2)).predicted, signs(second, images))  # type: ignore[arg-type]
    assert (contributions.sign() == torch.where(signs(second, images) == 1, 1, -1)).all()  # its bias is 0


def test_grad_cam_explains_the_class_of_the_sign(model: AIM) -> None:
    pytest.importorskip("captum")
    from aimwrap.attribution import grad_cam

    images = some_images()
    contributions = explain(model, images).contributions[:, 0]
    expected = torch.where(signs(model, images)[:, None, None] == 1, contributions, -contributions)
    torch.testing.assert_close(grad_cam(model, images), expected, rtol=1e-3, atol=1e-5)
    first = grad_cam(model, images, torch.ones(8, dtype=torch.long))
    torch.testing.assert_close(first, contributions, rtol=1e-3, atol=1e-5)


def test_a_notebook_names_the_class_of_the_sign(model: AIM) -> None:
    for number, predicted in enumerate(signs(model, some_images()).tolist()):
        page = explain(model, some_images()[number : number + 1])._repr_html_()
        assert f"class {predicted}" in page and "class 1" in page  # the logit is class 1's


@pytest.mark.parametrize(("bias", "name"), [(-100.0, "cat"), (100.0, "dog")])
def test_the_cards_code_goes_by_the_sign(
    bias: float, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Reported: the code of the model card always prints class 0."""
    monkeypatch.chdir(tmp_path)
    model = AIM(TinyNet(), [2, 3], num_classes=1, mask_width=4)
    nn.init.constant_(model.classifier.bias, bias)
    model.save_pretrained(".", class_names=("cat", "dog"), preprocessing=UNIT)
    Image.new("RGB", (64, 64)).save("image.jpg")
    text = Path("README.md").read_text(encoding="utf-8")
    assert "2: cat, dog" in text
    exec(text.split("```python")[1].split("```")[0], {"backbone": TinyNet()})
    assert capsys.readouterr().out.split()[-1] == name


def serve(
    monkeypatch: pytest.MonkeyPatch, logit: float, *arguments: str, prepared: Preprocessing = UNIT
) -> list[np.ndarray]:
    """Run the example with a model that gives this logit for every picture; returns what the model was given."""
    network, given_images = TinyNet(in_channels=len(prepared.mean)), []
    facts = ServingModel(AIM(network, [2, 3], num_classes=1, mask_width=4)).metadata(None, prepared)

    class Session:
        def __init__(self, path: str) -> None:
            if path != "model.onnx":
                raise RuntimeError("File doesn't exist")

        def get_modelmeta(self) -> Any:
            return SimpleNamespace(custom_metadata_map=facts)

        def run(self, names: list[str], given: dict[str, Any]) -> list[Any]:
            given_images.append(given["images"][0])
            return [np.array([[logit]], np.float32), np.ones((1, 1, 2, 2), np.float32)]

    monkeypatch.setitem(sys.modules, "onnxruntime", SimpleNamespace(InferenceSession=Session))
    monkeypatch.setattr(sys, "argv", ["serve_onnx.py", *arguments])
    runpy.run_path(str(SERVE))
    return given_images


@pytest.mark.parametrize(("logit", "said"), [(-1.0, "0 73.1%"), (2.0, "1 88.1%")])
def test_serving_goes_by_the_sign(
    logit: float, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Reported: serve_onnx.py says class 0 at 100 % for every image."""
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (64, 64)).save("image.png")
    serve(monkeypatch, logit, "model.onnx", "image.png")
    assert capsys.readouterr().out.strip() == said


def test_serving_takes_all_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first of several was served, without a word on the others, and a wrong path ended in a traceback."""
    monkeypatch.chdir(tmp_path)
    Path("more").mkdir()
    for name in ("a.png", "more/a.png"):
        Image.new("RGB", (64, 64)).save(name)
    with pytest.raises(SystemExit) as ended:
        serve(monkeypatch, 2.0, "model.onnx", "a.png", "none.png", "more/a.png")
    said = capsys.readouterr()
    assert ended.value.code == 1 and said.out == "a.png: 1 88.1%\nmore/a.png: 1 88.1%\n"
    assert said.err.startswith("none.png cannot be read as an image: ") and said.err.count("\n") == 1
    assert {path.name for path in tmp_path.glob("*.mask.png")} == {"a.mask.png", "a-2.mask.png"}
    with pytest.raises(SystemExit, match=r"^none\.onnx is not a model that aimwrap exported to ONNX: File does"):
        serve(monkeypatch, 2.0, "none.onnx", "a.png")


@pytest.mark.parametrize(("name", "served"), [("x.tif", False), ("x.gif", False), ("x.mpo", True)])
def test_serving_takes_no_first_page_of_several(
    name: str, served: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second picture of a telephone's file is a preview; pages are pictures of their own."""
    monkeypatch.chdir(tmp_path)
    pages = [Image.new("RGB", (64, 64), colour) for colour in ("red", "blue")]
    pages[0].save(name, save_all=True, append_images=pages[1:])
    if served:
        serve(monkeypatch, 2.0, "model.onnx", name)
        return
    with pytest.raises(SystemExit):
        serve(monkeypatch, 2.0, "model.onnx", name)
    assert "it has several pages or frames" in capsys.readouterr().err


def test_one_name_for_two_classes_is_refused(tmp_path: Path) -> None:
    model = AIM(TinyNet(), [2, 3], num_classes=1, mask_width=4)
    with pytest.raises(ValueError, match=r"one name per class: 2 classes, 1 name\(s\)"):
        model.save_pretrained(tmp_path, class_names=["dog"])
    with pytest.raises(ValueError, match="class_names must be 2 strings"):
        ServingModel(model).metadata(["dog"], UNIT)


def test_cross_entropy_of_one_logit_is_refused() -> None:
    """It is 0 whatever the logit: nothing would be trained."""
    output = AIMOutput(torch.zeros(2, 1), {3: torch.zeros(2, 1)}, {3: torch.ones(2, 1, 2, 2)})
    with pytest.raises(ValueError, match=r"cross entropy of one logit is always 0.*BCEWithLogitsLoss"):
        AIMLoss(tau=0.25)(output, torch.zeros(2, dtype=torch.long))
    loss = AIMLoss(tau=1.0, classification_loss=nn.BCEWithLogitsLoss())(output, torch.ones(2, 1))
    assert loss.item() == pytest.approx(2 * math.log(2))


@pytest.mark.parametrize(
    ("loss", "target"),
    [
        (LabelSmoothingCrossEntropy(), torch.zeros(2, dtype=torch.long)),
        (SoftTargetCrossEntropy(), torch.tensor([[0.0], [1.0]])),
    ],
)
def test_any_loss_with_a_softmax_is_refused_for_one_logit(loss: nn.Module, target: Tensor) -> None:
    """It is 0 whatever the logit, as torch's own."""
    logits = torch.tensor([[1.0], [-2.0]])
    output = AIMOutput(logits, {3: logits}, {3: torch.ones(2, 1, 2, 2)})
    with pytest.raises(ValueError, match=r"Entropy is the same for all values .* train nothing.*BCEWithLogitsLoss"):
        AIMLoss(tau=0.25, classification_loss=loss).bfloat16()(output, target)


@pytest.mark.parametrize("loss", [nn.BCEWithLogitsLoss(), nn.SoftMarginLoss(), nn.HingeEmbeddingLoss(), nn.MSELoss()])
@pytest.mark.parametrize("logit", [-200.0, 0.0, 200.0])
def test_losses_of_one_logit_are_taken(loss: nn.Module, logit: float) -> None:
    """Also where they have no gradient, as for an image that is classified well already."""
    check_one_logit(loss, torch.full((2, 1), logit), torch.ones(2, 1))


def test_balanced_labels_are_no_softmax() -> None:
    """A loss that is linear in the logits is the same for all of one value."""
    check_one_logit(nn.L1Loss(), torch.zeros(4, 1), torch.tensor([[0.0], [1.0], [0.0], [1.0]]))


@pytest.mark.parametrize("loss", [AsymmetricLossMultiLabel(), nn.HingeEmbeddingLoss()])
def test_labels_without_a_second_dimension_are_refused(loss: nn.Module) -> None:
    """Each logit was compared with all labels: six right predictions had a loss of 17.9."""
    labels = torch.tensor([0.0, 1.0, 0.0, 1.0, 0.0, 1.0])
    logits = torch.where(labels == 1, 4.0, -4.0)[:, None]
    output = AIMOutput(logits, {3: logits}, {3: torch.ones(6, 1, 2, 2)})
    criterion = AIMLoss(tau=1.0, classification_loss=loss)
    with pytest.raises(ValueError, match=r"compares each logit with all labels, .* \(6,\) .*write labels\[:, None\]"):
        criterion(output, labels)
    criterion(output, labels[:, None])


def test_a_loss_that_takes_the_second_dimension_away_is_taken() -> None:
    class Squeezed(nn.Module):
        def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
            return nn.functional.binary_cross_entropy_with_logits(logits.squeeze(1), labels)

    for count, positives in ((2, 1), (256, 1), (300, 150), (1025, 1024)):
        for first in range(0, count - positives + 1, max(1, count // 8)):
            numbers = torch.arange(count)
            labels = ((numbers >= first) & (numbers < first + positives)).float()
            check_one_logit(Squeezed(), torch.zeros(count, 1), labels)


def test_explanations_of_either_class_may_be_asked_for(model: AIM) -> None:
    """Class 0 gave the contributions of class 1, and class 1 did not exist."""
    images = some_images(2)
    whole = explain(model, images)
    for classes in ([1], [0], [0, 1]):
        asked, signs = explain(model, images, classes), torch.tensor(classes) * 2.0 - 1
        torch.testing.assert_close(asked.contributions, signs.view(1, -1, 1, 1) * whole.contributions)
        torch.testing.assert_close(asked.contributions.sum((2, 3)) + asked.bias, signs * whole.logits)
    for classes in ([1], [0]):
        assert f"class {classes[0]}\nlogit" in explain(model, images, classes)._repr_html_()
    with pytest.raises(ValueError, match=r"classes must be in 0..1, got 2"):
        explain(model, images, [2])


def test_labels_beyond_the_two_classes_are_refused(model: AIM) -> None:
    with pytest.raises(ValueError, match=r"labels must be in 0..1, got 2"):
        area_curve(model, [(some_images(2), torch.tensor([0, 2]))])


def test_serving_refuses_colours_of_more_than_8_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A picture of 12 bits was classified as a near-black one."""
    monkeypatch.chdir(tmp_path)
    Path("deep.ppm").write_bytes(b"P6 64 64 65535\n" + b"\x0f\xff" * 3 * 64 * 64)
    with pytest.raises(SystemExit):
        serve(monkeypatch, 2.0, "model.onnx", "deep.ppm")
    assert "it has more than 8 bits" in capsys.readouterr().err


@pytest.mark.parametrize("interpolation", ["bicubic", "nearest-exact"])
@pytest.mark.parametrize("channels", [1, 3])
def test_serving_through_a_window_sees_what_training_sees(
    channels: int, interpolation: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Values that a filter overshoots were cut off: 67 of 255 apart."""
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3)).astype(np.uint8)
    Image.fromarray(pixels[..., 0] if channels == 1 else pixels).save("x.png")
    prepared = Preprocessing((32, 32), (0.4,) * channels, (0.3,) * channels, interpolation, window=(20, 200))
    (seen,) = serve(monkeypatch, 2.0, "model.onnx", "x.png", prepared=prepared)
    with Image.open("x.png") as picture:
        right = prepared.transform()(picture).numpy()
    assert np.abs(seen - right).max() < 1e-4
    assert (right.max() > 2.1) == (interpolation == "bicubic"), "it overshoots"
    assert Path("x.mask.png").is_file()
