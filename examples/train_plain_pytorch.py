"""Train AIM in plain PyTorch: run it on a folder of class folders, and adapt it.

python examples/train_plain_pytorch.py path/to/data  # path/to/data/{train,val}/<class>/*.jpg
"""

import sys

import timm
import torch
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from tqdm import tqdm

from aimwrap import AIM, AIMLoss, MaskHealth, TauScheduler

EPOCHS, ANNEAL_EPOCHS = 20, 6


def main(data: str) -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    num_classes = len(ImageFolder(f"{data}/train").classes)
    backbone = timm.create_model("convnext_tiny", pretrained=True, num_classes=num_classes)
    config = timm.data.resolve_model_data_config(backbone)
    train_set = ImageFolder(f"{data}/train", timm.data.create_transform(**config, is_training=True))
    val_set = ImageFolder(f"{data}/val", timm.data.create_transform(**config))
    loader = DataLoader(train_set, batch_size=64, shuffle=True, num_workers=2)
    val_loader = DataLoader(val_set, batch_size=64, num_workers=2)

    model = AIM(backbone, stages=[2, 3], tau=0.25).to(device)  # two masks, at strides 16 and 32
    criterion = AIMLoss(tau=model.tau).to(device)  # classification losses + 6 * (active area - tau)^2
    schedule = TauScheduler(criterion, anneal_epochs=ANNEAL_EPOCHS)  # masks start open: tau 1.0 -> 0.25
    health = MaskHealth(criterion)  # warns when masks die, with a remedy
    groups = model.parameter_groups(lr=1e-5, head_lr=1e-3)  # a slow backbone keeps its features local
    optimizer = torch.optim.AdamW(groups, weight_decay=0.05)

    for epoch in range(EPOCHS):
        model.train()
        for images, labels in tqdm(loader, desc=f"epoch {epoch}, tau {criterion.tau.mean():.2f}"):
            output = model(images.to(device))  # AIMOutput(logits, stage_logits, masks)
            loss = criterion(output, labels.to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            health.update(output, training=True)
        schedule.step()
        evaluate(model, val_loader, device, epoch, health)
        health.warn()
    torch.save(model.state_dict(), "aim.pt")


@torch.no_grad()
def evaluate(model: AIM, loader: DataLoader, device: str, epoch: int, health: MaskHealth) -> None:
    model.eval()
    correct, seen, areas = 0, 0, dict.fromkeys(model.stages, 0.0)
    for images, labels in loader:
        output = model(images.to(device))
        health.update(output, training=False)
        correct += (output.logits.argmax(1).cpu() == labels).sum().item()
        seen += len(labels)
        for stage, mask in output.masks.items():  # 0 or 1, (N, 1, H, W): where the model may look
            areas[stage] += mask.mean((1, 2, 3)).sum().item()
    shares = ", ".join(f"stage {stage} {area / seen:.2f}" for stage, area in areas.items())
    print(f"epoch {epoch}: accuracy {correct / seen:.3f}, active area {shares}")


if __name__ == "__main__":
    main(sys.argv[1])
