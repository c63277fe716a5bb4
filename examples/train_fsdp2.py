"""Train AIM around a large backbone with FSDP2: each GPU keeps a share of weights, gradients and optimiser state.

torchrun --nproc_per_node=8 examples/train_fsdp2.py path/to/data  # path/to/data/{train,val}/<class>/*.jpg
"""

import os
import sys

import timm
import torch
import torch.distributed as dist
from timm.models.convnext import ConvNeXtBlock
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.utils.data import DataLoader, DistributedSampler
from torchvision.datasets import ImageFolder
from tqdm import tqdm

from aimwrap import AIM, AIMLoss, MaskHealth, TauScheduler

BACKBONE, STAGES, TAU = "convnext_xxlarge", [2, 3], 0.25
EPOCHS, ANNEAL_EPOCHS = 20, 6


def main(data: str) -> None:
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    mesh = init_device_mesh(device.type, (int(os.environ["WORLD_SIZE"]),))
    rank = dist.get_rank()

    classes = ImageFolder(f"{data}/train").classes
    torch.manual_seed(0)  # FSDP does not make the processes' weights the same
    backbone = timm.create_model(BACKBONE, pretrained=True, num_classes=len(classes))
    # Checkpointing saves memory, and AIM then runs the backbone's own blocks. Otherwise it runs a flat graph of its
    # layers: no block is ever called, so FSDP would not know when to gather one.
    backbone.set_grad_checkpointing()
    model = AIM(backbone, stages=STAGES, tau=TAU).to(device)
    prep = model.preprocessing  # the image size and normalisation of the backbone
    augment = timm.data.create_transform(prep.image_size, is_training=True, mean=prep.mean, std=prep.std)
    train_set, val_set = ImageFolder(f"{data}/train", augment), ImageFolder(f"{data}/val", prep.transform())
    sampler = DistributedSampler(train_set)
    loader = DataLoader(train_set, batch_size=16, sampler=sampler, num_workers=2)
    precision = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    for module in list(model.backbone.modules()):
        if isinstance(module, ConvNeXtBlock):
            fully_shard(module, mesh=mesh, mp_policy=precision)
    fully_shard(model, mesh=mesh, mp_policy=precision)  # the rest: stem, mask estimators, classifiers
    torch.manual_seed(1 + rank)  # each process draws its own noise for its masks

    criterion = AIMLoss(tau=model.tau).to(device)  # no parameters, nothing to shard
    schedule = TauScheduler(criterion, anneal_epochs=ANNEAL_EPOCHS)
    health = MaskHealth(criterion)
    optimizer = torch.optim.AdamW(model.parameter_groups(lr=1e-5, head_lr=1e-3), weight_decay=0.05)
    for epoch in range(EPOCHS):
        model.train()
        sampler.set_epoch(epoch)
        for images, labels in tqdm(loader, f"epoch {epoch}, tau {criterion.tau.mean():.2f}", disable=rank != 0):
            output = model(images.to(device))
            loss = criterion(output, labels.to(device))
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm=1.0)
            optimizer.step()
            health.update(output, training=True)
        schedule.step()
        model.eval()
        with torch.no_grad():  # most problems of masks show only without the noise of training
            health.update(model(images.to(device)), training=False)
        health.warn()  # each process warns about its own share of the images

    gathered = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    dist.destroy_process_group()
    if rank == 0:  # it has all weights now, and loads them into a model that was never sharded
        unsharded = AIM(timm.create_model(BACKBONE, num_classes=len(classes)), stages=STAGES, tau=TAU)
        unsharded.load_state_dict(gathered)
        unsharded.save_pretrained("aim", class_names=classes)
        validate(unsharded.to(device).eval(), val_set, device)


@torch.no_grad()
def validate(model: AIM, val_set: ImageFolder, device: torch.device) -> None:
    correct, areas = 0, torch.zeros(len(model.stages))
    for images, labels in tqdm(DataLoader(val_set, batch_size=16, num_workers=2), desc="validation"):
        logits, masks = model.predict(images.to(device))
        correct += (logits.argmax(1).cpu() == labels).sum().item()
        areas += torch.stack([mask.mean((1, 2, 3)).sum() for mask in masks.values()]).cpu()
    shares = ", ".join(f"{area:.2f}" for area in (areas / len(val_set)).tolist())
    print(f"accuracy {correct / len(val_set):.3f}, active areas {shares}")


if __name__ == "__main__":
    main(*sys.argv[1:])
