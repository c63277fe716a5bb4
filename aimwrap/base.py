"""The plumbing under :class:`~aimwrap.AIM`: freezing, parameter groups, cost, loading and printing. No mathematics."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Self, cast

from torch import nn

from ._choices import DEPARTURES, PAPER
from ._wrappers import unwrap_compiled
from .taps import Stage, Tap, TappedBackbone, TappedModel, count_macs

if TYPE_CHECKING:
    from .preprocessing import Preprocessing
    from .sharing.recipe import Recipe
    from .top_down import FeaturePreservingTopDown, Head, PaperTopDown, Pooling


class Cost(NamedTuple):
    """Parameters, and multiply-accumulates for one image in evaluation.

    Attributes:
        parameters: of the wrapped model, the backbone's classifier no longer included.
        macs: of the wrapped model.
        backbone_parameters: of the backbone as it came, classifier included.
        backbone_macs: of the backbone as it came.
        head_parameters: of what wrapping adds: mask estimators, transforms, classifiers.
        head_macs: of what wrapping adds.
        image_size: (H, W) of the image.
    """

    parameters: int
    macs: int
    backbone_parameters: int
    backbone_macs: int
    head_parameters: int
    head_macs: int
    image_size: tuple[int, int]

    def __str__(self) -> str:
        """One line per quantity, for reports."""
        height, width = self.image_size
        more_parameters = self.parameters / self.backbone_parameters - 1
        more_macs = self.macs / self.backbone_macs - 1
        return (
            f"{self.parameters / 1e6:.2f} M parameters, backbone alone {self.backbone_parameters / 1e6:.2f} M "
            f"({more_parameters:+.1%}), head {self.head_parameters / 1e6:.2f} M\n"
            f"{self.macs / 1e9:.2f} GMACs at {height} x {width}, backbone alone {self.backbone_macs / 1e9:.2f} "
            f"({more_macs:+.1%}), head {self.head_macs / 1e9:.2f}"
        )


class AIMBase(nn.Module):
    """Everything about a wrapped backbone that is not the paper's forward pass. Its attributes are described in AIM."""

    backbone: TappedBackbone
    top_down: PaperTopDown | FeaturePreservingTopDown
    mask_estimators: nn.ModuleDict
    stage_classifiers: nn.ModuleDict
    classifier: nn.Linear
    taps: tuple[Tap, ...]
    classified: Tap | None
    tau: tuple[float, ...]
    num_classes: int
    in_channels: int
    head: Head
    pooling: Pooling
    labels_move_area: bool
    temperature: float
    _notation: str
    preprocessing: Preprocessing | None
    class_names: tuple[str, ...] | None
    _bare: tuple[int, int, tuple[int, ...]]  # the bare backbone's parameters, its MACs, and (C, H, W) of its images
    _recipe: Recipe
    _counted: tuple[list[int], list[int]] = ([], [])  # the ids of the modules, and the MACs of them and of the backbone

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The stages as the user named them, shallow to deep."""
        return tuple(tap.stage for tap in self.taps)

    @property
    def departures(self) -> tuple[str, ...]:
        """What this model does otherwise than the paper, in a few words each; empty with :data:`~aimwrap.PAPER`.

        Example:
            >>> import torchvision
            >>> from aimwrap import AIM, PAPER
            >>> AIM(torchvision.models.resnet18(), **PAPER | {"pooling": "active"}).departures
            ('mean over open positions',)
        """
        own: dict[str, Any] = {"head": self.head, "pooling": self.pooling, "labels_move_area": self.labels_move_area}
        given = [
            own
            | {"logit_spread": each.logit_spread, "logit_range": each.logit_range}
            | {"mask_padding": each.padding, "mask_context": each.context}
            for each in self.mask_estimators.values()
        ]
        return tuple(name for key, name in DEPARTURES.items() if any(each[key] != PAPER[key] for each in given))

    @property
    def variant(self) -> str:
        """The model in the paper's notation, with the head's name unless its method is the paper's."""
        return f"{self._notation}, {self.head} head" if self.departures else self._notation

    @property
    def _least_side(self) -> int:
        """The smallest image side, in pixels: one position of the deepest map."""
        return max(tap.stride for tap in (self.taps[-1], self.classified) if tap is not None)

    def _follow_backbone(self) -> None:
        """New modules take the backbone's device, dtype and mode."""
        like = next((p for p in self.backbone.parameters() if p.is_floating_point()), None)
        for module in (self.top_down, self.mask_estimators, self.stage_classifiers, self.classifier):
            module.train(self.backbone.training)
            if like is not None:
                module.to(device=like.device, dtype=like.dtype)
        self.training = self.backbone.training

    def freeze_backbone(self, up_to: Stage | None = None) -> Self:
        """Stop training the backbone, or the part of it that a stage's map depends on.

        What is frozen also stays in evaluation mode when ``train()`` is called: its norms keep their statistics, its
        dropout stays off. Freezing another part later adds to the first.

        Args:
            up_to: one of :attr:`stages`: the layers after its map are still trained. None freezes all of it.

        Returns:
            The model itself.

        Raises:
            ValueError: if ``up_to`` is not one of the stages.

        Example:
            >>> import torchvision
            >>> from aimwrap import AIM
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

    def freeze_norm_statistics(self) -> Self:
        """Keep the backbone's running statistics (BatchNorm's) as they are while its weights are still trained.

        Such norms stay in evaluation mode when ``train()`` is called. On small or biased training sets this matters
        more than most settings do. It changes nothing where norms have no running statistics, as in ConvNeXt.

        Returns:
            The model itself.
        """
        self.backbone.freeze_tapped_statistics()
        return self

    def unfreeze_backbone(self) -> Self:
        """Train the complete backbone again, norm statistics included, with every module in the model's own mode.

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
            >>> from aimwrap import AIM
            >>> model = AIM(torchvision.models.resnet18(num_classes=10), stages=[2, 3])
            >>> groups = model.parameter_groups(lr=1e-5, head_lr=1e-3)
            >>> [group["name"] for group in groups]
            ['backbone', 'backbone, no decay', 'head', 'head, no decay', 'masks, no decay']
            >>> optimizer = torch.optim.AdamW(groups, weight_decay=0.05)
        """
        return parameter_groups(self, lr, head_lr, mask_lr)

    def cost(self) -> Cost:
        """Count parameters and multiply-accumulates, and those of the backbone as it came.

        Returns:
            The counts for one image of the size that the backbone was probed with (its own, or 224 x 224).
        """
        backbone_parameters, backbone_macs, image_shape = self._bare
        parameters = sum(parameter.numel() for parameter in self.parameters())
        modules = [id(module) for module in self.modules()]
        if self._counted[0] != modules:
            self._counted = modules, [count_macs(part, (1, *image_shape)) for part in (self, self.backbone)]
        macs, macs_of_the_backbone = self._counted[1]
        return Cost(
            parameters,
            macs,
            backbone_parameters,
            backbone_macs,
            parameters - sum(parameter.numel() for parameter in self.backbone.parameters()),
            macs - macs_of_the_backbone,
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
            raise RuntimeError(f"{self._mismatch(state_dict)}\n{error}") from error

    def _mismatch(self, state: Mapping[str, Any]) -> str:
        """Why a checkpoint does not load, in the model's own terms."""
        prefix = next((p for p in ("module.", "_orig_mod.") if state and all(key.startswith(p) for key in state)), None)
        if prefix is not None:
            stripped = f"{{k.removeprefix({prefix!r}): v for k, v in state.items()}}"
            return f"every name begins with {prefix!r}; load {stripped} instead"
        nested = [key for key, value in state.items() if isinstance(value, Mapping)]
        if nested:
            return (
                "this is a dict around a checkpoint; pass the part that holds the weights, perhaps "
                f"state[{nested[0]!r}]"
            )
        if state.keys() & self.backbone.state_dict().keys():
            return (
                "this looks like the backbone's own checkpoint; load it with "
                "model.backbone.load_state_dict(state_dict, strict=False)"
            )
        stages = dict.fromkeys(key.split(".")[1] for key in state if key.startswith("mask_estimators."))
        own = list(self.mask_estimators)
        if list(stages) != own:
            has = f"it has {', '.join(stages) or 'no stages'}, this model ({self.variant}) has {', '.join(own)}"
            return f"the checkpoint is another variant's: {has}"
        head = "paper" if any(key.startswith("top_down.transforms") for key in state) else "feature-preserving"
        if head != self.head:
            return f"the checkpoint is another variant's: it has the {head} head; build the model with head={head!r}"
        return (
            f"the checkpoint does not fit {self.variant} with {self.num_classes} classes; build the model the same way"
        )

    def extra_repr(self) -> str:
        """The variant, what differs from the paper, the taps and the cost."""
        title = f"{self.variant}, {self.num_classes} classes, mean over {self.pooling} positions"
        lines = [title + (", labels move the area" if self.labels_move_area else "")]
        lines.append(f"not as in the paper: {', '.join(self.departures) or 'nothing'}")
        for tap, area in zip(self.taps, self.tau, strict=True):
            lines.append(f"stage {tap.stage!r}: {_described(tap)}, tau {area:g}")
        if self.classified is not None:
            lines.append(f"classified: {_described(self.classified)}")
        try:
            lines.append(str(self.cost()))
        # A model that cannot run, or cannot be copied, can still be printed; FSDP asserts that it is not copied.
        except (RuntimeError, TypeError, ValueError, AssertionError) as error:
            lines.append(f"cost unknown: {type(error).__name__}")
        return "\n".join(lines)


class Network(NamedTuple):
    """What is known of a second look's own network: how it was built, its final map, and how it expects images."""

    recipe: Recipe
    classified: Tap
    preprocessing: Preprocessing | None


class Savable(nn.Module):
    """What a model's files describe: an AIM, alone or with a second look at what it keeps."""

    class_names: tuple[str, ...] | None
    preprocessing: Preprocessing | None
    classifier: nn.Linear
    cost: Callable[[], Cost]
    _network: Network | None = None

    def _looks(self) -> tuple[AIMBase, dict[str, Any] | None]:
        """The AIM, and the arguments of a second look."""
        return cast(AIMBase, self), None


def _described(tap: Tap) -> str:
    return f"{tap.node}, {tap.channels} channels, stride {tap.stride}"


def fresh_linear(in_features: int, num_classes: int) -> nn.Linear:
    """A new classifier: small random weights, zero biases."""
    classifier = nn.Linear(in_features, num_classes)
    nn.init.trunc_normal_(classifier.weight, std=0.02)
    nn.init.zeros_(classifier.bias)
    return classifier


def part_of_aim(name: str) -> str:
    """The part that a parameter belongs to, by its first name: ``backbone``, ``masks``, and all others ``head``."""
    return {"backbone": "backbone", "mask_estimators": "masks"}.get(name.split(".")[0], "head")


def parameter_groups(
    model: nn.Module,
    lr: float,
    head_lr: float | None = None,
    mask_lr: float | None = None,
    part_of: Callable[[str], str] = part_of_aim,
) -> list[dict[str, Any]]:
    """See :meth:`aimwrap.AIM.parameter_groups`; ``part_of`` gives a parameter's part, one of AIM's, by its name."""
    head_lr = lr if head_lr is None else head_lr
    rates = {"backbone": lr, "head": head_lr, "masks": head_lr if mask_lr is None else mask_lr}
    for name, rate in rates.items():
        if not rate >= 0:
            raise ValueError(f"learning rates must not be negative, got {rate} for the {name}")
    groups: dict[str, dict[str, Any]] = {}
    for part, rate in rates.items():
        groups[part] = {"name": part, "params": [], "lr": rate}
        groups[f"{part}, no decay"] = {"name": f"{part}, no decay", "params": [], "lr": rate, "weight_decay": 0.0}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            part = part_of(name)
            decays = parameter.ndim > 1 and part != "masks"
            groups[part if decays else f"{part}, no decay"]["params"].append(parameter)
    filled = [group for group in groups.values() if group["params"]]
    if not filled:
        raise ValueError("no parameter is trainable; model.unfreeze_backbone() or requires_grad_(True) changes that")
    return filled


def architecture_of(backbone: nn.Module) -> str:
    """The name under which timm built the model, where it keeps one, else the class's."""
    record = getattr(backbone, "pretrained_cfg", None)
    name = record.get("architecture") if isinstance(record, dict) else None
    return name or type(unwrap_compiled(backbone)).__name__


def notation(tapped: TappedModel, tau: Sequence[float]) -> str:
    """The paper's ``[stage where the top-down path ends, area]``, in its count, which includes a stem's stage."""
    numbers = [tap.stage for tap in tapped.taps if isinstance(tap.stage, int)]
    deepest = tapped.deepest_stage
    if deepest is not None and len(numbers) == len(tapped.taps) and numbers == [*range(numbers[0], deepest + 1)]:
        where = str(numbers[0] + tapped.paper_stage_offset)
    else:
        where = "+".join(tap.node for tap in tapped.taps)
    areas = tau[:1] if len(set(tau)) == 1 else tau
    return f"[{where}, {', '.join(f'{100 * area:.4g}%' for area in areas)}]"
