"""Miniatures of all the data sets that the documentation names, under the names that it gives them."""

from pathlib import Path

from imagenet_releases import class_folders, class_masks, hard_imagenet, imagenet100, imagewoof, picture
from releases import make_cub, make_traveling_birds, make_waterbirds


def make_page_sets(parent: Path) -> Path:
    """A folder ``data`` in the parent, with a set for every command of the documentation's page on data."""
    data = parent / "data"
    make_cub(data)
    make_waterbirds(data)
    make_traveling_birds(data)
    hard_imagenet(data)
    _, class_list, _ = imagenet100(data)
    class_list.rename(data / "imagenet100.txt")
    imagewoof(data)
    mine = class_folders(data).rename(data / "mine")
    endings = (".jpg", ".jpeg", ".png", ".bmp")
    for number, path in enumerate(sorted(path for path in mine.rglob("*") if path.suffix.lower() in endings)):
        picture(path, seed=number)  # else those of one name are the same
    class_masks(data, mine).rename(data / "my-masks")
    for name in ("cat", "dog", "fox"):
        picture(data / f"{name}.jpg")
    (data / "mine.csv").write_text("file,species,split\ncat.jpg,cat,train\ndog.jpg,dog,train\nfox.jpg,dog,test\n")
    return data
