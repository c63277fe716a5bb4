"""Whether models and data set belong together; what is odd but possible is said in the report's notes."""

from __future__ import annotations

from ..data.release import ReleaseDataset
from ..preprocessing import Preprocessing
from .subjects import Subject


def check_classes(subject: Subject, images: ReleaseDataset) -> list[str]:
    """See that a model's class numbers mean the data set's classes.

    A name that both have, under different numbers, is an error: every score would be of other classes. Names that the
    data set does not know at all are only noted, since people rename classes.

    Args:
        subject: the model.
        images: the data set.

    Returns:
        Notes.

    Raises:
        ValueError: if the number of classes differs, or a name has another number.
    """
    if subject.num_classes != len(images.classes):
        raise ValueError(
            f"{subject.role} has {subject.num_classes} classes, and {images.release.name} {len(images.classes)}: "
            f"{_some(images.classes)}. Give the model that was trained on these classes, or read the data set with all "
            "of the model's (a table's classes=)"
        )
    names = subject.class_names
    if names is None:
        return []
    places = {name: number for number, name in enumerate(images.classes)}
    for number, name in enumerate(names):
        if places.get(name, number) != number:
            raise ValueError(
                f"{subject.role} calls class {number} {name!r}, which is class {places[name]} of the data set: "
                f"its classes are {_some(names)}, and the data set's {_some(images.classes)}. Bring the data set's "
                "classes into the model's order (a table's classes=, or the folders' names)"
            )
    renamed = [(name, other) for name, other in zip(names, images.classes, strict=True) if name != other]
    if not renamed:
        return []
    mine, other = renamed[0]
    rest = f", and {len(renamed) - 1} more" if len(renamed) > 1 else ""
    return [
        f"The {subject.role} was saved with other class names: what the data set calls {other!r} it calls {mine!r}"
        f"{rest}. The data set's are shown."
    ]


def on_one_view(subjects: list[Subject]) -> list[str]:
    """Give every model the first one's crop, so that all see the same part of each image.

    Sizes, filters and normalisation stay each model's own.

    Args:
        subjects: the models, the first one as it is; the others' preprocessing is replaced where it crops otherwise.

    Returns:
        Notes on those that were.

    Raises:
        ValueError: if a model takes images of other proportions.
    """
    first, notes = subjects[0].preprocessing, []
    for subject in subjects[1:]:
        own = subject.preprocessing
        if own.image_size[0] * first.image_size[1] != own.image_size[1] * first.image_size[0]:
            raise ValueError(
                f"{subject.role} takes images of {_size(own)}, and the model {_size(first)}: of other proportions, so "
                "they never see the same part of an image. Report on them one by one"
            )
        if (own.crop, own.squash) != (first.crop, first.squash):
            subject.preprocessing = own._replace(crop=first.crop, squash=first.squash)
            notes.append(
                f"The {subject.role} is shown the model's crop ({_cropped(first)}) and not its own ({_cropped(own)}), "
                "so that both see the same part of each image. Alone it may do a little better."
            )
    return notes


def _some(names: tuple[str, ...]) -> str:
    return f"{', '.join(names[:5])}{', ...' if len(names) > 5 else ''}"


def _size(preprocessing: Preprocessing) -> str:
    return " x ".join(map(str, preprocessing.image_size))


def _cropped(preprocessing: Preprocessing) -> str:
    return f"{'squashed, ' if preprocessing.squash else ''}{preprocessing.crop:.4g}"
