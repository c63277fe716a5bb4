"""``build_report``: from models and a data set to a report."""

from __future__ import annotations

import torch
from torch import nn

from ..data.release import ReleaseDataset
from ..preprocessing import Preprocessing
from .content import content_of
from .evaluating import evaluate
from .fitting import check_classes, on_one_view
from .report import Report
from .subjects import Role, Subject
from .verifying import note_on_control, verified


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
    batch_size: int = 32,
    workers: int = 0,
    seed: int = 0,
    progress: bool = True,
) -> Report:
    """Evaluate a model on a data set, and gather all that a report says of it.

    Every image is read once, and measured; numbers are those of ``aimwrap.metrics``. Memory does not grow with the
    images but by the numbers, ``limit`` thumbnails and ``verify_images`` images.

    Args:
        model: an :class:`~aimwrap.AIM`, or a plain classifier that ends in pooling and one linear layer. It runs where
            it is, in evaluation mode, and is left in the mode that it was in.
        images: a split of a release, such as ``Built(root, "test")``. Its transform is not used: each model says how
            images are prepared for it. With several, all are shown the first one's crop.
        other: another model for the same images: the gallery then begins where the two differ most.
        plain: a plain classifier, for the scatter of energy pointing and as :func:`~aimwrap.verify`'s control.
        name: what the report calls the model; by default its variant.
        other_name: likewise of the other one.
        plain_name: likewise of the plain one.
        preprocessing: for models that do not say how images are prepared.
        title: of the page.
        root: what to show as the data set's place; by default the name of its folder.
        command: to show as what makes the report again.
        notes: further sentences for its readers.
        limit: how many images the gallery shows; of more, half are the worst and half are drawn by lot.
        verify_images: how many images :func:`~aimwrap.verify` is given, drawn by lot; 0 leaves it out.
        batch_size: images per forward pass.
        workers: processes that read images.
        seed: of what is drawn by lot.
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
    _check_counts(limit=(limit, 1), verify_images=(verify_images, 0), batch_size=(batch_size, 1), workers=(workers, 0))
    given: list[tuple[nn.Module | None, Role, str | None]] = [
        (model, "model", name),
        (other, "other", other_name),
        (plain, "plain", plain_name),
    ]
    subjects = [Subject(one, role, called, preprocessing) for one, role, called in given if one is not None]
    found_notes = [*notes, *(note for subject in subjects for note in check_classes(subject, images))]
    found_notes += [*on_one_view(subjects), *(note_on_control(subjects) if verify_images else ())]
    evaluation = evaluate(
        tuple(subjects),
        images,
        limit=limit,
        batch_size=batch_size,
        workers=workers,
        to_verify=verify_images,
        seed=seed,
        progress=progress,
    )
    control = next((subject for subject in subjects if subject.role == "plain"), None)
    verifications = [
        verified(
            subject,
            control,
            evaluation.to_verify.get(subject.preprocessing, torch.zeros(0)),
            batch_size=batch_size,
            seed=seed,
            progress=progress,
        )
        for subject in subjects
    ]
    content = content_of(
        evaluation,
        images,
        root=images.release.root.name if root is None else root,
        title=title,
        command=command,
        notes=found_notes,
        verifications=verifications,
    )
    return Report(content)


def _check_counts(**counts: tuple[int, int]) -> None:
    for argument, (value, least) in counts.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise ValueError(f"{argument} must be a whole number from {least}, got {value!r}")
