"""The module that is exported: images in, and by name the outputs that a server shows."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..analysis.readout import inside, linear_classifier, shares, unwrap
from ..model import AIM
from ..second_look import SecondLook


class ServingModel(nn.Module):
    """A model for serving: a copy in evaluation mode and float32, which returns tensors by name.

    Its outputs, in this order: ``logits`` (N, K); ``mask_<stage>`` for each stage, shallow to deep, (N, 1, H_l, W_l);
    ``merged_mask`` (N, 1, H, W); of a second look also ``kept`` (N, 1, H, W) and ``boxes`` (N, 4), its
    :class:`~aimwrap.second_look.SecondLookOutput`'s; ``contributions`` (N, K, H, W), which are
    :func:`~aimwrap.explain`'s. In a stage's name, characters that identifiers may not have become ``_``:
    ``mask_layer4_1``.

    Args:
        model: an :class:`~aimwrap.AIM` or a :class:`~aimwrap.SecondLook`, also inside ``torch.compile`` or
            ``DistributedDataParallel``.

    Attributes:
        mask_names: each stage's output, shallow to deep.

    Raises:
        TypeError: if the model is neither.

    Example:
        >>> import torch, torchvision
        >>> serving = ServingModel(AIM(torchvision.models.resnet18(num_classes=10), stages=[2, 3]))
        >>> {name: tuple(output.shape) for name, output in serving(torch.zeros(1, 3, 64, 64)).items()}
        {'logits': (1, 10), 'mask_2': (1, 1, 4, 4), 'mask_3': (1, 1, 2, 2), 'merged_mask': (1, 1, 4, 4),
         'contributions': (1, 10, 4, 4)}
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        whole: AIM | SecondLook = inside(model, SecondLook) or unwrap(model)
        self.model = copy.deepcopy(whole).float().eval().requires_grad_(False)
        self.mask_names = _mask_names(self.first.stages)
        self.training = False

    @property
    def first(self) -> AIM:
        """The copied AIM, in a second look its first look."""
        return self.model.first if isinstance(self.model, SecondLook) else self.model

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of the outputs, in their order."""
        more = ("kept", "boxes") if isinstance(self.model, SecondLook) else ()
        return ("logits", *self.mask_names.values(), "merged_mask", *more, "contributions")

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Classify images, with the positions that each decision used.

        Args:
            images: (N, C, H, W), normalised.

        Returns:
            The outputs by name.
        """
        first, linear = self.first, linear_classifier(self.model)
        features = first.forward_masks(first.forward_backbone(images))
        merged_mask = features.merged_mask
        seen = {name: features.masks[stage] for stage, name in self.mask_names.items()}
        seen["merged_mask"] = merged_mask.clone()  # with the feature-preserving head it is a stage's own
        if isinstance(self.model, SecondLook):
            seen["kept"], seen["boxes"] = kept, boxes = self.model.region(merged_mask, images)
            closer = self.model.closer(images, kept, boxes)
            logits = linear(closer.mean((2, 3)))
            contributions = shares(linear, closer, torch.ones_like(closer[:, :1]), "all")
        else:
            logits = first.forward_head(features).logits
            contributions = shares(linear, features.fused, merged_mask, first.pooling)
        return {"logits": logits, **seen, "contributions": contributions}

    def metadata(self, class_names: Sequence[str] | None, preprocessing: Any) -> dict[str, str]:
        """The facts that a server needs, as strings; lists and dicts are JSON.

        Args:
            class_names: K names, or None for the model's own, or else the classes' numbers.
            preprocessing: with ``image_size`` (H, W), ``mean`` and ``std``, and perhaps ``interpolation``, ``crop``
                (the share that the central crop keeps), ``squash`` and ``window``, else the model's; None for the
                model's own.

        Returns:
            ``variant``, ``head``, ``stages``, ``masks`` (each stage's output), ``class_names`` and ``preprocessing``;
            of a second look also ``second_look`` (its arguments).

        Raises:
            TypeError: if ``preprocessing`` lacks one of those fields.
            ValueError: if neither the model nor ``preprocessing`` says how images are prepared, or the number of
                names or channels does not fit.
        """
        facts = {
            "variant": self.first.variant,
            "head": self.first.head,
            "stages": json.dumps(self.first.stages),
            "masks": json.dumps({str(stage): name for stage, name in self.mask_names.items()}),
            "class_names": json.dumps(self._class_names(class_names)),
            "preprocessing": json.dumps(self._preprocessing(preprocessing)),
        }
        if isinstance(self.model, SecondLook):
            facts["second_look"] = json.dumps(self.model._looks()[1])
        return facts

    def _class_names(self, given: Sequence[str] | None) -> list[str]:
        names = given if given is not None else self.model.class_names
        classes = max(2, self.model.num_classes)  # one logit decides between two
        names = [str(number) for number in range(classes)] if names is None else list(names)
        if len(names) != classes or not all(isinstance(name, str) for name in names):
            raise ValueError(f"class_names must be {classes} strings, one per class, got {len(names)}: {names[:5]}")
        return names

    def _preprocessing(self, given: Any) -> dict[str, Any]:
        found = given if given is not None else self.model.preprocessing
        if found is None:
            raise ValueError(
                "preprocessing: the model does not know how its images are prepared, and the exported file must "
                "contain it; pass preprocessing=dict(image_size=(224, 224), mean=(0.485, 0.456, 0.406), "
                'std=(0.229, 0.224, 0.225), interpolation="bicubic", crop=0.875) with the values of its evaluation; or '
                "save them with the model: model.save_pretrained(folder, preprocessing=aimwrap.Preprocessing(...))"
            )
        own = dict(found) if isinstance(found, Mapping) else getattr(found, "_asdict", dict)()
        missing = [name for name in ("image_size", "mean", "std") if name not in own]
        if missing:
            raise TypeError(f"preprocessing must have image_size, mean and std, got {found!r}, without {missing}")
        window = getattr(self.model.preprocessing, "window", None)
        fields = {"interpolation": "bicubic", "crop": 0.875, "squash": False, "window": window} | own
        for name in ("mean", "std"):
            if len(fields[name]) != self.model.in_channels:
                raise ValueError(
                    f"preprocessing: {name} must have one value per channel of the images, {self.model.in_channels}, "
                    f"got {fields[name]}"
                )
        return fields


def _mask_names(stages: Sequence[int | str]) -> dict[int | str, str]:
    names: dict[int | str, str] = {}
    for stage in stages:
        name = "mask_" + re.sub(r"\W", "_", str(stage))
        while name in names.values():  # "a.b" and "a_b"
            name += "_"
        names[stage] = name
    return names
