"""Train a second look with Lightning, on one GPU or on several: a module with one trained layer.

python examples/second_look_lightning.py path/to/data aim  # the data as for train_second_look.py
"""

import sys

import lightning
import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder

from aimwrap import AIM, SecondLook

EPOCHS = 20


class Twice(lightning.LightningModule):
    def __init__(self, folder: str) -> None:
        super().__init__()
        self.model = SecondLook(AIM.from_pretrained(folder))
        self.model.first.requires_grad_(False)  # else DistributedDataParallel waits for its gradients

    def training_step(self, batch: list[torch.Tensor], batch_index: int) -> torch.Tensor:
        images, labels = batch  # more than one image: with copies, whose masks' margins show other backgrounds
        features = self.model.features(images, copies=1)  # of both looks, without gradients
        logits = self.model.classifier(features.flatten(0, 1))
        loss = F.cross_entropy(logits, labels.repeat_interleave(2))
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: list[torch.Tensor], batch_index: int) -> None:
        images, labels = batch
        output = self.model(images)
        correct = (output.logits.argmax(1) == labels).float().mean()
        self.log("val/accuracy", correct, batch_size=len(labels), sync_dist=True, prog_bar=True)
        self.log("val/kept pixels", output.kept.mean(), batch_size=len(labels), sync_dist=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.model.classifier.parameters(), lr=3e-4, weight_decay=0.05)


def main(data: str, folder: str) -> None:
    twice = Twice(folder).train()
    prepare = twice.model.preprocessing.transform()
    train_set, val_set = ImageFolder(f"{data}/train", prepare), ImageFolder(f"{data}/val", prepare)
    loader = DataLoader(train_set, batch_size=32, shuffle=True, num_workers=2, drop_last=True)
    val_loader = DataLoader(val_set, batch_size=64, num_workers=2)
    trainer = lightning.Trainer(max_epochs=EPOCHS)
    trainer.fit(twice, loader, val_loader)
    if trainer.is_global_zero:
        twice.model.save_pretrained("aim-twice", class_names=train_set.classes)


if __name__ == "__main__":
    main(*sys.argv[1:])
