"""Train AIM around a custom CNN, whose stages are named: nothing has to be registered.

python examples/custom_backbone.py path/to/data  # path/to/data/{train,val}/<class>/*.jpg
"""

import sys

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder
from tqdm import tqdm

from aimwrap import AIM, AIMLoss, MaskHealth, Preprocessing, TauScheduler, inspect_backbone

EPOCHS, ANNEAL_EPOCHS, SIZE = 60, 20, 128
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Block(nn.Module):
    def __init__(self, channels_in: int, channels: int) -> None:
        super().__init__()
        self.halve = nn.Conv2d(channels_in, channels, 3, stride=2, padding=1)
        self.mix = nn.Sequential(nn.GroupNorm(8, channels), nn.GELU(), nn.Conv2d(channels, channels, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.halve(x)
        return x + self.mix(x)


class MyNet(nn.Module):
    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.stem = Block(3, 32)
        self.body = nn.ModuleList([Block(32, 64), Block(64, 128), Block(128, 256)])
        self.head = nn.Linear(256, num_classes)  # AIM reads the number of classes from it, and does not use it

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem(images)
        for block in self.body:
            x = block(x)
        return self.head(x.mean((2, 3)))


def main(data: str) -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    flip = transforms.RandomHorizontalFlip()
    crop = transforms.RandomResizedCrop(SIZE, scale=(0.5, 1))
    resize = [transforms.Resize(SIZE), transforms.CenterCrop(SIZE)]
    as_tensor = [transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
    train_set = ImageFolder(f"{data}/train", transforms.Compose([crop, flip, *as_tensor]))
    val_set = ImageFolder(f"{data}/val", transforms.Compose([*resize, *as_tensor]))
    loader = DataLoader(train_set, batch_size=64, shuffle=True, num_workers=2)
    val_loader = DataLoader(val_set, batch_size=64, num_workers=2)

    net = MyNet(len(train_set.classes))
    images = torch.zeros(1, 3, SIZE, SIZE)
    print(inspect_backbone(net, example_input=images))  # the stages' numbers and names, and the cost of masks
    # By name, shallow to deep: at strides 8 and 16. The numbers that inspect_backbone printed work, too.
    model = AIM(net, stages=["body.1", "body.2"], tau=0.25, example_input=images).to(device)
    model.preprocessing = Preprocessing((SIZE, SIZE), MEAN, STD)  # a custom network has no record of it
    criterion = AIMLoss(tau=model.tau).to(device)
    tau_schedule = TauScheduler(criterion, anneal_epochs=ANNEAL_EPOCHS)
    health = MaskHealth(criterion)
    optimizer = torch.optim.AdamW(model.parameter_groups(lr=1e-3), weight_decay=0.05)  # all layers are new: one rate
    rate_schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS)

    for epoch in range(EPOCHS):
        model.train()
        for images, labels in tqdm(loader, desc=f"epoch {epoch}, tau {criterion.tau.mean():.2f}"):
            output = model(images.to(device))
            loss = criterion(output, labels.to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            health.update(output, training=True)
        tau_schedule.step()
        rate_schedule.step()
        evaluate(model, val_loader, device, epoch, health)
        health.warn()
    # The weights without the network's code; to load them: AIM.from_pretrained("aim", backbone=MyNet(num_classes)).
    model.save_pretrained("aim", class_names=train_set.classes)


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
    shares = ", ".join(f"{stage} {area / seen:.2f}" for stage, area in areas.items())
    print(f"epoch {epoch}: accuracy {correct / seen:.3f}, active area {shares}")


if __name__ == "__main__":
    main(*sys.argv[1:])
