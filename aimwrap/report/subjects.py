"""The models of a report, AIM or plain, with one interface: what each makes of a batch of images."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from ..analysis.look import Look, look
from ..analysis.readout import inside
from ..backbones.plain import PlainClassifier
from ..backbones.pooled import PooledClassifier
from ..backbones.records import preprocessing_of
from ..model import AIM
from ..preprocessing import Preprocessing
from ..second_look import SecondLook
from ..sharing.card import facts_of, listed_classes, prepared_as
from ..taps import Stage


def card_of(subject: Subject) -> list[dict[str, str]]:
    """A model's facts by name, as plain text."""
    seen = subject.seen_by
    if isinstance(seen, AIM | SecondLook):
        facts = facts_of(seen)
    else:
        parameters = sum(parameter.numel() for parameter in subject.network.parameters())
        facts = [
            ("network", f"{subject.variant}, {parameters / 1e6:.2f} M parameters, without masks"),
            ("heatmap", f"class activation map, {seen.linear.in_features} channels"),
            ("classes", listed_classes(subject.num_classes, subject.class_names)),
            ("images", prepared_as(subject.preprocessing)),
        ]
    return [{"name": name, "value": value} for name, value in facts]


Role = Literal["model", "other", "plain"]


class Subject:
    """A model that is reported on; it is left as it was found.

    Args:
        model: an :class:`~aimwrap.AIM` or a :class:`~aimwrap.SecondLook`, also inside wrappers; or a plain classifier
            that ends in pooling and one linear layer, such as :func:`~aimwrap.train.load_plain` gives.
        role: what it is there for.
        name: what the report calls it; None for the variant or the class of the module.
        preprocessing: for a model that does not say how its images are prepared.

    Attributes:
        seen_by: what :func:`~aimwrap.analysis.look.look` takes for it: an AIM, a second look, or a plain network as a
            :class:`~aimwrap.backbones.pooled.PooledClassifier`.
        aim: the AIM, which of a second look is the first, or None.
        second: the second look, or None.
        network: the AIM, the second look, or the plain network itself.
        role, name: as given, with the name filled in.
        preprocessing: its own, or the given one.
        num_classes: K; two of one logit.
        class_names: its names of the classes, if it has them.

    Raises:
        TypeError: if an AIM or a second look is to be the plain one.
        ValueError: if it is plain and has no class activation map, or nothing says how its images are prepared.
    """

    def __init__(
        self, model: nn.Module, role: Role, name: str | None = None, preprocessing: Preprocessing | None = None
    ) -> None:
        self.role: Role = role
        self.second = inside(model, SecondLook)
        self.aim = inside(model, AIM) if self.second is None else self.second.first
        self.seen_by: AIM | SecondLook | PooledClassifier
        self.network: nn.Module
        if self.aim is None:
            self.seen_by = PooledClassifier(model.backbone if isinstance(model, PlainClassifier) else model, role)
            self.network = self.seen_by.classifier
        elif role == "plain":
            got = "an AIM" if self.second is None else "a second look"
            raise TypeError(
                f"plain must be a classifier without AIM, got {got}; compare two models by other= (--compare)"
            )
        else:
            self.seen_by = self.network = model = self.second or self.aim
        found = preprocessing_of(model) or preprocessing
        if found is None:
            raise ValueError(
                f"{role} does not say how its images are prepared: pass preprocessing=aimwrap.Preprocessing(image_size="
                "(224, 224), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)), with the values that it was "
                "trained with, or assign them to model.preprocessing"
            )
        self.preprocessing: Preprocessing = found
        names = getattr(model, "class_names", None)
        self.class_names: tuple[str, ...] | None = None if names is None else tuple(names)
        self.num_classes: int = max(2, self.seen_by.num_classes)
        self.name = name or self.variant

    @property
    def variant(self) -> str:
        """AIM's in the paper's notation, or the plain network's class."""
        looks = "" if self.second is None else ", second look"
        return f"{self.aim.variant}{looks}" if self.aim is not None else type(self.network).__name__

    @property
    def stages(self) -> tuple[Stage, ...]:
        """AIM's, shallow to deep; none of a plain model."""
        return self.aim.stages if self.aim is not None else ()

    def look(self, images: Tensor) -> Look:
        """Classify and explain a batch of images (N, 3, H, W), as it takes them, on any device."""
        weight = next(self.network.parameters())
        return look(self.seen_by, images.to(weight.device, weight.dtype))
