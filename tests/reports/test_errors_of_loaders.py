"""Reports of a picture that is damaged, or vanishes, while worker processes read."""

from pathlib import Path

import pytest
from PIL import Image

from aimwrap import Preprocessing
from aimwrap.data import LabelledFolder, collate, eval_transform
from aimwrap.data.release import ImageLoader, read_sample
from aimwrap.train.data import BatchOrder, evaluation_loader, training_loader


@pytest.fixture
def images(tmp_path: Path) -> LabelledFolder:
    for number, name in enumerate(("cat", "dog")):
        (tmp_path / name).mkdir()
        for image in range(2):
            Image.effect_noise((32, 32), 90 + number + 2 * image).save(tmp_path / name / f"{image}.png")
    return LabelledFolder(tmp_path, transform=eval_transform(Preprocessing((16, 16), (0.5,) * 3, (0.5,) * 3)))


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("damage", ["cut off", "gone"])
def test_workers_say_what_the_process_itself_would_say(images: LabelledFolder, damage: str, workers: int) -> None:
    """53 lines of traceback with workers, one clear line without."""
    path = images.records[2].path
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:200])
    with pytest.raises((ValueError, FileNotFoundError)) as expected:
        read_sample(images.records[2], images.release)
    loaders = (
        ImageLoader(images, 2, num_workers=workers, collate_fn=collate),
        evaluation_loader(images, 2, 0, 1, workers, False),
        training_loader(images, BatchOrder(4, 2, seed=0), workers, False),
    )
    for loader in loaders:
        with pytest.raises(type(expected.value)) as caught:
            list(loader)
        assert str(caught.value) == str(expected.value) and str(path) in str(caught.value)


def test_loaders_can_be_read_again(images: LabelledFolder) -> None:
    """Epoch after epoch, with workers that stay."""
    loader = training_loader(images, BatchOrder(4, 2, seed=0), 1, False)
    assert [len(list(loader)), len(list(loader))] == [2, 2] and len(loader) == 2
