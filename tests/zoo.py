"""Small, randomly initialised backbones: hand-written ones with one trait each, and one of every family we promise."""

import copy
import io
import pickle
from collections.abc import Callable, Sequence

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from aimwrap import AIM

NUM_CLASSES = 7
HEADS = ["paper", "feature-preserving"]
every_head = pytest.mark.parametrize("head", HEADS)


def with_heads_in_turn(names: Sequence[str]) -> list[tuple[str, str]]:
    """Each name with one of the heads: where the head hardly matters, half the tests say the same."""
    return [(name, HEADS[number % 2]) for number, name in enumerate(names)]


WAYS_OF_COPYING = ("deepcopy", "pickle", "torch.save")


def copied(module: nn.Module, how: str) -> nn.Module:
    """A copy of a module by one of :data:`WAYS_OF_COPYING`."""
    if how == "deepcopy":
        return copy.deepcopy(module)
    if how == "pickle":
        return pickle.loads(pickle.dumps(module))
    buffer = io.BytesIO()
    torch.save(module, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


def conv_block(channels_in: int, channels: int, stride: int = 2) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels, 3, stride=stride, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU()
    )


class TinyNet(nn.Module):
    """Four stages, block0 to block3 at strides 4 to 32, with BatchNorm and dropout; the base of the others."""

    def __init__(self, num_classes: int = NUM_CLASSES, dropout: float = 0.0, in_channels: int = 3) -> None:
        super().__init__()
        self.stem = conv_block(in_channels, 6)
        self.block0 = conv_block(6, 8)
        self.block1 = conv_block(8, 12)
        self.block2 = conv_block(12, 16)
        self.block2.append(nn.Dropout(dropout))
        self.block3 = conv_block(16, 20)
        self.fc = nn.Linear(20, num_classes)

    def features(self, x: Tensor) -> Tensor:
        return self.block3(self.block2(self.block1(self.block0(self.stem(x)))))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.features(x).mean((2, 3)))


class HeadConvNet(TinyNet):
    """Widens the last map by a 1x1 convolution before pooling, as EfficientNet and MobileNet do."""

    def __init__(self) -> None:
        super().__init__()
        self.head_conv = nn.Sequential(nn.Conv2d(20, 40, 1), nn.ReLU())
        self.fc = nn.Linear(40, NUM_CLASSES)

    def features(self, x: Tensor) -> Tensor:
        return self.head_conv(super().features(x))


class ParameterNet(TinyNet):
    """Parameters next to modules, such as ConvNeXt's layer scale."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.linspace(0.5, 1.5, 16))
        self.block2.register_buffer("shift", torch.full((16, 1, 1), 0.25))

    def features(self, x: Tensor) -> Tensor:
        x = self.block2(self.block1(self.block0(self.stem(x))))
        return self.block3(x * self.scale[:, None, None] + self.block2.shift)


class NormalisingNet(TinyNet):
    """Normalises its images itself, with buffers that it reshapes in the forward."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.4, 0.5, 0.6]), persistent=False)
        self.register_buffer("std", torch.tensor([0.2, 0.3, 0.4]))

    def features(self, x: Tensor) -> Tensor:
        return super().features((x - self.mean.view(1, -1, 1, 1)) / self.std[None, :, None, None])


class ConstantNet(TinyNet):
    """Makes a tensor inside its forward, and keeps another as a plain attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = torch.tensor(2.0)

    def features(self, x: Tensor) -> Tensor:
        return super().features(x * torch.tensor([1.0, 0.5, 2.0]).view(1, 3, 1, 1) * self.gain)


class FunctionalNet(TinyNet):
    """Pools by functions, as tutorials write it."""

    def __init__(self) -> None:
        super().__init__()
        self.block1 = conv_block(8, 12, stride=1)

    def features(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.block0(self.stem(x))), 2)
        return self.block3(self.block2(self.block1(x)))


class TrainEvalNet(TinyNet):
    """Runs another graph in training than in evaluation, and an auxiliary classifier in training only."""

    def __init__(self) -> None:
        super().__init__()
        self.auxiliary = nn.Linear(12, NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        x = self.block1(self.block0(self.stem(x)))
        auxiliary = self.auxiliary(x.mean((2, 3))) if self.training else None
        x = self.block2(x)
        if self.training:
            x = x * 2
        logits = self.fc(self.block3(x).mean((2, 3)))
        return (logits, auxiliary) if self.training else logits


class Branching(TinyNet):
    """Decides by the size of its images, which no graph can: it is tapped by hooks."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x[..., 1:] if x.shape[-1] % 2 else x)


_BUILT: dict[str, AIM] = {}


def small_aim(stages: Sequence[int | str], **arguments: object) -> AIM:
    """A HeadConvNet wrapped, to be changed at will: built once for each choice of arguments, and copied every time.

    Equal weights every time, and what torch draws next does not depend on whether it had to be built.
    """
    key = repr((list(stages), sorted(arguments.items())))
    if key not in _BUILT:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            _BUILT[key] = AIM(HeadConvNet(), list(stages), **arguments)
    return copy.deepcopy(_BUILT[key])


def _torchvision(name: str, **arguments: object) -> Callable[[], nn.Module]:
    return lambda: torchvision.models.get_model(name, num_classes=NUM_CLASSES, **arguments)


def _timm(name: str, **arguments: object) -> Callable[[], nn.Module]:
    return lambda: timm.create_model(name, num_classes=NUM_CLASSES, **arguments)


def _small_vgg() -> nn.Module:
    """VGG-11 with torchvision's own layers, without the 100 M parameters of its classifier."""
    vgg = torchvision.models.vgg
    with torch.device("meta"):
        model = vgg.VGG(nn.Sequential(), num_classes=NUM_CLASSES, init_weights=False)
    model.features = vgg.make_layers(vgg.cfgs["A"], batch_norm=True)
    model.classifier = nn.Linear(512 * 7 * 7, NUM_CLASSES)
    return model


def _small_timm_vgg() -> nn.Module:
    """The same for timm's."""
    with torch.device("meta"):
        model = timm.create_model("vgg11_bn", num_classes=NUM_CLASSES)
        model.pre_logits = nn.Identity()
        model.head.fc = nn.Linear(512, NUM_CLASSES)
    model.to_empty(device="cpu")
    for module in model.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    return model


def _small_convnext() -> nn.Module:
    sizes = ((16, 24, 1), (24, 32, 1), (32, 48, 2), (48, None, 1))
    blocks = [torchvision.models.convnext.CNBlockConfig(*size) for size in sizes]
    return torchvision.models.ConvNeXt(blocks, num_classes=NUM_CLASSES)


def _small_swin() -> nn.Module:
    """Channels-last maps inside, and attention."""
    return torchvision.models.SwinTransformer([4, 4], 12, [1] * 4, [1, 2, 4, 8], [2, 2], num_classes=NUM_CLASSES)


def small_twins() -> nn.Module:
    """Stages of tokens, which timm's own code makes maps of."""
    sizes = {"embed_dims": (8, 16, 24, 32), "depths": (1, 1, 1, 1), "num_heads": (1, 2, 3, 4)}
    return timm.create_model("twins_svt_small", num_classes=NUM_CLASSES, **sizes)


def _small_densenet() -> nn.Module:
    return torchvision.models.DenseNet(8, (2, 2, 3, 2), 16, num_classes=NUM_CLASSES)


HAND_WRITTEN: dict[str, Callable[[], nn.Module]] = {
    "tiny": TinyNet,
    "tiny_dropout": lambda: TinyNet(dropout=0.5),
    "head_conv": HeadConvNet,
    "parameters": ParameterNet,
    "constants": ConstantNet,
    "train_eval": TrainEvalNet,
    "normalising": NormalisingNet,
    "functional": FunctionalNet,
    "branching": Branching,
}

TORCHVISION: dict[str, Callable[[], nn.Module]] = {
    "tv_resnet18": _torchvision("resnet18"),
    "tv_convnext": _small_convnext,
    "tv_swin": _small_swin,
    "tv_efficientnet_b0": _torchvision("efficientnet_b0"),
    "tv_mobilenet_v3_small": _torchvision("mobilenet_v3_small"),
    "tv_densenet": _small_densenet,
    "tv_regnet_y_400mf": _torchvision("regnet_y_400mf"),
    "tv_vgg11_bn": _small_vgg,
}

TIMM: dict[str, Callable[[], nn.Module]] = {
    "resnet10t": _timm("resnet10t"),
    "convnext_atto": _timm("convnext_atto"),
    "tf_efficientnet_lite0": _timm("tf_efficientnet_lite0"),
    "mobilenetv3_small_050": _timm("mobilenetv3_small_050"),
    "densenet121": _timm("densenet121", growth_rate=8, block_config=(2, 2, 3, 2)),
    "regnetx_002": _timm("regnetx_002"),
    "vgg11_bn": _small_timm_vgg,
    "twins": small_twins,
}

BACKBONES = HAND_WRITTEN | TORCHVISION | TIMM


# ---- Small models and plain arithmetic ------------------------------------------------------------------------------


def aim(head: str = "paper", stages: tuple = (2, 3), backbone: nn.Module | None = None, **arguments: object) -> AIM:
    settings = {"width": 8, "mask_width": 4, "head": head} | arguments
    return small_aim(stages, **settings) if backbone is None else AIM(backbone, list(stages), **settings)


def lively(model: AIM) -> AIM:
    """Spread the fresh parameters, so that no term of a transcription is too small to be missed."""
    for module in (model.top_down, model.mask_estimators, model.stage_classifiers, model.classifier):
        for parameter in module.parameters():
            parameter.data.add_(0.3 * torch.randn_like(parameter))
    return model


def lively_aim(head: str = "paper", stages: tuple = (2, 3), **arguments: object) -> AIM:
    return lively(aim(head, stages, **arguments)).eval()


def balanced(model: AIM, images: Tensor) -> AIM:
    """Move each estimator's bias so that about half of the positions of these images have a positive logit."""
    twin = copy.deepcopy(model)
    for stage, logits in twin.forward_masks(twin.forward_backbone(images)).mask_logits.items():
        ordered = logits.detach().flatten().sort().values
        middle = len(ordered) // 2
        model.mask_estimators[f"stage_{stage}"].how_much.bias.data -= ordered[middle - 1 : middle + 1].mean()
    return model


def nearest(x: Tensor, like: Tensor) -> Tensor:
    rows = [i * x.shape[2] // like.shape[2] for i in range(like.shape[2])]
    columns = [j * x.shape[3] // like.shape[3] for j in range(like.shape[3])]
    return x[:, :, rows][:, :, :, columns]


def average(masked: Tensor, mask: Tensor, pooling: str) -> Tensor:
    rows = []
    for image, open_cells in zip(masked, mask, strict=True):
        count = max(1, int(open_cells.sum())) if pooling == "active" else open_cells.numel()
        rows.append(image.flatten(1).sum(1) / count)
    return torch.stack(rows)
