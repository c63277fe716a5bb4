"""A saved model comes back bit for bit, from a folder alone, and nothing of the user's is kept or changed."""

import copy
import gc
import inspect
import json
import math
import socket
import weakref
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import timm
import torch
import torchvision
from torch import nn
from zoo import BACKBONES, HEADS, WAYS_OF_COPYING, HeadConvNet, NormalisingNet, TinyNet, copied, with_heads_in_turn

from aimwrap import AIM, AIMOutput, Preprocessing
from aimwrap.sharing import mixin

SAVED_BY_VERSION_1 = Path(__file__).parent / "saved_by_format_1"
TINY_CONVNEXT = {"depths": (1, 1, 1, 1), "dims": (8, 12, 16, 20), "num_classes": 5}


def aim(backbone: nn.Module | str | None = None, stages: tuple = (2, 3), **arguments: object) -> AIM:
    settings = {"mask_width": 4, "width": 8} | arguments
    return AIM(TinyNet() if backbone is None else backbone, stages, **settings)


def lived_in(model: AIM) -> AIM:
    """In evaluation mode, with the statistics of some images, which make masks of zeros and ones."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        model.train()(images_for(model))
    return model.eval()


def images_for(model: AIM, side: int = 64) -> torch.Tensor:
    like = next(model.parameters())
    return torch.randn(2, model.in_channels, side, side + 16).to(like.dtype)


def assert_same_output(a: AIMOutput, b: AIMOutput) -> None:
    torch.testing.assert_close(tuple(a), tuple(b), rtol=0, atol=0)


def assert_same_state(a: nn.Module, b: nn.Module) -> None:
    before, after = a.state_dict(), b.state_dict()
    assert {key: value.dtype for key, value in before.items()} == {key: value.dtype for key, value in after.items()}
    assert all(torch.equal(value, after[key]) for key, value in before.items())


def assert_comes_back(model: AIM, folder: Path, **arguments: Any) -> AIM:
    model.save_pretrained(folder)
    loaded = AIM.from_pretrained(folder, **arguments)
    assert_same_state(model, loaded)
    assert loaded.variant == model.variant
    with torch.no_grad():
        images = images_for(model)
        assert_same_output(model(images), loaded(images))
    return loaded


@pytest.fixture(scope="module")
def model() -> AIM:
    """A model for tests that change nothing of it."""
    return aim()


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever would fetch something fails."""

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("something is being fetched")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    fetching = (
        (torch.hub, "load_state_dict_from_url"),
        (torch.hub, "download_url_to_file"),
        (torchvision.models._api.WeightsEnum, "get_state_dict"),
        (timm.models._builder, "load_pretrained"),
        (timm.models._factory, "load_checkpoint"),
        (huggingface_hub, "hf_hub_download"),
        (huggingface_hub, "snapshot_download"),
        (mixin, "hf_hub_download"),
    )
    for module, name in fetching:
        monkeypatch.setattr(module, name, refuse)


@pytest.mark.parametrize(
    ("name", "head"),
    [
        *(("tiny", head) for head in HEADS),
        *(
            pytest.param(name, head, marks=pytest.mark.slow)
            for name, head in with_heads_in_turn([name for name in BACKBONES if name != "tiny"])
        ),
    ],
)
def test_logits_and_masks_come_back_bit_for_bit(name: str, head: str, tmp_path: Path) -> None:
    model = lived_in(aim(BACKBONES[name](), head=head))
    assert_comes_back(model, tmp_path, backbone=BACKBONES[name]())


@pytest.mark.usefixtures("offline")
def test_a_backbone_by_name_is_rebuilt_from_the_folder_alone(tmp_path: Path) -> None:
    model = lived_in(aim("timm/convnext_atto", backbone_kwargs=TINY_CONVNEXT))
    assert_comes_back(model, tmp_path)
    before = torch.get_rng_state()
    loaded = AIM.from_pretrained(tmp_path)
    assert torch.equal(torch.get_rng_state(), before)
    assert (loaded.variant, loaded.taps, loaded.num_classes) == (model.variant, model.taps, 5)
    first = (tmp_path / "config.json").read_text()
    loaded.save_pretrained(tmp_path)
    assert (tmp_path / "config.json").read_text() == first
    assert json.loads(first)["backbone"] == {
        "name": "timm/convnext_atto",
        "arguments": {"depths": {"tuple": [1, 1, 1, 1]}, "dims": {"tuple": [8, 12, 16, 20]}, "num_classes": 5},
    }


def test_what_fetches_weights_is_no_part_of_the_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(timm.models._builder, "load_pretrained", lambda *a, **k: asked.append("weights"))
    addresses = {"file": "/home/me/weights.pth", "url": "https://example.org", "mean": (0.1, 0.2, 0.3)}
    arguments = TINY_CONVNEXT | {"pretrained": True, "cache_dir": "/home/me", "pretrained_cfg_overlay": addresses}
    model = aim("convnext_atto", backbone_kwargs=arguments)
    assert asked == ["weights"]
    model.save_pretrained(tmp_path)
    loaded = AIM.from_pretrained(tmp_path)
    assert asked == ["weights"]
    text = (tmp_path / "config.json").read_text()
    assert not any(word in text for word in ("/home/me", "example.org", '"pretrained"'))
    assert loaded.preprocessing == model.preprocessing and loaded.preprocessing.mean == (0.1, 0.2, 0.3)


@pytest.mark.slow
def test_torchvisions_weights_leave_their_preprocessing_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = torchvision.models.ResNet18_Weights.IMAGENET1K_V1
    state = torchvision.models.resnet18().state_dict()
    with monkeypatch.context() as patched:
        patched.setattr(type(weights), "get_state_dict", lambda *args, **kwargs: state)
        model = lived_in(aim("torchvision/resnet18", backbone_kwargs={"weights": weights}))
    monkeypatch.setattr(type(weights), "get_state_dict", None)
    assert model.preprocessing.image_size == (224, 224) and model.preprocessing.interpolation == "bilinear"
    loaded = assert_comes_back(model, tmp_path)
    assert loaded.preprocessing == model.preprocessing
    assert json.loads((tmp_path / "config.json").read_text())["backbone"]["arguments"] == {}


@pytest.mark.slow
@pytest.mark.usefixtures("offline")
def test_what_torchvisions_weights_change_in_addition_to_values_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With weights, GoogLeNet shifts its images; without them it would not, and its logits would differ silently."""
    weights = torchvision.models.GoogLeNet_Weights.DEFAULT
    state = torchvision.models.googlenet(init_weights=False).state_dict()
    with monkeypatch.context() as patched:
        patched.setattr(type(weights), "get_state_dict", lambda *args, **kwargs: state)
        model = lived_in(aim("torchvision/googlenet", backbone_kwargs={"weights": "DEFAULT"}))
    assert_comes_back(model, tmp_path)


def test_every_argument_comes_back(tmp_path: Path) -> None:
    model = aim(
        None,
        ("block1", "block3"),
        tau=[0.5, 0.125],
        num_classes=3,
        head="paper",
        width=12,
        mask_width=6,
        mask_norm="batch",
        logit_spread=None,
        logit_range=math.inf,
        labels_move_area=True,
        pooling="all",
        temperature=0.5,
        example_input=torch.zeros(4, 3, 48, 80),
    )
    model.class_names = ["a", "b", "c"]
    model.preprocessing = Preprocessing((48, 80), (0.1,) * 3, (0.2,) * 3, "nearest", 0.9, squash=True)
    model.save_pretrained(tmp_path)
    loaded = AIM.from_pretrained(tmp_path, backbone=TinyNet())
    for name in ("stages", "tau", "num_classes", "head", "labels_move_area", "pooling", "temperature", "taps"):
        assert getattr(loaded, name) == getattr(model, name), name
    assert loaded.class_names == ("a", "b", "c")
    assert loaded.preprocessing == model.preprocessing
    assert str(loaded.mask_estimators) == str(model.mask_estimators)
    assert loaded.cost() == model.cost()


@pytest.mark.parametrize(
    "dtype", [torch.float16, *(pytest.param(d, marks=pytest.mark.slow) for d in (torch.bfloat16, torch.float64))]
)
def test_dtypes_come_back_with_buffers_that_are_not_saved(dtype: torch.dtype, tmp_path: Path) -> None:
    model = lived_in(aim(NormalisingNet())).to(dtype)
    loaded = assert_comes_back(model, tmp_path, backbone=NormalisingNet())
    assert {b.dtype for b in loaded.buffers() if b.is_floating_point()} == {dtype}
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == str(dtype).removeprefix("torch.")


def test_mixed_dtypes_come_back(tmp_path: Path) -> None:
    model = lived_in(aim())
    model.stage_classifiers.half()
    model.backbone.block3.double()
    model.save_pretrained(tmp_path)
    assert_same_state(model, AIM.from_pretrained(tmp_path, backbone=TinyNet()))


def test_a_model_in_channels_last_memory_comes_back_as_one(tmp_path: Path) -> None:
    model = lived_in(aim(TinyNet().to(memory_format=torch.channels_last)))
    loaded = assert_comes_back(model, tmp_path, backbone=TinyNet())
    for a, b in zip(model.parameters(), loaded.parameters(), strict=True):
        assert a.stride() == b.stride()


class Tied(TinyNet):
    """Two blocks share one convolution's weights, and a buffer is a view of another."""

    def __init__(self) -> None:
        super().__init__()
        self.block3 = nn.Sequential(*self.block3, nn.Conv2d(20, 20, 1, bias=False), nn.Conv2d(20, 20, 1, bias=False))
        self.block3[4].weight = self.block3[3].weight
        self.register_buffer("both", torch.rand(2, 20, 1, 1))
        self.register_buffer("second", self.both[1])
        self.transposed = nn.Parameter(torch.rand(20, 20, 1, 1).transpose(0, 1))

    def features(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.conv2d(super().features(x), self.transposed) * self.both[0] + self.second


def test_tied_and_non_contiguous_tensors_come_back(tmp_path: Path) -> None:
    model = lived_in(aim(Tied()))
    loaded = assert_comes_back(model, tmp_path, backbone=Tied())
    weights = dict(loaded.backbone.named_parameters(remove_duplicate=False))
    assert weights["block3.3.weight"] is weights["block3.4.weight"]


def test_the_model_comes_back_in_evaluation_mode_and_trainable(tmp_path: Path) -> None:
    model = aim().train().freeze_backbone()
    model.save_pretrained(tmp_path)
    assert model.training
    loaded = AIM.from_pretrained(tmp_path, backbone=TinyNet().train())
    assert not any(module.training for module in loaded.modules())
    assert all(parameter.requires_grad for parameter in loaded.parameters())
    assert loaded.train().backbone.block0.training


def test_where_the_model_comes_back(tmp_path: Path) -> None:
    aim().save_pretrained(tmp_path)
    loaded = AIM.from_pretrained(str(tmp_path), backbone=TinyNet(), map_location="meta")
    assert {parameter.device.type for parameter in loaded.parameters()} == {"meta"}
    assert {p.device.type for p in AIM.from_pretrained(tmp_path, backbone=TinyNet()).parameters()} == {"cpu"}


def test_the_given_backbone_takes_the_saved_weights_and_nothing_else(tmp_path: Path) -> None:
    model, given = lived_in(aim()), TinyNet(num_classes=3)
    model.save_pretrained(tmp_path)
    classifier = given.fc.weight.clone()
    AIM.from_pretrained(tmp_path, backbone=given)
    assert torch.equal(given.stem[0].weight, model.state_dict()["backbone.stem.0.weight"])
    assert torch.equal(given.fc.weight, classifier)


def test_not_strict_leaves_what_only_one_of_the_two_has(tmp_path: Path) -> None:
    (model := aim()).save_pretrained(tmp_path)
    (more := TinyNet()).stem[0] = nn.Conv2d(3, 6, 3, stride=2, padding=1)
    before = copy.deepcopy(more.state_dict())
    with pytest.raises(ValueError, match=r"do not fit .*: the file has no backbone\.stem\.0\.bias\. .*strict=False"):
        AIM.from_pretrained(tmp_path, backbone=more)
    assert all(torch.equal(value, before[key]) for key, value in more.state_dict().items())
    loaded = AIM.from_pretrained(tmp_path, backbone=more, strict=False).state_dict()
    assert torch.equal(loaded["backbone.stem.0.bias"], before["stem.0.bias"])
    assert all(torch.equal(value, loaded[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize(
    "how", ["pickle", *(pytest.param(h, marks=pytest.mark.slow) for h in WAYS_OF_COPYING if h != "pickle")]
)
def test_copies_can_be_saved(how: str, tmp_path: Path) -> None:
    model = lived_in(aim())
    model.class_names = tuple("abcdefg")
    copied(model, how).save_pretrained(tmp_path)
    loaded = AIM.from_pretrained(tmp_path, backbone=TinyNet())
    assert_same_state(model, loaded)
    assert loaded.class_names == model.class_names
    assert copied(loaded, how).class_names == model.class_names


@pytest.mark.slow
def test_a_loaded_model_is_one_graph_for_the_compiler_and_exports(tmp_path: Path) -> None:
    lived_in(aim()).save_pretrained(tmp_path)
    loaded = AIM.from_pretrained(tmp_path, backbone=TinyNet())
    images = images_for(loaded)
    expected = loaded(images)
    assert_same_output(torch.compile(loaded, backend="eager", fullgraph=True)(images), expected)
    assert_same_output(torch.export.export(loaded, (images,)).module()(images), expected)
    torch.compile(loaded, backend="eager").save_pretrained(tmp_path)


def test_no_object_of_the_users_is_kept() -> None:
    example, arguments = torch.zeros(1, 3, 64, 64), copy.deepcopy(TINY_CONVNEXT)
    model = aim("convnext_atto", example_input=example, backbone_kwargs=arguments)
    alive = weakref.ref(example)
    del example
    gc.collect()
    assert alive() is None
    assert not any(kept is arguments for kept in gc.get_referrers(arguments) if kept is not locals())
    arguments["num_classes"] = 99
    assert json.loads(model._recipe.builder[1])["num_classes"] == 5
    backbone = TinyNet()
    model, alive = aim(backbone), weakref.ref(backbone)
    del backbone
    gc.collect()
    assert alive() is None


def test_sharing_changes_neither_signature_nor_errors() -> None:
    assert list(inspect.signature(AIM).parameters)[:3] == ["backbone", "stages", "tau"]
    with pytest.raises(TypeError, match=r"AIM\.__init__\(\) got an unexpected keyword argument 'stage'"):
        AIM(TinyNet(), stage=[2, 3])
    with pytest.raises(TypeError, match=r"AIM\.__init__\(\) missing 1 required positional argument: 'backbone'"):
        AIM()


def test_arguments_that_json_cannot_hold_make_the_backbone_a_module(tmp_path: Path) -> None:
    model = aim("convnext_atto", backbone_kwargs=TINY_CONVNEXT | {"act_layer": nn.GELU})
    model.save_pretrained(tmp_path)
    with pytest.raises(
        ValueError, match=r"timm/convnext_atto built with act_layer, which JSON cannot hold.*pass a new"
    ):
        AIM.from_pretrained(tmp_path)


@pytest.mark.slow
def test_a_backbone_by_name_can_be_passed_too(tmp_path: Path) -> None:
    model = lived_in(aim("convnext_atto", backbone_kwargs=TINY_CONVNEXT))
    assert_comes_back(model, tmp_path, backbone=timm.create_model("convnext_atto", **TINY_CONVNEXT))


def test_a_subclass_comes_back_as_itself(tmp_path: Path) -> None:
    class Mine(AIM):
        pass

    Mine(TinyNet(), mask_width=4).save_pretrained(tmp_path)
    assert type(Mine.from_pretrained(tmp_path, backbone=TinyNet())) is Mine


def test_class_names_and_preprocessing_can_be_given_when_saving(tmp_path: Path) -> None:
    model, images = aim(), Preprocessing((64, 64), (0.5,) * 3, (0.5,) * 3)
    model.save_pretrained(tmp_path, class_names=list("abcdefg"), preprocessing=images)
    assert (model.class_names, model.preprocessing) == (tuple("abcdefg"), images)
    loaded = AIM.from_pretrained(tmp_path, backbone=TinyNet())
    assert (loaded.class_names, loaded.preprocessing) == (tuple("abcdefg"), images)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"class_names": ["a", "b"]}, ValueError, "class_names must have one name per class: 7 classes, 2"),
        ({"class_names": "abcdefg"}, TypeError, "class_names must be a list of strings"),
        ({"class_names": list(range(7))}, TypeError, "class_names must be a list of strings"),
        ({"preprocessing": {"mean": 0}}, TypeError, r"preprocessing must be an aimwrap\.Preprocessing.*got dict"),
        ({"metrics": {"accuracy": "good"}}, TypeError, "metrics\\['accuracy'\\] must be a number or"),
        ({"repo_id": "me/model"}, TypeError, "repo_id is used only for pushing; add push_to_hub=True, or remove it"),
        ({"private": True}, TypeError, "private is used only for pushing"),
        ({"safe_serialization": True}, TypeError, "argument 'safe_serialization'; .* always saved as safetensors"),
        ({"state_dict": {}, "push_to_hub": True}, TypeError, "argument 'state_dict'; .* own weights are saved; load"),
        ({"max_shard_size": "5GB"}, TypeError, "argument 'max_shard_size'; the weights are always one file"),
        (
            {"class_name": ["a"]},
            TypeError,
            "unexpected keyword argument 'class_name'; it takes metrics, class_names, .*token",
        ),
    ],
)
def test_what_cannot_be_saved_writes_nothing(
    arguments: dict[str, object], error: type[Exception], message: str, tmp_path: Path, model: AIM
) -> None:
    with pytest.raises(error, match=message):
        model.save_pretrained(tmp_path / "model", **arguments)
    assert not (tmp_path / "model").exists()
    assert model.class_names is None and model.preprocessing is None


def test_state_that_is_no_tensor(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must be tensors, got a tensor without values for"):
        aim().to("meta").save_pretrained(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == []


def test_a_save_that_fails_leaves_the_model_that_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = lived_in(aim())
    model.save_pretrained(tmp_path)

    def full(model: nn.Module, path: Path) -> None:
        path.write_bytes(b"half of")
        raise OSError("no space left on device")

    monkeypatch.setattr(mixin, "write_weights", full)
    with pytest.raises(OSError, match="no space"):
        aim().save_pretrained(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    assert_same_state(model, AIM.from_pretrained(tmp_path, backbone=TinyNet()))


def test_links_are_replaced_and_what_they_lead_to_stays(tmp_path: Path) -> None:
    """The Hub's cache is made of links, to files that several revisions share."""
    model, cache, folder = lived_in(aim()), tmp_path / "blobs", tmp_path / "snapshot"
    aim().save_pretrained(cache)
    folder.mkdir()
    before = {path.name: path.read_bytes() for path in cache.iterdir()}
    assert sorted(before) == ["README.md", "config.json", "model.safetensors"]
    for name in before:
        (folder / name).symlink_to(Path("..", "blobs", name))
    model.save_pretrained(folder, metrics={"accuracy": 0.9})
    assert {path.name: path.read_bytes() for path in cache.iterdir()} == before
    assert sorted(path.name for path in folder.iterdir() if not path.is_symlink()) == sorted(before)
    assert_same_state(model, AIM.from_pretrained(folder, backbone=TinyNet()))
    assert "0.9" in (folder / "README.md").read_text()


def test_a_link_that_leads_nowhere_is_replaced_too(tmp_path: Path) -> None:
    (tmp_path / "README.md").symlink_to(tmp_path / "elsewhere.md")
    aim().save_pretrained(tmp_path)
    assert not (tmp_path / "elsewhere.md").exists() and (tmp_path / "README.md").is_file()


def test_a_link_to_a_card_of_ones_own_is_kept(tmp_path: Path) -> None:
    (tmp_path / "mine.md").write_text("my own")
    (tmp_path / "README.md").symlink_to("mine.md")
    aim().save_pretrained(tmp_path)
    assert (tmp_path / "README.md").is_symlink() and (tmp_path / "README.md").read_text() == "my own"


def test_a_save_that_is_interrupted_between_the_files_is_noticed(tmp_path: Path) -> None:
    for name in ("old", "new"):
        aim().save_pretrained(tmp_path / name)
    (tmp_path / "new" / "config.json").replace(tmp_path / "old" / "config.json")
    with pytest.raises(ValueError, match=r"is not the file that its config\.json describes.*saving was interrupted"):
        AIM.from_pretrained(tmp_path / "old", backbone=TinyNet())
    with pytest.raises(FileNotFoundError, match=r"has no config\.json; it contains README\.md, model\.safetensors"):
        AIM.from_pretrained(tmp_path / "new", backbone=TinyNet())


class Hub:
    """Replaces the Hub: keeps the uploaded files in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.asked: dict[str, object] = {}

    def __call__(self, token: str | None = None) -> "Hub":
        self.asked["token"] = token
        return self

    def create_repo(self, repo_id: str, **arguments: object) -> Any:
        self.asked |= arguments
        return huggingface_hub.RepoUrl(f"https://huggingface.co/me/{repo_id.split('/')[-1]}")

    def upload_folder(self, *, repo_id: str, folder_path: str, **arguments: object) -> str:
        self.asked |= {"repo_id": repo_id} | arguments
        Path(folder_path).rename(self.folder)
        Path(folder_path).mkdir()
        return "https://example.org/commit"


def test_pushing_and_loading_from_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub, asked = Hub(tmp_path / "hub"), []
    monkeypatch.setattr(mixin, "HfApi", hub)
    model = lived_in(aim())
    address = model.push_to_hub("birds", metrics={"accuracy": 0.9}, token="secret", private=True, branch="next")
    assert address == "https://example.org/commit"
    assert hub.asked["repo_id"] == "me/birds" and hub.asked["token"] == "secret"
    assert hub.asked["private"] is True and hub.asked["revision"] == "next"
    card = (tmp_path / "hub" / "README.md").read_text()
    assert "AIM.from_pretrained('me/birds', backbone=backbone)" in card and "| accuracy | 0.9 |" in card

    def download(repo_id: str, filename: str, **arguments: object) -> str:
        asked.append((repo_id, filename, arguments["revision"], arguments["local_files_only"]))
        return str(tmp_path / "hub" / filename)

    monkeypatch.setattr(mixin, "hf_hub_download", download)
    loaded = AIM.from_pretrained("me/birds", backbone=TinyNet(), revision="next", local_files_only=True)
    assert_same_state(model, loaded)
    assert asked == [("me/birds", name, "next", True) for name in ("config.json", "model.safetensors")]


def test_saving_can_push(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = Hub(tmp_path / "hub")
    monkeypatch.setattr(mixin, "HfApi", hub)
    address = aim().save_pretrained(tmp_path / "birds", push_to_hub=True, class_names=list("abcdefg"), create_pr=True)
    assert address == "https://example.org/commit" and hub.asked["repo_id"] == "me/birds" and hub.asked["create_pr"]
    assert json.loads((hub.folder / "config.json").read_text())["class_names"] == list("abcdefg")


@pytest.mark.usefixtures("offline")
def test_a_path_is_never_looked_up_on_the_hub(tmp_path: Path) -> None:
    for source in (tmp_path / "nothing", str(tmp_path / "nothing"), "./nothing"):
        with pytest.raises(FileNotFoundError, match="nothing is not a folder"):
            AIM.from_pretrained(source)


def test_a_name_that_the_hub_does_not_know(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*args: object, **kwargs: object) -> str:
        raise OSError("404")

    monkeypatch.setattr(mixin, "hf_hub_download", missing)
    with pytest.raises(FileNotFoundError, match=r"'me/birds' is not a folder here, and not a repository .*: 404"):
        AIM.from_pretrained("me/birds")
    monkeypatch.undo()
    with pytest.raises(FileNotFoundError, match="is not a folder here"):
        AIM.from_pretrained("not a/repository/name")


def saved_by_format_1() -> AIM:
    """Wrote the folder next to this file. Never write it again: make a new one for a new format version."""
    torch.manual_seed(0)
    model = lived_in(aim(HeadConvNet(), tau=[0.25, 0.5], mask_width=2, logit_range=math.inf))
    model.class_names = tuple("abcdefg")
    model.preprocessing = Preprocessing((64, 64), (0.4, 0.5, 0.6), (0.2, 0.3, 0.4), "bilinear", 0.9)
    return model


def test_a_folder_of_the_first_format_still_loads() -> None:
    loaded = AIM.from_pretrained(SAVED_BY_VERSION_1, backbone=HeadConvNet())
    assert loaded.variant == "HeadConvNet+AIM [3, 25%, 50%], feature-preserving head"
    assert loaded.class_names == tuple("abcdefg")
    assert loaded.preprocessing == Preprocessing((64, 64), (0.4, 0.5, 0.6), (0.2, 0.3, 0.4), "bilinear", 0.9)
    images = torch.arange(3 * 64 * 64).mul(0.37).sin().view(1, 3, 64, 64)
    expected = json.loads((SAVED_BY_VERSION_1 / "expected.json").read_text())
    output = loaded(images)
    torch.testing.assert_close(output.logits, torch.tensor(expected["logits"]), rtol=1e-3, atol=1e-4)
    assert {str(stage): mask.tolist() for stage, mask in output.masks.items()} == expected["masks"]


GOOD = Preprocessing((64, 64), (0.5,) * 3, (0.25,) * 3)


@pytest.mark.parametrize(
    ("bad", "error", "said"),
    [
        (GOOD._replace(interpolation="cubic"), ValueError, "interpolation"),
        (GOOD._replace(std=(0.0, 0.0, 0.0)), ValueError, "std"),
        (Preprocessing(224, 0.5, 0.5), TypeError, r"preprocessing must have image_size \(H, W\)"),
    ],
)
def test_what_could_not_be_loaded_is_not_saved(bad: Preprocessing, error: type, said: str, tmp_path: Path) -> None:
    model = aim()
    model.save_pretrained(tmp_path, preprocessing=GOOD)
    with pytest.raises(error, match=said):
        model.save_pretrained(tmp_path, preprocessing=bad, class_names=["a"] * 7)
    assert model.preprocessing == GOOD and model.class_names is None
    assert AIM.from_pretrained(tmp_path, backbone=TinyNet()).preprocessing == GOOD
    assert sorted(path.name for path in tmp_path.iterdir()) == ["README.md", "config.json", "model.safetensors"]


def test_a_head_that_no_config_describes_is_not_saved(tmp_path: Path) -> None:
    model = aim()
    model.classifier = nn.Sequential(nn.LayerNorm(20), model.classifier)
    with pytest.raises(TypeError, match=r"the model's classifier must be an nn\.Linear to be saved, got Sequential"):
        model.save_pretrained(tmp_path)
    model = aim()
    model.classifier = nn.Linear(20, 3)
    with pytest.raises(ValueError, match=r"gives 3 classes, .*num_classes is 7; .*AIM\(backbone, num_classes=3"):
        model.save_pretrained(tmp_path)
    assert not list(tmp_path.iterdir())


def test_settings_of_the_estimators_come_back_as_they_are(tmp_path: Path) -> None:
    model = aim()
    for estimator in model.mask_estimators.values():
        estimator.logit_range = 0.5
    model.save_pretrained(tmp_path)
    loaded = AIM.from_pretrained(tmp_path, backbone=TinyNet())
    assert {estimator.logit_range for estimator in loaded.mask_estimators.values()} == {0.5}
    model.mask_estimators["stage_2"].logit_range = 2.0
    with pytest.raises(ValueError, match="logit_range differs between the mask estimators"):
        model.save_pretrained(tmp_path)


def test_a_tilde_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    aim().save_pretrained("~/models")
    assert (tmp_path / "models" / "config.json").exists()
    AIM.from_pretrained("~/models", backbone=TinyNet())
    with pytest.raises(FileNotFoundError, match="is a file; pass the folder that it is in"):
        AIM.from_pretrained(str(tmp_path / "models" / "model.safetensors"))
    with pytest.raises(TypeError, match="takes a folder or a repository's name, got NoneType"):
        AIM.from_pretrained(None)
