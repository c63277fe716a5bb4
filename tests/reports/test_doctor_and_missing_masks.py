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
