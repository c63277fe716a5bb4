"""Train AIM with Lightning: a short module, and the callback for tau and the masks.

python examples/train_lightning.py path/to/data  # path/to/data/{train,val}/<class>/*.jpg
python examples/train_lightning.py path/to/data checkpoints/last.ckpt  # continue a run
"""

import sys

import lightning
import timm
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder

from aimwrap import AIM, AIMLoss
from aimwrap.lightning import AIMCallback

EPOCHS, ANNEAL_SHARE = 20, 0.3


class Classifier(lightning.LightningModule):
    def __init__(self, num_classes: int) -> None:
        super().__init__()
        backbone = timm.create_model("convnext_tiny", pretrained=True, num_classes=num_classes)
        self.model = AIM(backbone, stages=[2, 3], tau=0.25)
        self.criterion = AIMLoss(tau=self.model.tau)  # a submodule, so that Lightning moves and saves its tau

    def training_step(self, batch: list[torch.Tensor], batch_index: int) -> torch.Tensor:
        images, labels = batch
        loss = self.criterion(self.model(images), labels)
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: list[torch.Tensor], batch_index: int) -> None:
        images, labels = batch
        correct = (self.model(images).logits.argmax(1) == labels).float().mean()
        self.log("val/accuracy", correct, batch_size=len(labels), sync_dist=True, prog_bar=True)

    def configure_optimizers(self) -> dict[str, object]:
        optimizer = torch.optim.AdamW(self.model.parameter_groups(lr=1e-5, head_lr=1e-3), weight_decay=0.05)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.trainer.estimated_stepping_batches)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def main(data: str, checkpoint: str | None = None) -> None:
    # No seed_everything: it would give all processes the same noise for their masks.
    classes = ImageFolder(f"{data}/train").classes
    classifier = Classifier(len(classes))
    prep = classifier.model.preprocessing  # the image size and normalisation of the backbone
    augment = timm.data.create_transform(prep.image_size, is_training=True, mean=prep.mean, std=prep.std)
    train_set, val_set = ImageFolder(f"{data}/train", augment), ImageFolder(f"{data}/val", prep.transform())
    loader = DataLoader(train_set, batch_size=64, shuffle=True, num_workers=2)
    val_loader = DataLoader(val_set, batch_size=64, num_workers=2)

    masks = AIMCallback(anneal_share=ANNEAL_SHARE)  # moves tau, warns when masks die, logs areas and pictures
    callbacks = [masks, ModelCheckpoint("checkpoints", save_last=True)]
    trainer = lightning.Trainer(max_epochs=EPOCHS, callbacks=callbacks)
    trainer.fit(classifier, loader, val_loader, ckpt_path=checkpoint)
    if trainer.is_global_zero:
        classifier.model.save_pretrained("aim", class_names=classes)


if __name__ == "__main__":
    main(*sys.argv[1:])
