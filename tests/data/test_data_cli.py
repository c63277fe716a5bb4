"""``aimwrap data build`` and ``digits`` on the command line."""

import csv
import json
from pathlib import Path

import pytest
from builder_sources import contents, make_backgrounds, make_cutouts
from releases import make_cub
from typer.testing import CliRunner, Result

from aimwrap.cli import app
from aimwrap.data import Built, read_built, read_cub, read_table, read_waterbirds
from aimwrap.data.release import read_sample

run = CliRunner()


def build(*arguments: object) -> Result:
    return run.invoke(app, ["data", "build", *map(str, arguments), "--workers", "0"])


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sources")
    make_cutouts(folder / "cutouts", count=20)
    make_backgrounds(folder / "backgrounds", count=20)
    return folder


def given(sources: Path) -> list[object]:
    return ["--cutouts", sources / "cutouts", "--backgrounds", sources / "backgrounds"]


def test_build_prints_the_groups_and_goes_on(sources: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = [out, *given(sources), "--tie", 0.9, "--image-size", 32, "--object-size", 0.3, 0.4, "--recolour"]
    first = build(*arguments, "--train", 20, "-q")
    assert first.exit_code == 0, first.output
    assert "train, 20: cat on beach 9, cat on forest 1, dog on beach 1, dog on forest 9" in first.output
    assert "32 images in" in first.output and "aimwrap.data.Built(" in first.output
    before = contents(out)
    again = build(*arguments, "--train", 20, "-q")
    assert again.exit_code == 0 and contents(out) == before
    other = build(*arguments, "--train", 18, "-q")
    assert (
        other.exit_code == 1 and "was built with other arguments" in other.output and "num_images train" in other.output
    )
    assert Built(out)[0].image.size == (32, 32)


def test_permuted_in_place_with_places_and_labels(sources: Path, tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("class,label\ncat,feline\ndog,canine\n")
    found = build(
        *(tmp_path / "out", "--cutouts", sources / "cutouts", "--labels", tmp_path / "labels.csv"),
        *("--place", f"sand={sources}/backgrounds/beach", "--place", f"wood={sources}/backgrounds/forest"),
        *("--permuted", "--in-place", "--classes", "feline,canine", "--places", "wood,sand", "--format", "png"),
        *("--json", "--train", 4, "--val", 2, "--test", 2),
    )
    assert found.exit_code == 0, found.output
    printed = json.loads(found.stdout)
    assert printed["classes"] == ["feline", "canine"] and printed["places"] == ["wood", "sand"]
    assert printed["groups"]["train"] == {
        "feline on wood": 2,
        "feline on sand": 0,
        "canine on wood": 0,
        "canine on sand": 2,
    }
    assert printed["groups"]["test"]["feline on sand"] == printed["groups"]["test"]["canine on wood"] == 1
    assert Built(tmp_path / "out")[0].image.size == (30, 40)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--in-place", "--crop", 0.5, 1, "--no-mirror"], 2, "leave out --no-mirror, --crop"),
        (["--permuted", "--keep-label-shares"], 2, "has no effect with --permuted"),
        (["--place", "sand=x"], 2, "either --backgrounds or --place"),
        (["--place", "sand"], 2, "--place must be NAME=FOLDER"),
        (["--placement", "corner"], 2, "'corner' is not one of 'anywhere', 'centre', 'edge'"),
        (["--format", "gif"], 2, "'gif' is not one of 'jpg', 'png'"),
        (["--train", 400], 1, "too few cut-outs of label cat in train"),
        (["--labels", "no.csv"], 2, "'no.csv' does not exist"),
        (["--test-share", 1], 1, "--test-share must be a share from 0 to below 1"),
        (["--object-size", 5, 9], 1, "--object-size must be (smallest, largest)"),
        (["--opacity", "nowhere"], 1, "--opacity must contain a PNG of the same name for each cut-out"),
    ],
)
def test_errors(sources: Path, tmp_path: Path, arguments: list[object], code: int, message: str) -> None:
    found = build(tmp_path / "out", *given(sources), *arguments)
    assert found.exit_code == code
    assert message in " ".join(found.output.replace("│", " ").split())
    assert not (tmp_path / "out").exists()


def test_errors_as_json(sources: Path, tmp_path: Path) -> None:
    found = build(tmp_path / "out", *given(sources), "--train", 3, "--json")
    assert found.exit_code == 1 and "positive multiple of 2" in json.loads(found.stdout)["error"]


def test_out_must_not_lie_among_the_sources(sources: Path) -> None:
    for out in (sources / "cutouts" / "out", sources):
        found = build(out, *given(sources))
        assert found.exit_code == 2 and "built images would be read as sources" in " ".join(
            found.output.replace("│", " ").split()
        )


def test_digits_are_on_disk_what_they_are_in_memory(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    import numpy as np
    import torch

    from aimwrap.data import DigitsOnPhotographs

    arguments = ["--seed", "2", "--image-size", "32", "--num-images", "12", "--workers", "0", "-q"]
    found = run.invoke(app, ["data", "digits", str(tmp_path / "out"), *arguments])
    assert found.exit_code == 0, found.output
    for split in ("train", "test"):
        drawn = DigitsOnPhotographs(split, seed=2, image_size=32, num_images=12)
        read = Built(tmp_path / "out", split)
        assert torch.equal(read.labels, drawn.labels) and torch.equal(read.groups, drawn.groups)
        for sample, other in zip(read, drawn, strict=True):
            image = torch.from_numpy(np.asarray(sample.image).copy()).permute(2, 0, 1) / 255
            assert (image - other.image).abs().max() < 0.51 / 255
            assert torch.equal(sample.object_mask.as_subclass(torch.Tensor), other.object_mask)
    found = run.invoke(app, ["data", "digits", str(tmp_path / "out"), "--num-images", "7"])
    assert found.exit_code == 2 and "--num-images must be a multiple of 4" in found.output


def test_cub_becomes_a_set_that_every_reader_reads_alike(sources: Path, tmp_path: Path) -> None:
    """By the reader of built sets, by Waterbirds' and by the one of any table."""
    cub = make_cub(tmp_path, images_per_species=8)
    arguments = ["--backgrounds", sources / "backgrounds", "--in-place", "--background-uses", 9, "--val-share", 0.3]
    found = build(tmp_path / "out", "--cub", cub, "--water-or-land", "--keep-label-shares", *arguments, "-q")
    assert found.exit_code == 0, found.output
    built = read_built(tmp_path / "out")
    assert built.classes == ("landbird", "waterbird") and {r.split for r in built.records} == {"train", "val", "test"}
    table = read_table(tmp_path / "out" / "metadata.csv", image="img_filename", label="y")
    waterbirds = read_waterbirds(tmp_path / "out", segmentations=tmp_path / "out" / "segmentations")
    for release in (table, waterbirds):
        for one, other in zip(built.records, release.records, strict=True):
            assert (one.path, one.label, one.place, one.split) == (other.path, other.label, other.place, other.split)
            assert one.mask_path == other.mask_path
            assert (read_sample(one, built).object_mask == read_sample(other, release).object_mask).all()
    whole = {record.id: record.split for record in read_cub(cub).records}
    for row in csv.DictReader((tmp_path / "out" / "metadata.csv").read_text().splitlines()):
        (record,) = (r for r in read_cub(cub).records if r.path.as_posix().endswith(row["cutout_filename"]))
        assert (whole[record.id] == "test") == (row["split"] == "2")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give either --cutouts or --cub"),
        (["--cub", "cub", "--cutouts", "cutouts"], "give either --cutouts or --cub"),
        (["--cub", "cub", "--opacity", "masks"], "--opacity goes with --cutouts"),
        (["--cutouts", "cutouts", "--water-or-land"], "--water-or-land goes with --cub"),
    ],
)
def test_cub_or_cutouts(sources: Path, tmp_path: Path, arguments: list[object], message: str) -> None:
    found = build(tmp_path / "out", *arguments, "--backgrounds", sources / "backgrounds")
    assert found.exit_code == 2 and message in " ".join(found.output.replace("│", " ").split())


def test_a_class_has_one_label(sources: Path, tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("class,label\ncat, pet\ndog,wolf\ncat,pet\ndog,pet\n")
    found = build(tmp_path / "out", *given(sources), "--labels", tmp_path / "labels.csv")
    assert found.exit_code == 1
    assert "labels.csv, line 5: class dog has the label pet here and wolf above; remove one" in found.output


def test_an_error_names_files_that_no_terminal_can_show(sources: Path, tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / "cutouts" / name).mkdir(parents=True)
        (tmp_path / "cutouts" / name / "\udcff.png").write_bytes(b"")
    found = build(tmp_path / "out", "--cutouts", tmp_path / "cutouts", "--backgrounds", sources / "backgrounds")
    assert found.exit_code == 1 and "Traceback" not in found.output and found.output.strip()
    (tmp_path / "masks").mkdir()
    masks = ["--cutouts", tmp_path / "cutouts", "--opacity", tmp_path / "masks"]
    opacity = build(tmp_path / "out", *given(sources)[2:], *masks)
    assert opacity.exit_code == 1 and "udcff.png is not there" in opacity.output
