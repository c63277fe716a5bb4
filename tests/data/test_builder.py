"""Built sets: exact ties, no leaks between splits, the right pixels, and the same bytes however they were built."""

from __future__ import annotations

import csv
import os
import signal
from collections import Counter
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builder_sources import contents, cutout, make_backgrounds, make_cutouts, save
from PIL import Image

from aimwrap.data import Built
from aimwrap.data.builder import (
    Background,
    Cutout,
    InPlace,
    Placed,
    Tying,
    backgrounds_in,
    build,
    cutouts_in,
    travelingbirds,
    waterbirds,
)
from aimwrap.data.builder import write as writing
from aimwrap.data.builder.build import Shooting
from aimwrap.data.builder.plan import Shot, plan_shots
from aimwrap.data.release import SPLITS, Record, Release

SMALL = Placed(image_size=32)
forks = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # Python 3.12 warns where there are threads


class Made:
    """A folder of sources, and builds of it."""

    def __init__(self, root: Path, cutouts: int = 25, backgrounds: int = 40) -> None:
        self.root = root
        make_cutouts(root / "cutouts", count=cutouts)
        make_backgrounds(root / "backgrounds", count=backgrounds)

    def build(self, out: Path, tyings: dict[str, Tying] | None = None, **arguments: Any) -> Release:
        arguments = {"style": SMALL, "progress": False, **arguments}
        tyings = waterbirds(0.9) if tyings is None else tyings
        return build(
            out, cutouts_in(self.root / "cutouts"), backgrounds_in(self.root / "backgrounds"), tyings, **arguments
        )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made(tmp_path_factory.mktemp("sources"))


@pytest.fixture(scope="module")
def built(made: Made, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Only read."""
    out = tmp_path_factory.mktemp("built") / "set"
    made.build(out, file_format="png")
    return out


def table(out: Path) -> list[dict[str, str]]:
    with (out / "metadata.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def groups(out: Path, split: int) -> dict[tuple[int, int], int]:
    return Counter((int(row["y"]), int(row["place"])) for row in table(out) if int(row["split"]) == split)


def test_table_has_the_columns_that_others_read(built: Path) -> None:
    header = (built / "metadata.csv").read_text().splitlines()[0]
    assert header.startswith("img_id,img_filename,y,split,place,place_filename")
    rows = table(built)
    assert [int(row["img_id"]) for row in rows] == list(range(1, len(rows) + 1))
    for row in rows:
        name = Path(row["img_filename"])
        assert (built / name).is_file() and (built / "segmentations" / name.with_suffix(".png")).is_file()
        assert name.parent.name == ("cat", "dog")[int(row["y"])]
        assert row["place_filename"].startswith(("beach", "forest")[int(row["place"])])
        assert row["cutout_filename"].startswith(name.parent.name)
    assert len(contents(built)) == 2 * len(rows) + 2
    assert {path.name for path in built.iterdir()} == {"build.json", "cat", "dog", "metadata.csv", "segmentations"}


def test_the_tie_is_exact_in_training_and_the_others_are_balanced(built: Path) -> None:
    assert groups(built, 0) == {(0, 0): 14, (0, 1): 2, (1, 0): 2, (1, 1): 14}  # 0.9 * 16 = 14.4
    assert groups(built, 1) == dict.fromkeys([(0, 0), (0, 1), (1, 0), (1, 1)], 2)
    assert groups(built, 2) == dict.fromkeys([(0, 0), (0, 1), (1, 0), (1, 1)], 2)


@pytest.mark.parametrize("tie", [0.5, 0.75, 0.95, 1.0, 0.0])
def test_any_tie(made: Made, tmp_path: Path, tie: float) -> None:
    made.build(tmp_path / "out", waterbirds(tie, num_images={"train": 20, "val": 4, "test": 8}))
    own = round(tie * 10)
    expected = Counter({(0, 0): own, (0, 1): 10 - own, (1, 0): 10 - own, (1, 1): own})
    assert groups(tmp_path / "out", 0) == +expected
    assert {*groups(tmp_path / "out", 1).values()} == {1} and {*groups(tmp_path / "out", 2).values()} == {2}


def test_labels_keep_their_shares_where_asked(tmp_path: Path) -> None:
    made = Made(tmp_path, cutouts=20, backgrounds=80)
    make_cutouts(tmp_path / "cutouts", classes=("cat",), count=50)
    made.build(tmp_path / "equal")
    assert [Counter(row["y"] for row in table(tmp_path / "equal") if row["split"] == s) for s in "12"] == [
        {"0": 2, "1": 2},  # of 3 cut-outs of dogs, 2 make equal places
        {"0": 4, "1": 4},
    ]
    made.build(tmp_path / "kept", waterbirds(0.9, keep_label_shares=True))
    assert [Counter(row["y"] for row in table(tmp_path / "kept") if row["split"] == s) for s in "12"] == [
        {"0": 8, "1": 2},
        {"0": 10, "1": 4},
    ]
    for split in (1, 2):
        found = groups(tmp_path / "kept", split)
        assert all(found[label, 0] == found[label, 1] for label in (0, 1))


def test_no_source_is_in_two_splits_or_used_too_often(built: Path) -> None:
    for column in ("cutout_filename", "place_filename"):
        uses = Counter(row[column] for row in table(built))
        assert max(uses.values()) == 1


def test_uses_are_spread_evenly_and_stay_in_their_split(made: Made, tmp_path: Path) -> None:
    numbers = {"train": 64, "val": 8, "test": 8}
    made.build(tmp_path / "out", waterbirds(0.5, num_images=numbers), cutout_uses=2, background_uses=3)
    splits: dict[str, set[str]] = {}
    for row in table(tmp_path / "out"):
        for column in ("cutout_filename", "place_filename"):
            splits.setdefault(row[column], set()).add(row["split"])
    assert all(len(found) == 1 for found in splits.values())
    uses = Counter(row["cutout_filename"] for row in table(tmp_path / "out") if row["split"] == "0")
    assert {*uses.values()} == {2} and len(uses) == 32


def test_the_same_picture_under_two_names_stays_in_one_split(tmp_path: Path) -> None:
    made = Made(tmp_path, cutouts=12)
    for path in sorted((tmp_path / "cutouts" / "cat").iterdir()):
        path.with_name(f"copy of {path.name}").write_bytes(path.read_bytes())
    made.build(tmp_path / "out", keep_label_shares(), seed=1)
    splits: dict[str, set[str]] = {}
    for row in table(tmp_path / "out"):
        splits.setdefault(row["cutout_filename"].replace("copy of ", ""), set()).add(row["split"])
    assert all(len(found) == 1 for found in splits.values())


def keep_label_shares() -> dict[str, Tying]:
    return waterbirds(0.9, keep_label_shares=True)


def test_object_and_mask_coincide_and_the_background_is_the_rest(built: Path) -> None:
    sources = {row["img_id"]: row for row in table(built)}
    for split in ("train", "test"):
        data = Built(built, split)
        for index in range(0, len(data), 5):
            sample = data[index]
            row = sources[sample.id]
            red, blue = 100 + 100 * sample.label, int(row["cutout_filename"][-6:-4])
            pixels = np.asarray(sample.image).astype(int)
            inside = sample.object_mask[0].numpy() == 1
            outside = sample.object_mask[0].numpy() == 0
            assert 0.15 < inside.mean() < 0.6
            assert np.abs(pixels[inside] - (red, 0, blue)).max() <= 2
            green, other_blue = 50 + 100 * sample.place, 2 * int(row["place_filename"][-6:-4])
            assert np.abs(pixels[outside] - (0, green, other_blue)).max() <= 2
            assert sample.group == 2 * sample.label + sample.place


def test_in_place_keeps_size_and_position_and_fits_the_background(tmp_path: Path) -> None:
    """The background's middle, as wide as the picture's shape allows, is what is seen: its red sides are cut off."""
    make_cutouts(tmp_path / "cutouts", count=5)
    for place, green in (("beach", 50), ("forest", 200)):
        for number in range(5):
            pixels = np.zeros((80, 300, 3))
            pixels[:, :100] = pixels[:, 200:] = (255, 0, number)
            pixels[:, 100:200] = (0, green, number)
            save(tmp_path / "backgrounds" / place / f"{number}.png", pixels)
    build(
        tmp_path / "out",
        cutouts_in(tmp_path / "cutouts"),
        backgrounds_in(tmp_path / "backgrounds"),
        waterbirds(1.0, num_images={"train": 4, "val": 4, "test": 4}),
        style=InPlace(),
        cutout_uses=2,
        background_uses=2,
        file_format="png",
        progress=False,
    )
    for sample in Built(tmp_path / "out", None):
        assert sample.image.size == (30, 40)
        mask = sample.object_mask[0].numpy()
        assert (mask[5:-5, 5:-5] == 1).all() and mask.sum() == 30 * 20
        behind = np.asarray(sample.image)[mask == 0]
        assert behind[:, 0].max() == 0 and {*behind[:, 1].tolist()} == {(50, 200)[sample.place]}


def test_soft_opacity_blends_and_stays_in_the_mask(tmp_path: Path) -> None:
    made = Made(tmp_path, cutouts=10, backgrounds=12)
    for path in (tmp_path / "cutouts").rglob("*.png"):
        soft = cutout(200, int(path.stem[-2:]) + 50 * (path.parent.name == "cat"))
        soft[5:10, :, 3] //= 4
        save(path, soft)
    made.build(tmp_path / "out", style=InPlace(), file_format="png")
    for sample in Built(tmp_path / "out", None):
        assert sample.object_mask[0, 7, 10] == pytest.approx(63 / 255)
        green = (50 + 100 * sample.place) * (1 - 63 / 255)
        assert np.asarray(sample.image)[7, 10, :2] == pytest.approx([200 * 63 / 255, green], abs=1)


def test_travelingbirds_moves_every_class_to_another_place_in_the_test(tmp_path: Path) -> None:
    classes, places = ("ant", "bee", "cat"), ("desert", "lake", "meadow", "town")  # the fourth is not needed
    make_cutouts(tmp_path / "cutouts", classes, count=15)
    make_backgrounds(tmp_path / "backgrounds", places, count=15)
    sources = cutouts_in(tmp_path / "cutouts"), backgrounds_in(tmp_path / "backgrounds")
    release = build(tmp_path / "out", *sources, travelingbirds(), style=SMALL, progress=False)
    assert release.places == places[:3]
    assert {*groups(tmp_path / "out", 0)} == {*groups(tmp_path / "out", 1)} == {(0, 0), (1, 1), (2, 2)}
    assert {*groups(tmp_path / "out", 2)} == {(0, 1), (1, 2), (2, 0)}
    shifted = build(tmp_path / "two", *sources, travelingbirds(0.5, shift=2), style=SMALL, progress=False)
    assert groups(tmp_path / "two", 2)[0, 2] > groups(tmp_path / "two", 2)[0, 0] > 0
    with pytest.raises(ValueError, match="shift must not be a multiple of the number of places"):
        build(tmp_path / "three", *sources, travelingbirds(shift=3), progress=False)
    with pytest.raises(ValueError, match=r"as many places as classes .* got 4 places and 3 classes"):
        build(tmp_path / "three", *sources, travelingbirds(), places=places, progress=False)
    assert len(shifted.records) == 45


def test_two_builds_are_the_same_byte_for_byte(made: Made, built: Path, tmp_path: Path) -> None:
    made.build(tmp_path / "again", file_format="png")
    assert contents(tmp_path / "again") == contents(built)


@forks
@pytest.mark.parametrize("workers", [1, 2])
def test_the_number_of_workers_changes_nothing(made: Made, built: Path, tmp_path: Path, workers: int) -> None:
    made.build(tmp_path / "again", file_format="png", workers=workers)
    assert contents(tmp_path / "again") == contents(built)


def test_seeds_draw_other_splits_and_other_images(made: Made, built: Path, tmp_path: Path) -> None:
    made.build(tmp_path / "other", file_format="png", seed=1)
    assert table(tmp_path / "other") != table(built)
    first, other = table(built), table(tmp_path / "other")
    train = [{row["cutout_filename"] for row in rows if row["split"] == "0"} for rows in (first, other)]
    assert train[0] != train[1]


def test_an_image_depends_on_seed_split_and_number_alone(made: Made, built: Path, tmp_path: Path) -> None:
    """Of which a resumed build makes use: here every fifth file is lost."""
    made.build(tmp_path / "again", file_format="png")
    lost = sorted((tmp_path / "again").rglob("*.png"))[::5]
    for path in lost:
        path.unlink()
    (tmp_path / "again" / "metadata.csv").unlink()
    made.build(tmp_path / "again", file_format="png")
    assert contents(tmp_path / "again") == contents(built)


def _build_and_be_killed(made: Made, out: Path, workers: int, after: int) -> None:
    """Kill the build, workers or not, in the midst of its n-th file: the manifest, then masks and images in turn."""
    write, parent, written = Path.write_bytes, os.getpid(), []

    def dying(path: Path, content: bytes) -> int:
        if parent not in (os.getpid(), os.getppid()):
            os._exit(1)  # another worker was first
        written.append(path)
        if len(written) < after:
            return write(path, content)
        write(path, content[: len(content) // 2])
        os.kill(parent, signal.SIGKILL)
        os._exit(1)

    Path.write_bytes = dying
    made.build(out, file_format="png", workers=workers)


@forks
@pytest.mark.parametrize("workers", [0, 2])
def test_a_killed_build_goes_on_and_ends_byte_identical(made: Made, built: Path, tmp_path: Path, workers: int) -> None:
    out = tmp_path / "killed"
    process = get_context("fork").Process(target=_build_and_be_killed, args=(made, out, workers, 11 if workers else 21))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    done = {path: path.stat().st_mtime_ns for path in out.glob("[cd]*/*.png")}
    assert 5 < len(done) < len(table(built)) - 5
    assert not (out / "metadata.csv").exists()
    with pytest.raises(FileNotFoundError, match="was not built to its end"):
        Built(out)
    made.build(out, file_format="png")
    assert contents(out) == contents(built) and not (out / writing.PARTIAL).exists()
    if workers == 0:  # orphaned workers may write what they were at once more
        assert {path: path.stat().st_mtime_ns for path in done} == done  # what was there was kept


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seed": 1}, "seed: there 0, now 1"),
        ({"tyings": waterbirds(0.8)}, "tyings train tie: there 0.9, now 0.8"),
        ({"style": Placed(image_size=40)}, "style Placed image_size: there 32, now 40"),
        ({"style": InPlace()}, "style Placed image_size"),
        ({"file_format": "jpg"}, "file_format: there 'png', now 'jpg'"),
        ({"places": ["forest", "beach"]}, "places: there"),
    ],
)
def test_a_folder_of_another_build_is_refused(made: Made, built: Path, arguments: dict[str, Any], message: str) -> None:
    before = contents(built)
    with pytest.raises(FileExistsError, match=rf"(?s)was built otherwise:.*{message}.*Build into another folder"):
        made.build(built, **{"file_format": "png", **arguments})
    assert contents(built) == before


def test_another_version_of_pillow_does_not_go_on(made: Made, built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("PIL.__version__", "9.9.9")
    with pytest.raises(FileExistsError, match=r"made_with Pillow: there .*, now '9\.9\.9'"):
        made.build(built, file_format="png")


def test_other_sources_do_not_go_on(tmp_path: Path) -> None:
    made = Made(tmp_path, cutouts=20, backgrounds=20)
    made.build(tmp_path / "out")
    (tmp_path / "cutouts" / "cat" / "cat03.png").unlink()
    with pytest.raises(FileExistsError, match="sources: there"):
        made.build(tmp_path / "out")


def test_as_many_backgrounds_as_images_are_enough(tmp_path: Path) -> None:
    made = Made(tmp_path, cutouts=6, backgrounds=5)
    only_train = {"tyings": {"train": Tying(1.0)}, "test_share": 0, "val_share": 0}
    with pytest.raises(ValueError, match="too few backgrounds of place beach in train: 5, each used 1 times, for 6"):
        made.build(tmp_path / "out", **only_train)
    make_backgrounds(tmp_path / "backgrounds", count=6)
    assert len(made.build(tmp_path / "out", **only_train).records) == 12


def test_the_same_picture_in_two_classes_stays_in_one_split(tmp_path: Path) -> None:
    made = Made(tmp_path, cutouts=12)
    for path in sorted((tmp_path / "cutouts" / "cat").iterdir()):
        (tmp_path / "cutouts" / "dog" / path.name).write_bytes(path.read_bytes())
    made.build(tmp_path / "out", keep_label_shares())
    splits: dict[str, set[str]] = {}
    for row in table(tmp_path / "out"):
        splits.setdefault(Path(row["cutout_filename"]).name, set()).add(row["split"])
    assert len(splits) > 12 and all(len(found) == 1 for found in splits.values())


def planned(cutouts: int, seed: int, tyings: dict[str, Tying]) -> list[Shot]:
    """With splits of the sources' own, so that the seed alone says which object is on which background."""
    names = [f"{number:03d}" for number in range(cutouts)]
    objects = {kind: [Cutout(kind + n, Path(n), kind, split=s) for s in SPLITS for n in names] for kind in "ab"}
    for sources in objects.values():
        sources[:] = [source._replace(name=f"{source.split}/{source.name}") for source in sources]
    behind = {k: [Background(c.name, c.path, k, c.split) for c in objects[k]] for k in "ab"}
    return plan_shots(objects, behind, tyings, seed, background_uses=2)


def test_which_cutouts_stand_elsewhere_is_random() -> None:
    elsewhere = set()
    for seed in range(20):
        shots = planned(10, seed, waterbirds(0.9))
        elsewhere |= {shot.cutout.name for shot in shots if shot.split == "train" and shot.label != shot.place}
    assert len(elsewhere) > 10


def test_splits_are_shuffled_by_themselves() -> None:
    shots = planned(20, 0, waterbirds(0.9))
    val, test = ([(shot.label, shot.place) for shot in shots if shot.split == split] for split in ("val", "test"))
    assert sorted(val) == sorted(test) and val != test and val != sorted(val)


def test_the_same_cutout_and_background_give_other_images_by_seed_split_and_number(made: Made) -> None:
    one, other = cutouts_in(made.root / "cutouts")[0], backgrounds_in(made.root / "backgrounds")[0]
    keys = [(seed, split, number) for seed in (0, 1) for split in SPLITS for number in (0, 1)]
    masks = {}
    for seed, split, number in keys:
        shooting = Shooting([Shot(split, number, 0, 0, one, other)], SMALL, seed)
        masks[seed, split, number] = shooting(0).object_mask.tobytes()
        assert shooting(0).object_mask.tobytes() == masks[seed, split, number]
    assert len({*masks.values()}) == len(keys)


def test_jpegs_keep_their_colours_sharp(tmp_path: Path) -> None:
    pixels = np.zeros((16, 16, 3), np.uint8)
    pixels[:, ::2, 0], pixels[:, 1::2, 2] = 200, 200
    (tmp_path / "sharp.jpg").write_bytes(writing._encoded(pixels, "jpg"))
    with Image.open(tmp_path / "sharp.jpg") as file:
        assert np.abs(np.asarray(file).astype(int) - pixels).mean() < 8


def test_a_folder_with_something_else_is_refused(made: Made, tmp_path: Path) -> None:
    (tmp_path / "diary.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="is not the output of a build"):
        made.build(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["diary.txt"]
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError, match="is not the output of a build"):
        made.build(tmp_path / "file")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "build.json").write_text("not JSON")
    with pytest.raises(FileExistsError, match="is not the manifest of a build"):
        made.build(tmp_path / "other")


def test_unreadable_sources_are_all_named_and_the_rest_is_built(tmp_path: Path) -> None:
    made = Made(tmp_path, cutouts=10, backgrounds=12)
    whole = {path: path.read_bytes() for path in sorted((tmp_path / "cutouts" / "dog").iterdir())[:2]}
    for path, content in whole.items():
        path.write_bytes(content[:60])
    transparent = tmp_path / "cutouts" / "cat" / "cat00.png"
    whole[transparent] = transparent.read_bytes()
    save(transparent, np.zeros((20, 20, 4)))
    opaque = tmp_path / "cutouts" / "cat" / "cat01.png"
    whole[opaque] = opaque.read_bytes()
    save(opaque, np.zeros((20, 20, 3)))
    keep = waterbirds(1.0, keep_label_shares=True)
    with pytest.raises(ValueError, match=r"images could not be made, and metadata.csv was not written") as raised:
        made.build(tmp_path / "out", keep, val_share=0.0, test_share=0.2)
    message = str(raised.value)
    assert (
        "4 of 20" in message and "not transparent, got none in" in message and "an alpha channel or a mask" in message
    )
    assert all(path.name in message for path in whole)
    assert not (tmp_path / "out" / "metadata.csv").exists()
    for path, content in whole.items():
        path.write_bytes(content)
    assert len(made.build(tmp_path / "out", keep, val_share=0.0, test_share=0.2).records) == 20


@pytest.mark.parametrize(
    ("tyings", "arguments", "message"),
    [
        (
            waterbirds(num_images={"train": 34}),
            {},
            "too few cut-outs of label cat in train: they give 16 images, and 17",
        ),
        (waterbirds(num_images={"train": 66}), {"cutout_uses": 2}, "they give 32 images, and 33 are needed"),
        (waterbirds(num_images={"train": 64}), {"cutout_uses": 2}, r"too few backgrounds .*background_uses=2 would do"),
        (
            waterbirds(num_images={"train": 3}),
            {},
            "for train must be a positive multiple of 2, .* of all labels, got 3",
        ),
        (waterbirds(num_images={"test": 6}), {}, "for test must be a positive multiple of 4, .* of all groups, got 6"),
        (waterbirds(1.1), {}, r"tie must be a share of the images, 0 to 1, got 1\.1"),
        (waterbirds(), {"seed": -1}, "seed must be 0 or more"),
        (waterbirds(), {"test_share": 1.0}, "test_share must be a share from 0 to below 1"),
        (waterbirds(num_images={"val": 4}), {"val_share": 0}, "val was asked for 4 images, but val_share is 0"),
        (waterbirds(), {"cutout_uses": 0}, "cutout_uses must be at least 1"),
        (waterbirds(), {"classes": ["cat", "cow"]}, "classes must name some of cat, dog, each once, got cat, cow"),
        (waterbirds(), {"places": []}, "places must name some of beach, forest, each once, got none"),
        (waterbirds(), {"file_format": "gif"}, "file_format must be one of jpg, png, got 'gif'"),
        (waterbirds(), {"style": Placed(image_size=8)}, "image_size must be at least 16"),
        (waterbirds(), {"style": Placed(object_size=(0.9, 0.5))}, "object_size must be"),
        (waterbirds(), {"style": Placed(crop=(0.5, 1.5))}, "crop must be"),
        (waterbirds(), {"style": Placed(placement="corner")}, "placement must be one of 'anywhere', 'centre', 'edge'"),
        ({"dev": Tying(0.9)}, {}, r"tyings must have splits as keys \(train, val, test\), got 'dev'"),
    ],
)
def test_errors_name_the_way_out_and_touch_nothing(
    made: Made, tmp_path: Path, tyings: dict[str, Tying], arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        made.build(tmp_path / "out", tyings, **arguments)
    assert not (tmp_path / "out").exists()


def test_recipes_refuse_splits_that_do_not_exist() -> None:
    with pytest.raises(ValueError, match=r"num_images must name splits, .* got 'training'"):
        waterbirds(num_images={"training": 10})
    with pytest.raises(ValueError, match="shift must be at least 1"):
        travelingbirds(shift=0)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("segmentations", "none may be called segmentations"),
        ("Dog", "differ in more than case"),
        ("..", "become folders, so their names must not .* got '..'"),
        ("a/b", "become folders, so their names must not .* got 'a/b'"),
        ("c:d", "become folders"),
        ("", "become folders"),
    ],
)
def test_names_that_clash_or_climb_out(made: Made, tmp_path: Path, name: str, message: str) -> None:
    renamed = [
        source._replace(class_name=name if source.class_name == "cat" else "dog")
        for source in cutouts_in(made.root / "cutouts")
    ]
    with pytest.raises(ValueError, match=message):
        build(tmp_path / "out", renamed, backgrounds_in(made.root / "backgrounds"), waterbirds(), progress=False)
    assert not (tmp_path / "out").exists()


def test_splits_of_the_source_are_kept(tmp_path: Path) -> None:
    for split, count, first in (("train", 10, 0), ("test", 4, 50)):
        make_cutouts(tmp_path / "cutouts" / split, count=count, first=first)
    make_backgrounds(tmp_path / "backgrounds", count=30)
    sources = cutouts_in(tmp_path / "cutouts"), backgrounds_in(tmp_path / "backgrounds")
    build(tmp_path / "out", *sources, waterbirds(1.0), style=SMALL, progress=False)
    found = Counter((row["split"], row["cutout_filename"].split("/")[0]) for row in table(tmp_path / "out"))
    assert found == {("0", "train"): 16, ("1", "train"): 4, ("2", "test"): 8}  # the validation is of the training's
    with pytest.raises(ValueError, match="have splits of their own, train, so they must have test, too"):
        only_train = [source for source in sources[0] if source.split == "train"]
        build(tmp_path / "another", only_train, sources[1], waterbirds(), progress=False)
    with pytest.raises(ValueError, match="all cut-outs must have a split, or none"):
        mixed = [sources[0][0]._replace(split=None), *sources[0][1:]]
        build(tmp_path / "another", mixed, sources[1], waterbirds(), progress=False)


def test_too_few_to_part(tmp_path: Path) -> None:
    made = Made(tmp_path, cutouts=2, backgrounds=9)
    with pytest.raises(ValueError, match=r"too few cut-outs of label cat: 2 different images, .* at least 3"):
        made.build(tmp_path / "out")
    made.build(tmp_path / "out", waterbirds(1.0, num_images={"test": 4}), val_share=0, cutout_uses=2)
    assert {row["split"] for row in table(tmp_path / "out")} == {"0", "2"}


def test_backgrounds_are_turned_upright(tmp_path: Path) -> None:
    """A camera that was held sideways says so in the file."""
    make_cutouts(tmp_path / "cutouts", count=3)
    sideways = np.zeros((40, 40, 3), np.uint8)
    sideways[:, :20] = (0, 0, 100)  # the left half, which is above when turned by 90 degrees clockwise
    exif = Image.Exif()
    exif[0x0112] = 6
    for place in ("a", "b"):
        for number in range(3):
            path = tmp_path / "backgrounds" / place / f"{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            picture = Image.fromarray(sideways + np.uint8(number * 10 + 40 * (place == "b")))
            picture.save(path, exif=exif, quality=100)
    build(
        tmp_path / "out",
        cutouts_in(tmp_path / "cutouts"),
        backgrounds_in(tmp_path / "backgrounds"),
        travelingbirds(),
        style=InPlace(),
        progress=False,
    )
    for sample in Built(tmp_path / "out", None):
        pixels = np.asarray(sample.image).astype(int)
        assert (pixels[1, :, 2] - pixels[-2, :, 2]).min() > 40


def test_a_release_with_masks_is_a_source_of_cutouts(tmp_path: Path) -> None:
    """As CUB with its segmentations: image and mask are two files, and there is a split for training and test."""
    from aimwrap.data.builder import cutouts_of, relabelled

    records = []
    for number in range(24):
        pixels = np.full((30, 40, 3), 80 + number)
        mask = np.zeros((30, 40))
        mask[10:20, 5:25] = 255
        species = number % 4
        image = save(tmp_path / "images" / f"{species}" / f"{number}.png", pixels)
        mask_path = save(tmp_path / "segmentations" / f"{number}.png", mask)
        split = "train" if number < 16 else "test"
        records.append(Record(str(number), image, species, split, mask_path=mask_path))
    release = Release("birds", tmp_path, tuple(records), ("1.Gull", "2.Wren", "3.Tern", "4.Crow"))
    make_backgrounds(tmp_path / "backgrounds", count=12)
    found = relabelled(
        cutouts_of(release), {"1.Gull": "waterbird", "2.Wren": "landbird", "3.Tern": "waterbird", "4.Crow": "landbird"}
    )
    backgrounds = backgrounds_in(tmp_path / "backgrounds")
    out = tmp_path / "out"
    built = build(out, found, backgrounds, waterbirds(1.0), style=InPlace(), background_uses=2, progress=False)
    assert built.classes == ("landbird", "waterbird")
    assert Counter(record.split for record in built.records) == {"train": 12, "val": 4, "test": 8}
    sample = Built(out, "test")[0]
    assert sample.object_mask.sum() == 200 and 80 <= int(np.asarray(sample.image)[15, 15, 0]) <= 104
    with pytest.raises(ValueError, match="must have a mask of the object for each image"):
        cutouts_of(Release("birds", tmp_path, (records[0]._replace(mask_path=None),), release.classes))


@pytest.mark.parametrize("name", ["a\nb", "a\rb", "\udcff"])
def test_names_that_no_table_can_hold_are_refused_before_anything_is_drawn(tmp_path: Path, name: str) -> None:
    made = Made(tmp_path)
    (tmp_path / "cutouts" / "cat" / "cat00.png").rename(tmp_path / "cutouts" / "cat" / f"{name}.png")
    with pytest.raises(ValueError, match=r"names that a line of metadata.csv can hold.*Rename the file"):
        made.build(tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ['a"b', "a,b", "a\tb", " a", "ä ü", "'"])
def test_other_names_are_read_back_as_they_are(tmp_path: Path, name: str) -> None:
    made = Made(tmp_path)
    (tmp_path / "cutouts" / "cat").rename(tmp_path / "cutouts" / "was")
    source = tmp_path / "cutouts" / "cat" / f"{name}.png"
    source.parent.mkdir()
    for path in sorted((tmp_path / "cutouts" / "was").iterdir()):
        path.rename(source.parent / f"{name}{path.name}")
    (tmp_path / "cutouts" / "was").rmdir()
    made.build(tmp_path / "out")
    with (tmp_path / "out" / "metadata.csv").open(newline="", encoding="utf-8") as file:
        names = [row["cutout_filename"] for row in csv.DictReader(file)]
    assert sum(each.startswith(f"cat/{name}cat") for each in names) == len(names) // 2


def test_what_a_source_was_before_is_forgotten(tmp_path: Path) -> None:
    """In one Python session people build, repaint a source and build again."""
    made = Made(tmp_path, cutouts=4, backgrounds=8)
    arguments: dict[str, Any] = {"tyings": {"train": Tying(0.5)}, "test_share": 0, "val_share": 0}
    made.build(tmp_path / "before", **arguments)
    for path in (tmp_path / "backgrounds").rglob("*.png"):
        save(path, 255 - np.asarray(Image.open(path)))
    made.build(tmp_path / "after", **arguments)
    for row in table(tmp_path / "after"):
        image = np.asarray(Image.open(tmp_path / "after" / row["img_filename"]))
        assert image[..., 0].max() > 200, "the backgrounds had no red before"


@forks
@pytest.mark.parametrize("workers", [0, 1])
def test_a_full_disk_says_so_and_the_build_goes_on_with_room(
    made: Made, built: Path, tmp_path: Path, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, written = Path.write_bytes, []

    def until_full(path: Path, content: bytes) -> int:
        written.append(path)
        if len(written) > 9:
            write(path, content[:10])
            raise OSError(28, "No space left on device")
        return write(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", until_full)
        with pytest.raises(OSError, match=r"cannot be written to: .*No space left.*Make room") as caught:
            made.build(tmp_path / "out", workers=workers, file_format="png")
    assert "Traceback" not in str(caught.value)
    made.build(tmp_path / "out", file_format="png")
    assert contents(tmp_path / "out") == contents(built)


def test_twins_in_splits_of_their_own_are_kept_out_of_the_training(tmp_path: Path) -> None:
    for split, count, first in (("train", 12, 0), ("val", 5, 4), ("test", 5, 8)):  # of 12, 5 to 8 and 9 to 12 again
        make_cutouts(tmp_path / "cutouts" / split, count=count, first=first)
    make_backgrounds(tmp_path / "backgrounds", count=40)
    cutouts, backgrounds = cutouts_in(tmp_path / "cutouts"), backgrounds_in(tmp_path / "backgrounds")
    build(tmp_path / "out", cutouts, backgrounds, waterbirds(0.5), style=SMALL, progress=False)
    shown: dict[str, set[bytes]] = {"0": set(), "1": set(), "2": set()}
    for row in table(tmp_path / "out"):
        shown[row["split"]].add((tmp_path / "cutouts" / row["cutout_filename"]).read_bytes())
    train, val, test = shown.values()
    assert not train & val and not train & test and not val & test
    assert [len(train), len(val), len(test)] == [8, 8, 8]
