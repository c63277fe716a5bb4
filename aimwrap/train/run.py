"""The parts of a run, built from its settings: data, model, loss, optimiser, and its progress."""

from __future__ import annotations

import ast
import hashlib
import inspect
import math
import sys
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from types import SimpleNamespace
from typing import Any, NamedTuple, cast

import torch
import torch.distributed as dist
from lightning.fabric import Fabric
from timm.models import get_pretrained_cfg
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from .._numerics import predicted_classes, wide_dtype
from .._text import first_line, numbered, with_progress
from ..backbones.create import create_backbone, default_weights, find_builder, is_import_path
from ..backbones.inspection import import_backbone
from ..backbones.plain import PlainClassifier
from ..backbones.pooled import PooledClassifier
from ..backbones.records import preprocessing_of
from ..data import Batch, ReleaseDataset, Sample
from ..health import MaskHealth
from ..loss import AIMLoss
from ..model import AIM
from ..output import AIMOutput
from ..preprocessing import Preprocessing
from ..second_look import SecondLook
from ..sharing.recipe import fingerprint
from ..taps.copies import unmoved_generators
from ..tau import TauScheduler
from . import data as of_data
from .distributed import gathered, mean_over_processes, synchronise_batch_norms
from .evaluation import chosen_rule, lacking_objects, objects_are_known
from .settings import LoggerName, Settings, one_or_each

RANDOM = "start from random ones (--no-pretrained, pretrained=False)"
_LIBRARIES = {*sys.stdlib_module_names, "torch", "torchvision", "timm"}  # whose code the versions name
_IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # mean and deviation, where the backbone has none

Report = Callable[[dict[str, Any], float], None]


class Result(NamedTuple):
    """The result of a run, as in its ``result.json``.

    Attributes:
        variant: the model, in words.
        seed: of the run.
        selection: the rule by which the epoch was selected.
        epoch: that was selected, from 1.
        tested_on: the split that the scores are of.
        scores: see ``aimwrap.train.evaluation.evaluate``.
        validation: the same on the validation split, of the selected epoch; None where there is none.
        mask_findings: the messages of :class:`~aimwrap.MaskHealth` after the selected epoch.
        folder: of the run; the model is in its ``model``.
        departures: what the model does otherwise than the paper; None for a plain one, and in older results.
        weights: that each look's backbone started from, or a digest of your own backbone; None in older results.
        data: a fingerprint of each split, and ``classes``, the training images of each, in words; None in older ones.
        second_look: its ``epoch``, ``scores`` and ``validation``, and ``folder``, of the model with both looks; None
            without one.
        exchange: the same of the model whose classifier was trained on exchanged backgrounds.
    """

    variant: str
    seed: int
    selection: str
    epoch: int
    tested_on: str
    scores: dict[str, Any]
    validation: dict[str, Any] | None
    mask_findings: list[str]
    folder: str
    departures: list[str] | None = None
    weights: str | None = None
    data: dict[str, str] | None = None
    classes: str | None = None
    second_look: dict[str, Any] | None = None
    exchange: dict[str, Any] | None = None


@dataclass
class Progress:
    """How far a run is."""

    epoch: int = 0  # epochs done
    step_of_epoch: int = 0  # optimiser steps done in the current epoch
    step: int = 0  # all optimiser steps done
    history: list[dict[str, Any]] = field(default_factory=list)  # the log's line of each epoch that is done
    best: dict[str, Any] | None = None  # epoch, score and file of the best weights so far
    # Of this epoch and process: loss and hits, summed over images, and the number of images.
    sums: list[float] = field(default_factory=lambda: [0.0] * 3)
    batches: list[Tensor] = field(default_factory=list)  # what is not in the sums yet, on its device

    def add(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Add a batch's mean loss and its hits, without waiting for a GPU."""
        hits = (predicted_classes(logits) == labels).sum()
        self.batches.append(torch.stack([loss, hits.to(loss), loss.new_tensor(len(labels))]))

    def sums_of_all(self) -> list[float]:
        """The sums over all processes."""
        for loss, hits, images in torch.stack(self.batches).tolist() if self.batches else ():
            self.sums = [self.sums[0] + loss * images, self.sums[1] + hits, self.sums[2] + images]
        self.batches = []
        found = [self.sums]
        if dist.is_available() and dist.is_initialized():
            dist.all_gather_object(found := found * dist.get_world_size(), self.sums)
        return [sum(values) for values in zip(*found, strict=True)]

    def end_epoch(self, line: dict[str, Any]) -> None:
        """Begin the next epoch."""
        self.history.append(line)
        self.epoch += 1
        self.step_of_epoch = 0
        self.sums = [0.0] * 3

    def state_dict(self) -> dict[str, Any]:
        """Plain values; to be called in all processes."""
        return {**vars(self), "sums": self.sums_of_all(), "batches": []}

    def load_state_dict(self, state: dict[str, Any], rank: int) -> None:
        """Continue from a state; the first process takes over the sums of all.

        Raises:
            ValueError: if it was changed by hand.
        """
        counts, best = [state[name] for name in ("epoch", "step_of_epoch", "step")], state["best"]
        if [*map(type, [*counts, best or {}, *state["sums"]])] != [int] * 3 + [dict] + [float] * 3 or min(counts) < 0:
            raise ValueError("its progress was changed")
        epochs = [line["epoch"] for line in state["history"] if isinstance(line["mask_findings"], list)]
        if epochs != [*range(1, counts[0] + 1)] or (
            best and not (best["epoch"] in epochs and best["score"] > -math.inf)
        ):
            raise ValueError("its history or its best epoch was changed")
        vars(self).update({name: state[name] for name in vars(self).keys() - {"batches"}})
        self.sums = state["sums"] if rank == 0 else [0.0] * 3


class Run:
    """All parts of a run that has done nothing yet, and its progress.

    The arguments are those of :func:`~aimwrap.train.run_training`.

    Raises:
        ValueError: if the settings do not fit the data set, the backbone or the number of processes.
    """

    def __init__(
        self,
        settings: Settings,
        folder: Path,
        fabric: Fabric,
        *,
        workers: int = 0,
        report: Report = lambda line, seconds: None,
        quiet: bool = True,
        loggers: Collection[LoggerName] = (),
        keep_masks: int = 0,
    ) -> None:
        self.settings, self.folder, self.fabric = settings, folder, fabric
        self.report, self.quiet, self.loggers, self.keep_masks = report, quiet, dict.fromkeys(loggers), keep_masks
        self.progress = Progress()
        self.opened: dict[LoggerName, Any] = {}  # Lightning's loggers
        self.weights = weights_of(settings)
        of_data.seed_generators(settings.seed)  # the same new layers in every process
        splits = of_data.read_splits(settings)
        self.rule = chosen_rule(settings.selection, splits)  # which epoch's weights are kept
        try:
            self.network = network = build_model(settings, len(splits.classes))
            if settings.second_backbone is not None and isinstance(network, AIM):
                new_second_look(settings, network)  # now, and not when the first look is trained
        except OSError as error:  # of the Hub's client or of torch's, whose ways out are for those who know them
            if not settings.pretrained:
                raise
            raise OSError(f"the weights {self.weights} cannot be fetched ({first_line(error)}); {RANDOM}") from error
        self.variant = variant_of(settings, network)
        network.class_names = splits.classes
        if settings.sync_batchnorm:
            synchronise_batch_norms(network, fabric)
        if settings.precision == "64-true":
            network.double()  # here, since the moving average is a copy
        assert network.preprocessing is not None
        self.splits = splits = of_data.prepared(splits, settings, network.preprocessing)
        counts = [f"{name} {int((splits.train.labels == n).sum())}" for n, name in enumerate(splits.classes)]
        more = f", and {len(counts) - 10} more" if len(counts) > 10 else ""
        self.classes = f"training images of {numbered(len(counts), 'class', 'classes')}: {', '.join(counts[:10])}{more}"
        rank, processes = fabric.global_rank, fabric.world_size
        self.order = of_data.BatchOrder(
            len(splits.train), settings.batch_size, settings.seed, rank, processes, accumulate=settings.accumulate
        )
        self.criterion: Callable[[AIMOutput, Tensor], Tensor] = plain_loss
        self.schedule: TauScheduler | None = None  # of a plain run, as health
        self.health: MaskHealth | None = None
        if isinstance(network, AIM):
            self.criterion = criterion = AIMLoss(
                network.tau,
                mask_weight=settings.mask_weight,
                stage_weight=one_or_each(settings.stage_weight),
                final_weight=settings.final_weight,
                area_per=settings.area_per,
                batch_mean=mean_over_processes,
            ).to(fabric.device)
            self.schedule, self.health = TauScheduler(criterion, settings.epochs_to_anneal), MaskHealth(criterion)
        self.annealing = 0 if self.schedule is None else self.schedule.length  # epochs before tau is reached
        self.average: AveragedModel | None = None  # of the weights
        if settings.ema is not None:
            self.average = AveragedModel(network, fabric.device, multi_avg_fn=get_ema_multi_avg_fn(settings.ema))
        compiled: nn.Module = cast("nn.Module", torch.compile(network)) if settings.compile else network
        precision = fabric.strategy.precision
        if precision.state_dict():  # float16's scale of the loss, which the seed before this one has changed
            precision.load_state_dict(torch.amp.GradScaler(fabric.device.type).state_dict())
        # The network inside the wrappers of Fabric and DistributedDataParallel, which training calls.
        self.model, self.optimizer = fabric.setup(compiled, build_optimizer(settings, network))
        # From here on each process draws its own dropout.
        of_data.seed_generators(of_data.mixed(settings.seed, of_data.OF_PROCESS, rank))

        self.workers, self.pin = workers, fabric.device.type == "cuda"
        self.batches = of_data.training_loader(splits.train, self.order, workers, self.pin)  # of this process
        self.kept: dict[int, dict[str, Tensor]] = {}  # the maps of images, by number, and the batches that name these
        self.validation: list[Batch] = []
        self.activation_maps: PooledClassifier | None = None  # of a plain model, if they are needed and it has them
        lacking = lacking_objects(splits.test)
        if isinstance(self.evaluated, PlainClassifier) and (objects_are_known(splits.test) or loggers):
            try:
                self.activation_maps = PooledClassifier(self.evaluated.backbone, "the model")
            except ValueError as error:
                lacking = str(error) if objects_are_known(splits.test) else lacking
        # The measure that the results lack, and the reason.
        self.lacks = None if lacking is None else f"energy pointing is left out: {lacking}"

    @property
    def evaluated(self) -> AIM | PlainClassifier:
        """The model to validate, test and save: the average of the weights if there is one, else the network."""
        return self.network if self.average is None else cast("AIM | PlainClassifier", self.average.module)

    def batches_of(self, images: ReleaseDataset) -> Iterable[Batch]:
        """This process's part of a split, to evaluate on."""
        rank, processes = self.fabric.global_rank, self.fabric.world_size
        return of_data.evaluation_loader(images, self.settings.batch_size, rank, processes, self.workers, self.pin)


def keep_maps(run: Run, say: Callable[[str], None]) -> None:
    """Train and validate on numbers of images; each process keeps the maps of every k-th. To be called in all."""
    network, train, val, fabric = cast("AIM", run.network), run.splits.train, run.splits.val, run.fabric
    rank, processes, most = fabric.global_rank, fabric.world_size, -(-run.settings.batch_size // fabric.world_size)
    # Survival changes the pixels of the validation split, which the backbone then has to see.
    for images in [train] if val is None or run.rule == "validation survival" else [train, val]:
        batches = run.batches_of(images)
        for batch in batches if run.quiet or rank else with_progress(batches, f"maps of the {images.split} split"):
            with torch.no_grad(), fabric.autocast():
                maps = network.forward_backbone(batch.image.to(network.classifier.weight, non_blocking=True))
            apart = {id(one): one.cpu() for one in maps.values()}  # the final map may be that of the deepest stage
            if not run.kept:
                size, count = sum(one.nbytes for one in apart.values()) / len(batch.label), len(train) + len(val or ())
                say(f"the maps of {numbered(count, 'image')} need {size * count / 1e9:.2g} GB, {size:,.0f} bytes each")
            members = [rank + (len(run.kept) + place) * processes for place in range(len(batch.label))]
            run.kept |= {n: {name: apart[id(one)][i] for name, one in maps.items()} for i, n in enumerate(members)}
            if images is val:
                run.validation.append(batch._replace(image=torch.tensor(members)))
    nothing = {name: torch.zeros_like(one) for name, one in run.kept[rank].items()}

    def forward_backbone(images: Tensor) -> dict[str, Tensor]:
        if images.ndim > 1:
            return AIM.forward_backbone(network, images)
        # Evaluation, whose images are each process's own, makes them floating.
        wanted, own, shared = images.long(), slice(None), processes > 1 and not images.is_floating_point()
        if shared:
            own = slice(rank * most, rank * most + len(images))
            wanted = torch.cat(gathered(F.pad(wanted, (0, most - len(images)), value=-1)))
        found = [run.kept.get(number, nothing) for number in wanted.tolist()]
        maps = {name: torch.stack([one[name] for one in found]).to(images.device) for name in nothing}
        for one in maps.values() if shared else ():
            dist.all_reduce(one.view(torch.uint8))  # all are zeros but one process's: the same bits in any precision
        return {name: one[own] for name, one in maps.items()}

    for model in {network, run.evaluated}:
        vars(model)["forward_backbone"] = torch.compiler.disable(forward_backbone)
    labels = enumerate(train.labels.tolist())
    samples: Any = [Sample(torch.tensor(number), label, None, None, None, None, "", "") for number, label in labels]
    run.batches = of_data.training_loader(samples, run.order, 0, run.pin)


def build_model(settings: Settings, num_classes: int) -> AIM | PlainClassifier:
    """The model before training, with ``preprocessing`` set, and without gradients where it is frozen.

    Raises:
        ValueError: if the backbone is unknown or cannot be wrapped, or the size of its images is unknown.
    """
    model: AIM | PlainClassifier
    side, channels = settings.image_size, settings.channels
    backbone, kwargs = _backbone_of(settings, num_classes)
    record: Any = None
    if kwargs is not None and "in_chans" in kwargs:
        record = SimpleNamespace(pretrained_cfg=vars(get_pretrained_cfg(find_builder(settings.backbone)[1])))
    if settings.method == "aim":
        model = AIM(
            backbone,
            settings.stages,
            one_or_each(settings.tau),
            num_classes=num_classes,
            width=settings.width,
            mask_width=settings.mask_width,
            temperature=settings.temperature,
            **settings.design_arguments,
            # So that costs are of this size.
            example_input=None if side is None else torch.zeros(1, channels or 3, side, side),
            backbone_kwargs=kwargs,
        )
    else:
        plain = create_backbone(backbone, kwargs) if isinstance(backbone, str) else backbone
        model = PlainClassifier(plain, num_classes)
    if settings.frozen == "backbone":
        model.freeze_backbone()
    elif settings.frozen == "norm-statistics":
        model.freeze_norm_statistics()
    channels = model.in_channels if isinstance(model, AIM) else channels
    if settings.channels not in (None, channels):
        raise ValueError(f"channels must be the backbone's, {channels} of {settings.backbone}, got {settings.channels}")
    found = model.preprocessing or preprocessing_of(record)  # of RGB, where that is timm's record
    if found is None:
        if side is None:
            raise ValueError(
                f"image_size must be given: {settings.backbone} does not say which image size it was made for. With "
                "it, images are normalised by ImageNet's mean and standard deviation"
            )
        found = Preprocessing((side, side), *_IMAGENET)
    if channels not in (None, len(found.mean)):  # as grey photographs have
        found = found._replace(mean=(fmean(found.mean),) * channels, std=(fmean(found.std),) * channels)
    model.preprocessing = found._replace(
        window=settings.window or found.window,
        image_size=found.image_size if side is None else (side, side),
        crop=found.crop if settings.crop is None else settings.crop,
        squash=settings.squash or found.squash,
    )
    return model


def _backbone_of(settings: Settings, num_classes: int) -> tuple[nn.Module | str, dict[str, Any] | None]:
    """A module by its import path, or a name, and the arguments of its builder."""
    if is_import_path(settings.backbone):
        return import_backbone(settings.backbone), None
    if find_builder(settings.backbone)[0] == "timm":
        more = {} if settings.channels in (None, 3) else {"in_chans": settings.channels}  # timm adapts weights to them
        return settings.backbone, {"pretrained": settings.pretrained, "num_classes": num_classes, **more}
    if settings.channels not in (None, 3):
        raise ValueError(
            f"channels={settings.channels} is for backbones of timm or your own; try timm/{settings.backbone}"
        )
    return settings.backbone, {"weights": "DEFAULT"} if settings.pretrained else {}


def new_second_look(settings: Settings, first: AIM) -> SecondLook:
    """A second look before training; a ValueError if its own network cannot be built, or run on the first's images."""
    if settings.second_backbone is None or first.preprocessing is None:
        return SecondLook(first, margin=settings.margin, least=settings.least)
    images = first.classifier.weight.new_zeros(1, first.in_channels, *first.preprocessing.image_size)
    try:
        given, kwargs = _backbone_of(replace(settings, backbone=settings.second_backbone), first.num_classes)
        second = SecondLook(first, given, margin=settings.margin, least=settings.least, backbone_kwargs=kwargs)
        cast("nn.Module", second.backbone).to(images)
        second(images, images[:, :1] + 1)
    except (AssertionError, RuntimeError, TypeError, ValueError) as error:
        why = f"{images.shape[2]} x {images.shape[3]} pixels: {str(error).removeprefix('backbone: ').rstrip('.')}"
        raise ValueError(
            f"second_backbone={settings.second_backbone!r} cannot be used for {why}. Name another one, or give the "
            "image_size that it needs"
        ) from error
    return second


def weights_of(settings: Settings) -> str:
    """The weights that the backbone starts from, by its library's name; of a function, a digest of what it builds."""
    if settings.second_backbone is not None:
        first, second = replace(settings, second_backbone=None), settings.second_backbone
        return f"{weights_of(first)}; second look: {weights_of(replace(first, backbone=second))}"
    if is_import_path(settings.backbone):
        builds = []
        for seed in (0, 1):  # which random weights differ by
            of_data.seed_generators(seed)
            with unmoved_generators() as drawn:
                builds.append(import_backbone(settings.backbone))
                random = drawn()  # else it is a module, whose weights may be those of this process
        digest = hashlib.sha256(fingerprint(builds[0]).encode())
        digest.update(f"{[p.requires_grad for p in builds[0].parameters()]} {preprocessing_of(builds[0])}".encode())
        kinds = {kind for part in builds[0].modules() for kind in type(part).__mro__}
        for code in _own_code({settings.backbone.partition(":")[0], *(kind.__module__ for kind in kinds)}):
            digest.update(code.encode())
        for kind in sorted(kinds, key=lambda kind: (kind.__module__, kind.__qualname__)):
            if not hasattr(sys.modules.get(kind.__module__), "__file__"):
                with suppress(OSError, TypeError):  # of classes that were made without a notebook's cell either
                    digest.update(inspect.getsource(kind).encode())
        for one, other in zip(*map(_tensors_of, builds), strict=True):
            if random and torch.equal(one, other):
                digest.update(one.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        return f"{settings.backbone} {digest.hexdigest()[:16]}"
    found = default_weights(settings.backbone) if settings.pretrained else "random"
    if found is None:
        raise ValueError(f"backbone: {settings.backbone} has no pretrained weights; {RANDOM}")
    return found


def _tensors_of(network: nn.Module) -> list[Tensor]:
    """Its parameters, buffers and other attributes that are tensors."""
    plain = [value for part in network.modules() for value in vars(part).values() if isinstance(value, Tensor)]
    return [*network.parameters(), *network.buffers(), *plain]


def _own_code(modules: Iterable[str]) -> list[str]:
    """What the files of these modules say, and of the user's own that they import, without comments; sorted."""
    waiting: list[tuple[Path, Path]] = []  # each with the folder that its absolute imports are relative to
    for name in modules:
        path = getattr(sys.modules.get(name), "__file__", None)
        if path and name.partition(".")[0] not in _LIBRARIES:
            depth = name.count(".") + (Path(path).stem == "__init__")
            waiting.append((Path(path), [*Path(path).parents][: depth + 1][-1]))
    found: dict[Path, str] = {}
    while waiting:
        file, root = waiting.pop()
        if file in found or not file.is_file() or Path(__file__).parents[1] in file.parents:
            continue
        found[file] = ""
        with suppress(SyntaxError, ValueError):  # of compiled files
            found[file] = ast.unparse(tree := ast.parse(file.read_bytes()))
            imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
            for node in () if root.name in ("site-packages", "dist-packages") else imports:
                base = [root, *file.parents][: getattr(node, "level", 0) + 1][-1]
                base = base.joinpath(*(getattr(node, "module", None) or "").split("."))
                places = [base, *(base.joinpath(*alias.name.split(".")) for alias in node.names)]
                waiting += [(each, root) for at in places for each in (Path(f"{at}.py"), at / "__init__.py")]
    return sorted(found.values())


def are_others(weights: str | None, by: object, now: str | None) -> bool:
    """Whether weights, as :func:`weights_of` named them by a version of torch, are not those of this run.

    Not known of older runs, nor by another torch, whose modules may have other attributes.
    """
    return str(by) == str(torch.__version__) and weights not in (None, now)


def build_optimizer(settings: Settings, model: AIM | PlainClassifier) -> Optimizer:
    """The optimiser over the model's parameter groups."""
    mask_lr = (settings.mask_lr,) if isinstance(model, AIM) else ()
    groups = model.parameter_groups(settings.lr, settings.head_lr, *mask_lr)
    if settings.optimizer == "sgd":
        return SGD(groups, settings.lr, momentum=settings.momentum, weight_decay=settings.weight_decay)
    kind = AdamW if settings.optimizer == "adamw" else Adam
    return kind(groups, settings.lr, weight_decay=settings.weight_decay)


def plain_loss(output: AIMOutput, labels: Tensor) -> Tensor:
    """Cross entropy of a model without masks, from labels (N,)."""
    return F.cross_entropy(output.logits.to(wide_dtype(output.logits)), labels)


def variant_of(settings: Settings, model: AIM | PlainClassifier) -> str:
    """The model in words, which checkpoints keep, so that another variant's is noticed."""
    if isinstance(model, AIM):
        moved = ", labels move the area" if model.labels_move_area and model.departures else ""
        return f"{model.variant}{moved}, {model.num_classes} classes"
    return f"{settings.backbone}, plain, {model.num_classes} classes"
