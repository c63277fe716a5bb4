"""AIM in Lightning: one callback that moves tau, watches the masks and logs both, with pictures (extra ``train``)."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from lightning import pytorch as lightning
from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from PIL import Image
from torch import Tensor, nn

import aimwrap

from .loss import AIMLoss
from .masks.grid import mask_grid
from .model import AIM
from .output import AIMOutput
from .second_look import SecondLook, SecondLookOutput
from .tau import Curve

__all__ = ["AIMCallback"]


class AIMCallback(lightning.Callback):
    """Anneal tau, warn when masks die, and log tau, areas and pictures of the masks to whatever logger there is.

    It finds the :class:`~aimwrap.AIM` (or the :class:`~aimwrap.SecondLook`) and the :class:`~aimwrap.AIMLoss` among the
    submodules of the LightningModule, and sees each output of the model's forward: the steps need not return anything.
    Keep the loss as an attribute of the module, so that Lightning moves and saves its tau.

    Logged: ``masks/tau``, ``masks/area of stage 2`` in training and ``masks/validation area of stage 2``; after each
    validation, a picture of some of its first images and their masks. TensorBoard, wandb and MLflow get the picture by
    their own means, and loggers with a folder, such as the CSV one, a PNG file.

    Args:
        anneal_share: share of all optimizer steps in which tau falls from ``start`` to the loss's target.
        start: the area at the beginning.
        curve: ``"linear"`` or ``"cosine"``, as of :class:`~aimwrap.TauScheduler`.
        pictures: number of validation images in the picture; 0 for none.

    Raises:
        ValueError: in ``fit``, if the number of steps is unknown, there is no model, several, or no AIMLoss for it.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(accelerator="cpu", logger=False, callbacks=[AIMCallback(anneal_share=0.3)])
    """

    def __init__(
        self, anneal_share: float = 0.3, *, start: float = 1.0, curve: Curve = "linear", pictures: int = 4
    ) -> None:
        self.anneal_share, self.start, self.pictures = anneal_share, start, pictures
        self.curve: Curve = curve
        self.schedule: aimwrap.TauScheduler | None = None  # of a second look
        self.health: aimwrap.MaskHealth | None = None
        self._hook: Any = None
        self._areas: dict[str, tuple[Tensor, int]] = {}  # of the last batch, and its images
        self._shown: tuple[Tensor, dict[str, Tensor]] | None = None  # images and masks of the validation

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        """Find the model and its loss."""
        if stage != "fit":
            return
        model, criterion = _only(pl_module, (SecondLook, AIM)), _only(pl_module, (AIMLoss,))
        if isinstance(model, AIM) and criterion is None:
            raise ValueError("the LightningModule has no AIMLoss: self.criterion = AIMLoss(tau=self.model.tau)")
        if model is None:
            raise ValueError("the LightningModule has no AIM: self.model = AIM(backbone, stages=[2, 3], tau=0.25)")
        self.preprocessing = model.preprocessing
        if isinstance(criterion, AIMLoss) and isinstance(model, AIM):
            if not 0 < (steps := trainer.estimated_stepping_batches) < math.inf:
                raise ValueError("tau falls in a share of all steps, of unknown number: give the Trainer max_steps=")
            length, self._steps = int(self.anneal_share * steps), int(steps)
            self.schedule = aimwrap.TauScheduler(criterion, anneal_steps=length, start=self.start, curve=self.curve)
            self.health = aimwrap.MaskHealth(criterion)
        else:
            assert isinstance(model, SecondLook)
            self.health = aimwrap.MaskHealth(model.first.tau)

        def see(module: nn.Module, given: tuple[Any, ...], named: dict[str, Any], output: Any) -> None:
            if not trainer.sanity_checking and isinstance(output, AIMOutput | SecondLookOutput):
                self._see(module, given[0] if given else named["images"], output)

        self._hook = model.register_forward_hook(see, with_kwargs=True)

    def teardown(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        """Leave the model as it was."""
        if self._hook is not None:
            self._hook.remove()
            self._hook = None

    @torch.no_grad()
    def _see(self, module: nn.Module, images: Tensor, output: AIMOutput | SecondLookOutput) -> None:
        assert self.health is not None
        first = output if isinstance(output, AIMOutput) else output.first
        if first is None:  # a second look at masks that were given
            return
        self.health.update(output, training=module.training)  # type: ignore[arg-type]
        masks = {f"stage {stage}": mask.detach() for stage, mask in first.masks.items()}
        if isinstance(output, SecondLookOutput):
            masks["kept pixels"] = output.kept
        when = "" if module.training else "validation "
        self._areas = {
            f"masks/{when}{name.replace('stage', 'area of stage')}": (mask.float().mean(), len(mask))
            for name, mask in masks.items()
        }
        if not module.training and self._shown is None:
            count = self.pictures
            self._shown = images[:count].detach(), {name: mask[:count] for name, mask in masks.items()}

    def on_train_batch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, *_: Any) -> None:
        """Log tau and the areas; a step of tau for each step of the optimizer."""
        self._log_areas(pl_module)
        if self.schedule is not None:
            pl_module.log("masks/tau", self.schedule.criterion.tau.mean())
            done = trainer.global_step  # with accumulated gradients not every batch is a step
            if not pl_module.automatic_optimization:  # several optimizers make several steps of a batch
                batches = trainer.fit_loop.epoch_loop.total_batch_idx + 1
                ends = (done, trainer.max_steps), (batches, (trainer.max_epochs or -1) * trainer.num_training_batches)
                done = round(self._steps * max(number / end for number, end in ends if end > 0))  # by what ends first
            while self.schedule.steps_done < done:
                self.schedule.step()

    def on_validation_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, *_: Any
    ) -> None:
        """Log the areas."""
        self._log_areas(pl_module, on_epoch=True, sync_dist=True)

    def _log_areas(self, pl_module: lightning.LightningModule, **options: Any) -> None:
        for name, (area, images) in self._areas.items():
            pl_module.log(name, area, batch_size=images, **options)
        self._areas = {}

    def on_validation_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Log the picture."""
        shown, self._shown = self._shown, None
        if shown is None or not len(shown[0]) or not trainer.is_global_zero:
            return
        fits = self.preprocessing is not None and len(self.preprocessing.mean) == shown[0].shape[1]
        picture = mask_grid(*shown, self.preprocessing if fits else None)
        for logger in trainer.loggers:
            log_picture(logger, "masks", picture, trainer.global_step)

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Warn about dead masks: each process of its own images, after the validation."""
        if self.health is not None:
            self.health.warn()

    def state_dict(self) -> dict[str, Any]:
        """The annealing's progress, for Lightning's checkpoints."""
        return {} if self.schedule is None else self.schedule.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where a checkpoint was made."""
        if self.schedule is not None and state_dict:
            self.schedule.load_state_dict(state_dict)


def log_picture(logger: Logger, name: str, picture: Tensor, step: int) -> None:
    """Give a logger a picture by its own means; one that knows no pictures gets a file, if it has a folder.

    Args:
        logger: of Lightning.
        name: of the picture.
        picture: (3, H, W) uint8, as :func:`~aimwrap.plot.mask_grid` makes it.
        step: of the optimizer.
    """
    pixels = picture.permute(1, 2, 0).numpy()
    if isinstance(logger, TensorBoardLogger):
        logger.experiment.add_image(name, picture, step)
    elif isinstance(logger, WandbLogger):
        logger.log_image(name, [Image.fromarray(pixels)], step)
    elif isinstance(logger, MLFlowLogger):
        logger.experiment.log_image(logger.run_id, pixels, artifact_file=f"{name}/{step:08d}.png")
    elif folder := getattr(logger, "log_dir", None) or logger.save_dir:
        path = Path(folder) / name / f"{step:08d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)


def _only(pl_module: nn.Module, kinds: tuple[type[nn.Module], ...]) -> Any:
    """The one submodule of the first of these kinds that there is any of; None if there is none."""
    for kind in kinds:
        found = [module for module in pl_module.modules() if isinstance(module, kind)]
        if len(found) > 1:
            raise ValueError(f"the LightningModule has {len(found)} of {kind.__name__}; AIMCallback watches one")
        if found:
            return found[0]
    return None
