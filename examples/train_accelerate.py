"""Train AIM with Hugging Face Accelerate: one process or many, in mixed precision.

accelerate launch examples/train_accelerate.py path/to/data  # path/to/data/{train,val}/<class>/*.jpg
"""

import sys

import timm
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from tqdm import tqdm

from aimwrap import AIM, AIMLoss, MaskHealth, TauScheduler

EPOCHS, ANNEAL_EPOCHS = 20, 6


def main(data: str) -> None:
    accelerator = Accelerator(mixed_precision="bf16")
    set_seed(0, device_specific=True)  # with the same seed, all processes would draw the same noise for their masks
    classes = ImageFolder(f"{data}/train").classes
    backbone = timm.create_model("convnext_tiny", pretrained=True, num_classes=len(classes))
    model = AIM(backbone, stages=[2, 3], tau=0.25)
    prep = model.preprocessing  # the image size and normalisation of the backbone
    augment = timm.data.create_transform(prep.image_size, is_training=True, mean=prep.mean, std=prep.std)
    train_set, val_set = ImageFolder(f"{data}/train", augment), ImageFolder(f"{data}/val", prep.transform())
    loader = DataLoader(train_set, batch_size=64, shuffle=True, num_workers=2)
    val_loader = DataLoader(val_set, batch_size=64, num_workers=2)

    criterion = AIMLoss(tau=model.tau).to(accelerator.device)  # nothing to train in it, so it is not prepared
    optimizer = torch.optim.AdamW(model.parameter_groups(lr=1e-5, head_lr=1e-3), weight_decay=0.05)
    rate_schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS * len(loader))
    tau_schedule = TauScheduler(criterion, anneal_epochs=ANNEAL_EPOCHS)
    health = MaskHealth(criterion)
    model, optimizer, loader, val_loader, rate_schedule = accelerator.prepare(
        model, optimizer, loader, val_loader, rate_schedule
    )
    accelerator.register_for_checkpointing(tau_schedule)  # accelerator.load_state("checkpoint") then restores tau

    for epoch in range(EPOCHS):
        model.train()
        progress = tqdm(
            loader, f"epoch {epoch}, tau {criterion.tau.mean():.2f}", disable=not accelerator.is_main_process
        )
        for images, labels in progress:
            output = model(images)
            loss = criterion(output, labels)
            optimizer.zero_grad()
            accelerator.backward(loss)
            optimizer.step()
            rate_schedule.step()
            health.update(output, training=True)
        tau_schedule.step()
        evaluate(accelerator, model, val_loader, epoch, health)
        health.warn()  # each process warns about its own share of the images
        accelerator.save_state("checkpoint")
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        aim = accelerator.unwrap_model(model, keep_fp32_wrapper=False)
        aim.save_pretrained("aim", class_names=classes)
    accelerator.end_training()


@torch.no_grad()
def evaluate(accelerator: Accelerator, model: torch.nn.Module, loader: DataLoader, epoch: int, health: MaskHealth):
    model.eval()
    correct, areas = [], []
    for images, labels in loader:
        output = model(images)
        health.update(output, training=False)
        area = torch.stack([mask.mean((1, 2, 3)) for mask in output.masks.values()], dim=1)  # (N, stages)
        # The last batch is filled up, so that all processes have the same number; this removes the copies.
        right, area = accelerator.gather_for_metrics((output.logits.argmax(1) == labels, area))
        correct.append(right)
        areas.append(area)
    shares = ", ".join(f"{area:.2f}" for area in torch.cat(areas).mean(0).tolist())
    right = torch.cat(correct).float()
    accelerator.print(f"epoch {epoch}: {len(right)} images, accuracy {right.mean():.3f}, active areas {shares}")


if __name__ == "__main__":
    main(*sys.argv[1:])
