"""examples/app.py in Chromium: what it shows of an image, hostile files, the keyboard, a phone, and no other hosts."""

from __future__ import annotations

import base64
import io
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image
from reading import DESKTOP, check_accessible

from aimwrap import AIM, Preprocessing, SecondLook, explain

pytestmark = pytest.mark.browser

ROOT = Path(__file__).parents[3]
PHONE = {"width": 375, "height": 812}
HALF = (0.5,) * 3
# Runs a script, and prints each address that it asks for.
WATCHED = """
import runpy, sys
asked = ("socket.getaddrinfo", "socket.connect")
sys.addaudithook(lambda event, args: event in asked and print("asked for", args[-1] if event == asked[1] else args[0]))
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


class Served(NamedTuple):
    """An app that runs, with its model and the image that it offers."""

    address: str
    model: Any
    sample: Path


def served(model: Any, folder: Path) -> Iterator[Served]:
    """Run the app with a model, or without arguments."""
    if find_spec("gradio") is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("needs Gradio: pip install '.[app]'")
    sample = folder / "sample.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (80, 96, 3), np.uint8)).save(sample)
    if model is not None:
        model.save_pretrained(folder / "model")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = {"GRADIO_SERVER_PORT": str(port), "GRADIO_TEMP_DIR": str(folder / "uploads"), "OMP_NUM_THREADS": "1"}
    settings |= {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]), "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-c", WATCHED, ROOT / "examples" / "app.py"]
    command += [] if model is None else [folder / "model", sample]
    log = folder / "log.txt"
    with log.open("w") as output:
        process = subprocess.Popen(
            command, cwd=folder, env=os.environ | settings, stdout=output, stderr=subprocess.STDOUT
        )
        try:
            for _ in range(600):
                if "Running on" in log.read_text() or process.poll() is not None:
                    break
                time.sleep(0.2)
            assert "Running on" in log.read_text(), log.read_text()
            yield Served(f"http://127.0.0.1:{port}", model, sample)
        finally:
            process.terminate()
            process.wait()
    told = log.read_text()
    assert "Traceback" not in told, told
    asked = [line for line in told.splitlines() if line.startswith("asked for")]
    assert asked and all("127.0.0.1" in line or "localhost" in line or "None" in line for line in asked), asked


@pytest.fixture(scope="module")
def two_looks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    torch.manual_seed(0)
    first = AIM("test_resnet", stages=[2, 3], backbone_kwargs={"num_classes": 2}).eval()
    first.class_names, first.preprocessing = ("<b>cat</b>", "dog"), Preprocessing((64, 64), HALF, HALF)
    yield from served(SecondLook(first).eval(), tmp_path_factory.mktemp("app"))


@pytest.fixture(scope="module")
def grey_with_one_logit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    torch.manual_seed(0)
    model = AIM("test_resnet", stages=[3], backbone_kwargs={"num_classes": 1, "in_chans": 1}).eval()
    model.preprocessing = Preprocessing((64, 64), (0.5,), (0.5,))
    yield from served(model, tmp_path_factory.mktemp("grey"))


@pytest.fixture(scope="module")
def without_arguments(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    yield from served(None, tmp_path_factory.mktemp("digits"))


Open = Callable[..., Any]
# Findings in Gradio's own parts, which an app cannot change.
OF_GRADIO = {"aria-prohibited-attr": 'aria-label="Empty value"'}  # on a div without a role: gr.Label before a result


@pytest.fixture
def open_app(browser: Any) -> Iterator[Open]:
    """Opens an app; what goes wrong in its page, or leaves it, fails the test."""
    contexts, errors, requests = [], list[str](), list[str]()

    def open_page(app: Served, **options: Any) -> Any:
        context = browser.new_context(**{"viewport": DESKTOP, "reduced_motion": "reduce", **options})
        contexts.append(context)
        context.set_default_timeout(90_000)
        context.on("request", lambda request: requests.append(request.url))
        page = context.new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.on("dialog", lambda dialog: errors.append(f"asked: {dialog.message}"))
        page.goto(app.address)
        page.wait_for_selector("input[type=file]", state="attached")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert errors == []
    own = ("http://127.0.0.1:", "data:", "blob:http://127.0.0.1:")
    assert [url for url in requests if not url.startswith(own)] == []


def repeat(page: Any, action: Callable[[], Any], happened: Callable[[], Any]) -> None:
    """Gradio shows its buttons before it listens to them: click or press again, as a person does."""
    for _ in range(30):
        action()
        for _ in range(30):
            if happened():
                return
            page.wait_for_timeout(100)
    pytest.fail("nothing happened within 90 seconds")


def upload(page: Any, path: Path) -> None:
    page.set_input_files("input[type=file]", path)
    page.wait_for_selector(".views img, [role=alert]")


def views(page: Any) -> dict[str, np.ndarray[Any, Any]]:
    """The pictures by their texts."""
    found = page.eval_on_selector_all(".views img", "images => images.map((one) => [one.alt, one.src])")
    assert page.locator(".views figure").all_inner_texts() == [text.replace(", ", "\n", 1) for text, _ in found]
    files = {text: io.BytesIO(base64.b64decode(source.split(",")[1])) for text, source in found}
    return {text: np.asarray(Image.open(file), np.int16) for text, file in files.items()}


def test_upload_shows_class_masks_contributions_and_the_second_look(two_looks: Served, open_app: Open) -> None:
    page = open_app(two_looks)
    upload(page, two_looks.sample)
    model: SecondLook = two_looks.model
    batch = model.preprocessing.transform()(Image.open(two_looks.sample))[None]
    probabilities = model.predict(batch).logits[0].softmax(0)
    winner = int(probabilities.argmax())
    name = ["<b>cat</b>", "dog"][winner]
    found = explain(model, batch, [winner])
    assert page.locator(".output-class").inner_text().strip() == name
    assert f"{probabilities[winner]:.0%}" in page.locator(".confidence-set").first.inner_text()

    shown = views(page)
    image = shown["The image, as the model takes it"]
    assert abs(image - (batch[0].permute(1, 2, 0).numpy() / 2 + 0.5).clip(0, 1) * 255).max() <= 1
    masks = {"Mask of stage 2": found.masks[2], "Mask of stage 3": found.masks[3], "Merged mask": found.merged_mask}
    for title, mask in (masks | {"Kept pixels": found.kept}).items():
        enlarged = np.kron(mask[0, 0].numpy(), np.ones((64 // mask.shape[2], 64 // mask.shape[3]))) > 0
        seen = shown.pop(f"{title}, {mask.mean():.0%} open")
        assert np.array_equal(seen[enlarged], image[enlarged]), title
        closed = seen[~enlarged]
        assert np.ptp(closed, axis=1).max(initial=0) == 0 and closed.max(initial=0) < 80, title  # grey and dark
    painted = shown[f"Contributions, to the class {name}"]
    shares = found.on_the_image()[0, 0].numpy()
    strong = abs(shares) > 0.2 * abs(shares).max()
    assert ((painted[..., 0] > painted[..., 2]) == (shares > 0))[strong].all()
    cut_out = model.cut_out(batch, found.kept, found.boxes)[0].permute(1, 2, 0).numpy() / 2 + 0.5
    assert abs(shown["Second look, sees this, and nothing else"] - cut_out.clip(0, 1) * 255).max() <= 1
    assert len(shown) == 3


def test_one_look_at_grey_images_with_one_logit(grey_with_one_logit: Served, open_app: Open) -> None:
    page = open_app(grey_with_one_logit)
    upload(page, grey_with_one_logit.sample)
    model: AIM = grey_with_one_logit.model
    logit = model.predict(model.preprocessing.transform()(Image.open(grey_with_one_logit.sample))[None]).logits.item()
    winner = int(logit > 0)
    assert page.locator(".output-class").inner_text().strip() == str(winner)
    titles = [text.split(",")[0] for text in views(page)]
    assert titles == ["The image", "Mask of stage 3", "Merged mask", "Contributions"]
    assert f"Contributions, to the class {winner}" in views(page)
    assert "second look" not in page.inner_text("body")


def test_without_arguments_it_shows_the_digits(without_arguments: Served, open_app: Open) -> None:
    page = open_app(without_arguments)
    for place, digit in ((0, "0"), (2, "1")):
        shown = page.locator(".output-class").filter(has_text=digit)
        repeat(page, page.locator(".grid-container button").nth(place).click, shown.count)
        assert f"Contributions, to the class {digit}" in views(page)


def noise(mode: str, white: int = 255, side: int = 40) -> Image.Image:
    rng = np.random.default_rng(0)
    if mode == "CMYK":
        return Image.frombytes("CMYK", (side, side), rng.bytes(4 * side * side))
    return Image.fromarray(rng.integers(0, white + 1, (side, side), np.uint16 if white > 255 else np.uint8))


def text_as_png(path: Path) -> None:
    path.write_text("<script>alert(1)</script>")


def half_a_png(path: Path) -> None:
    noise("L").save(path)
    path.write_bytes(path.read_bytes()[:600])


def two_frames(path: Path) -> None:
    noise("L").save(path, "GIF", save_all=True, append_images=[Image.new("L", (40, 40))])


def postscript(path: Path) -> None:
    path.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n")


REFUSED = {
    "text.png": (text_as_png, "it is none of JPEG, PNG"),
    "empty.jpg": (lambda path: path.write_bytes(b""), "it is none of JPEG, PNG"),
    "postscript.png": (postscript, "it is none of JPEG, PNG"),
    "broken.png": (half_a_png, "truncated"),
    "huge.png": (lambda path: Image.new("1", (12_000, 12_000)).save(path), "144000000 pixels"),
    "narrow.png": (lambda path: Image.new("RGB", (2000, 3)).save(path), "more than 20 times as long"),
    "moving.gif": (two_frames, "2 pages or frames"),
    "ten-bits.png": (lambda path: noise("I;16", 1023).save(path), "nothing says which value is white"),
}
READ = {
    "cmyk.jpg": lambda path: noise("CMYK").save(path),
    "sixteen-bits.png": lambda path: noise("I;16", 65535).save(path),
    "<img src=x onerror=alert(1)>.png": lambda path: noise("L").save(path),
}


def test_files_that_cannot_be_read_are_refused_with_the_reason(
    two_looks: Served, open_app: Open, tmp_path: Path
) -> None:
    page = open_app(two_looks)
    for name, (make, reason) in REFUSED.items():
        page.goto(two_looks.address)
        make(tmp_path / name)
        upload(page, tmp_path / name)
        told = page.locator("[role=alert]").inner_text()
        assert told.startswith("This image cannot be read: ") and reason in told, (name, told)
        assert "uploads" not in told  # the server's folder
        assert page.locator(".views img").count() == 0 and page.locator(".output-class").count() == 0


def test_unusual_files_are_read(two_looks: Served, open_app: Open, tmp_path: Path) -> None:
    page = open_app(two_looks)
    for name, make in READ.items():
        page.goto(two_looks.address)
        make(tmp_path / name)
        upload(page, tmp_path / name)
        assert page.locator(".views img").count() == 7, name


def test_files_that_are_too_large_are_not_uploaded(two_looks: Served, open_app: Open, tmp_path: Path) -> None:
    page = open_app(two_looks)
    with (tmp_path / "large.png").open("wb") as file:
        file.truncate(21 * 2**20)
    page.set_input_files("input[type=file]", tmp_path / "large.png")
    page.wait_for_selector(".toast-body")
    assert "exceed the maximum allowed size of 20.0 Mb" in page.inner_text(".toast-body")


def tab_to(page: Any, selector: str) -> None:
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate("selector => document.activeElement.matches(selector)", selector):
            return
    pytest.fail(f"the Tab key does not lead to {selector}")


def test_keyboard_uploads_and_chooses_an_image(two_looks: Served, open_app: Open) -> None:
    page = open_app(two_looks)
    tab_to(page, "button[aria-label='Drop an image file here to upload']")
    choosers: list[Any] = []
    page.on("filechooser", lambda chooser: choosers.append(chooser))
    repeat(page, lambda: page.keyboard.press("Enter"), lambda: choosers)
    choosers[0].set_files(two_looks.sample)
    page.wait_for_selector(".views img")
    page.goto(two_looks.address)
    page.wait_for_selector("input[type=file]", state="attached")
    tab_to(page, ".grid-container button")
    repeat(page, lambda: page.keyboard.press("Enter"), page.locator(".views img").count)


@pytest.mark.parametrize("colours", ["light", "dark"])
@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_no_serious_finding_of_axe_and_no_page_wider_than_the_screen(
    axe: Any, two_looks: Served, open_app: Open, tmp_path: Path, colours: str, viewport: dict[str, int]
) -> None:
    page = open_app(two_looks, color_scheme=colours, viewport=viewport)
    text_as_png(tmp_path / "text.png")
    for path in (two_looks.sample, tmp_path / "text.png"):
        upload(page, path)
        check_accessible(axe, page, OF_GRADIO)
        assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]
        page.goto(two_looks.address)
        page.wait_for_selector("input[type=file]", state="attached")
