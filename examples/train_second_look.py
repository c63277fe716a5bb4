"""Train a second look at what a saved AIM keeps: its features are computed once, then one linear layer is trained.

python examples/train_second_look.py path/to/data aim  # path/to/data/{train,val}/<class>/*.jpg, and the AIM's folder
"""

import sys

import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset
from torchvision.datasets import ImageFolder
from tqdm import tqdm

from aimwrap import AIM, SecondLook, verify

EPOCHS = 20


def main(data: str, folder: str) -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = AIM.from_pretrained(folder, map_location=device)
    prepare = model.preprocessing.transform()  # without augmentation, also in training
    loaders = {
        split: DataLoader(ImageFolder(f"{data}/{split}", prepare), batch_size=64, num_workers=2)
        for split in ("train", "val")
    }

    second = SecondLook(model)
    features = {split: features_of(second, loader, split, device) for split, loader in loaders.items()}
    optimizer = torch.optim.AdamW(second.classifier.parameters(), lr=3e-4, weight_decay=0.05)
    for epoch in range(EPOCHS):
        for x, y in DataLoader(features["train"], batch_size=32, shuffle=True):
            loss = F.cross_entropy(second.classifier(x.to(device)), y.to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        x, y = features["val"].tensors
        accuracy = (second.classifier(x.to(device)).argmax(1).cpu() == y).float().mean()
        print(f"epoch {epoch}: loss {loss.item():.3f}, accuracy {accuracy:.3f}")

    second.eval()
    images, _ = next(iter(loaders["val"]))
    print(verify(second, images.to(device)))  # pixels that are not kept move no logit
    second.save_pretrained("aim-twice")  # SecondLook.from_pretrained("aim-twice") loads both looks


def features_of(second: SecondLook, loader: DataLoader, split: str, device: str) -> TensorDataset:
    found = [(second.features(images.to(device)).cpu(), labels) for images, labels in tqdm(loader, desc=split)]
    features, labels = zip(*found, strict=True)
    return TensorDataset(torch.cat(features), torch.cat(labels))


if __name__ == "__main__":
    main(*sys.argv[1:])
