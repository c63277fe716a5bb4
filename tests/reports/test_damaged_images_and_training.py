"""Report 22: one truncated test image lost a finished training, and deleting the file made its checkpoint useless."""

import json
import os
from pathlib import Path

import pytest
from small_run import make_pictures, train

from aimwrap.train import loop


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_a_truncated_image_is_named_before_the_first_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, split: str
) -> None:
    monkeypatch.setattr(loop, "train", lambda run: pytest.fail("trained"))
    path = make_pictures(tmp_path / "a") / split / "dog" / "1.bmp"
    os.truncate(path, 900)
    with pytest.raises(ValueError, match=r"dog.1\.bmp is not complete.*\n1 of 16 images cannot be read"):
        train(tmp_path / "a", tmp_path / "out")


def test_an_image_that_is_damaged_later_loses_nothing(tmp_path: Path) -> None:
    """The model is there before the test, and the run goes on without the file; the training images are the same."""
    path = make_pictures(tmp_path / "a") / "test" / "dog" / "1.bmp"
    with pytest.raises(ValueError, match="is not complete"):
        train(tmp_path / "a", tmp_path / "out", report=lambda line, seconds: os.truncate(path, 900))
    model = tmp_path / "out" / "model"
    assert json.loads((model / "plain.json").read_text())["class_names"] == ["cat", "dog"]
    assert (model / "model.safetensors").is_file()
    path.unlink()
    said: list[str] = []
    result = train(tmp_path / "a", tmp_path / "out", say=said.append)
    assert result.scores["average"] is not None and any(text.startswith("continuing after epoch 1") for text in said)
