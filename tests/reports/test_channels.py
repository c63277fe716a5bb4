"""Issue 22, numbers 18 and 27: images that are not RGB, and models that do not take RGB."""

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from aimwrap import AIM, Preprocessing
from aimwrap.sharing.card import model_card

GREY, RGB = (Preprocessing((32, 32), (0.0,) * channels, (1.0,) * channels, crop=1.0) for channels in (1, 3))
RED = np.full((40, 48, 3), (255, 0, 0), np.uint8)


def test_a_palette_image_is_seen_in_its_colours() -> None:
    """A red palette PNG was read as [0, 0, 0]: the number of the colour, and not the colour."""
    palette = Image.fromarray(RED).convert("P", palette=Image.Palette.ADAPTIVE)
    assert RGB.transform()(palette).amax((1, 2)).tolist() == [1, 0, 0]


@pytest.mark.parametrize("mode", ["L", "1", "LA", "RGBA", "CMYK"])
def test_every_mode_becomes_what_the_model_takes(mode: str) -> None:
    picture = Image.new("L", (40, 48), 255).convert("RGB" if mode == "CMYK" else mode).convert(mode)
    for preprocessing in (GREY, RGB):
        image = preprocessing.transform()(picture)
        assert image.shape == (len(preprocessing.mean), 32, 32) and image.min() > 0.99


def test_a_numpy_image_is_resized_as_a_picture() -> None:
    """It went through every step unchanged."""
    image = RGB.transform()(RED)
    assert torch.equal(image, RGB.transform()(Image.fromarray(RED))) and image.shape == (3, 32, 32)


def test_a_grey_model_prepares_colour_photographs() -> None:
    """Its card's code failed: it made RGB of the image, and the model takes one channel."""
    model = AIM(timm.create_model("test_resnet", in_chans=1, num_classes=2), [2, 3]).eval()
    assert model.preprocessing is None  # timm's record is of three channels
    model.preprocessing = GREY
    assert 'convert("RGB")' not in str(model_card(model, None, "."))
    images = model.preprocessing.transform()(Image.fromarray(RED))[None]
    assert model(images).logits.shape == (1, 2)


def test_four_channels_are_saved_without_the_preprocessing_of_three(tmp_path: object) -> None:
    model = AIM(timm.create_model("test_resnet", in_chans=4, num_classes=2), [2, 3])
    model.save_pretrained(str(tmp_path))
    assert AIM.from_pretrained(str(tmp_path)).preprocessing is None
