"""Choose tau without group labels: lower it until it costs too much validation accuracy.

python examples/choose_tau.py path/to/data  # path/to/data/{train,val}/<class>/*.jpg

This does not show whether the masks are on the object. If the background predicts the label in val as it does in
training, masks on the background cost nothing either. So the script writes masks.png: look at it.
"""

import sys

import timm
import torch
from torch import Tensor
from torch.nn.functional import interpolate
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.utils import save_image
from tqdm import tqdm

from aimwrap import AIM, AIMLoss, AIMOutput, MaskHealth, TauScheduler

TAUS = (1.0, 0.5, 0.35, 0.25, 0.15, 0.1, 0.05)  # 1.0 is the reference: the same layers, nothing masked
SEEDS, EPOCHS, ANNEAL_EPOCHS = 3, 12, 4
COST = 0.01  # the accuracy that you accept to lose: one point

Maps = dict[str, Tensor]


def main(data: str) -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    num_classes = len(ImageFolder(f"{data}/train").classes)
    backbone = timm.create_model("convnext_tiny", pretrained=True, num_classes=num_classes).to(device)
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(backbone))
    train_set, val_set = ImageFolder(f"{data}/train", transform), ImageFolder(f"{data}/val", transform)
    # The backbone is frozen, so each image passes it once: its maps are kept, half a megabyte for each image.
    frozen = AIM(backbone, stages=[2, 3]).freeze_backbone().to(device).eval()
    (maps, labels), (val_maps, val_labels) = kept_maps(frozen, train_set, device), kept_maps(frozen, val_set, device)

    reference: Tensor | None = None
    for tau in TAUS:
        right, findings = torch.zeros(len(val_set)), []
        for seed in tqdm(range(SEEDS), desc=f"tau {tau}"):
            torch.manual_seed(seed)
            model = AIM(backbone, stages=[2, 3], tau=tau).freeze_backbone().to(device)
            health = train(model, maps, labels)
            outputs = [run(model.eval(), val_maps, images) for images in torch.arange(len(val_set)).split(64)]
            for output in outputs:
                health.update(output, training=False)
            findings += health.report()
            right += (torch.cat([output.logits.argmax(1).cpu() for output in outputs]) == val_labels) / SEEDS
        reference = right if reference is None else reference
        lost = reference - right  # for each image, the share of seeds that are no longer right
        cost, error = lost.mean().item(), (lost.std() / len(lost) ** 0.5).item()
        print(f"tau {tau}: accuracy {right.mean():.3f}, cost {cost:+.3f} ± {error:.3f} (standard error)")
        print(*dict.fromkeys(finding.message for finding in findings), sep="\n", end="\n" if findings else "")
        if tau < 1 and (findings or cost > COST):
            break
        chosen = model
    print(f"the smallest that costs at most {COST}: tau {chosen.tau[0]}")
    if error > COST / 2:
        print(f"{len(val_set)} images are too few to measure such a cost: take more images, or accept a higher cost")
    shown = torch.stack([val_set[i][0] for i in torch.randperm(len(val_set))[:16].tolist()])
    finest = interpolate(chosen.predict(shown.to(device)).masks[2].cpu(), shown.shape[-2:])
    save_image(torch.cat([shown, shown * finest]), "masks.png", nrow=len(shown), normalize=True, scale_each=True)


@torch.no_grad()
def kept_maps(model: AIM, image_set: ImageFolder, device: str) -> tuple[Maps, Tensor]:
    batches, labels = [], []
    for images, target in tqdm(DataLoader(image_set, batch_size=64, num_workers=2), desc="backbone"):
        batches.append({name: maps.cpu() for name, maps in model.forward_backbone(images.to(device)).items()})
        labels.append(target)
    return {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}, torch.cat(labels)


def run(model: AIM, maps: Maps, images: Tensor) -> AIMOutput:
    device = model.classifier.weight.device
    return model.forward_head(model.forward_masks({name: kept[images].to(device) for name, kept in maps.items()}))


def train(model: AIM, maps: Maps, labels: Tensor) -> MaskHealth:
    device = model.classifier.weight.device
    criterion = AIMLoss(tau=model.tau).to(device)
    schedule = TauScheduler(criterion, anneal_epochs=ANNEAL_EPOCHS)
    health = MaskHealth(criterion)
    optimizer = torch.optim.AdamW(model.parameter_groups(lr=1e-3), weight_decay=0.05)
    for _ in range(EPOCHS):
        model.train()
        for images in torch.randperm(len(labels)).split(64):
            output = run(model, maps, images)
            loss = criterion(output, labels[images].to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            health.update(output, training=True)
        schedule.step()
    return health


if __name__ == "__main__":
    main(*sys.argv[1:])
