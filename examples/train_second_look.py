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

EPOCHS, COPIES = 20, 2


def main(data: str, folder: str) -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = AIM.from_pretrained(folder, map_location=device)
    prepare = model.preprocessing.transform()  # without augmentation, also in training
    train_set, val_set = (ImageFolder(f"{data}/{split}", prepare) for split in ("train", "val"))
    loader = DataLoader(train_set, batch_size=64, shuffle=True, num_workers=2, drop_last=True)  # several classes each
    val_loader = DataLoader(val_set, batch_size=64, num_workers=2)

    second = SecondLook(model)
    train = features_of(second, loader, COPIES, device)  # whose masks' margins show other backgrounds
    val = features_of(second, val_loader, 0, device)
    optimizer = torch.optim.AdamW(second.classifier.parameters(), lr=3e-4, weight_decay=0.05)
    for epoch in range(EPOCHS):
        for versions, y in DataLoader(train, batch_size=32, shuffle=True):
            x = versions[torch.arange(len(y)), torch.randint(1 + COPIES, y.shape)]  # the image, or one of its copies
            loss = F.cross_entropy(second.classifier(x.to(device)), y.to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        x, y = val.tensors
        accuracy = (second.classifier(x.to(device)).argmax(1).cpu() == y).float().mean()
        print(f"epoch {epoch}: loss {loss.item():.3f}, accuracy {accuracy:.3f}")

    second.eval()
    images, _ = next(iter(val_loader))
    print(verify(second, images.to(device)))  # pixels that are not kept move no logit
    second.save_pretrained("aim-twice")  # SecondLook.from_pretrained("aim-twice") loads both looks


def features_of(second: SecondLook, loader: DataLoader, copies: int, device: str) -> TensorDataset:
    found = [(second.features(images.to(device), copies).cpu(), labels) for images, labels in tqdm(loader)]
    features, labels = zip(*found, strict=True)
    return TensorDataset(torch.cat(features), torch.cat(labels))


if __name__ == "__main__":
    main(*sys.argv[1:])
