"""Maps are put back exactly where the model's preprocessing took the pixels from."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from zoo import TinyNet, lively

from aimwrap import AIM, Preprocessing, SecondLook, explain
from aimwrap.analysis.look import look
from aimwrap.masks import seen_part
from aimwrap.masks.placing import as_stored, maps_on, placed
from aimwrap.train.presets import PRESETS

HALF = (0.5,) * 3


def preparations() -> list[Preprocessing]:
    """What the presets say of images, each once; and one that is not square."""
    found = []
    for preset in PRESETS.values():
        given = preset.settings
        side = given.get("image_size", 224)
        found.append(
            Preprocessing((side, side), HALF, HALF, crop=given.get("crop", 0.875), squash=given.get("squash", False))
        )
    return [*dict.fromkeys(found), Preprocessing((160, 224), HALF, HALF)]


@pytest.mark.parametrize("preprocessing", preparations(), ids=str)
def test_the_part_is_where_the_pixels_come_from(preprocessing: Preprocessing) -> None:
    """Of an image whose colours are its coordinates, the input's colours say where its pixels were."""
    for height, width in ((240, 320), (427, 640), (300, 300)):
        rows, columns = (np.arange(side) + 0.5 for side in (height, width))
        colours = np.stack(np.broadcast_arrays(255 * columns / width, 255 * rows[:, None] / height, 0), -1)
        seen = preprocessing.transform()(Image.fromarray(colours.round().astype(np.uint8)))
        left, top, right, bottom = seen_part(preprocessing, (height, width))
        across, down = seen.shape[2], seen.shape[1]
        expected_x = (left + (right - left) * (torch.arange(across) + 0.5) / across) / width
        expected_y = (top + (bottom - top) * (torch.arange(down) + 0.5) / down) / height
        inner = slice(4, -4)  # filters end at the border
        assert ((seen[0].mean(0) + 1) / 2 - expected_x)[inner].abs().max() < 0.004
        assert ((seen[1].mean(1) + 1) / 2 - expected_y)[inner].abs().max() < 0.004


@pytest.mark.parametrize("preprocessing", preparations()[:-1], ids=str)
@pytest.mark.parametrize("size", [(224, 224), (240, 320), (320, 240), (427, 640), (640, 427)])
def test_a_true_mask_comes_back_onto_the_object(preprocessing: Preprocessing, size: tuple[int, int]) -> None:
    height, width = size
    y, x = np.mgrid[:height, :width] + 0.5
    short = min(size)
    true = ((x - 0.45 * width) / (0.22 * short)) ** 2 + ((y - 0.55 * height) / (0.3 * short)) ** 2 < 1
    seen = preprocessing.transform()(Image.fromarray((255 * true).astype(np.uint8)).convert("RGB"))
    kept = SimpleNamespace(kept=(seen[None, :1] > 0).float())  # as a Look has it
    back = maps_on(kept, 0, ["kept"], seen_part(preprocessing, size), size)["kept"] == 1
    expected = torch.from_numpy(true)
    assert (back & expected).sum() / (back | expected).sum() >= 0.99


def test_what_the_crop_left_out_is_not_kept() -> None:
    preprocessing = Preprocessing((50, 50), HALF, HALF, crop=0.5)
    part = seen_part(preprocessing, (100, 200))
    assert part == (75.0, 25.0, 125.0, 75.0)
    found = placed(torch.ones(2, 2), part, (100, 200))
    assert found.sum() == 50 * 50 and bool((found[25:75, 75:125] == 1).all())


@pytest.mark.parametrize("orientation", range(1, 9))
def test_back_to_the_pixels_of_the_file(orientation: int) -> None:
    shown = np.arange(6).reshape(2, 3).astype(np.uint8)
    stored = as_stored(shown, orientation)
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = Image.fromarray(np.ascontiguousarray(stored))
    picture.info["exif"] = exif.tobytes()
    from PIL import ImageOps

    assert np.array_equal(np.asarray(ImageOps.exif_transpose(picture)), shown)


@pytest.fixture(scope="module")
def models() -> tuple[AIM, SecondLook]:
    torch.manual_seed(0)
    aim = lively(AIM(TinyNet(3), [2, 3], mask_width=8)).eval()
    second = SecondLook(aim, margin=0, least=0.2)
    torch.nn.init.normal_(second.classifier.weight)
    return aim, second.eval()


@pytest.mark.parametrize("number", [0, 1])
def test_maps_are_those_of_the_model(models: tuple[AIM, SecondLook], number: int) -> None:
    model = models[number]
    images = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    seen, explained = look(model, images), explain(model, images)
    size, part = (96, 128), (32.0, 16.0, 96.0, 80.0)  # the input in the middle, pixel for pixel
    predicted = explained.logits.argmax(1)
    for row, what in itertools.product(range(3), [("merged", "stages", "kept", "contributions")]):
        found = maps_on(seen, row, what, part, size)
        inner = {name: values[16:80, 32:96] for name, values in found.items()}

        def enlarged(mask: Tensor) -> Tensor:
            return mask.repeat_interleave(64 // mask.shape[0], 0).repeat_interleave(64 // mask.shape[1], 1)

        assert torch.equal(inner["merged"], enlarged(explained.merged_mask[row, 0]))
        for stage, mask in explained.masks.items():
            assert torch.equal(inner[f"stage_{stage}"], enlarged(mask[row, 0]))
        contributions = explained.contributions[row, predicted[row]]
        assert found["contributions"].sum() == pytest.approx(contributions.sum().item(), abs=1e-4)
        if number:
            assert explained.kept is not None
            assert torch.equal(inner["kept"], explained.kept[row, 0])
            expected = explained.on_the_image()[row, predicted[row]]
        else:
            assert "kept" not in found
            expected = enlarged(contributions) / (64 // contributions.shape[0]) ** 2
        torch.testing.assert_close(inner["contributions"], expected, atol=1e-6, rtol=1e-4)
        assert all(values.sum() == pytest.approx(inner[name].sum().item(), abs=1e-4) for name, values in found.items())
