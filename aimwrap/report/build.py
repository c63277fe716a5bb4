"""Build a report: check that the models and the data set fit, run the models, and gather the content."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Subset

from ..analysis.background import background_bias
from ..analysis.verification import verify
from ..data import collate, eval_transform
from ..data.release import ImageLoader, ReleaseDataset
from ..preprocessing import Preprocessing, renormalised
from .content import Report, content_of
from .measuring import Evaluation, evaluate, shown_id
from .subjects import Role, Subject


def build_report(
    model: nn.Module,
    images: ReleaseDataset,
    *,
    other: nn.Module | None = None,
    plain: nn.Module | None = None,
    name: str | None = None,
    other_name: str | None = None,
    plain_name: str | None = None,
    preprocessing: Preprocessing | None = None,
    title: str | None = None,
    root: str | None = None,
    command: str | None = None,
    notes: tuple[str, ...] = (),
    limit: int = 1000,
    verify_images: int = 256,
    background_images: int = 500,
    batch_size: int = 32,
    workers: int = 0,
    seed: int = 0,
    progress: bool = True,
) -> Report:
    """Evaluate a model on a data set, and gather everything that a report says about it.

    Every image is read once, and measured; numbers are those of ``aimwrap.metrics``. Memory holds the
    numbers, ``limit`` thumbnails and ``verify_images`` images.

    Args:
        model: an :class:`~aimwrap.AIM`, a :class:`~aimwrap.SecondLook`, or a plain classifier that ends in pooling and
            one linear layer. It runs on its own device, in evaluation mode, and keeps the mode that it had.
        images: a split of a release, such as ``Built(root, "test")``. Its transform is not used: each model has its
            own preprocessing. With several models, all see the first one's crop.
        other: another model for the same images: the gallery then begins where the two differ most.
        plain: a plain classifier, for the scatter of energy pointing and as :func:`~aimwrap.verify`'s control.
        name: the model's name in the report; by default its variant.
        other_name: the same for the other one.
        plain_name: the same for the plain one.
        preprocessing: for models without their own.
        title: of the page.
        root: the folder to show; by default the name of its folder.
        command: the command to show that makes the report again.
        notes: further sentences for its readers.
        limit: how many images the gallery shows; of more, half are the worst and half are drawn at random.
        verify_images: how many images :func:`~aimwrap.verify` gets, drawn at random; 0 leaves it out.
        background_images: how many training images, drawn at random, the first model with masks is given for
            :func:`~aimwrap.background_bias`; 0 leaves it out.
        batch_size: images per forward pass.
        workers: processes that read images.
        seed: of the random draws.
        progress: whether to show bars.

    Returns:
        The report.

    Raises:
        FileNotFoundError: if an image is not there.
        TypeError: if ``plain`` has masks.
        ValueError: if a model and the data set do not fit, a plain model has no class activation map, a number is out
            of its range, or a model's outputs are not finite.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from PIL import Image
        >>> from aimwrap import AIM
        >>> from aimwrap.data import LabelledFolder
        >>> folder = Path(tempfile.mkdtemp())
        >>> for label, colour in (("day", "white"), ("night", "black")):
        ...     (folder / label).mkdir()
        ...     Image.new("RGB", (48, 48), colour).save(folder / label / "1.png")
        >>> model = AIM("test_convnext", backbone_kwargs={"num_classes": 2})
        >>> report = build_report(model, LabelledFolder(folder), verify_images=0, progress=False)
        >>> [score["key"] for score in report.content["models"][0]["scores"]][:2]
        ['average', 'worst_group']
    """
    _check_counts(limit=(limit, 1), verify_images=(verify_images, 0), background_images=(background_images, 0))
    _check_counts(batch_size=(batch_size, 1), workers=(workers, 0))
    given: list[tuple[nn.Module | None, Role, str | None]] = [
        (model, "model", name),
        (other, "other", other_name),
        (plain, "plain", plain_name),
    ]
    subjects = [Subject(one, role, called, preprocessing) for one, role, called in given if one is not None]
    found_notes = [*notes, *images.release.notes, *(n for each in subjects for n in check_classes(each, images))]
    control = next((subject for subject in subjects if subject.role == "plain"), None)
    found_notes += on_one_view(subjects)
    once = [subject for subject in subjects if subject.aim is not None and subject.second is None]
    sizes = {subject.preprocessing.image_size for subject in once}
    if verify_images and control is not None and sizes - {control.preprocessing.image_size}:
        found_notes.append(
            "For verify's control, images are prepared for AIM and then resized to what the plain model takes."
        )
    settings: dict[str, Any] = {"batch_size": batch_size, "seed": seed, "progress": progress}
    evaluation = evaluate(subjects, images, limit=limit, verify_images=verify_images, workers=workers, **settings)
    verifications = [
        _verified(subject, control, evaluation, **settings) if verify_images else None for subject in subjects
    ]
    masked = next((subject for subject in subjects if subject.aim is not None), None)
    background = None
    if background_images and masked is not None and "train" in images.splits:
        background = _background(masked, images, background_images, workers=workers, **settings)
    content = content_of(
        evaluation,
        root=images.release.root.name if root is None else root,
        title=title,
        command=command,
        notes=found_notes,
        verifications=verifications,
        background=background,
    )
    return Report(content)


def check_classes(subject: Subject, images: ReleaseDataset) -> list[str]:
    """Check that a model's class numbers mean the data set's classes, and return notes.

    A name that both have, under different numbers, is an error: every score would be of other classes. Names that the
    data set does not know at all are only noted, since users rename classes.
    """
    if subject.num_classes != len(images.classes):
        raise ValueError(
            f"{subject.role} has {subject.num_classes} classes, and {images.release.name} {len(images.classes)}: "
            f"{_some(images.classes)}. Use a model that was trained on these classes, or give the "
            "model's classes to the data set, by classes= of a table"
        )
    names = subject.class_names
    if names is None:
        return []
    places = {name: number for number, name in enumerate(images.classes)}
    for number, name in enumerate(names):
        if places.get(name, number) != number:
            raise ValueError(
                f"{subject.role} calls class {number} {name!r}, which is class {places[name]} of the data set: "
                f"the model's classes are {_some(names)}, and the data set's are {_some(images.classes)}. Put the data "
                "set's classes into the model's order, by classes= of a table or by the names of the folders"
            )
    renamed = [(name, other) for name, other in zip(names, images.classes, strict=True) if name != other]
    if not renamed:
        return []
    mine, other = renamed[0]
    rest = f", and {len(renamed) - 1} more" if len(renamed) > 1 else ""
    return [
        f"The {subject.role} was saved with other class names: it calls {mine!r} what the data set calls {other!r}"
        f"{rest}. The report shows the data set's names."
    ]


def on_one_view(subjects: list[Subject]) -> list[str]:
    """Give every model the first one's crop, so that all see the same part of each image, and return notes.

    Each model keeps its own size, filter and normalisation. Other proportions of the image are an error.
    """
    first, notes = subjects[0].preprocessing, []
    for subject in subjects[1:]:
        own = subject.preprocessing
        if own.image_size[0] * first.image_size[1] != own.image_size[1] * first.image_size[0]:
            raise ValueError(
                f"{subject.role} takes images of {_size(own)}, and the model {_size(first)}: of other proportions, so "
                "they never see the same part of an image. Report on them one by one"
            )
        if subject.role == "plain" and (len(own.mean), own.window) != (len(first.mean), first.window):
            raise ValueError(
                f"plain reads images in {len(own.mean)} channels with the window {own.window}, and the model in "
                f"{len(first.mean)} with {first.window}; pass a plain model that was trained with the same"
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


def _verified(
    subject: Subject, plain: Subject | None, evaluation: Evaluation, **settings: Any
) -> dict[str, Any] | None:
    """The findings of :func:`~aimwrap.verify` as plain values; the class activation map of ``plain`` is the control."""
    if subject.aim is None:
        return None
    images, weight = evaluation.to_verify(subject), next(subject.aim.parameters())
    # A second look's guarantee is one of pixels, for which a heatmap is not a control.
    control = None if plain is None or subject.second is not None else _seen_by(plain, subject.preprocessing)
    found = verify(subject.network, images.to(weight.device, weight.dtype), control, **settings)
    return {
        "images": len(images),
        "passed": found.passed,
        "checks": [check._asdict() for check in found.checks],
        "survival": [row._asdict() for row in found.survival],
        "area": found.area if found.area == found.area else None,
        "note": found.note,
    }


def _background(
    subject: Subject, images: ReleaseDataset, most: int, *, batch_size: int, workers: int, seed: int, progress: bool
) -> dict[str, Any]:
    """The findings of :func:`~aimwrap.background_bias` on training images as plain values, or why there are none."""
    training = ReleaseDataset(images.release, "train", eval_transform(subject.preprocessing))
    drawn = torch.randperm(len(training), generator=torch.Generator().manual_seed(seed + 2))[:most].sort().values
    loader = ImageLoader(Subset(training, drawn.tolist()), batch_size, num_workers=workers, collate_fn=collate)
    weight = next(subject.network.parameters())
    batches = ((batch.image.to(weight.device, weight.dtype), batch.label) for batch in loader)
    try:
        found = background_bias(subject.network, batches, seed=seed, progress=progress)
    except (OSError, ValueError) as error:  # such as training images that are not on this machine
        return {"verdict": f"Not measured: {error}.", "rows": []}
    rows = [
        ("the background", found.accuracy, found.low, found.high),
        ("the kept region", found.object_accuracy, found.object_low, found.object_high),
        ("where the box is", found.box_accuracy, None, None),
        ("nothing: the most frequent class", found.chance, None, None),
    ]
    names = ("sees", "accuracy", "low", "high")
    wrong = [training.records[int(drawn[number])] for number in found.wrong]
    return {
        "verdict": found.verdict,
        "rows": [dict(zip(names, row, strict=True)) for row in rows],
        "hidden": found.hidden,
        "images": len(drawn),
        "wrong": [shown_id(record, images.release.root) for record in wrong],
    }


def _seen_by(plain: Subject, prepared: Preprocessing) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """The plain model as a function of images that were prepared for another model."""
    own = plain.preprocessing

    def explained(images: Tensor) -> tuple[Tensor, Tensor]:
        images = renormalised(images, prepared, own)
        if own.image_size != prepared.image_size:
            images = F.interpolate(images, own.image_size, mode="bilinear", antialias=True)
        seen = plain.look(images)
        return seen.logits, seen.heatmap

    return explained


def _check_counts(**counts: tuple[int, int]) -> None:
    for argument, (value, least) in counts.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise ValueError(f"{argument} must be a whole number from {least}, got {value!r}")
