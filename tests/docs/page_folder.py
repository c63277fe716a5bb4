"""What the documentation's commands find in the reader's current folder: data, a module, a saved model."""

import shutil
import sys
from pathlib import Path

import pytest
import timm

from aimwrap import AIM, Preprocessing
from aimwrap.data import DigitsOnPhotographs
from aimwrap.data.builder import build_composed

with pytest.MonkeyPatch.context() as patch:
    patch.setattr(sys, "path", [str(Path(__file__).parents[1] / "data"), *sys.path])
    from builder_sources import make_backgrounds, make_cutouts
    from page_sets import make_page_sets

MODULE = """
import timm


def build():
    return timm.create_model("test_resnet", num_classes=3)
"""


def make_everything(folder: Path) -> None:
    """Fill a folder with what any page's commands ask for, under the pages' names."""
    data = make_page_sets(folder)
    shutil.copytree(data / "CUB_200_2011", folder / "CUB_200_2011")
    shutil.copytree(data / "waterbird_complete95_forest2water2", data / "waterbirds")
    for split, named in (("train", "train"), ("val", "test")):  # without a validation split
        shutil.copytree(data / "mine" / split, data / "images" / named)
    splits = {split: DigitsOnPhotographs(split, 0.95, 0, 64, num_images=32) for split in ("train", "test")}
    build_composed(data / "stamps95", splits, {"digits": {}}, workers=0)  # in the place of what Stamps' script writes
    make_cutouts(folder / "cutouts", ("bird", "mammal"), count=16)
    make_backgrounds(folder / "backgrounds", ("water", "land"), count=40)
    for number, place in enumerate(("b/bamboo_forest", "f/forest/broadleaf", "o/ocean", "l/lake/natural")):
        make_backgrounds(folder / "places365", (place,), count=60, size=(60 + number, 80))
    (folder / "my_project").mkdir()
    (folder / "my_project" / "models.py").write_text(MODULE)
    model = AIM(timm.create_model("test_resnet", num_classes=2), stages=[2, 3])
    model.preprocessing = Preprocessing((64, 64), (0.5,) * 3, (0.5,) * 3)
    model.save_pretrained(folder / "FOLDER")
