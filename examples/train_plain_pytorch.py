"""Train AIM in plain PyTorch: point DATA at a folder of class folders, run, and adapt.

    python examples/train_plain_pytorch.py path/to/data  # path/to/data/{train,val}/<class>/*.jpg
"""

import sys

import timm
import torch
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from tqdm import tqdm

from aimwrap import AIM, AIMLoss, TauScheduler

DATA = sys.argv[1]
EPOCHS, ANNEAL_EPOCHS = 20, 6
device = "cuda" if torch.cuda.is_available() else "cpu"

backbone = timm.create_model("convnext_tiny", pretrained=True, num_classes=len(ImageFolder(f"{DATA}/train").classes))
config = timm.data.resolve_model_data_config(backbone)
train_set = ImageFolder(f"{DATA}/train", timm.data.create_transform(**config, is_training=True))
val_set = ImageFolder(f"{DATA}/val", timm.data.create_transform(**config))
loader = DataLoader(train_set, batch_size=64, shuffle=True, num_workers=2)
val_loader = DataLoader(val_set, batch_size=64, num_workers=2)

model = AIM(backbone, stages=[2, 3], tau=0.25).to(device)  # two masks, at strides 16 and 32
criterion = AIMLoss(tau=model.tau)  # classification losses + 6 * (active area - tau)^2
schedule = TauScheduler(criterion.to(device), anneal_epochs=ANNEAL_EPOCHS)  # masks start open: tau 1.0 -> 0.25
new_modules = [p for name, p in model.named_parameters() if not name.startswith("backbone.")]
optimizer = torch.optim.AdamW(
    [{"params": model.backbone.parameters(), "lr": 1e-5}, {"params": new_modules, "lr": 1e-3}]
)

for epoch in range(EPOCHS):
    model.train()
    for images, labels in tqdm(loader, desc=f"epoch {epoch}, tau {criterion.tau.mean():.2f}"):
        output = model(images.to(device))  # AIMOutput(logits, stage_logits, masks)
        loss = criterion(output, labels.to(device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    schedule.step()

    model.eval()
    correct, areas = 0, {stage: 0.0 for stage in model.stages}
    with torch.no_grad():
        for images, labels in val_loader:
            output = model(images.to(device))
            correct += (output.logits.argmax(1).cpu() == labels).sum().item()
            for stage, mask in output.masks.items():  # 0 or 1, (N, 1, H, W): where the model may look
                areas[stage] += mask.mean((1, 2, 3)).sum().item()
    shares = ", ".join(f"stage {stage} {area / len(val_set):.2f}" for stage, area in areas.items())
    print(f"epoch {epoch}: accuracy {correct / len(val_set):.3f}, active area {shares}")

torch.save(model.state_dict(), "aim.pt")
