"""Whatever a folder holds: it loads as saved, or is refused with an error that says what is wrong. It runs no code."""

import copy
import json
import pickle
import re
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from safetensors.torch import save_file
from torch import nn
from zoo import HeadConvNet, TinyNet

from aimwrap import AIM
from aimwrap._files import checksum
from aimwrap.sharing import files
from aimwrap.sharing.files import WAY_OUT, read_config
from aimwrap.sharing.recipe import decoded_json, encoded_json

TINY = {"depths": (1, 1, 1, 1), "dims": (8, 12, 16, 20), "num_classes": 7}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved model whose backbone was a module: read only."""
    folder = tmp_path_factory.mktemp("saved")
    AIM(TinyNet(), [2, 3], mask_width=4).save_pretrained(folder, class_names=list("abcdefg"))
    return folder


@pytest.fixture(scope="module")
def saved_by_name(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved model whose backbone was built by name: read only."""
    folder = tmp_path_factory.mktemp("saved_by_name")
    AIM("timm/convnext_atto", [2, 3], mask_width=4, backbone_kwargs=TINY).save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    return shutil.copytree(saved, tmp_path / "model")


def changed(folder: Path, **changes: object) -> Path:
    """The folder with other values in its config: ``aim__width=3`` changes that of ``aim``."""
    config = json.loads((folder / "config.json").read_text())
    for path, value in changes.items():
        *outer, last = path.split("__")
        inner = config
        for key in outer:
            inner = inner[key]
        inner[last] = value
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def with_weights(folder: Path, content: bytes) -> Path:
    """The folder with another weights file, and a config that vouches for it."""
    path = folder / "model.safetensors"
    path.write_bytes(content)
    return changed(folder, weights={"bytes": len(content), "sha256": checksum(path)})


def load(folder: Path) -> AIM:
    return AIM.from_pretrained(folder, backbone=TinyNet())


def test_the_folders_of_these_tests_load(folder: Path, saved_by_name: Path) -> None:
    load(changed(folder, aim__tau=[0.5, 0.5], a_newer_versions_information=1))
    AIM.from_pretrained(saved_by_name)


def test_cut_off_weights(folder: Path) -> None:
    content = (folder / "model.safetensors").read_bytes()
    for size in (0, 7, len(content) // 2, len(content) - 1):
        (folder / "model.safetensors").write_bytes(content[:size])
        with pytest.raises(ValueError, match=rf"is cut off: it has {size} of {len(content)} bytes; download or copy"):
            load(folder)


@pytest.mark.parametrize("where", [0, 0.5, -1])
def test_one_changed_byte(folder: Path, where: float) -> None:
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[int(where * len(content)) if where >= 0 else -1] ^= 1
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=r"is not the file that its config\.json describes"):
        load(folder)


def test_longer_weights(folder: Path) -> None:
    with (folder / "model.safetensors").open("ab") as file:
        file.write(b"more")
    with pytest.raises(ValueError, match=r"is not the file that its config\.json describes"):
        load(folder)


def test_the_weights_of_another_variant(folder: Path, tmp_path: Path) -> None:
    AIM(TinyNet(), [3], mask_width=4).save_pretrained(tmp_path / "other")
    shutil.copy(tmp_path / "other" / "model.safetensors", folder)
    with pytest.raises(ValueError, match=r"is cut off|is not the file"):
        load(folder)
    with_weights(folder, (tmp_path / "other" / "model.safetensors").read_bytes())
    with pytest.raises(ValueError, match=r"the weights do not fit zoo\.TinyNet wrapped as TinyNet\+AIM .*file has no"):
        load(folder)


def test_weights_of_another_shape(folder: Path) -> None:
    AIM(TinyNet(num_classes=3), [2, 3], mask_width=4).save_pretrained(folder.parent / "other")
    with_weights(folder, (folder.parent / "other" / "model.safetensors").read_bytes())
    backbone = TinyNet()
    before = copy.deepcopy(backbone.state_dict())
    with pytest.raises(
        ValueError, match=r"classifier\.bias is \(3,\) in the file and \(7,\) in the model; .*, and 3 m"
    ):
        AIM.from_pretrained(folder, backbone=backbone, strict=False)
    assert all(torch.equal(value, before[key]) for key, value in backbone.state_dict().items())


class Code:
    """Pickled, it is a call: unpickling would run it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (pytest.fail, ("the file's code ran",))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no tensors",
        b"\xff" * 64,
        pickle.dumps({"classifier.weight": Code()}),
        b"\x10\x00\x00\x00\x00\x00\x00\x00" + b'{"a": "a tensor"',
    ],
)
def test_files_that_are_no_safetensors(folder: Path, content: bytes) -> None:
    message = "must be a positive integer" if not content else "cannot be read as a safetensors file"
    with pytest.raises(ValueError, match=message):
        load(with_weights(folder, content))


def test_a_zip_of_torch_save_is_no_safetensors(folder: Path) -> None:
    torch.save({"classifier.weight": Code()}, folder / "weights.pt")
    with pytest.raises(ValueError, match="cannot be read as a safetensors file"):
        load(with_weights(folder, (folder / "weights.pt").read_bytes()))


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_missing_files(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(
        FileNotFoundError, match=rf"has no {re.escape(name)}; it contains README\.md, .*\. It was not written by"
    ):
        load(folder)


def test_a_file_is_no_folder(folder: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"config\.json is a file; pass the folder that it is in"):
        load(folder / "config.json")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not valid JSON"),
        ('{"format": "aimwrap"', "is not valid JSON.*it is damaged: download or copy it again"),
        ('{"format": "aimwrap", "format_version": NaN}', "NaN is not JSON"),
        ('{"format": "aimwrap", "format_version": -Infinity}', "-Infinity is not JSON"),
        ("[" * 100_000, "is not valid JSON"),
        ("9" * 10_000, "is not valid JSON|and not a JSON object"),
        ('["aimwrap"]', "holds a list and not a JSON object; aimwrap did not write it"),
        ("null", "holds a NoneType and not a JSON object"),
        ("{}", "was not written by aimwrap; AIM.from_pretrained reads"),
        ('{"architecture": "resnet18", "pretrained_cfg": {}}', "looks like timm's.*With timm.create_model, load"),
        ('{"architectures": ["ResNet"], "model_type": "resnet"}', "looks like that of transformers.*wrap it: AIM"),
        ('{"format": "aimwrap"}', r"'format_version' must be an integer from 1 on, got None\. Build the model as"),
        ('{"format": "aimwrap", "format_version": 0}', "must be an integer from 1 on, got 0"),
        ('{"format": "aimwrap", "format_version": true}', "must be an integer from 1 on, got True"),
        (
            '{"format": "aimwrap", "format_version": 5, "versions": {"aimwrap": "3.1"}}',
            "format version 5.*newer one 3.1",
        ),
        (
            '{"format": "aimwrap", "format_version": 5, "versions": 7}',
            "and this aimwrap reads up to 4: a newer one saved",
        ),
        ('{"format": "aimwrap", "format_version": 1}', "'aim' is missing; the file was damaged or edited"),
    ],
    ids=range(17),
)
def test_configs_that_are_none(folder: Path, text: str, message: str) -> None:
    (folder / "config.json").write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        load(folder)
    assert str(folder / "config.json") in str(error.value)


def test_a_config_that_is_no_text(folder: Path) -> None:
    (folder / "config.json").write_bytes(b"\xff\xfe\x00config")
    with pytest.raises(ValueError, match="is not valid JSON"):
        load(folder)


def test_a_huge_config_is_not_read(folder: Path) -> None:
    with (folder / "config.json").open("r+b") as file:
        file.truncate(65 * 2**20)  # a file with a hole, which takes no room
    with pytest.raises(ValueError, match="has 65 MiB, and at most 64 are read"):
        load(folder)


def leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where in a config the values are, containers included."""
    inner = value.items() if isinstance(value, dict) else enumerate(value[:1]) if isinstance(value, list) else ()
    return [*([path] if path else []), *(leaf for key, item in inner for leaf in leaves(item, (*path, key)))]


IMAGES = {"image_size": [1, 1], "mean": [0.5], "std": [0.5], "interpolation": "bicubic", "crop": 1.0, "squash": False}
TAGGED = ({"float": "inf"}, {"tuple": [1]})  # what is decoded to another kind
WRONG = (10**400, None, True, -1, 0, 2**40, 1.5, 1e999, "x", [], ["x"], {}, {"tuple": 3}, {"float": "1"}, [[]], *TAGGED)


def test_every_value_is_checked_or_of_no_consequence(saved_by_name: Path, tmp_path: Path) -> None:
    """Each value of a config replaced by those of other kinds, or left out: a ValueError, or a config that is one."""
    content = json.loads((saved_by_name / "config.json").read_text())
    content["preprocessing"]["crop"], content["class_names"] = 0.9, list("abcdefg")
    path, refused = tmp_path / "config.json", 0
    for place in leaves(content):
        for wrong in (*WRONG, ...):
            edited = copy.deepcopy(content)
            inner = edited
            for key in place[:-1]:
                inner = inner[key]
            if wrong is ...:
                del inner[place[-1]]
            else:
                inner[place[-1]] = wrong
            path.write_text(json.dumps(edited).replace("Infinity", "1e999"))
            try:
                config = read_config(path)
            except ValueError as error:
                assert str(path) in str(error)
                refused += 1
            else:
                assert isinstance(config, dict) and json.loads(json.dumps(config))
    assert refused > 800


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"aim__width": "8"}, "'aim.width' must be a positive integer, got '8'"),
        ({"aim__width": True}, "'aim.width' must be a positive integer, got True"),
        (
            {"aim__tau": "0.25"},
            r"'aim.tau' must be a list, got '0.25'; the f",
        ),
        ({"aim__stages": [[2], 3]}, r"stages must be numbers or node names, got \[2\] of type list"),
        ({"aim__logit_range": {"float": "nan"}}, r"logit_range must be a positive number \(.*\), got nan"),
        (
            {"aim__logit_range": {"float": "import os"}},
            "{'float': import os} is not a value that aimwrap can read",
        ),
        (
            {"aim__device": "cuda"},
            "'aim.device' is not an argument that this aimwrap knows; a newer one may have saved it",
        ),
        ({"aim__tau": [0.25, 2.0]}, r"tau must be in \(0, 1\], got \[0.25, 2.0\]"),
        ({"aim__tau": [0.25]}, r"tau must be one float or one per stage: 2 stage\(s\), 1 value"),
        ({"aim__head": "newer"}, "head must be one of 'paper', 'feature-preserving', got 'newer'"),
        ({"aim__mask_norm": "newer"}, "mask_norm must be one of 'layer', 'batch', 'none', got 'newer'"),
        ({"aim__pooling": "newer"}, "pooling must be one of 'active', 'all', got 'newer'"),
        ({"aim__logit_spread": -1}, r"logit_spread must be a positive number \(.*\), got -1"),
        ({"aim__temperature": 0}, "temperature must be a positive number, got 0"),
        ({"aim__stages": []}, "stages is empty"),
        ({"aim__stages": [3, 3]}, r"stages must not repeat, got \[3, 3\]"),
        ({"aim__stages": [1, 3]}, r"'taps' must be of the stages in 'aim.stages', \[1, 3\], got those of \[2, 3\]"),
        ({"taps": []}, r"'taps' must be of the stages in 'aim.stages', \[2, 3\], got those of \[\]"),
        (
            {"classified": None},
            "'classified' must be null for the 'paper' head only, got None for 'fea",
        ),
        (
            {"aim__head": "paper"},
            r"'classified' must be null for the 'paper' .*, got {'stage': 'final map', .*'block3'",
        ),
        ({"class_names": ["a"]}, "'class_names' has 1 names for 7 classes"),
        ({"class_names": "abcdefg"}, "'class_names' must be a list, got 'abcdefg'"),
        ({"weights__sha256": "../../secret"}, "'weights.sha256' must be 64 hexadecimal digits"),
        ({"preprocessing": {"image_size": [1, 1]}}, "'preprocessing.mean' is missing"),
        ({"preprocessing": IMAGES | {"mean": "123"}}, "'preprocessing.mean' must be a list, got '123'"),
        ({"aim__width": 2.5}, "'aim.width' must be a positive integer, got 2.5"),
        ({"aim__tau": [True, True]}, "'aim.tau.0' must be a number, got True"),
        ({"aim__labels_move_area": 1}, "'aim.labels_move_area' must be true or false, got 1"),
        ({"aim__mask_padding": "newer"}, "mask_padding must be one of 'replicate', 'zeros', got 'newer'"),
        ({"aim": {"float": "inf"}}, "'aim' must be an object, got inf"),
        ({"image_shape": [3, 224]}, "'image_shape' must be 3 positive integers"),
        ({"taps": [{"stage": 2}]}, "'taps.0.node' is missing"),
        ({"backbone": "resnet18"}, "'backbone' must be an object, got 'resnet18'"),
    ],
)
def test_wrong_values_are_named(folder: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        load(changed(folder, **changes))
    assert str(folder) in str(error.value) and "backbone yourself" not in str(error.value)
    assert "aim__device" in changes or str(error.value).endswith(WAY_OUT)


@pytest.mark.parametrize(
    "name",
    [
        "hf-hub:someone/resnet18.a1_in1k",
        "timm/hf-hub:timm/resnet18.a1_in1k",
        "hf_hub:resnet18",
        "local-dir:/etc",
        "timm/local-dir:/etc",
        "https://example.org/model",
        "os.system",
        "builtins:exec",
        "zoo.TinyNet",
        "torchvision/../timm/resnet18",
        "torchvision/get_model",
        "timm/create_model",
        "",
    ],
)
def test_only_names_of_the_registries_are_built(
    saved_by_name: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object) -> None:
        raise AssertionError("something is being fetched")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    folder = changed(shutil.copytree(saved_by_name, tmp_path / "model"), backbone__name=name)
    with pytest.raises(ValueError, match=r"has (a|no) model named .*Build the backbone yourself and pass it"):
        AIM.from_pretrained(folder)


def test_arguments_that_would_fetch_weights_are_left_out(saved_by_name: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(saved_by_name, tmp_path / "model")
    arguments = json.loads((folder / "config.json").read_text())["backbone"]["arguments"]
    (folder / "evil.pth").write_bytes(pickle.dumps(Code()))
    evil = {"pretrained": True, "checkpoint_path": str(folder / "evil.pth"), "pretrained_cfg_overlay": {"file": "/etc"}}
    AIM.from_pretrained(changed(folder, backbone__arguments=arguments | evil))


def test_arguments_that_the_builder_refuses(saved_by_name: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(saved_by_name, tmp_path / "model")
    changed(folder, backbone__arguments={"newer": 1}, versions={"timm": "9.9", "python": "3.99"})
    with pytest.raises(ValueError, match=r"timm/convnext_atto, built by its name, cannot be wrapped .*timm 9\.9, here"):
        AIM.from_pretrained(folder)


def test_a_backbone_that_was_a_module_must_be_passed(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"this model's backbone was zoo\.TinyNet\. .*, backbone=\.\.\.\)"):
        AIM.from_pretrained(folder)
    with pytest.raises(TypeError, match=r"backbone must be a module such as the model was built with, .* got str"):
        AIM.from_pretrained(folder, backbone="resnet18")


class Wider(TinyNet):
    """The same names with another number of channels."""

    def __init__(self) -> None:
        super().__init__()
        self.block2[0] = nn.Conv2d(12, 24, 3, stride=2, padding=1, bias=False)
        self.block2[1] = nn.BatchNorm2d(24)
        self.block3[0] = nn.Conv2d(24, 20, 3, stride=2, padding=1, bias=False)


def test_a_wrong_backbone_error_says_what_differs(folder: Path) -> None:
    message = (
        r"is not the one that was saved \(zoo\.TinyNet\): stage 2 was block2 with 16 channels at stride 16, and is"
    )
    with pytest.raises(ValueError, match=message + " block2 with 24 channels"):
        AIM.from_pretrained(folder, backbone=Wider())
    with pytest.raises(
        ValueError, match="'final map' was block3 with 20 channels at stride 32, and is head_conv with 40"
    ):
        AIM.from_pretrained(folder, backbone=HeadConvNet())
    with pytest.raises(ValueError, match="the backbone that was passed cannot be wrapped as the saved model was"):
        AIM.from_pretrained(folder, backbone=nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten()))


def test_other_taps_than_were_saved(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["taps"][0]["node"] = "stages.2"
    with pytest.raises(ValueError, match=r"stage 2 was stages\.2 .* and is block2 .*saved with timm 0\.1, here"):
        load(changed(folder, taps=config["taps"], versions={"timm": "0.1"}))


class Deepest(AIM):
    """Does not do what it is asked to."""

    def __init__(self, backbone: nn.Module, stages: object, tau: object, **arguments: Any) -> None:
        super().__init__(backbone, [3], **arguments)


def test_a_subclass_that_taps_other_stages(folder: Path) -> None:
    with pytest.raises(ValueError, match="it has 1 taps, and the saved model had 2"):
        Deepest.from_pretrained(folder, backbone=TinyNet())


class Builds(AIM):
    """With a backbone of its own, and other arguments."""

    def __init__(self, classes: int) -> None:
        super().__init__(TinyNet(num_classes=classes), [2, 3], mask_width=4)


class Names(AIM):
    """Takes AIM's arguments, but no module for a backbone."""

    def __init__(self, backbone: str, **arguments: Any) -> None:
        super().__init__({"tiny": TinyNet}[backbone](), **arguments)


@pytest.mark.parametrize(
    ("cls", "why"),
    [(Builds, r"TypeError: got an unexpected keyword argument|TypeError: missing"), (Names, "KeyError: TinyNet")],
)
@pytest.mark.parametrize("backbone", [None, TinyNet()], ids=["no backbone", "a backbone"])
def test_a_subclass_with_an_init_of_its_own(
    cls: type[AIM], why: str, backbone: nn.Module | None, saved: Path, saved_by_name: Path
) -> None:
    folder = saved_by_name if backbone is None else saved
    why = "KeyError: 'timm/convnext_atto'" if cls is Names and backbone is None else why
    with pytest.raises(TypeError, match=rf"builds {cls.__name__} with AIM's arguments, .*: ({why})") as error:
        cls.from_pretrained(folder, backbone=backbone)
    assert "Give it AIM's arguments, with defaults" in str(error.value)
    assert "load the folder's weights: model.load_state_dict(" in str(error.value)
    model = Builds(7)
    model.load_state_dict(safetensors.torch.load_file(saved / "model.safetensors"))


class Adds(AIM):
    """Adds an argument, with a default."""

    def __init__(self, *arguments: Any, name: str = "mine", **others: Any) -> None:
        super().__init__(*arguments, **others)
        self.name = name


def test_a_subclass_that_adds_an_argument_is_loaded_and_does_not_take_the_blame(folder: Path) -> None:
    assert Adds.from_pretrained(folder, backbone=TinyNet()).name == "mine"
    with pytest.raises(ValueError, match="the backbone that was passed cannot be wrapped as the saved model was"):
        Adds.from_pretrained(folder, backbone=nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten()))


def test_tensors_that_this_version_cannot_hold(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def newer(path: Path, framework: str) -> None:
        raise KeyError("F4")

    monkeypatch.setattr(files, "safe_open", newer)
    with pytest.raises(ValueError, match="cannot be read as a safetensors file"):
        load(folder)


def test_metadata_of_the_file_does_not_matter(folder: Path) -> None:
    state = AIM(TinyNet(), [2, 3], mask_width=4).state_dict()
    save_file({name: value.clone() for name, value in state.items()}, folder / "x", metadata={"format": "tf"})
    load(with_weights(folder, (folder / "x").read_bytes()))


@pytest.mark.parametrize(
    "value", [None, True, 3, 0.1, float("-inf"), "x", [1, (2, [3])], (), {"a": (1,), "b": {}}, {"tuple": 1, "b": 2}]
)
def test_json_and_back(value: object) -> None:
    there = json.loads(json.dumps(encoded_json(value), allow_nan=False))
    assert decoded_json(there) == value and type(decoded_json(there)) is type(value)


@pytest.mark.parametrize("value", [nn.ReLU, torch.float16, {1: 2}, {"tuple": [1]}, {"float": "x"}, {1}, [object()]])
def test_what_json_cannot_hold(value: object) -> None:
    with pytest.raises(TypeError, match="JSON cannot hold"):
        encoded_json(value)
