"""The Stamps benchmark on images made here: what it promises about splits, ties, masks, randomness and files."""

import hashlib
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

STAMPS = Path(__file__).parents[2] / "benchmarks" / "stamps"
if not STAMPS.is_dir():
    pytest.skip("the benchmarks come with a checkout, not with the package's sources", allow_module_level=True)
with pytest.MonkeyPatch.context() as patch:
    patch.setattr(sys, "path", [str(STAMPS), *sys.path])
    import fetch
    from dataset import Stamps, split_sources
    from sources import PACKAGES, Cutout, Photograph, Sources, check_files, path_of, read_sources

NUM_ANIMALS, NUM_PHOTOGRAPHS = 5, 4  # for each label, for each place
FLAT = (128, 128, 128)


class Made:
    """A folder as ``fetch.py`` leaves it, with its own lists."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        cutouts, photographs = [], []
        rng = np.random.default_rng(0)
        for label in (0, 1):
            for animal in range(NUM_ANIMALS):
                for pose in range(1 + (animal == 0)):  # the first animal comes in two cut-outs
                    # a red or blue box with a transparent margin, whose hidden colour must never show
                    height, width = (60, 40) if pose else (40, 60)
                    pixels = np.zeros((height + 20, width + 20, 4), np.uint8)
                    pixels[..., 1] = 255
                    pixels[10:-10, 10:-10] = (255 - animal, 0, 0, 255) if label == 0 else (0, 0, 255 - animal, 255)
                    name = f"{label}-{animal}-{pose}.png"
                    cutouts.append(Cutout(label, f"animal {animal}", "cut-outs", name, self._save(name, pixels)))
        for place in (0, 1):
            for number in range(NUM_PHOTOGRAPHS):
                pixels = rng.integers(0, 255, (200, 300, 3), np.uint8)
                name = f"place-{place}-{number}.jpg"
                part = (0.0, 0.0, 1.0, 0.8)
                photographs.append(Photograph(place, "photographs", name, self._save(name, pixels), part))
        self.sources = Sources(cutouts, photographs)

    def _save(self, name: str, pixels: np.ndarray) -> str:
        path = self.folder / ("cut-outs" if name.endswith("png") else "photographs") / name
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(path)
        return hashlib.sha256(path.read_bytes()).hexdigest()

    def stamps(self, split: str, tie: float = 0.95, seed: int = 0, image_size: int = 48, **arguments: Any) -> Stamps:
        arguments = {"num_images": 40, **arguments}
        return Stamps(split, tie, seed, image_size, folder=self.folder, sources=self.sources, **arguments)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made(tmp_path_factory.mktemp("stamps"))


@pytest.mark.parametrize(("tie", "expected"), [(1.0, [50, 0, 0, 50]), (0.95, [48, 2, 2, 48]), (0.5, [25, 25, 25, 25])])
def test_tie_is_exact_in_training(made: Made, tie: float, expected: list[int]) -> None:
    data = made.stamps("train", tie, num_images=100)
    assert torch.bincount(data.groups, minlength=4).tolist() == expected


@pytest.mark.parametrize(
    ("split", "tie", "seed", "expected"),
    [
        ("train", 0.95, 0, "dafc56bf5cb2bc5e"),
        ("train", 1.0, 3, "f18d2f3baecf815c"),
        ("test", 0.95, 0, "c5197dda91248d77"),
        ("test", 0.95, 3, "5941fefc6410a27f"),
    ],
)
def test_objects_and_places_stay(made: Made, split: str, tie: float, seed: int, expected: str) -> None:
    """Published numbers depend on it."""
    data = made.stamps(split, tie, seed)
    columns = torch.stack([data.labels, data.places, data.cutouts, data.photographs])
    assert hashlib.sha256(columns.numpy().tobytes()).hexdigest()[:16] == expected


@pytest.mark.parametrize("num_images", [8, 40, 100])
def test_test_groups_are_equal_and_every_cutout_is_on_both_places(made: Made, num_images: int) -> None:
    data = made.stamps("test", tie=1.0, num_images=num_images)
    assert torch.bincount(data.groups).tolist() == [num_images // 4] * 4
    on_place = [torch.bincount(data.cutouts[data.places == place], minlength=12) for place in (0, 1)]
    assert torch.equal(*on_place)


@pytest.mark.parametrize("split", ["train", "test"])
def test_labels_and_places_are_those_of_the_lists_and_none_is_left_out(made: Made, split: str) -> None:
    data = made.stamps(split, tie=0.5)
    for index in range(len(data)):
        assert made.sources.cutouts[data.cutouts[index]].label == data.labels[index]
        assert made.sources.photographs[data.photographs[index]].place == data.places[index]
    cutouts, photographs = split_sources(made.sources, split, 0)
    assert set(data.cutouts.tolist()) == {*cutouts[0].tolist(), *cutouts[1].tolist()}
    assert set(data.photographs.tolist()) == {*photographs[0].tolist(), *photographs[1].tolist()}


@pytest.mark.parametrize("seed", range(5))
def test_train_and_test_share_no_animal_and_no_photograph(made: Made, seed: int) -> None:
    train, test = (made.stamps(split, tie=0.5, seed=seed) for split in ("train", "test"))
    assert not set(train.photographs.tolist()) & set(test.photographs.tolist())
    animals = [{made.sources.cutouts[row][:2] for row in data.cutouts.tolist()} for data in (train, test)]
    assert not animals[0] & animals[1]
    assert (len(animals[0]), len(animals[1])) == (2 * 3, 2 * 2)  # 60 % of five, of either label


def test_seeds_draw_other_splits_and_ties_do_not(made: Made) -> None:
    photographs = [set(made.stamps("test", seed=seed).photographs.tolist()) for seed in range(6)]
    assert any(drawn != photographs[0] for drawn in photographs)
    assert set(made.stamps("train", tie=0.9).cutouts.tolist()) == set(made.stamps("train", tie=1.0).cutouts.tolist())


def test_sample_shapes_and_ranges(made: Made) -> None:
    data = made.stamps("train", image_size=61, num_images=10)
    for index in range(len(data)):
        image, label, place, object_mask, cutout = data[index]
        assert image.shape == (3, 61, 61) and image.dtype == torch.float32
        assert image.min() >= 0 and image.max() <= 1
        assert object_mask.shape == (1, 61, 61) and set(object_mask.unique().tolist()) == {0.0, 1.0}
        assert (label, place) == (int(data.labels[index]), int(data.places[index]))
        assert cutout == int(data.cutouts[index])


def test_mask_is_where_the_animal_is(made: Made) -> None:
    """Inside, the cut-out's own colours, never jittered; outside, the background and nothing of the cut-out."""
    data = made.stamps("train", image_size=96, num_images=20)
    for index in range(len(data)):
        image, label, _, object_mask, cutout = data[index]
        inside = object_mask[0] == 1
        animal = made.sources.cutouts[cutout].animal
        expected = torch.zeros(3)
        expected[0 if label == 0 else 2] = (255 - int(animal[-1])) / 255
        assert (image[:, inside] - expected[:, None]).abs().max() < 0.02
        assert torch.equal(image[:, ~inside], data.background(index)[:, ~inside])


def test_object_size_and_position(made: Made) -> None:
    side = 100
    data = made.stamps("train", image_size=side, num_images=100)
    longer, centres = [], []
    for index in range(len(data)):
        rows, columns = (data[index].object_mask[0].amax(dim=axis).nonzero() for axis in (1, 0))
        extent = rows.max() - rows.min() + 1, columns.max() - columns.min() + 1
        assert int(min(extent)) == pytest.approx(int(max(extent)) * 2 / 3, abs=1.01)  # its shape is kept
        longer.append(int(max(extent)))
        centres.append([float(rows.float().mean()), float(columns.float().mean())])
    assert 50 <= min(longer) < 55 and 75 < max(longer) <= 80
    assert np.std(centres, axis=0).min() > 5  # anywhere
    assert made.stamps("test", image_size=side, object_size=(1.0, 1.0), num_images=4)[0].object_mask.amax(1).sum() > 60


def test_backgrounds_come_in_every_hue_brightness_and_scale(made: Made, tmp_path: Path) -> None:
    """From a photograph with a red and a grey half, whatever the place."""
    picture = np.full((200, 300, 3), FLAT, np.uint8)
    picture[:, :150] = (200, 60, 60)
    photographs = []
    for photograph in made.sources.photographs:
        path = path_of(photograph, tmp_path)
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(picture).save(path, quality=95)
        photographs.append(photograph._replace(sha256=hashlib.sha256(path.read_bytes()).hexdigest()))
    for cutout in made.sources.cutouts:
        path_of(cutout, tmp_path).parent.mkdir(exist_ok=True)
        path_of(cutout, tmp_path).write_bytes(path_of(cutout, made.folder).read_bytes())
    data = Stamps(
        "train", 0.5, 0, 32, num_images=200, folder=tmp_path, sources=Sources(made.sources.cutouts, photographs)
    )
    means = torch.stack([data.background(index).mean(dim=(1, 2)) for index in range(len(data))])
    assert set(means.argmax(dim=1).tolist()) == set(means.argmin(dim=1).tolist()) == {0, 1, 2}
    brightness = means @ torch.tensor([0.299, 0.587, 0.114])
    assert brightness.min() < 0.35 and brightness.max() > 0.65
    colourfulness = means.std(dim=1)
    assert colourfulness.max() > 2 * colourfulness.quantile(0.2)
    uniform = torch.stack([data.background(index).std(dim=(1, 2)).max() < 0.01 for index in range(len(data))])
    assert 0.1 < uniform.float().mean() < 0.9  # small crops are within one half, large ones never do


def test_images_depend_on_seed_and_index_alone(made: Made) -> None:
    first = made.stamps("train", seed=3)
    images, labels, places, object_masks = first.stacked()
    torch.manual_seed(1)
    np.random.seed(1)
    states = torch.get_rng_state(), np.random.get_state()[1].copy()
    again = made.stamps("train", seed=3)
    assert torch.equal(again[7].image, images[7]) and torch.equal(again[7].object_mask, object_masks[7])
    assert torch.equal(labels, again.labels) and torch.equal(places, again.places)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (np.random.get_state()[1] == states[1]).all()
    assert not torch.equal(made.stamps("train", seed=4)[7].image, images[7])
    assert not torch.equal(made.stamps("test", seed=3)[7].image, images[7])
    assert not torch.equal(images[6], images[7])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "val"}, "split must be 'train' or 'test', got 'val'"),
        ({"split": "train", "tie": 0.3}, "tie is a share of the images"),
        ({"split": "train", "image_size": 8}, "image_size must be at least 32"),
        ({"split": "train", "object_size": (0.8, 0.5)}, "object_size must be"),
        ({"split": "train", "num_images": 3}, "num_images must be a positive multiple of 2"),
        ({"split": "test", "num_images": 6}, "num_images must be a positive multiple of 4"),
    ],
)
def test_errors(made: Made, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        made.stamps(**arguments)


def test_index_out_of_range(made: Made) -> None:
    data = made.stamps("train", num_images=4)
    with pytest.raises(IndexError, match="got 4"):
        data[4]
    assert len([sample.label for sample in data]) == 4  # iteration ends


def test_too_few_sources_to_split(made: Made) -> None:
    lonely = Sources(made.sources.cutouts, made.sources.photographs[: NUM_PHOTOGRAPHS + 1])
    with pytest.raises(ValueError, match="at least 2 photographs of place 1"):
        split_sources(lonely, "train", 0)


def test_missing_and_changed_files_are_named(tmp_path: Path) -> None:
    made = Made(tmp_path)
    check_files(made.sources, tmp_path)
    changed, gone = (path_of(made.sources.cutouts[row], tmp_path) for row in (0, 1))
    changed.write_bytes(changed.read_bytes() + b"\0")
    with pytest.raises(ValueError, match=f"differs: cut-outs: {changed.name}"):
        made.stamps("train")
    gone.unlink()
    with pytest.raises(FileNotFoundError, match=rf"(?s)missing: cut-outs: {gone.name}.*fetch\.py --to"):
        made.stamps("train")


def test_lists_are_complete_and_without_doubles() -> None:
    sources = read_sources()
    assert [sum(cutout.label == label for cutout in sources.cutouts) for label in (0, 1)] == [34, 64]
    assert [sum(photograph.place == place for photograph in sources.photographs) for place in (0, 1)] == [14, 19]
    files = list(sources.files())
    assert len({file.path for file in files}) == len({file.sha256 for file in files}) == len(files)
    assert {file.package for file in files} == set(PACKAGES)
    assert all(re.fullmatch("[0-9a-f]{64}", file.sha256) for file in files)
    for left, top, right, bottom in (photograph.part for photograph in sources.photographs):
        assert 0 <= left < right <= 1 and 0 <= top < bottom <= 1


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Puts an ``apt-get`` and a ``dpkg`` first in the path, each a line of shell."""

    def install(apt_get: str, dpkg: str) -> None:
        for name, line in (("apt-get", apt_get), ("dpkg", dpkg)):
            path = tmp_path / "bin" / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(f"#!/bin/sh\n{line}\n")
            path.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")

    return install


def test_fetch_keeps_the_files_of_the_lists_alone(
    made: Made, tmp_path: Path, tools: Callable[[str, str], None]
) -> None:
    tools('touch "$3_1_all.deb"', f'mkdir "$3" && cp {made.folder}/*/* "$3" && touch "$3/another"')
    target = tmp_path / "to"
    for package in ("cut-outs", "photographs"):
        assert fetch.fetch(package, fetch.only(made.sources, package), target) is None
    check_files(made.sources, target)
    assert sum(path.is_file() for path in target.rglob("*")) == len(list(made.sources.files()))


def test_fetch_says_what_to_do(
    made: Made, tmp_path: Path, tools: Callable[[str, str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    tools("echo 'E: Unable to locate package' >&2; exit 100", "true")
    problem = fetch.fetch("cut-outs", made.sources, tmp_path / "to")
    assert problem and "Unable to locate" in problem and "apt-get update" in problem
    assert not list((tmp_path / "to").iterdir())  # nothing half done is left
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    problem = fetch.fetch("cut-outs", made.sources, tmp_path / "to")
    assert problem and "needs apt-get and dpkg" in problem and "tuxpaint-data" in problem


def test_centred_cutouts_stand_in_the_middle(made: Made) -> None:
    for sample in made.stamps("test", placement="centre"):
        rows, columns = sample.object_mask[0].any(1).nonzero(), sample.object_mask[0].any(0).nonzero()
        for span in (rows, columns):
            assert abs((span.min() + span.max()).item() - 47) <= 2


def test_cutouts_at_the_edge_are_cut_off_by_a_quarter_to_a_half(made: Made) -> None:
    whole, cut = made.stamps("test"), made.stamps("test", placement="edge")
    edges = set()
    for before, after in zip(whole, cut, strict=True):
        mask = after.object_mask[0]
        touched = [mask[:, 0].any(), mask[:, -1].any(), mask[0].any(), mask[-1].any()]
        edges |= {number for number, touches in enumerate(touched) if touches}
        assert any(touched)
        assert 0.4 < mask.sum() / before.object_mask.sum() < 0.85  # the boxes are full: area is what was cut
    assert edges == {0, 1, 2, 3}


def test_placement_is_checked(made: Made) -> None:
    with pytest.raises(ValueError, match=r"placement must be one of 'anywhere', 'centre', 'edge', got 'corner'"):
        made.stamps("test", placement="corner")
