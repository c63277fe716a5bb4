"""The demo's trained model: a second look on the digits. The package holds its masks and classifiers, 1.4 MB."""

from __future__ import annotations

from pathlib import Path

from ..second_look import SecondLook
from .backbone import load_pretrained_backbone

FOLDER = Path(__file__).with_name("second_look")


def load_second_look() -> SecondLook:
    """Load a second look that was trained on the digits at a 95 % tie; nothing is downloaded.

    ``benchmarks/digits_model.py`` trained it, by the commands of README's first result. The frozen backbone's weights
    are those of :func:`~aimwrap.demo.backbone.load_pretrained_backbone`.

    Returns:
        The model in evaluation mode, for images (N, 3, 160, 160) as ``model.preprocessing`` makes them.

    Raises:
        ImportError: as :func:`~aimwrap.demo.backbone.load_pretrained_backbone`.

    Example:
        >>> from aimwrap.data import DigitsOnPhotographs
        >>> model, test = load_second_look(), DigitsOnPhotographs("test")
        >>> prepare = model.preprocessing.transform()
        >>> prediction = model.predict(prepare(test[0].image)[None])
        >>> model.class_names[prediction.logits.argmax()], test[0].label
        ('0', 0)
    """
    return SecondLook.from_pretrained(FOLDER, backbone=load_pretrained_backbone(), strict=False)
