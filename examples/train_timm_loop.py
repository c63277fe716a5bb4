"""Train AIM with timm's own parts: loader, optimiser, schedule, loss scaler, averaged weights.

python examples/train_timm_loop.py path/to/data  # path/to/data/{train,val}/<class>/*.jpg
"""

import sys

import timm
import torch
from timm.data import create_dataset, create_loader
from timm.loss import LabelSmoothingCrossEntropy
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.utils import AverageMeter, ModelEmaV3, NativeScaler, accuracy
from tqdm import tqdm

from aimwrap import AIM, AIMLoss, MaskHealth, TauScheduler

EPOCHS, WARM_UP_EPOCHS, ANNEAL_EPOCHS, BATCH_SIZE = 20, 2, 6, 64


def main(data: str) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    train_set = create_dataset("", data, split="train", is_training=True)
    val_set = create_dataset("", data, split="val")
    names = sorted(train_set.reader.class_to_idx, key=train_set.reader.class_to_idx.get)
    backbone = timm.create_model("convnext_tiny", pretrained=True, num_classes=len(names))
    model = AIM(backbone, stages=[2, 3], tau=0.25).to(device)
    prep = model.preprocessing  # the image size and normalisation of the backbone
    size = (3, *prep.image_size)
    how = {"batch_size": BATCH_SIZE, "num_workers": 2, "device": device, "use_prefetcher": device.type == "cuda"}
    how |= {"interpolation": prep.interpolation, "mean": prep.mean, "std": prep.std}
    loader = create_loader(train_set, size, **how, is_training=True, auto_augment="rand-m6-mstd0.5", re_prob=0.1)
    val_loader = create_loader(val_set, size, **how, crop_pct=prep.crop)

    # timm's losses go inside AIMLoss. So does SoftTargetCrossEntropy, but masks find no object in two mixed images.
    criterion = AIMLoss(tau=model.tau, classification_loss=LabelSmoothingCrossEntropy(0.1)).to(device)
    tau_schedule = TauScheduler(criterion, anneal_epochs=ANNEAL_EPOCHS)
    health = MaskHealth(criterion)
    groups = model.parameter_groups(lr=1e-5, head_lr=1e-3)  # timm's own groups have one rate for all
    optimizer = create_optimizer_v2(groups, opt="adamw", lr=1e-3, weight_decay=0.05)
    # Warm-up from 0: timm's default, 1e-5, is one rate for all groups, and already the backbone's rate.
    rate_schedule, _ = create_scheduler_v2(
        optimizer, "cosine", num_epochs=EPOCHS, warmup_epochs=WARM_UP_EPOCHS, warmup_lr=0.0,
        step_on_epochs=False, updates_per_epoch=len(loader),
    )  # fmt: skip
    scaler = NativeScaler(device=device.type)
    averaged = ModelEmaV3(model, decay=0.999, use_warmup=True)

    updates = 0
    for epoch in range(EPOCHS):
        model.train()
        for images, labels in tqdm(loader, desc=f"epoch {epoch}, tau {criterion.tau.mean():.2f}"):
            with torch.autocast(device.type, torch.float16 if device.type == "cuda" else torch.bfloat16):
                output = model(images.to(device))
                loss = criterion(output, labels.to(device))
            optimizer.zero_grad()
            scaler(loss, optimizer, clip_grad=1.0, parameters=model.parameters())
            updates += 1
            averaged.update(model, step=updates)
            rate_schedule.step_update(num_updates=updates)
            health.update(output, training=True)
        tau_schedule.step()
        rate_schedule.step(epoch + 1)
        validate(averaged.module, val_loader, device, epoch, health)
        health.warn()
    averaged.module.save_pretrained("aim", class_names=names)


@torch.no_grad()
def validate(model: AIM, loader, device: torch.device, epoch: int, health: MaskHealth) -> None:
    model.eval()
    top1, area = AverageMeter(), AverageMeter()
    for images, labels in loader:
        output = model(images.to(device))
        health.update(output, training=False)
        top1.update(accuracy(output.logits, labels.to(device))[0].item(), len(labels))
        area.update(output.masks[2].mean().item(), len(labels))
    print(f"epoch {epoch}: top-1 accuracy of the averaged model {top1.avg:.1f} %, active area {area.avg:.2f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
