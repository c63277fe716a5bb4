"""Train AIM around a vision transformer, tapped by block numbers, and measure how much its masks say about pixels.

python examples/vit.py path/to/data  # path/to/data/{train,val}/<class>/*.jpg
"""

import sys

import timm
import torch
from torch.utils.data import DataLoader, RandomSampler
from torchvision.datasets import ImageFolder
from tqdm import tqdm

from aimwrap import AIM, AIMLoss, MaskHealth, TauScheduler, verify

EPOCHS, ANNEAL_EPOCHS = 20, 6
# A ViT has one resolution and no stages: numbers count its blocks from 0, here the sixth and the last. Attention mixes
# all positions in every block, so an early mask is closer to the pixels at its place.
BLOCKS = [5, 11]


def main(data: str) -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    classes = ImageFolder(f"{data}/train").classes
    backbone = timm.create_model("vit_small_patch16_224.augreg_in1k", pretrained=True, num_classes=len(classes))
    # Tokens become maps: 14 x 14 positions of 16 x 16 pixels.
    model = AIM(backbone, stages=BLOCKS, tau=0.25).to(device)
    prep = model.preprocessing  # the image size and normalisation of the backbone
    augment = timm.data.create_transform(prep.image_size, is_training=True, mean=prep.mean, std=prep.std)
    train_set, val_set = ImageFolder(f"{data}/train", augment), ImageFolder(f"{data}/val", prep.transform())
    loader = DataLoader(train_set, batch_size=64, shuffle=True, num_workers=2)
    val_loader = DataLoader(val_set, batch_size=64, num_workers=2)

    criterion = AIMLoss(tau=model.tau).to(device)
    schedule = TauScheduler(criterion, anneal_epochs=ANNEAL_EPOCHS)
    health = MaskHealth(criterion)
    optimizer = torch.optim.AdamW(model.parameter_groups(lr=1e-5, head_lr=1e-3), weight_decay=0.05)

    for epoch in range(EPOCHS):
        model.train()
        for images, labels in tqdm(loader, desc=f"epoch {epoch}, tau {criterion.tau.mean():.2f}"):
            output = model(images.to(device))
            loss = criterion(output, labels.to(device))
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm=1.0)
            optimizer.step()
            health.update(output, training=True)
        schedule.step()
        evaluate(model, val_loader, device, epoch, health)
        health.warn()
    model.save_pretrained("aim", class_names=classes)

    # A mask keeps tokens, and every token has information from the entire image. To see how much that matters, the
    # pixels outside of the masks are replaced: compare the predictions that survive with those of a moved mask.
    some = DataLoader(val_set, sampler=RandomSampler(val_set), batch_size=min(200, len(val_set)))
    print(verify(model.eval(), next(iter(some))[0].to(device)))


@torch.no_grad()
def evaluate(model: AIM, loader: DataLoader, device: str, epoch: int, health: MaskHealth) -> None:
    model.eval()
    correct, seen, areas = 0, 0, dict.fromkeys(model.stages, 0.0)
    for images, labels in loader:
        output = model(images.to(device))
        health.update(output, training=False)
        correct += (output.logits.argmax(1).cpu() == labels).sum().item()
        seen += len(labels)
        for stage, mask in output.masks.items():
            areas[stage] += mask.mean((1, 2, 3)).sum().item()
    shares = ", ".join(f"block {block} {area / seen:.2f}" for block, area in areas.items())
    print(f"epoch {epoch}: accuracy {correct / seen:.3f}, active area {shares}")


if __name__ == "__main__":
    main(*sys.argv[1:])
