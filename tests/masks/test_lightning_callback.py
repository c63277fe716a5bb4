"""The callback of Lightning: what it moves, notices and logs, as each logger's own tools read it back."""

import csv
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset, TensorDataset
from zoo import TinyNet, lively

from aimwrap import AIM, AIMLoss, MaskHealthWarning, SecondLook
from aimwrap.lightning import AIMCallback
from aimwrap.masks import mask_grid

pytestmark = [
    pytest.mark.filterwarnings("ignore::aimwrap.MaskHealthWarning"),
    pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers"),
    pytest.mark.filterwarnings("ignore:The number of training batches"),
    pytest.mark.filterwarnings("ignore:Starting from v1.9.0, `tensorboardX` has been removed"),
    pytest.mark.filterwarnings("ignore:`isinstance\\(treespec, LeafSpec\\)` is deprecated"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
IMAGES = torch.randn(8, 3, 64, 64, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(8) % 2


class Classifier(lightning.LightningModule):
    """Its steps return what Lightning needs, and know nothing of masks."""

    def __init__(self, model: nn.Module, criterion: nn.Module | None) -> None:
        super().__init__()
        self.model = model
        if criterion is not None:
            self.criterion = criterion

    def training_step(self, batch: list[Tensor], _: int) -> Tensor:
        output = self.model(batch[0])
        return self.criterion(output, batch[1]) if hasattr(self, "criterion") else F.cross_entropy(output[0], batch[1])

    def validation_step(self, batch: list[Tensor], _: int, dataloader_idx: int = 0) -> None:
        self.model(images=batch[0])  # by its name, and in training by its place

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 1e-3)


def aim() -> AIM:
    torch.manual_seed(0)
    return lively(AIM(TinyNet(2), [2, 3], 0.25, mask_width=8))


def fit(
    module: Classifier,
    callback: AIMCallback,
    logger: Logger | bool = False,
    epochs: int = 2,
    also: lightning.Callback | None = None,
    validation: Any = None,
    training: Any = None,
    **options: Any,
) -> lightning.Trainer:
    loader = DataLoader(TensorDataset(IMAGES, LABELS), batch_size=2) if training is None else training
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        logger=logger,
        callbacks=[callback, *([also] if also else [])],
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        log_every_n_steps=1,
        **options,
    )
    trainer.fit(module, loader, validation or DataLoader(TensorDataset(IMAGES[:6], LABELS[:6]), batch_size=3))
    return trainer


@pytest.mark.parametrize("accumulate", [1, 2])
def test_tau_falls_with_the_optimizers_steps(accumulate: int) -> None:
    model = aim()
    criterion, callback = AIMLoss(model.tau), AIMCallback(anneal_share=1.0, pictures=0)
    seen: list[float] = []

    class Notes(lightning.Callback):
        def on_train_epoch_end(self, *_: Any) -> None:
            seen.append(criterion.tau.mean().item())

    fit(Classifier(model, criterion), callback, accumulate_grad_batches=accumulate, also=Notes())
    assert seen == pytest.approx([0.625, 0.25])
    assert callback.schedule is not None and callback.schedule.steps_done == 8 // accumulate
    assert not model._forward_hooks, "the model is left as it was"


class TwoOptimizers(Classifier):
    """Two steps of optimizers for each batch."""

    automatic_optimization = False

    def training_step(self, batch: list[Tensor], _: int) -> None:
        self.manual_backward(super().training_step(batch, _))
        for optimizer in self.optimizers():
            optimizer.step()

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        return [torch.optim.SGD(part.parameters(), 1e-3) for part in (self.model.backbone, self.model.classifier)]


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        ({}, [0.75, 0.5]),
        ({"max_steps": 8}, [0.25]),
        ({"max_steps": 100}, [0.625, 0.25]),
        ({"max_steps": 12}, [0.53125, 0.25]),
    ],
)
def test_tau_falls_in_a_share_of_the_training_with_several_optimizers(
    limit: dict[str, int], expected: list[float]
) -> None:
    """It reached its target in half of that time, since each of them counts steps."""
    model = aim()
    criterion, seen = AIMLoss([0.5, 0.5] if not limit else [0.25, 0.25]), list[float]()

    class Notes(lightning.Callback):
        def on_train_epoch_end(self, *_: Any) -> None:
            seen.append(criterion.tau.mean().item())

    fit(TwoOptimizers(model, criterion), AIMCallback(anneal_share=1.0, pictures=0), also=Notes(), **limit)
    assert seen == pytest.approx(expected)


def test_an_unknown_number_of_steps_is_refused() -> None:
    """It was "cannot convert float infinity to integer"; of a stream, whose length is -1, tau began at its target."""

    class Stream(IterableDataset[list[Tensor]]):
        def __iter__(self) -> Iterator[list[Tensor]]:
            return iter([[IMAGES[0], LABELS[0]]])

    for loader, epochs in ((None, -1), (DataLoader(Stream()), 2)):
        with pytest.raises(ValueError, match="of unknown number: give the Trainer max_steps="):
            module = Classifier(aim(), AIMLoss(0.25))
            fit(module, AIMCallback(), epochs=epochs, max_time={"seconds": 5}, training=loader)


def test_several_validation_loaders(tmp_path: Path) -> None:
    """Lightning refused the second one's areas, since they had the first one's names."""
    model = aim()
    parts = [TensorDataset(IMAGES[:2], LABELS[:2]), TensorDataset(IMAGES[2:], LABELS[2:])]
    loaders = [DataLoader(part, batch_size=2) for part in parts]
    fit(Classifier(model, AIMLoss(model.tau)), AIMCallback(), CSVLogger(tmp_path, version=0), validation=loaders)
    with next(tmp_path.rglob("metrics.csv")).open() as file:
        rows = list(csv.DictReader(file))
    model.eval()
    for number, images in enumerate((IMAGES[:2], IMAGES[2:])):
        name = f"masks/validation area of stage 2/dataloader_idx_{number}"
        found = [float(row[name]) for row in rows if row[name]]
        assert found[-1] == pytest.approx(model(images).masks[2].mean().item())


def test_dead_masks_are_noticed_without_the_steps_help() -> None:
    model = aim()
    for estimator in model.mask_estimators.values():
        nn.init.zeros_(estimator.how_much.weight)
        nn.init.constant_(estimator.how_much.bias, 20.0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", MaskHealthWarning)
        fit(Classifier(model, AIMLoss(model.tau)), AIMCallback(pictures=0), epochs=1)
    assert any("all on" in str(one.message) for one in caught if one.category is MaskHealthWarning)


def test_a_checkpoint_holds_the_annealing() -> None:
    model = aim()
    callback = AIMCallback(anneal_share=0.5)
    fit(Classifier(model, AIMLoss(model.tau)), callback)
    again = AIMCallback(anneal_share=0.5)
    again.load_state_dict(callback.state_dict())  # of a second look or before fit there is nothing to load into
    assert again.schedule is None and callback.state_dict()["steps_done"] == 8


def expected_picture(model: AIM) -> Tensor:
    model.eval()
    with torch.no_grad():
        masks = {f"stage {stage}": mask for stage, mask in model(IMAGES[:2]).masks.items()}
    return mask_grid(IMAGES[:2], masks, model.preprocessing)


def check_areas(found: dict[str, list[float]], model: AIM) -> None:
    """The last validation's areas are those of the trained model, which no step has changed since."""
    model.eval()
    with torch.no_grad():
        masks = model(IMAGES[:6]).masks
    for stage in model.stages:
        own = found[f"masks/validation area of stage {stage}"][-1]
        assert own == pytest.approx(masks[stage].mean().item(), abs=1e-5)
        assert 0 <= found[f"masks/area of stage {stage}"][-1] <= 1
    assert found["masks/tau"][-1] == pytest.approx(0.25)


def test_csv(tmp_path: Path) -> None:
    model = aim()
    logger = CSVLogger(tmp_path)
    fit(Classifier(model, AIMLoss(model.tau)), AIMCallback(anneal_share=0.5, pictures=2), logger)
    with (Path(logger.log_dir) / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    check_areas({name: [float(row[name]) for row in rows if row[name]] for name in rows[0]}, model)
    pictures = sorted((Path(logger.log_dir) / "masks").glob("*.png"))
    assert [path.stem for path in pictures] == ["00000004", "00000008"]
    with Image.open(pictures[-1]) as picture:
        assert np.array_equal(np.asarray(picture), expected_picture(model).permute(1, 2, 0).numpy())


def test_tensorboard(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    model = aim()
    logger = TensorBoardLogger(tmp_path)
    fit(Classifier(model, AIMLoss(model.tau)), AIMCallback(anneal_share=0.5, pictures=2), logger)
    events = EventAccumulator(logger.log_dir, {"images": 0}).Reload()
    check_areas({tag: [e.value for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}, model)
    shown = events.Images("masks")
    assert [picture.step for picture in shown] == [4, 8]
    picture = expected_picture(model)
    assert (shown[-1].height, shown[-1].width) == picture.shape[1:]


@pytest.mark.slow
def test_mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    client = pytest.importorskip("mlflow").MlflowClient
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    model = aim()
    logger = MLFlowLogger(tracking_uri=(tmp_path / "runs").as_uri())
    fit(Classifier(model, AIMLoss(model.tau)), AIMCallback(anneal_share=0.5, pictures=2), logger)
    read = client((tmp_path / "runs").as_uri())
    names = read.get_run(logger.run_id).data.metrics
    check_areas({n: [m.value for m in read.get_metric_history(logger.run_id, n)] for n in names}, model)
    paths = [artifact.path for artifact in read.list_artifacts(logger.run_id, "masks")]
    assert paths == ["masks/00000004.png", "masks/00000008.png"]
    with Image.open(read.download_artifacts(logger.run_id, paths[-1], str(tmp_path))) as picture:
        assert np.array_equal(np.asarray(picture), expected_picture(model).permute(1, 2, 0).numpy())


@pytest.mark.slow
def test_wandb_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb")
    media = pytest.importorskip("wandb.sdk.data_types._private").MEDIA_TMP  # made at import; any fork's end removes it
    Path(media.name).mkdir(exist_ok=True)
    monkeypatch.chdir(tmp_path)
    for name, value in {"WANDB_SILENT": "true", "WANDB_DIR": str(tmp_path), "HOME": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    model = aim()
    logger = WandbLogger(offline=True, save_dir=str(tmp_path))
    fit(Classifier(model, AIMLoss(model.tau)), AIMCallback(anneal_share=0.5, pictures=2), logger)
    found = dict(logger.experiment.summary)
    wandb.finish()
    check_areas({name: [value] for name, value in found.items() if isinstance(value, float)}, model)
    pictures = sorted(tmp_path.rglob("media/images/masks*.png"), key=os.path.getmtime)
    assert len(pictures) == 2
    with Image.open(pictures[-1]) as picture:
        assert np.array_equal(np.asarray(picture)[..., :3], expected_picture(model).permute(1, 2, 0).numpy())


def test_a_second_look_shows_its_kept_pixels(tmp_path: Path) -> None:
    second = SecondLook(aim())
    second.first.requires_grad_(False)
    logger = CSVLogger(tmp_path)
    callback = AIMCallback(pictures=2)
    fit(Classifier(second, None), callback, logger, epochs=1)
    assert callback.schedule is None and callback.state_dict() == {}
    with (Path(logger.log_dir) / "metrics.csv").open() as file:
        (kept,) = [
            row["masks/validation kept pixels"] for row in csv.DictReader(file) if row["masks/validation kept pixels"]
        ]
    with torch.no_grad():
        assert float(kept) == pytest.approx(second(IMAGES[:6]).kept.mean().item(), abs=1e-5)
    with Image.open(Path(logger.log_dir) / "masks" / "00000004.png") as picture:
        assert picture.size == (4 * 66 + 2, 2 * 66 + 2), "the image, two stages and the kept pixels; two images"


def test_what_is_missing_is_named() -> None:
    with pytest.raises(ValueError, match=r"has no AIM: self\.model = AIM"):
        fit(Classifier(TinyNet(2), AIMLoss(0.25)), AIMCallback())
    with pytest.raises(ValueError, match=r"has no AIMLoss: self\.criterion = AIMLoss"):
        fit(Classifier(aim(), None), AIMCallback())
    with pytest.raises(ValueError, match="has 2 of AIM; AIMCallback watches one"):
        fit(Classifier(nn.ModuleList([aim(), aim()]), AIMLoss(0.25)), AIMCallback())


def test_a_grid_of_given_masks() -> None:
    images, masks = torch.rand(2, 1, 8, 8), torch.tensor([[1.0, 0.0]])[None, None].expand(2, 1, 1, 2)
    found = mask_grid(images, masks)
    assert found.shape == (3, 22, 22) and found.dtype == torch.uint8
    assert torch.equal(found[0, 2:10, 2:10], (255 * images[0, 0]).round().byte())
    shade = torch.tensor([1.0] * 4 + [0.25] * 4)
    assert torch.equal(found[0, 12:20, 12:20], (255 * images[1, 0] * shade).round().byte())
    with pytest.raises(ValueError, match=r"masks must be \(2, 1, h, w\)"):
        mask_grid(images, masks[:1])
    for wrong, found in ((255 * masks, "0 to 255"), (masks * torch.nan, "nan to nan")):
        with pytest.raises(ValueError, match=f"masks must be from 0 to 1, got {found}"):
            mask_grid(images, wrong)
    with pytest.raises(ValueError, match="images must be"):
        mask_grid(images[0], masks)
