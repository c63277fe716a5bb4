"""Parts of make.py that the tests share. Never change them: the kept run imports its backbone by this file's name."""

import hashlib
import itertools
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from aimwrap import AIM, AIMLoss
from aimwrap.data import Built, Sample

WEIGHTS = "model.safetensors"
RUN = {
    "root": "set",  # of the working folder, so that the run can be resumed in another place
    "data": "built",
    "backbone": "kept_nets:kept",
    "image_size": 32,
    "epochs": 2,
    "batch_size": 4,
    "lr": 1e-3,
    "stages": (3,),  # one mask estimator: a checkpoint has every weight three times
    "checkpoint_steps": 3,
}


class KeptNet(nn.Module):
    """Five strided convolutions, dropout and a linear classifier."""

    def __init__(self, num_classes: int = 2) -> None:
        super().__init__()
        pairs = itertools.pairwise((3, 6, 8, 10, 12, 12))
        self.stages = nn.ModuleList(nn.Sequential(nn.Conv2d(a, b, 3, 2, 1), nn.GELU()) for a, b in pairs)
        self.dropout = nn.Dropout(0.2)  # draws from torch's generator in training, whose state a checkpoint keeps
        self.fc = nn.Linear(12, num_classes)
        for stage in self.stages:
            nn.init.kaiming_normal_(stage[0].weight, nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        for stage in self.stages:
            x = self.dropout(stage(x))
        return self.fc(x.mean((2, 3)))


def kept() -> KeptNet:
    return KeptNet()


def images(count: int = 4, side: int = 64) -> Tensor:
    """Inputs that every version of torch draws alike."""
    return torch.arange(count * 3 * side * side, dtype=torch.float64).mul(0.37).sin().float().view(count, 3, side, side)


def trained_at_96(model: AIM) -> dict[str, Tensor]:
    """What a saved model computes of images of 96 pixels, and what two training steps with noise make of it."""
    labels = torch.arange(4)
    features = model.forward_masks(model.forward_backbone(images(side=96)))
    output = model.forward_head(features)
    AIMLoss(model.tau)(output, labels).backward()
    found = {"logits": output.logits, "fused": features.fused, "merged mask": features.merged_mask}
    for stage in model.stages:
        found[f"mask logits {stage}"] = features.mask_logits[stage]
        found[f"mask {stage}"] = output.masks[stage]
        found[f"stage logits {stage}"] = output.stage_logits[stage]
    for name, parameter in model.mask_estimators.named_parameters():
        found[f"gradient of {name}"] = parameter.grad
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(2):
        noisy = model.train()(images(side=96), noise_seeds=labels + 4 * step)
        optimizer.zero_grad()
        AIMLoss(model.tau)(noisy, labels).backward()
        optimizer.step()
        found |= {f"mask {stage} of step {step}": mask for stage, mask in noisy.masks.items()}
    found["logits after training"] = model.eval()(images(side=96)).logits
    return {name: value.detach().clone().contiguous() for name, value in found.items()}


def digest_of(root: Path, split: str) -> str:
    """SHA-256 of all that a split gives."""
    digest = hashlib.sha256()
    for sample in Built(root, split):
        digest.update(described(sample))
    return digest.hexdigest()


def described(sample: Sample) -> bytes:
    values = (sample.label, sample.place, sample.group, sample.id)
    return repr(values).encode() + np.asarray(sample.image).tobytes() + np.asarray(sample.object_mask).tobytes()
