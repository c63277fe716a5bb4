"""Report 3: the same ``--out`` with another data set exited with 0 and printed the result of the first one."""

import importlib
import json
import linecache
import shutil
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from PIL import Image
from small_run import Net, make_pictures, settings_of, train
from torch import nn

from aimwrap import Preprocessing
from aimwrap.data import LabelledTable, eval_transform
from aimwrap.report.content import check_page
from aimwrap.train import CheckpointError, RunFolderError
from aimwrap.train.data import evaluation_loader
from aimwrap.train.evaluation import lacking_objects, objects_are_known
from aimwrap.train.run import weights_of


@pytest.fixture
def done(tmp_path: Path) -> Path:
    """A folder with pictures in ``a`` and a run on them in ``out``."""
    train(make_pictures(tmp_path / "a"), tmp_path / "out")
    return tmp_path


@pytest.mark.parametrize(
    ("colour", "classes"),
    [(200, ("cat", "dog", "hen")), (200, ("cat", "cow")), (100, ("cat", "dog"))],
    ids=["three classes", "other names", "same names and sizes in bytes, other pixels"],
)
def test_the_result_of_other_images_is_refused(done: Path, colour: int, classes: tuple[str, ...]) -> None:
    other = make_pictures(done / "b", colour, classes)
    with pytest.raises(RunFolderError, match="holds the result of other images; name another folder"):
        train(other, done / "out")


def test_one_other_test_image_makes_another_result(done: Path) -> None:
    (done / "a" / "test" / "cat" / "1.bmp").unlink()
    with pytest.raises(RunFolderError, match="of other images"):
        train(done / "a", done / "out")


def test_one_other_pixel_makes_another_result(done: Path) -> None:
    """In a file without compression it stood between the parts that were compared, for 19 of 64 pixels."""
    path = done / "a" / "train" / "cat" / "1.bmp"
    content = path.read_bytes()
    for byte in range(54, len(content), 301):
        path.write_bytes(content[:byte] + bytes([255 - content[byte]]) + content[byte + 1 :])
        with pytest.raises(RunFolderError, match="of other images"):
            train(done / "a", done / "out")


def test_moved_images_are_the_same(done: Path) -> None:
    said: list[str] = []
    moved = Path(shutil.move(done / "a", done / "elsewhere"))
    assert train(moved, done / "out", say=said.append).data is not None
    assert "is trained already" in said[0]


def test_a_result_of_an_older_version_is_compared_by_the_tables(done: Path) -> None:
    result, settings = (json.loads((done / "out" / f"{name}.json").read_text()) for name in ("result", "settings"))
    settings["resolved"]["data"] = result["data"]["tables"]
    del result["data"], result["classes"]
    for name, content in (("result", result), ("settings", settings)):
        (done / "out" / f"{name}.json").write_text(json.dumps(content))
    assert train(done / "a", done / "out").data is None
    with pytest.raises(RunFolderError, match="of other images"):
        train(make_pictures(done / "b", classes=("cat", "cow")), done / "out")


def test_a_checkpoint_of_images_with_the_same_names_is_refused(done: Path) -> None:
    (done / "out" / "result.json").unlink()
    with pytest.raises(CheckpointError, match="of a run on other images"):
        train(make_pictures(done / "b", 100), done / "out")


def test_what_a_finished_run_does_not_do_is_said(done: Path) -> None:
    said: list[str] = []
    train(done / "a", done / "out", say=said.append, keep_masks=2)
    assert "is trained already" in said[0] and "--keep-masks changed nothing" in said[0]


def test_a_model_that_was_removed_is_saved_again(done: Path) -> None:
    """The result was shown with the path of a model that was not there."""
    before = (done / "out" / "model" / "model.safetensors").read_bytes()
    shutil.rmtree(done / "out" / "model")
    train(done / "a", done / "out")
    assert (done / "out" / "model" / "model.safetensors").read_bytes() == before
    for name in ("model", "checkpoints"):
        shutil.rmtree(done / "out" / name)
    said: list[str] = []
    train(done / "a", done / "out", say=said.append)
    assert "is trained already" in said[0], "and not trained again"


def test_a_report_replaces_no_other_file(tmp_path: Path) -> None:
    """``--out RUN/result.html`` replaced the run's own ``result.json``."""
    for text in ('{\n  "variant": "test_resnet"', '{\n "format": 1'):
        (tmp_path / "result.json").write_text(text)
        with pytest.raises(ValueError, match=r"would replace .*result\.json") if "variant" in text else nullcontext():
            check_page(tmp_path / "result.html")


def test_objects_do_not_depend_on_the_batch(tmp_path: Path) -> None:
    """Masks counted only in batches where all images had one, and boxes in the others."""
    for name in "abc":
        Image.new("RGB", (32, 32)).save(tmp_path / f"{name}.png")
    mask = Image.new("L", (32, 32))
    mask.paste(255, (0, 0, 8, 8))
    mask.save(tmp_path / "mask.png")
    rows = ("a.png,0,mask.png,0,0,16,16", "b.png,1,,0,0,32,16", "c.png,1,mask.png,,,,")
    (tmp_path / "t.csv").write_text("\n".join(["image,label,mask,left,top,right,bottom", *rows]))
    transform = eval_transform(Preprocessing((32, 32), (0.5,) * 3, (0.5,) * 3, crop=1.0))
    images = LabelledTable(tmp_path / "t.csv", transform=transform)
    assert objects_are_known(images) and lacking_objects(images) is None
    for size in (1, 2, 3):
        masks = [batch.object_mask for batch in evaluation_loader(images, size, 0, 1, 0, False)]
        assert torch.cat(masks).mean((1, 2, 3)).tolist() == [1 / 16, 1 / 2, 1 / 16]


def test_a_network_with_another_forward_makes_another_result(
    done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its old result was shown, since modules and shapes were the same."""
    code = (Path(__file__).parent / "small_run.py").read_text()
    monkeypatch.syspath_prepend(tmp_path)
    for name, text in (("mine", code), ("mine", code.replace("return self.fc(x", "return self.fc(-x"))):
        (tmp_path / f"{name}.py").write_text(text)
        linecache.clearcache()
        monkeypatch.delitem(sys.modules, name, raising=False)
        importlib.invalidate_caches()
        if text == code:
            train(done / "a", tmp_path / "own", backbone="mine:Net")
            train(done / "a", tmp_path / "own", backbone="mine:Net")
    with pytest.raises(RunFolderError, match="holds the result of mine:Net"):
        train(done / "a", tmp_path / "own", backbone="mine:Net")
    (tmp_path / "own" / "result.json").unlink()  # as of a run that was interrupted at its end
    with pytest.raises(CheckpointError, match=r"is of a run of mine:Net \w+, and this one is of mine:Net \w+, by"):
        train(done / "a", tmp_path / "own", backbone="mine:Net")


CODE = """# A comment, which changes nothing.
from torch import nn
from aimwrap import Preprocessing
from parts.values import scaled

WIDTH = 4

def prepare(images):
    return scaled(images) * 1.0

STD = 0.25

class Net(nn.Sequential):
    def forward(self, images):
        return super().forward(prepare(images))

def build():
    trunk = nn.Sequential(nn.Conv2d(3, WIDTH, 3, 2, 1), nn.ReLU())
    nn.init.normal_(trunk[0].weight, std=STD)
    trunk.requires_grad_(True)
    trunk[0].register_forward_hook(lambda module, given, output: output + 0.0)
    network = Net(trunk, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(WIDTH, 2))
    network.preprocessing = Preprocessing((32, 32), (0.5,) * 3, (0.5,) * 3)
    return network
"""


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("mine.py", " * 1.0", " * 0.0"),
        ("mine.py", "STD = 0.25", "STD = 0.5"),
        ("mine.py", "_(True)", "_(False)"),
        ("mine.py", "output + 0.0", "output + 1.0"),
        ("mine.py", "(32, 32), (0.5,)", "(32, 32), (0.4,)"),
        ("parts/others.py", "2.0", "3.0"),
    ],
    ids=["function", "constant", "frozen", "hook", "preprocessing", "imported by an import"],
)
def test_other_code_of_ones_own_network_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, old: str, new: str
) -> None:
    """All but the class of a network could be edited, and the old result was shown."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "parts").mkdir()
    (tmp_path / "mine.py").write_text(CODE)
    (tmp_path / "parts" / "values.py").write_text("from .others import scaled")
    (tmp_path / "parts" / "others.py").write_text("def scaled(images):\n    return images / 2.0")

    def weights() -> str | None:
        for name in ("mine", "parts", "parts.values", "parts.others"):
            monkeypatch.delitem(sys.modules, name, raising=False)
        importlib.invalidate_caches()
        return weights_of(settings_of(tmp_path, backbone="mine:build"))

    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = weights()
    (tmp_path / "mine.py").write_text(CODE.replace("# A comment", "# Another comment"))
    assert weights() == before
    text = (tmp_path / file).read_text()
    (tmp_path / file).write_text(text.replace(old, new))
    assert old in text and weights() != before


def test_what_a_network_is_built_with_from_elsewhere_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as by a file that its function reads, which no code says."""
    found = []
    for trained, mean, scale in ((True, 0.5, 1.0), (False, 0.5, 1.0), (True, 0.4, 1.0), (True, 0.5, 2.0)):
        net = Net()
        net.fc.requires_grad_(trained)
        net.preprocessing = Preprocessing((32, 32), (mean,) * 3, (0.5,) * 3)  # type: ignore[assignment]
        net.scale = torch.tensor(scale)
        torch.manual_seed(0)

        def built(net: nn.Module = net) -> nn.Module:
            torch.rand(1)
            return net

        monkeypatch.setattr("small_run.built", built, raising=False)
        for weight in net.parameters():
            nn.init.constant_(weight, 0.5)
        found.append(weights_of(settings_of(tmp_path, backbone="small_run:built")))
    assert len({*found}) == 4


def test_a_checkpoint_of_other_validation_images_is_refused_and_names_its_weights(done: Path) -> None:
    """The best epoch was chosen by two sets, and the weights were named that the run had not started from."""
    (done / "out" / "result.json").unlink()
    (done / "a" / "val" / "cat" / "1.bmp").rename(done / "kept.bmp")
    with pytest.raises(CheckpointError, match="of a run on other images"):
        train(done / "a", done / "out")
    (done / "kept.bmp").rename(done / "a" / "val" / "cat" / "1.bmp")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("aimwrap.train.run.weights_of", lambda settings: "others")
        with pytest.raises(CheckpointError, match="this one is of others"):
            train(done / "a", done / "out")
        patch.setattr(torch, "__version__", f"{torch.__version__}.1")  # whose modules may have other attributes
        assert train(done / "a", done / "out").weights != "others"


@pytest.fixture
def table(done: Path) -> Path:
    """A table of the pictures of ``a``, with places."""
    paths = sorted((done / "a").rglob("*.bmp"))
    rows = [f"{path.relative_to(done / 'a')},{path.parent.name},{path.parent.parent.name},land" for path in paths]
    (done / "a" / "t.csv").write_text("\n".join(["image,label,split,place", *rows]))
    return done / "a" / "t.csv"


@pytest.mark.parametrize(("old", "new"), [(",cat,", ",crow,"), (",land", ",sea")], ids=["classes", "places"])
def test_other_names_make_another_result(table: Path, tmp_path: Path, old: str, new: str) -> None:
    """The same numbers under other names: the old names were shown as this run's."""
    out = tmp_path / "of table"
    train(table, out, data="table")
    before = table.read_text()
    table.write_text(before.replace(old, new))
    with pytest.raises(RunFolderError, match="the result of other names of classes or places; name another folder"):
        train(table, out, data="table")
    (out / "result.json").unlink()
    with pytest.raises(CheckpointError, match="a run with other names of classes or places"):
        train(table, out, data="table")
    table.write_text(before)
    result = train(table, out, data="table")
    del (kept := result._asdict())["data"]["names"]  # as older versions wrote it
    (out / "result.json").write_text(json.dumps(kept))
    assert train(table, out, data="table").scores == result.scores


def test_another_network_or_file_of_weights_makes_another_result(
    done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A changed width, or another file that the function loads, showed the result of the network before."""
    weights = {"widths": 8, "bias": 0.0}

    def built() -> nn.Module:
        net = Net()
        net.fc.bias.data.fill_(weights["bias"])
        net.fc = net.fc if weights["widths"] == 8 else nn.Sequential(nn.Linear(8, weights["widths"]), nn.Linear(4, 2))
        return net

    monkeypatch.setattr("small_run.built", built, raising=False)
    images, out = done / "a", tmp_path / "own"
    scores = train(images, out, backbone="small_run:built").scores
    assert train(images, out, backbone="small_run:built", seed=0).scores == scores
    for change in ({"bias": 1.0}, {"widths": 4}):
        with monkeypatch.context() as patch:
            patch.setitem(weights, *next(iter(change.items())))
            with pytest.raises(RunFolderError, match=r"holds the result of small_run:built \w+, not of small_run"):
                train(images, out, backbone="small_run:built")
    assert train(images, out, backbone="small_run:built").scores == scores


def test_a_network_made_on_import_is_compared_without_its_weights(
    done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They may be random ones of this process."""
    for seed in range(2):
        torch.manual_seed(seed)
        monkeypatch.setattr("small_run.net", Net(), raising=False)
        assert train(done / "a", tmp_path / "own", backbone="small_run:net").weights


def test_a_result_of_another_torch_is_shown(done: Path) -> None:
    """Its modules may have other attributes, which is no fault of the network."""
    for name, key, value in (("settings", "torch", "1.0"), ("result", "weights", "small_run:Net 0")):
        content = json.loads((done / "out" / f"{name}.json").read_text())
        (content if name == "result" else content["resolved"])[key] = value
        (done / "out" / f"{name}.json").write_text(json.dumps(content))
    assert train(done / "a", done / "out").weights == "small_run:Net 0"
