"""Two missing masks stopped nearly all of the doctor's other checks of a folder per class."""

from pathlib import Path

import pytest
from PIL import Image

from aimwrap.data import examine


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for number, name in enumerate(["cat/a", "cat/b", "dog/a", "dog/b"]):
        for folder in ("pets", "masks"):
            path = tmp_path / folder / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB" if folder == "pets" else "L", (8 + number, 8), 255).save(path)
    return tmp_path / "pets"


def test_missing_masks_are_one_fault_beside_the_other_checks(root: Path) -> None:
    masks = root.parent / "masks"
    (masks / "cat" / "a.png").unlink()
    (masks / "dog" / "b.png").unlink()
    (root / "dog" / "a.png").write_bytes(b"no picture")
    found = examine(root, "folder", masks=masks)
    assert [check.name for check in found.faults][:2] == ["object masks", "readable"]
    assert "lacks the masks of 2 of 4 images" in found.faults[0].summary
    assert found.classes == ("cat", "dog") and len(found.checks) > 5


def test_images_without_an_object_are_a_warning(root: Path) -> None:
    """Such as all of a class: an exit code of 1, and "fix them before training"."""
    masks = root.parent / "masks"
    for number, name in enumerate(["cat/a", "cat/b", "dog/a", "dog/b"]):
        Image.new("L", (8 + number, 8)).save(masks / f"{name}.png")
    found = examine(root, "folder", masks=masks)
    assert "masks that show nothing, or everything: 4 of 4" in [check.summary for check in found.faults]
    for number, name in enumerate(["a", "b"]):
        mask = Image.new("L", (8 + number, 8))
        mask.putpixel((0, 0), 255)
        mask.save(masks / "cat" / f"{name}.png")
    found = examine(root, "folder", masks=masks)
    said = {check.name: (check.mark, check.summary) for check in found.checks}
    assert found.healthy
    right = "right if the images are so; scores leave out empty ones"
    assert said["mask contents"] == ("warning", f"empty or full: 2 of 4, {right}")
    Image.new("L", (8, 8), 255).save(masks / "cat" / "a.png")  # a close-up was a fault
    found = examine(root, "folder", masks=masks)
    assert found.healthy and any(f"empty or full: 3 of 4, {right}" == check.summary for check in found.checks)
