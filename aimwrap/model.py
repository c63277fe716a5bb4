"""AIM: a backbone, masks on its feature maps, and classifiers that see only what the masks keep (paper Figure 2)."""

from __future__ import annotations

import copy as copying
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ._checks import (
    check_arguments,
    check_images,
    check_noise_seeds,
    check_taps,
    given_masks,
    number_of_classes,
    per_stage,
)
from ._numerics import in_precision
from .backbones.create import create_backbone
from .backbones.records import class_names_of, preprocessing_of
from .base import AIMBase, architecture_of, fresh_linear, notation
from .gumbel import binary_gumbel_softmax, budgeted_mask, perturb, rank_only, straight_through
from .mask_estimator import MaskContext, MaskEstimator, MaskNorm, MaskPadding
from .output import AIMOutput, MaskedFeatures, Prediction
from .sharing import Shareable
from .sharing.recipe import Recipe, builder_of, parts_of
from .taps import FINAL, Stage, tap_backbone
from .top_down import FeaturePreservingTopDown, Head, PaperTopDown, Pooling


class AIM(Shareable, AIMBase):
    """Wrap a CNN classifier so that it chooses, per image, which positions of its feature maps the decision may use.

    The backbone's own classifier is not used: AIM adds new classifiers, which have to be trained. The backbone's
    parameters are shared, not copied. Its layers after the deepest tapped map, or after the final map with the
    feature-preserving head, are neither run nor trained.

    Reference: Alshami et al., "AIM: Amending Inherent Interpretability via Self-Supervised Masking", ICCV 2025.

    Args:
        backbone: a CNN classifier, or the name of a timm or torchvision model. It is not changed.
        stages: stages to tap: numbers, where stage k is the last map at stride 4 * 2^k (0..3 at strides 4..32), or node
            names. Where a backbone has one resolution, as ViTs do, numbers of which one is above 3 count its blocks.
            Networks for small images, which end at stride 8 or less, have their stages in order. The paper also counts
            a ResNet's stem: its ``ResNet50+AIM(3)`` is ``stages=[2, 3]`` here.
        tau: the share of positions that each mask should keep, in (0, 1]: a float, or one per stage in the order of
            ``stages``. The model only declares it; :class:`~aimwrap.AIMLoss` pulls towards it.
        num_classes: K; taken from the backbone's classifier if None. A single logit's sign decides between two classes.
        head: ``"feature-preserving"``: no new transforms, the masks select positions of the backbone's own final map;
            or ``"paper"``, the paper's head, whose masks the study on real photographs found on the background where
            every training image shows its label's background.
        width: D, the transforms' common width (paper head only).
        mask_width: hidden channels of the mask estimators.
        mask_norm: norm inside the mask estimators: ``"layer"``, ``"batch"`` or ``"none"``.
        mask_padding: outside the border of their maps: ``"replicate"`` repeats the edge, ``"zeros"`` is the paper's.
        mask_context: the global average that they read: ``"normalised"`` without gradient, or ``"raw"``, the paper's.
        logit_spread: standard deviation of an image's mask logits over its positions; ``None`` leaves them free, as the
            paper does, but then masks die easily.
        logit_range: bound on the mask logits' absolute value, so that no mask gets stuck; ``math.inf`` for none.
        labels_move_area: whether the classification losses may shift all mask logits of an image together, as in the
            paper. By default they only order the positions, and the area loss decides how many are open: near an empty
            mask, the removed part of their gradient is large enough to open all masks fully.
        pooling: average over ``"active"`` positions or over ``"all"``.
        temperature: of the Gumbel-softmax. Not the area, which is ``tau``.
        example_input: images (N, C, H, W), for a backbone that takes unusual ones.
        copy: tap a deep copy, so that training the wrapped model does not change the backbone that was passed.
        backbone_kwargs: arguments of the builder where ``backbone`` is a name.

    Attributes:
        tau: the declared areas, one float per stage, shallow to deep.
        taps: the tapped maps: stage, node, channels, stride and size, shallow to deep.
        classified: the backbone's final map, which the feature-preserving head selects from; else None.
        variant: stages and areas in the paper's notation, and the head where the method is not the paper's.
        preprocessing: how images should be prepared, if the backbone's record says so; may be assigned.
        class_names: assign one name per class, two for a single logit; they are saved with the model. Those that a
            model of transformers has in its config are there already.

    Raises:
        TypeError: if the backbone or a stage is of the wrong type.
        ValueError: if a stage does not exist, tau does not fit, the backbone cannot be run or traced, or its number of
            classes is unknown.

    Example:
        >>> import torch, torchvision
        >>> model = AIM(torchvision.models.resnet18(num_classes=10), stages=[2, 3], tau=0.25)
        >>> model.variant
        'ResNet+AIM [3, 25%], feature-preserving head'
        >>> output = model.eval()(torch.zeros(1, 3, 64, 64))
        >>> output.logits.shape, {stage: tuple(mask.shape) for stage, mask in output.masks.items()}
        (torch.Size([1, 10]), {2: (1, 1, 4, 4), 3: (1, 1, 2, 2)})
    """

    @torch.inference_mode(False)  # what is made under it could never be trained
    def __init__(
        self,
        backbone: nn.Module | str,
        stages: Sequence[Stage] = (2, 3),
        tau: float | Sequence[float] = 0.25,
        *,
        num_classes: int | None = None,
        head: Head = "feature-preserving",
        width: int = 256,
        mask_width: int = 32,
        mask_norm: MaskNorm = "layer",
        mask_padding: MaskPadding = "replicate",
        mask_context: MaskContext = "normalised",
        logit_spread: float | None = 4.0,
        logit_range: float = 6.0,
        labels_move_area: bool = False,
        pooling: Pooling = "active",
        temperature: float = 1.0,
        example_input: Tensor | None = None,
        copy: bool = False,
        backbone_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        area_of = check_arguments(
            stages=stages,
            tau=tau,
            num_classes=num_classes,
            head=head,
            width=width,
            mask_width=mask_width,
            mask_norm=mask_norm,
            mask_padding=mask_padding,
            mask_context=mask_context,
            logit_spread=logit_spread,
            logit_range=logit_range,
            labels_move_area=labels_move_area,
            pooling=pooling,
            temperature=temperature,
        )
        if isinstance(backbone, nn.Module) and any(isinstance(module, AIM) for module in backbone.modules()):
            raise TypeError("backbone is an AIM, or has one in it; pass the network that it was made of")
        name = backbone if isinstance(backbone, str) else None
        if isinstance(backbone, str):
            backbone = create_backbone(backbone, backbone_kwargs)
        elif backbone_kwargs is not None:
            raise ValueError("backbone_kwargs builds a backbone given by name; this one is already a module")
        tapped = tap_backbone(
            copying.deepcopy(backbone) if copy else backbone,
            list(area_of),
            final=head == "feature-preserving",
            example_input=example_input,
        )
        check_taps(tapped)
        self.taps, self.classified = tapped.taps, tapped.final
        self.tau = tuple(area_of[tap.stage] for tap in self.taps)
        self.num_classes = number_of_classes(num_classes, tapped)
        self.head, self.pooling, self.temperature = head, pooling, temperature
        self.labels_move_area = labels_move_area
        self.in_channels = tapped.image_shape[0]
        self._notation = f"{name or architecture_of(backbone)}+AIM {notation(tapped, self.tau)}"
        self._bare = (tapped.parameters, tapped.macs, tapped.image_shape)
        self.preprocessing = preprocessing_of(backbone, self.in_channels)
        self.class_names = class_names_of(backbone, self.num_classes)
        parts = parts_of(backbone, tapped.backbone)
        made_by = builder_of(backbone, name, backbone_kwargs, self.in_channels)
        self._recipe = Recipe(*made_by, tapped.image_shape, width, mask_width, mask_norm, parts)

        channels, final = [tap.channels for tap in self.taps], tapped.final
        self.backbone = tapped.backbone
        self.top_down = (
            PaperTopDown(channels, width) if final is None else FeaturePreservingTopDown(channels, final.channels)
        )
        self.mask_estimators = nn.ModuleDict(
            {
                _key(tap.stage): MaskEstimator(
                    evidence, mask_width, mask_norm, logit_spread, logit_range, mask_padding, mask_context
                )
                for tap, evidence in zip(self.taps, self.top_down.evidence_channels, strict=True)
            }
        )
        self.stage_classifiers = nn.ModuleDict(
            {_key(tap.stage): fresh_linear(self.top_down.out_channels, self.num_classes) for tap in self.taps}
        )
        self.classifier = fresh_linear(self.top_down.out_channels, self.num_classes)
        self._follow_backbone()

    def forward(
        self, images: Tensor, masks: Mapping[Stage, Tensor] | None = None, noise_seeds: Tensor | None = None
    ) -> AIMOutput:
        """Classify images by what the masks keep of them.

        Args:
            images: (N, C, H, W), floating, normalised as in the backbone's own training.
            masks: masks to use instead of the estimators' own, by stage, each of a shape that broadcasts to
                (N, 1, H_l, W_l); their values are not checked. ``torch.ones(1, 1, 1, 1)`` for every stage holds
                all masks open: the control.
            noise_seeds: int64 (N,), one number per image, from which its masks' training noise is made, independent of
                the other images and processes. None draws the noise from torch's generator.

        Returns:
            Logits, stage logits and masks, in training and in evaluation alike.

        Raises:
            TypeError: if the images are not floating, or the noise seeds not int64.
            ValueError: if the images' rank, channels or size do not fit, or given masks are not for these stages.
        """
        return self.forward_head(self.forward_masks(self.forward_backbone(images), masks, noise_seeds))

    def forward_backbone(self, images: Tensor) -> dict[str, Tensor]:
        """The bottom-up pathway alone: the tapped maps S_l(x_l). With a frozen backbone they may be cached.

        Args:
            images: (N, C, H, W).

        Returns:
            Maps (N, C_l, H_l, W_l), by the stages' names, and the final map where the head selects from it.
        """
        check_images(images, self.in_channels, self.classifier, self._least_side)
        own = [*self.classifier.parameters(), images][0].dtype
        return in_precision(self.backbone(images), own, images.dtype)  # S_l(x_l)

    def forward_masks(
        self, maps: Mapping[str, Tensor], masks: Mapping[Stage, Tensor] | None = None, noise_seeds: Tensor | None = None
    ) -> MaskedFeatures:
        """The top-down pathway: transform the maps, and estimate the masks that select from them.

        Args:
            maps: from :meth:`forward_backbone`.
            masks: as in :meth:`forward`.
            noise_seeds: as in :meth:`forward`.

        Returns:
            Features and masks; the masked maps and the fused one when they are asked for.
        """
        tapped = self._tapped(maps)
        features = self.top_down(tapped, maps.get(FINAL))  # T_l(S_l(x_l))
        if masks is None:
            attention = self._scores(maps, bounded=True)  # A_l = M(S_l(x_l)), eq. 1
            binary, selected = self._binarise(attention, noise_seeds)  # B_l = G(A_l), eq. 2
        else:
            attention, binary = [], given_masks(masks, self.stages, tapped)
            selected = binary
        lists = attention, binary, selected, features
        return MaskedFeatures(self.top_down, *(dict(zip(self.stages, values, strict=False)) for values in lists))

    def forward_head(self, features: MaskedFeatures) -> AIMOutput:
        """The classifiers: each stage's on its own masked map, before any merging, and the final one on the fused map.

        Args:
            features: from :meth:`forward_masks`.

        Returns:
            Logits, stage logits and masks.
        """
        # O_l = T_l(S_l(x_l)) x B_l (eq. 3), merged coarse to fine into O_final; each averaged over its positions
        given, selected = list(features.features.values()), list(features.selections.values())
        means, final_mean = self.top_down.means(given, selected, self.pooling)
        classifiers = zip(self.stages, self.stage_classifiers.values(), means, strict=True)
        stage_logits = {stage: classify(mean) for stage, classify, mean in classifiers}  # f_l(O_l), eq. 4
        return AIMOutput(self.classifier(final_mean), stage_logits, features.masks)  # f_final(O_final), eq. 5

    @torch.no_grad()
    def predict(self, images: Tensor, area: float | Sequence[float] | None = None) -> Prediction:
        """Classify images for serving: only logits and masks, without the stage classifiers.

        Args:
            images: as in :meth:`forward`.
            area: open exactly this share of every mask, at least one position, those with the highest logits before
                ``logit_range`` bounds them: a float, or one per stage, shallow to deep. None keeps the masks.

        Returns:
            Logits and masks; without ``area`` those of :meth:`forward`.

        Raises:
            RuntimeError: if the model is in training mode.
            TypeError: if the images or the area are of the wrong type.
            ValueError: if the images do not fit, or an area is not in (0, 1] or of the wrong number.

        Example:
            >>> import torch, torchvision
            >>> model = AIM(torchvision.models.resnet18(num_classes=10), stages=[2, 3]).eval()
            >>> logits, masks = model.predict(torch.randn(4, 3, 64, 64), area=0.25)
            >>> masks[2].sum((1, 2, 3))
            tensor([4., 4., 4., 4.])
        """
        if self.training:
            raise RuntimeError("predict() serves a trained model, and this one is in training mode; call model.eval()")
        areas = None if area is None else per_stage(area, len(self.stages), "area")
        maps = self.forward_backbone(images)
        return self._decided(maps, self._scores(maps, bounded=areas is None), areas)

    def _tapped(self, maps: Mapping[str, Tensor]) -> list[Tensor]:
        return [maps[str(stage)] for stage in self.stages]

    def _scores(self, maps: Mapping[str, Tensor], bounded: bool = False) -> list[Tensor]:
        """A_l = M(S_l(x_l)), eq. 1, or its values before ``logit_range`` bounds them, which order all positions."""
        estimators = zip(self.mask_estimators.values(), self.top_down.evidence(self._tapped(maps)), strict=True)
        return [(m if bounded else m.score)(*x) for m, x in estimators]  # type: ignore[operator]

    def _decided(self, maps: Mapping[str, Tensor], scores: list[Tensor], areas: Sequence[float] | None) -> Prediction:
        """Eq. 2 without noise, or masks of exactly these areas; then eq. 3 and 5."""
        if areas is None:
            masks = [binary_gumbel_softmax(score, training=False) for score in scores]
        else:
            masks = [budgeted_mask(score, area) for score, area in zip(scores, areas, strict=True)]
        features = self.top_down(self._tapped(maps), maps.get(FINAL))
        _, final_mean = self.top_down.means(features, masks, self.pooling)
        return Prediction(self.classifier(final_mean), dict(zip(self.stages, masks, strict=True)))

    def _binarise(self, attention: list[Tensor], noise_seeds: Tensor | None) -> tuple[list[Tensor], list[Tensor]]:
        """B_l = G(A_l), eq. 2, twice from the same noise: for the area loss, and for what selects features."""
        if noise_seeds is not None:
            check_noise_seeds(noise_seeds, len(attention[0]))
        binary, selected = [], []
        for number, a in enumerate(attention):
            noisy = perturb(a, training=self.training, seeds=noise_seeds, stream=number)
            binary.append(straight_through(noisy, self.temperature).to(a.dtype))
            ranked = noisy if self.labels_move_area else rank_only(noisy)
            selected.append(straight_through(ranked, self.temperature).to(a.dtype))
        return binary, selected


def _key(stage: Stage) -> str:
    """A stage's name among the submodules, which may not contain a dot."""
    return f"stage_{stage}".replace(".", "-")
