"""Train AIM on several GPUs with DistributedDataParallel.

torchrun --nproc_per_node=8 examples/train_ddp.py path/to/data  # path/to/data/{train,val}/<class>/*.jpg
torchrun --nnodes=2 --nproc_per_node=8 --rdzv_backend=c10d --rdzv_endpoint=HOST:29500 examples/train_ddp.py path/to/data
"""

import os
import sys

import timm
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, Subset
from torchvision.datasets import ImageFolder
from tqdm import tqdm

from aimwrap import AIM, AIMLoss, MaskHealth, TauScheduler

EPOCHS, ANNEAL_EPOCHS = 20, 6


def main(data: str) -> None:
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    rank, processes = dist.get_rank(), dist.get_world_size()

    classes = ImageFolder(f"{data}/train").classes
    backbone = timm.create_model("convnext_tiny", pretrained=True, num_classes=len(classes))
    model = AIM(backbone, stages=[2, 3], tau=0.25)
    # Otherwise the BatchNorms of each process would have the statistics of that process's images.
    model = model.freeze_norm_statistics().to(device)
    prep = model.preprocessing  # the image size and normalisation of the backbone
    augment = timm.data.create_transform(prep.image_size, is_training=True, mean=prep.mean, std=prep.std)
    train_set, val_set = ImageFolder(f"{data}/train", augment), ImageFolder(f"{data}/val", prep.transform())
    sampler = DistributedSampler(train_set)
    loader = DataLoader(train_set, batch_size=64, sampler=sampler, num_workers=2)  # 64 per process
    # DistributedSampler counts some images twice, so that all processes have the same number; here each counts once.
    val_loader = DataLoader(Subset(val_set, range(rank, len(val_set), processes)), batch_size=64, num_workers=2)

    parallel = DistributedDataParallel(model, device_ids=[device.index] if device.type == "cuda" else None)
    torch.manual_seed(rank)  # after the model is built, which is the same everywhere: each draws its own noise
    criterion = AIMLoss(tau=model.tau).to(device)
    schedule = TauScheduler(criterion, anneal_epochs=ANNEAL_EPOCHS)
    health = MaskHealth(criterion)
    optimizer = torch.optim.AdamW(model.parameter_groups(lr=1e-5, head_lr=1e-3), weight_decay=0.05)

    for epoch in range(EPOCHS):
        model.train()
        sampler.set_epoch(epoch)  # otherwise every epoch has the same order
        for images, labels in tqdm(loader, f"epoch {epoch}, tau {criterion.tau.mean():.2f}", disable=rank != 0):
            output = parallel(images.to(device))
            loss = criterion(output, labels.to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            health.update(output, training=True)
        schedule.step()
        evaluate(model, val_loader, device, epoch, health)
        health.warn()  # each process warns about its own share of the images
    if rank == 0:
        model.save_pretrained("aim", class_names=classes)
    dist.destroy_process_group()


@torch.no_grad()
def evaluate(model: AIM, loader: DataLoader, device: torch.device, epoch: int, health: MaskHealth) -> None:
    """Run the model itself: DistributedDataParallel would wait for processes that have fewer images."""
    model.eval()
    sums = torch.zeros(2 + len(model.stages), dtype=torch.float64, device=device)  # images, correct, areas
    for images, labels in loader:
        output = model(images.to(device))
        health.update(output, training=False)
        correct = (output.logits.argmax(1).cpu() == labels).sum()
        areas = [mask.mean((1, 2, 3)).sum() for mask in output.masks.values()]
        sums += torch.tensor([len(labels), correct, *areas], device=device)
    dist.all_reduce(sums)
    images, correct, *areas = sums.tolist()
    if dist.get_rank() == 0:
        shares = ", ".join(f"{area / images:.2f}" for area in areas)
        print(f"epoch {epoch}: {images:.0f} images, accuracy {correct / images:.3f}, active areas {shares}")


if __name__ == "__main__":
    main(*sys.argv[1:])
