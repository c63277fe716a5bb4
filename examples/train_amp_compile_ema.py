"""Train AIM in plain PyTorch with mixed precision, torch.compile, a cosine schedule with warm-up, and an EMA.

python examples/train_amp_compile_ema.py path/to/data  # path/to/data/{train,val}/<class>/*.jpg
"""

import math
import sys

import timm
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from tqdm import tqdm

from aimwrap import AIM, AIMLoss, MaskHealth, TauScheduler

EPOCHS, WARM_UP_EPOCHS, ANNEAL_EPOCHS = 20, 2, 6
EMA_EPOCHS = 1  # the weights are averaged over this many epochs, and the masks follow tau that much later


def main(data: str) -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    needs_scaling = device == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False)
    dtype = torch.float16 if needs_scaling else torch.bfloat16
    classes = ImageFolder(f"{data}/train").classes
    backbone = timm.create_model("convnext_tiny", pretrained=True, num_classes=len(classes))
    model = AIM(backbone, stages=[2, 3], tau=0.25).to(device)
    prep = model.preprocessing  # the image size and normalisation of the backbone
    augment = timm.data.create_transform(prep.image_size, is_training=True, mean=prep.mean, std=prep.std)
    train_set, val_set = ImageFolder(f"{data}/train", augment), ImageFolder(f"{data}/val", prep.transform())
    # Without the smaller last batch there is one shape, and so one compilation.
    loader = DataLoader(train_set, batch_size=64, shuffle=True, drop_last=True, num_workers=2, pin_memory=True)
    val_loader = DataLoader(val_set, batch_size=64, num_workers=2)
    steps = len(loader)  # of an epoch

    compiled = torch.compile(model)  # the same weights; the average is that of the model itself
    criterion = AIMLoss(tau=model.tau).to(device)
    tau_schedule = TauScheduler(criterion, anneal_steps=ANNEAL_EPOCHS * steps)
    health = MaskHealth(criterion)
    optimizer = torch.optim.AdamW(model.parameter_groups(lr=1e-5, head_lr=1e-3), weight_decay=0.05)
    rate_schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: warm_up_and_cosine(step, WARM_UP_EPOCHS * steps, EPOCHS * steps)
    )
    scaler = torch.amp.GradScaler(device, enabled=needs_scaling)
    # BatchNorm's statistics are averaged, too. tau is not: it is in the criterion, which is not part of the model.
    decay = get_ema_multi_avg_fn(1 - 1 / (EMA_EPOCHS * steps + 1))
    averaged = AveragedModel(model, multi_avg_fn=decay, use_buffers=True)

    for epoch in range(EPOCHS):
        model.train()
        for images, labels in tqdm(loader, desc=f"epoch {epoch}, tau {criterion.tau.mean():.2f}"):
            with torch.autocast(device, dtype):
                output = compiled(images.to(device, non_blocking=True))
                loss = criterion(output, labels.to(device, non_blocking=True))
            optimizer.zero_grad()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            rate_schedule.step()
            tau_schedule.step()
            averaged.update_parameters(model)
            health.update(output, training=True)
        evaluate(averaged.module, val_loader, device, epoch, health)
        health.warn()
    averaged.module.save_pretrained("aim", class_names=classes)


def warm_up_and_cosine(step: int, warm_up_steps: int, steps: int) -> float:
    """Factor of the learning rate: a linear rise, then half a cosine wave."""
    if step < warm_up_steps:
        return (step + 1) / warm_up_steps
    return (1 + math.cos(math.pi * (step - warm_up_steps) / (steps - warm_up_steps))) / 2


@torch.no_grad()
def evaluate(model: AIM, loader: DataLoader, device: str, epoch: int, health: MaskHealth) -> None:
    model.eval()
    correct, seen, area = 0, 0, 0.0
    for images, labels in loader:
        output = model(images.to(device))
        health.update(output, training=False)
        correct += (output.logits.argmax(1).cpu() == labels).sum().item()
        seen += len(labels)
        area += output.masks[2].mean((1, 2, 3)).sum().item()
    print(f"epoch {epoch}: accuracy of the averaged model {correct / seen:.3f}, active area {area / seen:.2f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
