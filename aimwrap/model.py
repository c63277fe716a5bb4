"""AIM: a backbone, masks on its feature maps, and classifiers that see only what the masks keep (paper Figure 2)."""

from __future__ import annotations

import copy as copying
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from ._checks import (
    areas_by_stage,
    check_choices,
    check_distinct,
    check_images,
    check_noise_seeds,
    check_positive,
    number_of_classes,
    per_stage,
    warn_without_deepest,
)
from .backbones.create import create_backbone
from .base import Cost, architecture_of, misfit, notation, parameter_groups
from .gumbel import budgeted_mask, perturb, rank_only, straight_through
from .mask_estimator import MaskEstimator, MaskNorm
from .output import AIMOutput, MaskedFeatures, Prediction
from .preprocessing import Preprocessing, preprocessing_of
from .sharing import Shareable
from .sharing.recipe import Recipe, backbone_record
from .taps import FINAL, Stage, count_macs, tap_backbone
from .top_down import FeaturePreservingTopDown, Head, PaperTopDown, Pooling


class AIM(nn.Module, Shareable):
    """Wrap a CNN classifier so that it chooses, per image, which positions of its feature maps the decision may use.

    The backbone's own classifier is not used: AIM brings classifiers of its own, which have to be trained. The
    backbone's parameters are shared, not copied. What lies behind its deepest tap, or behind its final map with the
    feature-preserving head, is neither run nor trained.

    Reference: Alshami et al., "AIM: Amending Inherent Interpretability via Self-Supervised Masking", ICCV 2025.

    Args:
        backbone: a CNN classifier, or the name of a timm or torchvision model. It is left as it was found.
        stages: stages to tap: numbers, where stage k is the last map at stride 4 * 2^k (0..3 at strides 4..32), or node
            names. Where a backbone has one resolution, as ViTs do, numbers of which one is above 3 count its blocks.
            Networks for small images, which end at stride 8 or less, have their stages in order. The paper's count of a
            ResNet includes the stem: its ``ResNet50+AIM(3)`` is ``stages=[2, 3]`` here.
        tau: the area each mask is to keep, in (0, 1]: a float, or one per stage in the order of ``stages``. The model
            only declares it; :class:`~aimwrap.AIMLoss` pulls towards it.
        num_classes: K; read off the backbone's classifier if None.
        head: ``"feature-preserving"``: no new transforms, the masks select positions of the backbone's own final map;
            or ``"paper"``, to the letter. The study on real photographs set the default: with a perfect tie the
            paper's head puts its masks on the background.
        width: D, the transforms' common width (paper head only).
        mask_width: hidden channels of the mask estimators.
        mask_norm: norm inside the mask estimators: ``"layer"``, ``"batch"`` or ``"none"``.
        logit_spread: standard deviation of an image's mask logits over its positions; ``None`` leaves them free, as the
            paper does, and masks then die easily.
        logit_range: bound on the mask logits' size, so that no mask gets stuck; ``math.inf`` for none.
        labels_move_area: whether the classification losses may shift all mask logits of an image together, as in the
            paper. By default that part of their gradient is taken out, so that they order the positions and only the
            area loss pulls at how many are open: near an empty mask it is large enough to throw all masks fully open.
        pooling: average over ``"active"`` positions or over ``"all"``.
        temperature: of the Gumbel-softmax. Not the area, which is ``tau``.
        example_input: images (N, C, H, W) as the backbone takes them, where it takes unusual ones.
        copy: tap a deep copy, so that training the wrapped model does not move the backbone that was passed.
        backbone_kwargs: arguments of the builder where ``backbone`` is a name.

    Attributes:
        tau: the declared areas, one float per stage, shallow to deep.
        taps: what was tapped: stage, node, channels, stride and size, shallow to deep.
        classified: the backbone's final map, which the feature-preserving head selects from; None with the paper's.
        variant: the stages and areas in the paper's notation and count, such as ``"ResNet+AIM [3, 25%]"``, whatever
            the head.
        preprocessing: how images are to be prepared, where the backbone's record tells; assign your own. It describes,
            and changes no image.
        class_names: assign one name per class; they are saved with the model.

    Raises:
        TypeError: if the backbone or a stage is of the wrong type.
        ValueError: if a stage does not exist, tau does not fit, the backbone cannot be run or traced, or its number of
            classes cannot be seen.

    Example:
        >>> import torch, torchvision
        >>> model = AIM(torchvision.models.resnet18(num_classes=10), stages=[2, 3], tau=0.25)
        >>> model.variant
        'ResNet+AIM [3, 25%]'
        >>> output = model.eval()(torch.zeros(1, 3, 64, 64))
        >>> output.logits.shape, {stage: tuple(mask.shape) for stage, mask in output.masks.items()}
        (torch.Size([1, 10]), {2: (1, 1, 4, 4), 3: (1, 1, 2, 2)})
    """

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
        area_of = areas_by_stage(stages, tau)
        check_choices(head=(head, Head), pooling=(pooling, Pooling))
        check_positive(width=width, mask_width=mask_width, temperature=temperature)
        name = backbone if isinstance(backbone, str) else None
        if isinstance(backbone, str):
            architecture, backbone = backbone, create_backbone(backbone, backbone_kwargs)
        elif backbone_kwargs is not None:
            raise ValueError("backbone_kwargs builds a backbone given by name; this one is already a module")
        else:
            architecture = architecture_of(backbone)
        tapped = tap_backbone(
            copying.deepcopy(backbone) if copy else backbone,
            stages,
            final=head == "feature-preserving",
            example_input=example_input,
        )
        self.taps = tapped.taps
        check_distinct(self.taps)
        self.tau = tuple(area_of[tap.stage] for tap in self.taps)
        self.num_classes = number_of_classes(num_classes, tapped)
        self.head = head
        self.labels_move_area = labels_move_area
        self.pooling: Pooling = pooling
        self.temperature = temperature
        self.in_channels = tapped.image_shape[0]
        self.classified = tapped.final
        self.variant = f"{architecture}+AIM {notation(tapped, self.tau)}"
        self._bare = (tapped.parameters, tapped.macs, tapped.image_shape)
        self.preprocessing: Preprocessing | None = preprocessing_of(backbone)
        self.class_names: tuple[str, ...] | None = None
        came_from = backbone_record(backbone, name, backbone_kwargs, tapped.image_shape[0])
        self._recipe = Recipe(came_from, tapped.image_shape, width, mask_width, mask_norm)

        channels = [tap.channels for tap in self.taps]
        self.backbone = tapped.backbone
        self.top_down = (
            PaperTopDown(channels, width)
            if tapped.final is None
            else FeaturePreservingTopDown(channels, tapped.final.channels)
        )
        self.mask_estimators = nn.ModuleDict(
            {
                _key(tap.stage): MaskEstimator(evidence, mask_width, mask_norm, logit_spread, logit_range)
                for tap, evidence in zip(self.taps, self.top_down.evidence_channels, strict=True)
            }
        )
        self.stage_classifiers = nn.ModuleDict(
            {_key(tap.stage): _classifier(self.top_down.out_channels, self.num_classes) for tap in self.taps}
        )
        self.classifier = _classifier(self.top_down.out_channels, self.num_classes)
        self._follow(tapped.backbone)
        warn_without_deepest(tapped)

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The stages as the user named them, shallow to deep."""
        return tuple(tap.stage for tap in self.taps)

    def forward(
        self, images: Tensor, masks: Mapping[Stage, Tensor] | None = None, noise_seeds: Tensor | None = None
    ) -> AIMOutput:
        """Classify images by what the masks keep of them.

        Args:
            images: (N, C, H, W), floating, normalised as the backbone's own training did.
            masks: masks to use instead of the estimators' own, by stage, each of a shape that broadcasts to
                (N, 1, H_l, W_l); their values are not checked. ``torch.ones(1, 1, 1, 1)`` for every stage holds
                all masks open: the control.
            noise_seeds: int64 (N,), a number per image that its masks' noise is made of in training, whatever other
                images and processes there are. None draws it from torch's generator.

        Returns:
            Logits, stage logits and masks, in training and in evaluation alike.

        Raises:
            TypeError: if the images are not floating, or the noise seeds not int64.
            ValueError: if the images' rank, channels or size do not fit, or given masks are not for these stages.
        """
        return self.forward_head(self.forward_masks(self.forward_backbone(images), masks, noise_seeds))

    @torch.no_grad()
    def predict(self, images: Tensor, area: float | Sequence[float] | None = None) -> Prediction:
        """Classify images for serving: logits and masks alone, as fast as the masks allow.

        The stage classifiers are not run. On CPUs the paper's head transforms only positions that the masks keep, where
        these are few enough for it to pay (benchmarks: ``overhead/overhead.py sparsity``).

        Args:
            images: as in :meth:`forward`.
            area: open exactly this share of every mask, at least one position, those with the highest mask logits
                before ``logit_range`` bounds them: a float, or one per stage, shallow to deep. None takes the masks as
                they are.

        Returns:
            Logits and masks. Without ``area`` the masks are those of :meth:`forward`, and the logits too, but for the
            order of sums: within 1e-6 of them in float32, relative to the largest.

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
        tapped = [maps[str(stage)] for stage in self.stages]
        masks = (
            self._binarise(self._estimate(tapped))[0] if areas is None else self._budgeted(self._score(tapped), areas)
        )
        return self._predicted(maps, masks)

    def forward_backbone(self, images: Tensor) -> dict[str, Tensor]:
        """The bottom-up pathway alone: the tapped maps S_l(x_l), which a frozen backbone's user may cache.

        Args:
            images: (N, C, H, W).

        Returns:
            Maps (N, C_l, H_l, W_l), by the stages' names, and the final map where the head selects from it.
        """
        check_images(images, self.in_channels, self.classifier, self._least_side)
        maps: dict[str, Tensor] = self.backbone(images)
        return maps

    def forward_masks(
        self,
        maps: Mapping[str, Tensor],
        masks: Mapping[Stage, Tensor] | None = None,
        noise_seeds: Tensor | None = None,
    ) -> MaskedFeatures:
        """The top-down pathway: transform the maps, and estimate the masks that select from them.

        Args:
            maps: from :meth:`forward_backbone`.
            masks: as in :meth:`forward`.
            noise_seeds: as in :meth:`forward`.

        Returns:
            Features and masks; the masked maps and the fused one when they are asked for.
        """
        tapped = [maps[str(stage)] for stage in self.stages]
        features = self.top_down(tapped, maps.get(FINAL))  # T_l(S_l(x_l))
        attention = [] if masks is not None else self._estimate(tapped)  # A_l = M(S_l(x_l)), eq. 1
        binary, selections = (  # B_l, eq. 2
            self._binarise(attention, noise_seeds) if masks is None else self._given(masks, tapped)
        )
        return MaskedFeatures(
            self.top_down,
            dict(zip(self.stages, attention, strict=False)),
            dict(zip(self.stages, binary, strict=True)),
            dict(zip(self.stages, selections, strict=True)),
            dict(zip(self.stages, features, strict=True)),
        )

    def forward_head(self, features: MaskedFeatures) -> AIMOutput:
        """The classifiers: each stage's on its own masked map, before any merging, and the final one on the fused map.

        Args:
            features: from :meth:`forward_masks`.

        Returns:
            Logits, stage logits and masks.
        """
        transformed, selections = list(features.features.values()), list(features.selections.values())
        # O_l = T_l(S_l(x_l)) x B_l (eq. 3) and, coarse to fine, O_final: averaged over positions
        means, final_mean = self.top_down.means(transformed, selections, self.pooling)
        stage_logits = {
            stage: self.stage_classifiers[_key(stage)](mean)  # f_l(O_l), eq. 4
            for stage, mean in zip(self.stages, means, strict=True)
        }
        return AIMOutput(self.classifier(final_mean), stage_logits, features.masks)  # f_final(O_final), eq. 5

    def freeze_backbone(self, up_to: Stage | None = None) -> AIM:
        """Stop training the backbone, or the part of it that a stage's map depends on.

        What is frozen also stays in evaluation mode when ``train()`` is called: its norms keep their statistics, its
        dropout stays off. Freezing another part later adds to the first.

        Args:
            up_to: one of :attr:`stages`: what comes behind its map goes on training. None freezes the whole backbone.

        Returns:
            The model itself.

        Raises:
            ValueError: if ``up_to`` is none of the stages.

        Example:
            >>> import torchvision
            >>> model = AIM(torchvision.models.resnet18(num_classes=10), stages=[2, 3]).freeze_backbone(up_to=2).train()
            >>> {name.split(".")[0] for name, p in model.backbone.named_parameters() if p.requires_grad}
            {'layer4'}
            >>> [model.backbone.get_submodule(name).training for name in ("layer3.0.bn1", "layer4.0.bn1")]
            [False, True]
        """
        if up_to is not None and up_to not in self.stages:
            raise ValueError(
                f"up_to must be one of the tapped stages {list(self.stages)}, or None for all, got {up_to!r}"
            )
        self.backbone.freeze_tapped(None if up_to is None else str(up_to))
        return self

    def freeze_norm_statistics(self) -> AIM:
        """Keep the backbone's running statistics (BatchNorm's) as they are while its weights go on training.

        Such norms stay in evaluation mode when ``train()`` is called. On small or biased training sets this matters
        more than most settings do. It changes nothing where norms have no running statistics, as in ConvNeXt.

        Returns:
            The model itself.
        """
        self.backbone.freeze_tapped_statistics()
        return self

    def unfreeze_backbone(self) -> AIM:
        """Train the whole backbone again, norm statistics included, with every module in the model's own mode.

        Returns:
            The model itself.
        """
        self.backbone.unfreeze_tapped()
        return self.train(self.training)

    def parameter_groups(
        self, lr: float, head_lr: float | None = None, mask_lr: float | None = None
    ) -> list[dict[str, Any]]:
        """Sort the trainable parameters for an optimiser: each once, by learning rate and weight decay.

        Norms, biases, other vectors and scalars, and the mask estimators get ``weight_decay=0``; the others the
        optimiser's own. Freeze first: frozen parameters are left out.

        Args:
            lr: learning rate of the backbone.
            head_lr: of transforms and classifiers; ``lr`` if None.
            mask_lr: of the mask estimators; ``head_lr`` if None.

        Returns:
            Groups with ``name``, ``params``, ``lr`` and perhaps ``weight_decay``, none of them empty.

        Raises:
            ValueError: if a rate is negative, or nothing is trainable.

        Example:
            >>> import torch, torchvision
            >>> model = AIM(torchvision.models.resnet18(num_classes=10), stages=[2, 3])
            >>> groups = model.parameter_groups(lr=1e-5, head_lr=1e-3)
            >>> [group["name"] for group in groups]
            ['backbone', 'backbone, no decay', 'head', 'head, no decay', 'masks, no decay']
            >>> optimizer = torch.optim.AdamW(groups, weight_decay=0.05)
        """
        return parameter_groups(self, lr, head_lr, mask_lr)

    def cost(self) -> Cost:
        """Count parameters and multiply-accumulates, beside those of the backbone as it came.

        Returns:
            The counts for one image of the size that the backbone was probed with (its own, or 224 x 224).
        """
        backbone_parameters, backbone_macs, image_shape = self._bare
        macs = count_macs(self, (1, *image_shape))
        parameters = sum(parameter.numel() for parameter in self.parameters())
        return Cost(
            parameters,
            macs,
            backbone_parameters,
            backbone_macs,
            parameters - sum(parameter.numel() for parameter in self.backbone.parameters()),
            macs - count_macs(self.backbone, (1, *image_shape)),
            (image_shape[1], image_shape[2]),
        )

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load a checkpoint, as ``nn.Module.load_state_dict`` does, naming what differs where it is another variant's.

        Raises:
            RuntimeError: if the checkpoint does not fit.
        """
        try:
            return super().load_state_dict(state_dict, strict, assign)
        except RuntimeError as error:
            raise RuntimeError(f"{misfit(self, state_dict)}\n{error}") from error

    def extra_repr(self) -> str:
        """The variant, the taps and the cost."""
        taps = [
            f"stage {tap.stage!r}: {tap.node}, {tap.channels} channels, stride {tap.stride}, tau {area:g}"
            for tap, area in zip(self.taps, self.tau, strict=True)
        ]
        if self.classified is not None:
            final = self.classified
            taps.append(f"classified: {final.node}, {final.channels} channels, stride {final.stride}")
        try:
            taps.append(str(self.cost()))
        # A model that cannot run, or be copied, as it is can still be looked at; FSDP asserts that it is not copied.
        except (RuntimeError, TypeError, ValueError, AssertionError) as error:
            taps.append(f"cost unknown: {type(error).__name__}")
        title = f"{self.variant}, {self.head} head, {self.num_classes} classes, mean over {self.pooling} positions"
        title += ", labels move the area" if self.labels_move_area else ""
        return "\n".join([title, *taps])

    def _estimate(self, maps: Sequence[Tensor]) -> list[Tensor]:
        evidence = self.top_down.evidence(maps)
        return [estimator(*read) for estimator, read in zip(self.mask_estimators.values(), evidence, strict=True)]

    def _score(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """The logits before they are bounded, which rank positions beyond the bound too."""
        estimators = cast(Iterable[MaskEstimator], self.mask_estimators.values())
        return [e.score(*read) for e, read in zip(estimators, self.top_down.evidence(maps), strict=True)]

    def _budgeted(self, scores: Sequence[Tensor], areas: Sequence[float]) -> list[Tensor]:
        return [budgeted_mask(score, area) for score, area in zip(scores, areas, strict=True)]

    def _predicted(self, maps: Mapping[str, Tensor], masks: Sequence[Tensor]) -> Prediction:
        tapped = [maps[str(stage)] for stage in self.stages]
        mean = self.top_down.final_mean(tapped, maps.get(FINAL), masks, self.pooling)
        return Prediction(self.classifier(mean), dict(zip(self.stages, masks, strict=True)))

    def _binarise(
        self, attention: Sequence[Tensor], noise_seeds: Tensor | None = None
    ) -> tuple[list[Tensor], list[Tensor]]:
        """B_l = G(A_l), eq. 2, twice from the same noise: for the area loss, and for what selects features."""
        if noise_seeds is not None:
            check_noise_seeds(noise_seeds, len(attention[0]))
        noisy = [
            perturb(a, training=self.training, seeds=noise_seeds, stream=number) for number, a in enumerate(attention)
        ]
        binary = [straight_through(a, self.temperature).to(x.dtype) for a, x in zip(noisy, attention, strict=True)]
        if self.labels_move_area:
            return binary, binary
        ranked = [straight_through(rank_only(a), self.temperature) for a in noisy]
        return binary, [mask.to(x.dtype) for mask, x in zip(ranked, attention, strict=True)]

    def _given(self, masks: Mapping[Stage, Tensor], maps: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        if set(masks) != set(self.stages):
            raise ValueError(f"masks must be given for the stages {list(self.stages)}, got {list(masks)}")
        given = []
        for stage, x in zip(self.stages, maps, strict=True):
            shape = (len(x), 1, *x.shape[-2:])
            try:
                given.append(masks[stage].to(x).expand(shape))
            except RuntimeError as error:
                raise ValueError(
                    f"the mask given for stage {stage!r} must broadcast to {shape}, got {tuple(masks[stage].shape)}; "
                    "masks have a channel dimension of 1, and torch.ones(1, 1, 1, 1) holds a stage open"
                ) from error
        return given, given

    @property
    def _least_side(self) -> int:
        """Of the images, in pixels: one position of the deepest map."""
        return max(tap.stride for tap in (self.taps[-1], self.classified) if tap is not None)

    def _follow(self, backbone: nn.Module) -> None:
        """New modules take the backbone's device, dtype and mode."""
        like = next((p for p in backbone.parameters() if p.is_floating_point()), None)
        for module in (self.top_down, self.mask_estimators, self.stage_classifiers, self.classifier):
            module.train(backbone.training)
            if like is not None:
                module.to(device=like.device, dtype=like.dtype)
        self.training = backbone.training


def _key(stage: Stage) -> str:
    """A stage's name among the submodules, where no dot may stand."""
    return f"stage_{stage}".replace(".", "-")


def _classifier(in_features: int, num_classes: int) -> nn.Linear:
    classifier = nn.Linear(in_features, num_classes)
    nn.init.trunc_normal_(classifier.weight, std=0.02)
    nn.init.zeros_(classifier.bias)
    return classifier
