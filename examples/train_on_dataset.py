"""Train AIM on a data set as it was published, and measure its worst group and where it looks.

python examples/train_on_dataset.py waterbirds data/waterbird_complete95_forest2water2
python examples/train_on_dataset.py hard-imagenet data/hardImageNet imagenet=data/imagenet
python examples/train_on_dataset.py folder data/mine masks=data/my-masks

The arguments after the folder are the reader's; the documentation's page "Data" lists them.
"""

import sys

import timm
import torch
from torch.utils.data import DataLoader
from tqdm import tqdm

from aimwrap import AIM, AIMLoss, MaskHealth, TauScheduler
from aimwrap.data import READERS, collate, eval_transform, train_transform
from aimwrap.metrics import EnergyPointingGame, GroupAccuracy, class_activation_map

EPOCHS, ANNEAL_EPOCHS = 20, 6


def main(name: str, root: str, *more: str) -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    arguments = dict(argument.split("=", 1) for argument in more)  # of the reader, such as cub=data/CUB_200_2011
    train_set = READERS[name](root, "train", **arguments)
    last_split = train_set.splits[-1]  # the test, or the validation where there is none
    test_set = READERS[name](root, last_split, **arguments)
    print(*(f"note: {note}" for note in test_set.release.notes), sep="\n")  # known problems of this copy
    backbone = timm.create_model("convnext_tiny", pretrained=True, num_classes=len(train_set.classes))
    model = AIM(backbone, stages=[2, 3], tau=0.25).to(device)
    train_set.transform = train_transform(model.preprocessing)  # moves object masks and boxes with the image
    test_set.transform = eval_transform(model.preprocessing)
    loader = DataLoader(train_set, batch_size=64, shuffle=True, num_workers=2, collate_fn=collate)
    test_loader = DataLoader(test_set, batch_size=64, num_workers=2, collate_fn=collate)

    criterion = AIMLoss(tau=model.tau).to(device)
    schedule = TauScheduler(criterion, anneal_epochs=ANNEAL_EPOCHS)
    health = MaskHealth(criterion)
    groups = model.parameter_groups(lr=1e-5, head_lr=1e-3)
    optimizer = torch.optim.AdamW(groups, weight_decay=0.05)
    for epoch in range(EPOCHS):
        model.train()
        for batch in tqdm(loader, desc=f"epoch {epoch}, tau {criterion.tau.mean():.2f}"):
            output = model(batch.image.to(device))
            loss = criterion(output, batch.label.to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            health.update(output, training=True)
        schedule.step()
        health.warn()
    print(f"on the {last_split} images:")
    evaluate(model.eval(), test_loader, device)
    model.save_pretrained(f"aim-{name}", class_names=train_set.classes)


@torch.no_grad()
def evaluate(model: AIM, loader: DataLoader, device: str) -> None:
    test_set = loader.dataset
    num_groups = len(test_set.group_names) or len(test_set.classes)  # without places, every label is a group
    accuracy, pointing = GroupAccuracy(num_groups), EnergyPointingGame()
    for batch in tqdm(loader, desc="test"):
        features = model.forward_masks(model.forward_backbone(batch.image.to(device)))
        logits = model.forward_head(features).logits
        accuracy.update(logits.cpu(), batch.label, batch.label if batch.group is None else batch.group)
        if batch.object_mask is not None:
            heatmap = class_activation_map(features.fused, model.classifier.weight, logits.argmax(1))
            pointing.update(heatmap.cpu(), batch.object_mask)
    scores = accuracy.compute()
    print(f"average {scores['average']:.3f}, worst group {scores['worst_group']:.3f}")
    if pointing.scores:
        looks = pointing.compute()
        print(f"energy pointing {looks['energy_pointing']:.3f}, by chance {looks['chance']:.3f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
