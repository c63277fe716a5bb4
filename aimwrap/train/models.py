"""The model, the loss and the optimiser that the settings ask for."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, Adam, AdamW, Optimizer

from ..backbones.create import create_backbone, find_builder
from ..backbones.inspection import import_backbone
from ..backbones.plain import PlainClassifier
from ..loss import AIMLoss
from ..model import AIM
from ..output import AIMOutput
from ..preprocessing import Preprocessing
from .distributed import mean_over_processes
from .settings import Settings

_IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # mean and deviation, where no record tells others


class PlainLoss(nn.Module):
    """Cross entropy of a model without masks."""

    def forward(self, output: AIMOutput, labels: Tensor) -> Tensor:
        """The scalar to back-propagate, from labels (N,)."""
        wide = torch.promote_types(output.logits.dtype, torch.float32)
        return F.cross_entropy(output.logits.to(wide), labels)


def build_model(settings: Settings, num_classes: int) -> AIM | PlainClassifier:
    """Build the model with its weights before training.

    Args:
        settings: of the run.
        num_classes: K, of the data set.

    Returns:
        AIM, or the plain classifier, with what is frozen frozen and ``preprocessing`` set.

    Raises:
        ValueError: if the backbone is unknown or cannot be wrapped, or nothing says how its images are prepared.
    """
    model: AIM | PlainClassifier
    kwargs = None if ":" in settings.backbone else _builder_arguments(settings, num_classes)
    if settings.method == "aim":
        tau = settings.tau[0] if len(settings.tau) == 1 else settings.tau
        backbone = import_backbone(settings.backbone) if kwargs is None else settings.backbone
        model = AIM(
            backbone,
            settings.stages,
            tau,
            num_classes=num_classes,
            head=settings.head,
            labels_move_area=settings.labels_move_area,
            backbone_kwargs=kwargs,
        )
    else:
        plain = import_backbone(settings.backbone) if kwargs is None else create_backbone(settings.backbone, kwargs)
        model = PlainClassifier(plain, num_classes)
    if settings.frozen == "backbone":
        model.freeze_backbone()
    elif settings.frozen == "norm-statistics":
        model.freeze_norm_statistics()
    model.preprocessing = _preprocessing(model.preprocessing, settings)
    return model


def build_criterion(settings: Settings, model: AIM | PlainClassifier) -> AIMLoss | PlainLoss:
    """The loss: :class:`~aimwrap.AIMLoss` with the model's tau, or cross entropy."""
    if not isinstance(model, AIM):
        return PlainLoss()
    return AIMLoss(
        tau=model.tau, mask_weight=settings.mask_weight, area_per=settings.area_per, batch_mean=mean_over_processes
    )


def build_optimizer(settings: Settings, model: AIM | PlainClassifier) -> Optimizer:
    """The optimiser over the model's parameter groups."""
    if isinstance(model, AIM):
        groups = model.parameter_groups(settings.lr, settings.head_lr, settings.mask_lr)
    else:
        groups = model.parameter_groups(settings.lr, settings.head_lr)
    if settings.optimizer == "sgd":
        return SGD(groups, settings.lr, momentum=settings.momentum, weight_decay=settings.weight_decay)
    kind = AdamW if settings.optimizer == "adamw" else Adam
    return kind(groups, settings.lr, weight_decay=settings.weight_decay)


def variant_of(settings: Settings, model: AIM | PlainClassifier) -> str:
    """What a model is, in words: checkpoints keep it, so that another variant's is noticed."""
    if isinstance(model, AIM):
        moved = ", labels move the area" if model.labels_move_area else ""
        return f"{model.variant}, {model.head} head{moved}, {model.num_classes} classes"
    return f"{settings.backbone}, plain, {model.num_classes} classes"


def _builder_arguments(settings: Settings, num_classes: int) -> dict[str, object]:
    library, _ = find_builder(settings.backbone)
    if library == "timm":
        return {"pretrained": settings.pretrained, "num_classes": num_classes}
    return {"weights": "DEFAULT"} if settings.pretrained else {}


def _preprocessing(found: Preprocessing | None, settings: Settings) -> Preprocessing:
    side = settings.image_size
    if found is None:
        if side is None:
            raise ValueError(
                f"image_size must be given: {settings.backbone} does not say what images it was made for. They are "
                "then normalised with ImageNet's mean and deviation"
            )
        found = Preprocessing((side, side), *_IMAGENET)
    return found._replace(
        image_size=found.image_size if side is None else (side, side),
        crop=found.crop if settings.crop is None else settings.crop,
        squash=settings.squash or found.squash,
    )
