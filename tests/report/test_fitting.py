"""Models and data sets that do not belong together, or only nearly."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from aimwrap.data import Record, Release, ReleaseDataset
from aimwrap.preprocessing import Preprocessing
from aimwrap.report.build import check_classes, on_one_view

IMAGES = ReleaseDataset(
    Release("animals", Path("animals"), (Record("1", Path("1.jpg"), 0, "test"),), ("cat", "dog", "fox")), "test"
)
HALF = (0.5,) * 3


def subject(names: tuple[str, ...] | None = None, classes: int = 3, role: str = "model", **prepared: object) -> object:
    preprocessing = Preprocessing((64, 64), HALF, HALF)._replace(**prepared)  # type: ignore[arg-type]
    return SimpleNamespace(role=role, num_classes=classes, class_names=names, preprocessing=preprocessing)


@pytest.mark.parametrize("names", [None, ("cat", "dog", "fox")])
def test_classes_that_fit(names: tuple[str, ...] | None) -> None:
    assert check_classes(subject(names), IMAGES) == []


def test_renamed_classes_are_noted() -> None:
    (note,) = check_classes(subject(("felis", "dog", "vulpes")), IMAGES)
    assert "it calls 'felis' what the data set calls 'cat', and 1 more. The report shows the data set's names." in note


@pytest.mark.parametrize("names", [("dog", "cat", "fox"), ("cat", "fox", "wolf")])
def test_classes_in_another_order_are_refused(names: tuple[str, ...]) -> None:
    with pytest.raises(
        ValueError, match=r"model calls class \d '\w+', which is class \d of the data set: the model.s classes"
    ):
        check_classes(subject(names), IMAGES)


def test_another_number_of_classes_is_refused() -> None:
    with pytest.raises(ValueError, match=r"other has 7 classes, and animals 3: cat, dog, fox\. Use a model"):
        check_classes(subject(classes=7, role="other"), IMAGES)


def test_all_see_the_first_ones_crop() -> None:
    first = subject(crop=1.0)
    same, smaller = subject(role="other", crop=1.0, mean=(0.4,) * 3), subject(role="plain", image_size=(32, 32))
    (note,) = on_one_view([first, same, smaller])
    assert "The plain is shown the model's crop (1) and not its own (0.875)" in note
    assert smaller.preprocessing.crop == 1.0 and smaller.preprocessing.image_size == (32, 32)
    assert same.preprocessing.mean == (0.4,) * 3 and first.preprocessing.crop == 1.0
    picture = Image.radial_gradient("L").convert("RGB").resize((200, 150))
    corners = [one.preprocessing.transform()(picture)[0, 0, 0].item() for one in (first, smaller)]
    assert corners[0] == pytest.approx(corners[1], abs=0.1)


def test_other_proportions_are_refused() -> None:
    with pytest.raises(ValueError, match="plain takes images of 32 x 64, and the model 64 x 64: of other proportions"):
        on_one_view([subject(), subject(role="plain", image_size=(32, 64))])
