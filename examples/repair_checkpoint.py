"""Repair a classifier that has learned the background: freeze its features, train masks and a new last layer.

python examples/repair_checkpoint.py path/to/data classifier.pt [path/to/masks]

path/to/data/{train,val}/<class>/<place>/*.jpg  the folders in a class name the groups, which only score val
path/to/masks/val/<class>/<place>/*.png         the objects in val, bright on dark, for the energy pointing game
"""

import sys
from collections.abc import Callable
from pathlib import Path

import timm
import torch
from torch.utils.data import DataLoader
from tqdm import tqdm

from aimwrap import AIM, AIMLoss, MaskHealth, TauScheduler
from aimwrap.data import LabelledFolder, collate, eval_transform, train_transform
from aimwrap.metrics import EnergyPointingGame, GroupAccuracy, class_activation_map

BACKBONE, STAGES, TAU = "resnet50", [2, 3], 0.25
EPOCHS, ANNEAL_EPOCHS = 12, 4
OPEN = dict.fromkeys(STAGES, torch.ones(1, 1, 1, 1))  # masks that hide nothing
Look = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]  # images -> logits, heatmaps


def main(data: str, checkpoint: str, masks: str | None = None) -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    train_set, val_set = LabelledFolder(data, "train"), LabelledFolder(data, "val", masks=masks)
    num_classes = len(train_set.classes)
    plain = timm.create_model(BACKBONE, num_classes=num_classes, checkpoint_path=checkpoint).to(device).eval()
    # Both use the classifier's features. The control, with masks held open, shows the effect of a new last layer alone.
    control = AIM(plain, stages=STAGES, tau=1.0).freeze_backbone().to(device)
    model = AIM(plain, stages=STAGES, tau=TAU).freeze_backbone().to(device)
    train_set.transform = train_transform(model.preprocessing)
    val_set.transform = eval_transform(model.preprocessing)
    loader = DataLoader(train_set, batch_size=64, shuffle=True, num_workers=2, collate_fn=collate)
    val_loader = DataLoader(val_set, batch_size=64, num_workers=2, collate_fn=collate)

    def look_plain(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features = plain.forward_features(images.to(device))
        logits = plain.forward_head(features)
        return logits, class_activation_map(features, plain.get_classifier().weight, logits.argmax(1))

    def look(aim: AIM, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features = aim.forward_masks(aim.forward_backbone(images.to(device)), OPEN if aim is control else None)
        logits = aim.forward_head(features).logits
        return logits, class_activation_map(features.fused, aim.classifier.weight, logits.argmax(1))

    _, heatmap = look_plain(val_set[0].image[None])
    grid = heatmap.shape[1:]  # one for all scores: a finer map would score better without pointing better
    evaluate("before", look_plain, val_loader, grid)
    train(control, loader, device, OPEN)
    evaluate("new last layer, masks held open", lambda images: look(control, images), val_loader, grid)
    train(model, loader, device)
    evaluate("AIM", lambda images: look(model, images), val_loader, grid)
    model.save_pretrained("repaired", class_names=train_set.classes)


def train(model: AIM, loader: DataLoader, device: str, masks: dict[int, torch.Tensor] | None = None) -> None:
    criterion = AIMLoss(tau=model.tau).to(device)
    schedule = TauScheduler(criterion, anneal_epochs=ANNEAL_EPOCHS)
    health = MaskHealth(criterion)
    optimizer = torch.optim.AdamW(model.parameter_groups(lr=1e-3), weight_decay=0.05)
    for epoch in range(EPOCHS):
        model.train()  # the frozen backbone stays in evaluation mode
        for batch in tqdm(loader, desc=f"epoch {epoch}, tau {criterion.tau.mean():.2f}"):
            output = model(batch.image.to(device), masks)
            loss = criterion(output, batch.label.to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            health.update(output, training=True)
        schedule.step()
        model.eval()
        with torch.no_grad():  # most problems of masks show only without the noise of training
            health.update(model(batch.image.to(device), masks), training=False)
        health.warn()


def group_of(path: str) -> str:
    return "/".join(Path(path).parts[-3:-1])  # class/place


@torch.no_grad()
def evaluate(name: str, look: Look, loader: DataLoader, grid: tuple[int, int]) -> None:
    names = sorted({group_of(str(record.path)) for record in loader.dataset.records})
    accuracy = GroupAccuracy(len(names), group_names=names)
    pointing = EnergyPointingGame(resolution=grid)
    for batch in tqdm(loader, desc=name):
        logits, heatmap = look(batch.image)
        groups = torch.tensor([names.index(group_of(path)) for path in batch.path])
        accuracy.update(logits.cpu(), batch.label, groups)
        if batch.object_mask is not None:
            pointing.update(heatmap.cpu(), batch.object_mask)
    print(name, *(f"{group} {value:.3f}" for group, value in accuracy.compute().items()), sep=", ")
    if pointing.scores:
        looks = pointing.compute()
        print(f"energy pointing {looks['energy_pointing']:.3f}, by chance {looks['chance']:.3f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
