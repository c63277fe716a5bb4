"""A second look is saved as one folder with both looks, and comes back bit for bit."""

import json
import re
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file
from torch import nn
from zoo import BACKBONES, HeadConvNet, TinyNet, aim, lively

from aimwrap import AIM, Preprocessing, SecondLook


def second_look(backbone: nn.Module | None = None, **arguments: float) -> SecondLook:
    """With masks that keep a part of the image, and a classifier that is not fresh."""
    torch.manual_seed(0)
    second = SecondLook(
        lively(aim("feature-preserving", backbone=backbone or TinyNet())),
        **({"margin": 0, "least": 0.4, "fill": 0.25} | arguments),
    )
    nn.init.normal_(second.classifier.weight)
    nn.init.normal_(second.classifier.bias)
    return second.eval()


def images_for(second: SecondLook) -> torch.Tensor:
    return torch.randn(2, second.in_channels, 64, 64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name == "tiny" else pytest.mark.slow) for name in BACKBONES]
)
def test_both_looks_come_back_bit_for_bit(name: str, tmp_path: Path) -> None:
    second = second_look(BACKBONES[name]())
    second.save_pretrained(tmp_path)
    given = BACKBONES[name]()
    before = torch.get_rng_state()
    again = SecondLook.from_pretrained(tmp_path, backbone=given)
    assert torch.equal(torch.get_rng_state(), before)
    images = images_for(second)
    expected, output = second(images), again(images)
    assert torch.equal(output.logits, expected.logits) and torch.equal(output.boxes, expected.boxes)
    assert torch.equal(output.kept, expected.kept) and torch.equal(output.first.logits, expected.first.logits)
    assert torch.equal(again.predict(images).logits, expected.logits)


def test_everything_that_it_was_built_with_comes_back(tmp_path: Path) -> None:
    second = second_look(margin=3, least=0.7, fill=-1.5)
    prepared = Preprocessing((64, 64), (0.4,) * 3, (0.2,) * 3)
    names = tuple(f"class {number}" for number in range(second.num_classes))
    second.save_pretrained(tmp_path, class_names=names, preprocessing=prepared)
    again = SecondLook.from_pretrained(tmp_path, backbone=TinyNet())
    assert (again.margin, again.least, again.fill) == (3, 0.7, -1.5)
    assert again.class_names == again.first.class_names == names
    assert again.preprocessing == again.first.preprocessing == prepared
    assert not again.training and not again.first.training
    assert str(again.cost()) in (tmp_path / "README.md").read_text().replace(" |\n| cost | ", "\n")
    again.save_pretrained(tmp_path / "again")
    assert (tmp_path / "again/config.json").read_text() == (tmp_path / "config.json").read_text()


def test_parts_of_other_precision_and_memory_format_come_back(tmp_path: Path) -> None:
    second = second_look()
    second.first.backbone.to(torch.bfloat16).to(memory_format=torch.channels_last)
    second.save_pretrained(tmp_path)
    again = SecondLook.from_pretrained(tmp_path, backbone=TinyNet())
    expected, saved = second.state_dict(), again.state_dict()
    assert {name: tensor.dtype for name, tensor in saved.items()} == {n: tensor.dtype for n, tensor in expected.items()}
    assert all(torch.equal(tensor, expected[name]) for name, tensor in saved.items())
    assert json.loads((tmp_path / "config.json").read_text())["channels_last"] == ["first.backbone"]
    kernels = [p for p in again.first.backbone.parameters() if p.ndim == 4 and p.shape[1] > 1 and p.shape[2] > 1]
    assert kernels and all(kernel.is_contiguous(memory_format=torch.channels_last) for kernel in kernels)


def test_each_loader_knows_the_others_folder(tmp_path: Path) -> None:
    second = second_look()
    second.save_pretrained(tmp_path / "two")
    second.first.save_pretrained(tmp_path / "one")
    two, one = (re.escape(str(tmp_path / name)) for name in ("two", "one"))
    with pytest.raises(ValueError, match=rf"{two} holds a second look.*SecondLook\.from_pretrained\('{two}'\)"):
        AIM.from_pretrained(tmp_path / "two", backbone=TinyNet())
    with pytest.raises(ValueError, match=rf"{one} holds an AIM.*SecondLook\(AIM\.from_pretrained\('{one}'\)\)"):
        SecondLook.from_pretrained(tmp_path / "one", backbone=TinyNet())
    assert json.loads((tmp_path / "one/config.json").read_text())["format_version"] == 1, "older versions read it"
    assert json.loads((tmp_path / "two/config.json").read_text())["format_version"] == 2, "and not this"
    assert "classifier.weight" in load_file(tmp_path / "two/model.safetensors")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"margin": 10**9}, r"margin must be a whole number of positions, 0 to 1000, got 1000000000"),
        ({"margin": -1}, r"margin must be"),
        ({"margin": [[]]}, r"margin must be"),
        ({"least": 0}, r"least must be a share"),
        ({"least": "half"}, r"'second_look.least' must be a number"),
        ({"fill": None}, r"'second_look.fill' must be a number"),
        (None, r"'second_look.margin' is missing"),
    ],
)
def test_arguments_in_a_file_are_checked(changes: dict[str, object] | None, says: str, tmp_path: Path) -> None:
    second_look().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["second_look"] = {} if changes is None else config["second_look"] | changes
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=says) as caught:
        SecondLook.from_pretrained(tmp_path, backbone=TinyNet())
    assert str(tmp_path / "config.json") in str(caught.value)


def own_network(backbone: nn.Module | str, **arguments: object) -> SecondLook:
    torch.manual_seed(0)
    second = SecondLook(AIM("timm/test_resnet", backbone_kwargs={"num_classes": 3}), backbone, **arguments)
    nn.init.normal_(second.classifier.weight)
    return second.eval()


@pytest.mark.slow
def test_a_network_by_name_and_a_size_come_back(tmp_path: Path) -> None:
    """A module of timm is recognised; how it expects images is saved, whatever its record says when it is loaded."""
    network = timm.create_model("test_efficientnet", num_classes=0, global_pool="")
    network.pretrained_cfg = network.pretrained_cfg | {"mean": (0.1, 0.2, 0.3)}
    for second in (own_network(network, size=64), own_network("timm/test_efficientnet"), own_network("test_resnet")):
        second.save_pretrained(tmp_path)
        before = torch.get_rng_state()
        again = SecondLook.from_pretrained(tmp_path)
        assert torch.equal(torch.get_rng_state(), before)
        assert torch.equal(again(images_for(second)).logits, second(images_for(second)).logits)
        assert again.extra_repr() == second.extra_repr() and not again.backbone.training
        assert json.loads((tmp_path / "config.json").read_text())["format_version"] == 3, "older versions refuse it"
        named = second._network.recipe.named()[0].replace("_", r"\_")
        assert f"| second look's backbone | {named} |" in (tmp_path / "README.md").read_text()
        again.save_pretrained(tmp_path / "again")
        assert (tmp_path / "again/config.json").read_text() == (tmp_path / "config.json").read_text()


def test_a_network_of_ones_own_is_passed_beside_the_first(tmp_path: Path) -> None:
    second = own_network(HeadConvNet())
    second.save_pretrained(tmp_path)
    again = SecondLook.from_pretrained(tmp_path, backbone=(None, HeadConvNet()))
    assert torch.equal(again(images_for(second)).logits, second(images_for(second)).logits)
    assert ", backbone=(backbone, second_backbone))" in (tmp_path / "README.md").read_text()
    with pytest.raises(
        ValueError, match=r"this model's second backbone was zoo\.HeadConvNet.*backbone=\(None, backbone"
    ):
        SecondLook.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"the backbone is not the one that was saved \(zoo\.HeadConvNet\)"):
        SecondLook.from_pretrained(tmp_path, backbone=(None, TinyNet()))
    second.first.save_pretrained(tmp_path)
    with pytest.raises(TypeError, match=r"backbone must be a module such as the model was built with"):
        AIM.from_pretrained(tmp_path, backbone=(None, HeadConvNet()))


def test_a_pair_for_one_network_and_damaged_descriptions_are_refused(tmp_path: Path) -> None:
    second_look().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="both looks have one backbone, and another was passed for the second"):
        SecondLook.from_pretrained(tmp_path, backbone=(TinyNet(), TinyNet()))
    own_network("timm/test_efficientnet", size=64).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    own = config["second_backbone"]
    for changes, says in (
        ({"second_backbone": own | {"backbone": {"name": "no_such", "arguments": {}}}}, "model named 'no_such'"),
        ({"second_backbone": own | {"backbone": {"name": "vit_giant_patch14_224", "arguments": {}}}}, "cannot be used"),
        ({"second_backbone": own | {"classified": None}}, r"'second_backbone.classified' must be an object"),
        ({"second_backbone": own | {"preprocessing": {}}}, r"'second_backbone.preprocessing.image_size' is missing"),
        ({"second_look": config["second_look"] | {"size": -1}}, r"'second_look.size' must be a positive integer"),
        (
            {"second_look": config["second_look"] | {"size": 10**9}},
            r"size must be a whole number of pixels, 1 to 10000",
        ),
    ):
        (tmp_path / "config.json").write_text(json.dumps(config | changes))
        with pytest.raises(ValueError, match=says):
            SecondLook.from_pretrained(tmp_path)


def test_a_file_with_the_papers_head_and_a_second_look_is_refused(tmp_path: Path) -> None:
    aim("paper", backbone=TinyNet()).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["second_look"] = {"margin": 1, "least": 0.3, "fill": 0.0}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="'second_look' must be null for the 'paper' head"):
        SecondLook.from_pretrained(tmp_path, backbone=TinyNet())


def test_what_would_not_come_back_is_not_saved(tmp_path: Path) -> None:
    class Other(AIM):
        """Of the user's own."""

    second = SecondLook(Other(TinyNet(), mask_width=4))
    with pytest.raises(TypeError, match=r"a second look at a Other cannot be saved.*save second\.first and second\.c"):
        second.save_pretrained(tmp_path)
    second = second_look()
    second.classifier = nn.Sequential(second.classifier)
    with pytest.raises(TypeError, match=r"the model's classifier must be an nn\.Linear to be saved, got Sequential"):
        second.save_pretrained(tmp_path)
    second = second_look()
    second.first.classifier = nn.Linear(second.first.classifier.in_features, 3)
    with pytest.raises(ValueError, match=r"the model's first\.classifier gives 3 classes"):
        second.save_pretrained(tmp_path)
    second = second_look()
    second.margin = 2000
    with pytest.raises(ValueError, match=r"cannot be saved as it is: margin must be"):
        second.save_pretrained(tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_card_says_that_it_looks_twice_and_its_code_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    second = SecondLook(AIM("timm/test_resnet", backbone_kwargs={"num_classes": 2}))
    nn.init.constant_(second.classifier.bias, 1.0)
    second.classifier.bias.data[1] = 9.0
    second.save_pretrained(tmp_path, class_names=["cat", "dog"])
    card = (tmp_path / "README.md").read_text()
    assert "It looks twice" in card and "| second look | margin 1, least 0.3, fill 0 |" in card
    from PIL import Image

    Image.new("RGB", (70, 50), "green").save(tmp_path / "image.jpg")
    monkeypatch.chdir(tmp_path)
    exec(card.split("```python\n")[1].split("```")[0], {})
    assert capsys.readouterr().out == "dog\n"
