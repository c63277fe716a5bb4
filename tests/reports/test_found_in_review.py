"""What a reviewer with fresh eyes found in the fixes of issue 22: what worked before them works on."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import nn
from zoo import TinyNet

from aimwrap import AIM, AIMLoss, AIMOutput, Preprocessing
from aimwrap._files import parts_of
from aimwrap.backbones.plain import PlainClassifier, load_plain, save_plain
from aimwrap.data import read_table
from aimwrap.data.registry import read_by_name
from aimwrap.data.release import read_sample
from aimwrap.taps.copies import is_adapter


def table(path: Path, *rows: str) -> str:
    path.write_text("\n".join(rows) + "\n")
    for name in (row[0] for row in csv.reader(rows[1:])):
        Image.new("RGB", (8, 8)).save(path.parent / name)
    return str(path)


@pytest.mark.parametrize("suffix", ["bmp", "pgm", "tif", "png"])
def test_pictures_of_one_size_and_border_are_told_apart(tmp_path: Path, suffix: str) -> None:
    found = []
    for seed in range(2):
        pixels = np.zeros((40, 40), np.uint8)
        pixels[4:-4, 4:-4] = np.random.default_rng(seed).integers(0, 256, (32, 32))
        Image.fromarray(pixels).save(tmp_path / f"{seed}.{suffix}")
        found.append(parts_of(tmp_path / f"{seed}.{suffix}"))
    assert found[0] != found[1]


def test_pictures_that_were_turned_by_their_exif_data_are_told_apart(tmp_path: Path) -> None:
    """A run was continued with test images that are shown upside down."""
    exif = Image.Exif()
    exif[0x010E], exif[0x010F], exif[0x0110], exif[0x0112] = "CAMERA" * 5, "MAKER" * 4, "MODEL", 1
    pixels = np.random.default_rng(0).integers(0, 256, (96, 96, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.jpg", exif=exif, quality=95)
    before, content = parts_of(tmp_path / "a.jpg"), bytearray((tmp_path / "a.jpg").read_bytes())
    content[content.index(b"\x01\x12\x00\x03") + 9] = 3
    (tmp_path / "a.jpg").write_bytes(content)
    with Image.open(tmp_path / "a.jpg") as turned:
        assert turned.getexif()[0x0112] == 3
    assert parts_of(tmp_path / "a.jpg") != before


@pytest.mark.parametrize("channels", [1, 4])
def test_models_of_other_channels_that_were_saved_with_timms_record_load(tmp_path: Path, channels: int) -> None:
    AIM(timm.create_model("test_resnet", in_chans=channels, num_classes=2), [2, 3]).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    config["preprocessing"] = Preprocessing((8, 8), (0.5,) * 3, (0.5,) * 3)._asdict()
    path.write_text(json.dumps(config))
    assert AIM.from_pretrained(tmp_path).preprocessing is None


def test_a_first_layer_of_another_number_of_channels_leaves_the_record_behind(tmp_path: Path) -> None:
    backbone = TinyNet(in_channels=1)
    backbone.preprocessing = Preprocessing((32, 32), (0.5,) * 3, (0.5,) * 3)
    model = AIM(backbone, [2, 3])
    assert model.preprocessing is None
    model.save_pretrained(tmp_path)


def test_more_than_8_bits_are_scaled_or_refused_and_not_clipped() -> None:
    values = np.linspace(0, 65535, 64, dtype=np.uint16).reshape(8, 8)
    transform = Preprocessing((8, 8), (0.0,) * 3, (1.0,) * 3, crop=1.0).transform()
    assert (transform(Image.fromarray(values)) - torch.from_numpy(values / 65535)).abs().max() < 1 / 255
    with pytest.raises(ValueError, match="more than 8 bits"):
        transform(Image.fromarray(values // 16))


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_masks_that_fit_only_the_pixels_on_disk_are_read_with_these(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = np.zeros((20, 30, 3), np.uint8)
    pixels[:, :10] = 255
    for folder in ("images/a", "images/b", "masks/a", "masks/b"):
        (tmp_path / folder).mkdir(parents=True)
        Image.fromarray(pixels).save(tmp_path / folder / "x.png", exif=exif if "images" in folder else Image.Exif())
    data = read_by_name("folder", str(tmp_path / "images"), None, {"masks": str(tmp_path / "masks")})
    sample = read_sample(data.records[0], data.release)
    assert sample.object_mask is not None and sample.image.size == (30, 20)
    assert np.array_equal(np.asarray(sample.image)[..., 0] == 255, sample.object_mask[0].numpy() == 1)


def test_a_flag_named_merged_makes_no_adapter() -> None:
    block = nn.Conv2d(3, 3, 1)
    block.merged = False
    assert not is_adapter(block)


def test_a_test_set_of_one_class_is_read_where_the_classes_are_named(tmp_path: Path) -> None:
    path = table(tmp_path / "one.csv", "image,label,split", "a.png,1,test", "b.png,1,test")
    assert len(read_by_name("table", path, "test", {"classes": ["cat", "dog"]})) == 2


def test_more_places_than_rows(tmp_path: Path) -> None:
    found = read_table(table(tmp_path / "g.csv", "image,label,group", "a.png,1,5", "b.png,0,4", "c.png,0,0"))
    assert len(found.places) == 5


def test_losses_of_ones_own_get_what_they_were_given() -> None:
    output = AIMOutput(torch.zeros(2, 3), {}, {})

    class OfDict(nn.Module):
        def forward(self, logits: torch.Tensor, target: dict[str, torch.Tensor]) -> torch.Tensor:
            return nn.functional.cross_entropy(logits, target["labels"])

    own = AIMLoss(0.25, classification_loss=OfDict())
    assert own._classification(output.logits, {"labels": torch.tensor([0, 1])}).isfinite()  # type: ignore[arg-type]


def test_soft_labels_of_zeros_leave_an_image_out() -> None:
    output = AIMOutput(torch.zeros(2, 3), {3: torch.zeros(2, 3)}, {3: torch.ones(2, 1, 2, 2)})
    assert AIMLoss(0.25)(output, torch.tensor([[0.0, 0, 0], [1, 0, 0]])).isfinite()


def test_plain_models_of_one_logit_have_two_names(tmp_path: Path) -> None:
    model = PlainClassifier(timm.create_model("test_resnet"), 1)
    model.class_names = ("cat", "dog")
    save_plain(model, tmp_path, "test_resnet")
    assert load_plain(tmp_path).class_names == ("cat", "dog")
