"""Reading without trust: paths, images of all kinds, tables."""

import os
import random
import warnings
from collections.abc import Callable
from pathlib import Path

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from releases import cut_off, make_bomb

from aimwrap.data.io import (
    FolderListing,
    Row,
    expand_path,
    integer,
    open_image,
    open_object_mask,
    parse_float,
    read_csv,
    read_space_separated,
    require_folder,
    safe_join,
    size_and_orientation,
)

RAMP = np.tile(np.arange(0, 240, 10, dtype=np.uint8), (16, 1))  # 16 x 24, dark to bright from left to right


class TestInside:
    @pytest.mark.parametrize(
        "relative", ["a.jpg", "a/b.jpg", "001.Gull/x..y.jpg", "...jpg", "a b.jpg", "ü/é.jpg", "~/x"]
    )
    def test_below(self, relative: str) -> None:
        assert safe_join(Path("/data"), relative, "here") == Path("/data") / relative

    @pytest.mark.parametrize(
        "relative",
        [
            "",
            "..",
            "../a",
            "a/../../b",
            "a/..",
            "/a",
            "//a/b",
            "C:/a",
            "c:a",
            "\\\\host\\a",
            "a\\b",
            "..\\a",
            "a\0.jpg",
        ],
    )
    def test_out(self, relative: str) -> None:
        with pytest.raises(ValueError, match=r"^table, line 3: .*must be a path below .*nothing was opened"):
            safe_join(Path("/data"), relative, "table, line 3")

    @hypothesis.given(st.text(st.sampled_from("ab./\\:\0~ "), max_size=12))
    def test_never_leads_out(self, relative: str) -> None:
        root = Path("/data/set")
        try:
            path = safe_join(root, relative, "here")
        except ValueError:
            return
        assert Path(*path.parts) == path and path.is_relative_to(root) and ".." not in path.parts


class TestWritten:
    def test_home_and_plain_paths(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", "/home/user")
        assert [expand_path(path) for path in ("~/x", "x/y/", Path("/x"))] == [
            Path("/home/user/x"),
            Path("x/y"),
            Path("/x"),
        ]

    def test_dots_are_spelt_out(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "set" / "birds").mkdir(parents=True)
        (tmp_path / "link").symlink_to(tmp_path / "set" / "birds")
        monkeypatch.chdir(tmp_path / "set" / "birds")
        here = tmp_path.resolve()
        found = [expand_path(path) for path in (".", "", "..", "../..")]
        assert found == [here / "set" / "birds", here / "set" / "birds", here / "set", here]
        assert expand_path("../../link") == here / "link", "what has a name keeps it, or a release would lose its own"
        assert expand_path(tmp_path / "link" / "..") == here / "set", "where the system would go"


class TestFolder:
    def test_there(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", str(tmp_path))
        assert require_folder(tmp_path) == require_folder(str(tmp_path)) == require_folder("~") == tmp_path

    def test_not_there(self, tmp_path: Path) -> None:
        (tmp_path / "a.zip").touch()
        with pytest.raises(FileNotFoundError, match=r"masks must be a folder, and .*a\.zip is a file: unpack it first"):
            require_folder(tmp_path / "a.zip", "masks")
        with pytest.raises(FileNotFoundError, match=r"root must be a folder, and .*nowhere does not exist"):
            require_folder(tmp_path / "nowhere")


def palette_picture() -> Image.Image:
    """The ramp as numbers of a palette that runs the other way, so that taking numbers for brightness shows."""
    picture = Image.frombytes("P", (24, 16), np.tile(np.arange(24, dtype=np.uint8), (16, 1)).tobytes())
    picture.putpalette([value for number in range(24) for value in (10 * number,) * 3])
    return picture


PICTURES = {
    "RGB": ("x.png", Image.fromarray(np.stack([RAMP] * 3, -1)), 0),
    "JPEG": ("x.jpg", Image.fromarray(np.stack([RAMP] * 3, -1)), 3),
    "upper case": ("X.JPEG", Image.fromarray(np.stack([RAMP] * 3, -1)), 3),
    "grey": ("x.png", Image.fromarray(RAMP), 0),
    "grey JPEG": ("x.jpg", Image.fromarray(RAMP), 3),
    "CMYK JPEG": ("x.jpg", Image.fromarray(np.stack([RAMP] * 3, -1)).convert("CMYK"), 3),
    "palette": ("x.png", palette_picture(), 0),
    "grey with alpha": ("x.png", Image.merge("LA", [Image.fromarray(RAMP), Image.new("L", (24, 16), 7)]), 0),
    "RGBA": ("x.png", Image.merge("RGBA", [Image.fromarray(RAMP)] * 3 + [Image.new("L", (24, 16), 7)]), 0),
    "16 bit": ("x.png", Image.fromarray(RAMP.astype(np.uint16) * 257), 0),
    "GIF": ("x.gif", palette_picture(), 0),
    "WebP": ("x.webp", Image.fromarray(np.stack([RAMP] * 3, -1)), 6),
}


class TestOpenImage:
    @pytest.mark.parametrize("kind", PICTURES)
    def test_every_kind_is_rgb(self, tmp_path: Path, kind: str) -> None:
        name, picture, tolerance = PICTURES[kind]
        picture.save(tmp_path / name)
        read = open_image(tmp_path / name)
        assert read.mode == "RGB" and read.size == (24, 16)
        difference = np.abs(np.asarray(read).astype(int) - RAMP[..., None])
        assert difference.max() <= tolerance
        assert size_and_orientation(tmp_path / name)[0] == (16, 24)

    def test_transparency_of_palettes(self, tmp_path: Path) -> None:
        picture = palette_picture()
        picture.save(tmp_path / "x.png", transparency=bytes(range(24)))
        assert np.array_equal(np.asarray(open_image(tmp_path / "x.png"))[..., 0], RAMP)

    def test_black_and_white(self, tmp_path: Path) -> None:
        Image.fromarray(RAMP > 100).save(tmp_path / "x.png")
        assert np.array_equal(np.asarray(open_image(tmp_path / "x.png"))[..., 1], 255 * (RAMP > 100))

    def test_orientation_is_followed(self, tmp_path: Path) -> None:
        """Masks and boxes are drawn on the picture as viewers show it."""
        picture = Image.fromarray(np.stack([RAMP] * 3, -1))
        exif = Image.Exif()
        exif[0x0112] = 6  # to be turned by a quarter
        picture.save(tmp_path / "x.jpg", exif=exif, quality=95)
        with Image.open(tmp_path / "x.jpg") as turned:
            assert ImageOps.exif_transpose(turned).size == (16, 24)
        read = open_image(tmp_path / "x.jpg")
        assert read.size == (16, 24) and size_and_orientation(tmp_path / "x.jpg")[0] == (24, 16)
        assert np.abs(np.asarray(read).astype(int) - np.rot90(RAMP, -1)[..., None]).max() <= 3

    def test_result_is_free_of_its_file(self, tmp_path: Path) -> None:
        PICTURES["JPEG"][1].save(tmp_path / "x.jpg")
        with warnings.catch_warnings():
            warnings.simplefilter("error", ResourceWarning)
            read = open_image(tmp_path / "x.jpg")
            (tmp_path / "x.jpg").unlink()
            assert read.resize((2, 2)).getpixel((0, 0)) is not None

    def test_missing(self, tmp_path: Path) -> None:
        for path in (tmp_path / "x.jpg", tmp_path):
            with pytest.raises(FileNotFoundError, match="is not there; the release is incomplete or elsewhere"):
                open_image(path)

    @pytest.mark.parametrize("name", ["x.jpg", "x.png", "x.gif", "x.webp", "x.tif"])
    def test_cut_off_anywhere(self, tmp_path: Path, name: str) -> None:
        """A file that was cut off is refused, or read without what does not matter; never as another image."""
        rng = np.random.default_rng(0)
        Image.fromarray(rng.integers(0, 255, (48, 64, 3), dtype=np.uint8)).save(tmp_path / name)
        whole, content = open_image(tmp_path / name), (tmp_path / name).read_bytes()
        refused = 0
        for length in range(0, len(content), max(1, len(content) // 60)):
            (tmp_path / name).write_bytes(content[:length])
            try:
                assert open_image(tmp_path / name).tobytes() == whole.tobytes()
            except ValueError as error:
                assert "is not complete" in str(error) or "is not an image" in str(error)
                refused += 1
        assert refused >= 55

    @pytest.mark.parametrize("name", ["x.jpg", "x.png", "x.gif", "x.webp", "x.tif", "x.bmp", "x.jp2", "x.tga", "x.ppm"])
    def test_damaged_bytes_raise_nothing_else(self, tmp_path: Path, name: str) -> None:
        """If a decoder fails, the result is our error with the path; otherwise it is an image."""
        rng = random.Random(0)
        PICTURES["RGB"][1].save(tmp_path / name)
        content = (tmp_path / name).read_bytes()
        for _ in range(60):
            damaged = bytearray(content)
            for _ in range(rng.randint(1, 12)):
                damaged[rng.randrange(min(len(damaged), 400))] = rng.randrange(256)
            (tmp_path / name).write_bytes(damaged)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    assert open_image(tmp_path / name).mode == "RGB"
                except ValueError as error:
                    assert str(tmp_path) in str(error)

    @pytest.mark.parametrize("side", [10_001, 14_000, 20_000, 65_000])
    def test_bombs(self, tmp_path: Path, side: int) -> None:
        make_bomb(tmp_path / "x.png", side)
        for opening in (open_image, open_object_mask):
            with pytest.raises(ValueError, match=r"more pixels than|more than any photograph"):
                opening(tmp_path / "x.png")

    def test_bombs_where_pillow_is_set_to_let_them_pass(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """As scripts for large scans do, for the complete process."""
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
        make_bomb(tmp_path / "x.png", 10_001)
        with pytest.raises(ValueError, match="10001 x 10001 pixels, more than any photograph"):
            open_image(tmp_path / "x.png")

    def test_error_tells_the_way_out(self, tmp_path: Path) -> None:
        Image.effect_noise((64, 48), 90).save(tmp_path / "x.jpg")
        cut_off(tmp_path / "x.jpg", 0.9)
        with pytest.raises(
            ValueError, match=r"x\.jpg is not complete.*get it again \(aimwrap data doctor FOLDER lists all"
        ):
            open_image(tmp_path / "x.jpg")


class TestNoPictures:
    @pytest.mark.parametrize("opening", [open_image, open_object_mask, size_and_orientation])
    def test_pipes_and_devices_are_not_waited_for(self, tmp_path: Path, opening: Callable[[Path], object]) -> None:
        os.mkfifo(tmp_path / "x.jpg")
        for path in (tmp_path / "x.jpg", Path("/dev/null")):
            with pytest.raises(ValueError, match="must be a file, and is a pipe, a socket or a device"):
                opening(path)

    @pytest.mark.parametrize("opening", [open_image, open_object_mask, size_and_orientation])
    def test_formats_that_hold_programs_are_not_opened(self, tmp_path: Path, opening: Callable[[Path], object]) -> None:
        """Pillow would hand PostScript to Ghostscript, whatever the file is called."""
        (tmp_path / "x.jpg").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n")
        with pytest.raises(ValueError, match="is not an image that Pillow can read"):
            opening(tmp_path / "x.jpg")

    def test_what_the_system_refuses_is_not_called_damaged(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*_: object, **__: object) -> None:
            raise PermissionError(13, "Permission denied")

        PICTURES["RGB"][1].save(tmp_path / "x.png")
        monkeypatch.setattr(Image, "open", refuse)
        with pytest.raises(ValueError, match=r"x\.png cannot be opened: Permission denied.*fix its permissions"):
            open_image(tmp_path / "x.png")

    @pytest.mark.parametrize(
        "values",
        [
            np.linspace(0, 1, 24, dtype=np.float32).reshape(4, 6),
            np.linspace(0, 255, 24, dtype=np.float32).reshape(4, 6),
            np.arange(24, dtype=np.int32).reshape(4, 6),
            np.arange(24, dtype=np.uint16).reshape(4, 6),
            np.arange(24, dtype=np.int32).reshape(4, 6) * 4000,
            np.arange(24, dtype=np.int32).reshape(4, 6) - 300,
        ],
    )
    def test_no_white_is_guessed(self, tmp_path: Path, values: np.ndarray) -> None:
        """Each of these would come out black, or clipped."""
        Image.fromarray(values).save(tmp_path / "x.tif")
        for opening in (open_image, open_object_mask):
            with pytest.raises(ValueError, match=r"x\.tif has pixels of .* nothing says which value is white"):
                opening(tmp_path / "x.tif")
        assert open_object_mask(tmp_path / "x.tif", any_value=True).sum() == (values > 0).sum()

    def test_black_is_black(self, tmp_path: Path) -> None:
        Image.fromarray(np.zeros((4, 6), np.uint16)).save(tmp_path / "x.png")
        assert not open_object_mask(tmp_path / "x.png").any()

    def test_colours_that_pillow_cannot_convert(self, tmp_path: Path) -> None:
        Image.new("LAB", (4, 3)).save(tmp_path / "x.tif")
        with pytest.raises(ValueError, match=r"x\.tif has colours that Pillow cannot read here.*Save it as RGB"):
            open_object_mask(tmp_path / "x.tif")


class TestOpenObjectMask:
    @pytest.mark.parametrize("kind", [kind for kind in PICTURES if kind not in ("CMYK JPEG", "WebP")])
    def test_brightness_whatever_the_channels(self, tmp_path: Path, kind: str) -> None:
        name, picture, tolerance = PICTURES[kind]
        picture.save(tmp_path / name)
        mask = open_object_mask(tmp_path / name)
        assert mask.shape == (1, 16, 24) and mask.dtype == torch.float32
        assert (mask[0] - torch.from_numpy(RAMP) / 255).abs().max() <= tolerance / 255 + 1e-6
        assert mask.max() <= 1

    @pytest.mark.parametrize(
        "kind", [kind for kind in PICTURES if "JP" not in kind and kind not in ("WebP", "upper case")]
    )
    def test_any_value(self, tmp_path: Path, kind: str) -> None:
        name, picture, _ = PICTURES[kind]
        picture.save(tmp_path / name)
        mask = open_object_mask(tmp_path / name, any_value=True)
        assert torch.equal(mask[0], torch.from_numpy(RAMP > 0).float())

    def test_any_value_counts_ones(self, tmp_path: Path) -> None:
        Image.fromarray((RAMP > 100).astype(np.uint8)).save(tmp_path / "x.png")
        assert torch.equal(
            open_object_mask(tmp_path / "x.png", any_value=True)[0], torch.from_numpy(RAMP > 100).float()
        )

    @pytest.mark.parametrize("number", [1, 2, 21])
    def test_ones_and_class_numbers_are_no_shares(self, number: int, tmp_path: Path) -> None:
        """They would be read as masks in which the object covers a few per cent of each of its pixels."""
        Image.fromarray(number * (RAMP > 100).astype(np.uint8)).save(tmp_path / "x.png")
        with pytest.raises(ValueError, match=rf"no value above {number} of 255.*Write 255 for the object"):
            open_object_mask(tmp_path / "x.png")

    def test_empty_masks_are_read(self, tmp_path: Path) -> None:
        Image.new("L", (4, 3)).save(tmp_path / "x.png")
        assert open_object_mask(tmp_path / "x.png").tolist() == torch.zeros(1, 3, 4).tolist()

    def test_half_transparent_palette(self, tmp_path: Path) -> None:
        palette_picture().save(tmp_path / "x.png", transparency=bytes(range(24)))
        assert torch.equal(open_object_mask(tmp_path / "x.png")[0], torch.from_numpy(RAMP) / 255)


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


class TestReadCSV:
    def test_rows_with_lines(self, tmp_path: Path) -> None:
        table = write(tmp_path / "t.csv", 'a,b\n1,"x, y"\n\n2,z\n')
        assert list(read_csv(table, ["b"])) == [
            Row(f"{table}, line 2", {"a": "1", "b": "x, y"}),
            Row(f"{table}, line 4", {"a": "2", "b": "z"}),
        ]

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("", "lacks a; it has none"),
            ("b,c\n1,2\n", "must have the columns a, but lacks a; it has b, c"),
            ("a,a\n1,2\n", "has a column twice"),
            ("a,b\n1\n", "line 2: a row must have 2 values"),
            ("a,b\n1,2,3\n", "line 2: a row must have 2 values"),
            ('a,b\n1,"2\n3,"4\n', "not a table of comma-separated values|stray quotation mark"),
            ('a,b\n1,"2\n3,4"\n', "line 3: a stray quotation mark joins this line to others"),
            ('a,b\n1,"2\n', "not a table of comma-separated values: unexpected end"),
            (b"a,b\n1,\xff\n", "is not UTF-8 text"),
            ("a,b\n1," + "x" * 200_000, "not a table of comma-separated values: field larger"),
        ],
    )
    def test_refused(self, tmp_path: Path, content: str | bytes, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            list(read_csv(write(tmp_path / "t.csv", content), ["a"]))

    def test_missing(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match=r"t\.csv is not there; pass the folder of the data set"):
            list(read_csv(tmp_path / "t.csv", ["a"]))

    def test_callers_errors_stay_theirs(self, tmp_path: Path) -> None:
        """The table's own errors are reworded; those of the code that reads it are not."""
        with pytest.raises(UnicodeDecodeError):
            for _ in read_csv(write(tmp_path / "t.csv", "a\n1\n2\n"), ["a"]):
                b"\xff".decode()


class TestReadSpaceSeparated:
    @pytest.mark.parametrize("content", ["1 a\n2 b\n", "1 a\r\n2 b", "\ufeff1 a\n\n2  b \n", "1\ta\n2\tb\n"])
    def test_rows(self, tmp_path: Path, content: str) -> None:
        rows = list(read_space_separated(write(tmp_path / "t.txt", content), ["id", "name"]))
        assert [row.values for row in rows] == [{"id": "1", "name": "a"}, {"id": "2", "name": "b"}]
        assert rows[0].where == f"{tmp_path / 't.txt'}, line 1"

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("1\n", r"line 1: a row must have 2 values \(id name\), got 1: '1'"),
            ("1 a\n2 b c\n", "line 2: .* got 3: '2 b c'"),
            (b"1 \xff\n", "is not UTF-8 text"),
        ],
    )
    def test_refused(self, tmp_path: Path, content: str | bytes, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            list(read_space_separated(write(tmp_path / "t.txt", content), ["id", "name"]))


class TestNumbers:
    @pytest.mark.parametrize("text", ["0", " 2 ", "007"])
    def test_integers(self, text: str) -> None:
        assert integer(Row("here", {"n": text}), "n", range(10)) == int(text)

    @pytest.mark.parametrize(
        "text", ["10", "-1", "1.0", "", "x", "1e1", "0x1", "1_0", "٣", "²", "9" * 5000, "+1", "nan"]
    )
    def test_no_integers(self, text: str) -> None:
        with pytest.raises(ValueError, match=r"^here: n must be an integer from 0 to 9, got") as caught:
            integer(Row("here", {"n": text}), "n", range(10))
        assert len(str(caught.value)) < 150

    @pytest.mark.parametrize("text", ["1", "1.5", "-2e1", " 3 "])
    def test_decimals(self, text: str) -> None:
        assert parse_float(Row("here", {"n": text}), "n") == float(text)

    @pytest.mark.parametrize("text", ["", "x", "nan", "inf", "-inf", "1e999", "1,5"])
    def test_no_decimals(self, text: str) -> None:
        with pytest.raises(ValueError, match=r"^here: n must be a number, got"):
            parse_float(Row("here", {"n": text}), "n")


def test_a_listing_follows_links_and_leaves_out_circles(tmp_path: Path) -> None:
    (tmp_path / "real.jpg").write_bytes(b"12345")
    (tmp_path / "link.jpg").symlink_to(tmp_path / "real.jpg")
    (tmp_path / "circle.jpg").symlink_to(tmp_path / "circle.jpg")
    (tmp_path / "nothing.jpg").symlink_to(tmp_path / "absent.jpg")
    (tmp_path / "folder.jpg").mkdir()
    assert FolderListing().files(tmp_path) == {"real.jpg": 5, "link.jpg": 5}
    assert not FolderListing().has(tmp_path / "circle.jpg")
