"""Networks that do more than compute maps: hooks, a custom ``train``, random numbers, caches, locks, odd forwards."""

import itertools
import random
import threading
import warnings
from collections.abc import Callable
from contextlib import suppress

import numpy as np
import torch
import torch.utils.checkpoint
from torch import Tensor, nn
from torch.nn import functional as F
from zoo import Branching, TinyNet, conv_block

IMAGES = torch.rand(2, 3, 64, 64)


def last_map(model: nn.Module) -> Tensor:
    """Of a model's own forward, its hooks included."""
    seen: list[Tensor] = []
    handle = model.block3.register_forward_hook(lambda module, arguments, output: seen.append(output))
    model(IMAGES)
    handle.remove()
    return seen[0]


class KeepsNormsFrozen(TinyNet):
    """As detection backbones are written."""

    def train(self, mode: bool = True) -> "KeepsNormsFrozen":
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self


class SkipsAtRandom(TinyNet):
    """Skips a block now and then, by the generator of Python or of NumPy."""

    def __init__(self, by: str) -> None:
        super().__init__()
        self.by = by
        self.skipped = conv_block(12, 12, stride=1)

    def features(self, x: Tensor) -> Tensor:
        x = self.block1(self.block0(self.stem(x)))
        draw = random.random() if self.by == "Python" else np.random.rand()
        if not self.training or draw < 0.5:
            x = self.skipped(x)
        return self.block3(self.block2(x))


class CustomNorm(nn.BatchNorm2d):
    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, self.training, 0.1, 1e-5)


class DropsInPlace(Branching):
    def features(self, x: Tensor) -> Tensor:
        x = self.block2(self.block1(self.block0(self.stem(x))))
        return self.block3(F.dropout(x, 0.5, self.training, inplace=True))


class Checkpointed(Branching):
    gradient_checkpointing = True

    def features(self, x: Tensor) -> Tensor:
        x = self.block2(self.block1(self.block0(self.stem(x))))
        if not self.training:
            return self.block3(x)
        return torch.utils.checkpoint.checkpoint(self.block3, x, use_reentrant=True)


class Locked(TinyNet):
    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()

    def features(self, x: Tensor) -> Tensor:
        with self.lock:
            return super().features(x)


class KeepsActivations(TinyNet):
    def __init__(self) -> None:
        super().__init__()
        self.activations: list[Tensor] = []

    def features(self, x: Tensor) -> Tensor:
        self.activations.clear()
        for block in (self.stem, self.block0, self.block1, self.block2, self.block3):
            x = block(x)
            self.activations.append(x)
        return x


class HoldsLocked(TinyNet):
    """A part of it cannot be copied, and all others can."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Locked()

    def features(self, x: Tensor) -> Tensor:
        with self.inner.lock:
            return super().features(x)


def with_scripted_part() -> nn.Module:
    model = TinyNet()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # newer versions of torch call it deprecated
        model.block1 = torch.jit.script(model.block1)
    return model


def with_lazy_part() -> nn.Module:
    model = TinyNet()
    model.block1[0] = nn.LazyConv2d(12, 3, stride=2, padding=1)
    return model


def with_lazy_statistics() -> nn.Module:
    model = TinyNet()
    model.block1[1] = nn.LazyBatchNorm2d(affine=False)
    return model


def with_another_forward() -> nn.Module:
    model = TinyNet()
    model.forward = lambda x: model.fc(model.features(x).mean((2, 3)))
    return model


CACHE: dict[tuple[int, ...], Tensor] = {}


class CachesOutside(TinyNet):
    def features(self, x: Tensor) -> Tensor:
        x = self.block1(self.block0(self.stem(x)))
        size = tuple(int(side) for side in x.shape[2:])
        if size not in CACHE:
            CACHE[size] = torch.linspace(0, 1, size[0] * size[1]).view(1, 1, *size)
        return self.block3(self.block2(x + CACHE[size]))


class Inserted(TinyNet):
    """Any layer after block1."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def features(self, x: Tensor) -> Tensor:
        return self.block3(self.block2(self.layer(self.block1(self.block0(self.stem(x))))))


class SkipsByTorchsNumbers(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 0.5 if self.training and torch.rand(1).item() < 0.5 else x


class ScalesByTorchsNumbers(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rand(1) if self.training else x


class SkipsByItsGenerator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.generator = random.Random(0)

    def forward(self, x: Tensor) -> Tensor:
        return x * 0.5 if self.training and self.generator.random() < 0.5 else x


class ScalesByItsGenerator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.generator = torch.Generator()

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rand(1, generator=self.generator) if self.training else x


class ScalesByADistribution(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.distributions.Beta(0.5, 0.5).sample((len(x), 1, 1, 1)) if self.training else x


class WarmsUp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.step = 0

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.step += 1
        return x * min(1.0, 0.1 + self.step / 50)


class ClampsItsWeight(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            with torch.no_grad():
                self.weight.clamp_(-0.01, 0.01)
        return super().forward(x)


class KeepsANorm(nn.Conv2d):
    """As EEGNet writes it."""

    def forward(self, x: Tensor) -> Tensor:
        self.weight.data = torch.renorm(self.weight.data, p=2, dim=0, maxnorm=0.1)
        return super().forward(x)


class BeginsWithData(nn.Module):
    """ActNorm: the first batch sets its parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.shift, self.begun = nn.Parameter(torch.zeros(12, 1, 1)), False

    def forward(self, x: Tensor) -> Tensor:
        if not self.begun:
            self.shift.data.copy_(-x.mean((0, 2, 3))[:, None, None].detach())
            self.begun = True
        return x + self.shift


class Acts(nn.Module):
    """Does in training what gives no result: something before its convolution, or something with its map."""

    def __init__(
        self, before: Callable[["Acts"], object] | None = None, after: Callable[["Acts", Tensor], object] | None = None
    ) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(12, 12, 3, padding=1), nn.BatchNorm2d(12)
        self.thin, self.thin_in_place = nn.Dropout(0.0), nn.Dropout2d(0.5, inplace=True)
        self.register_buffer("average", torch.zeros(12, 1, 1))
        self.seen, self.last = [0], None
        self.before, self.after = before, after

    def forward(self, x: Tensor) -> Tensor:
        if self.training and self.before is not None:
            self.before(self)
        x = self.thin(self.norm(self.conv(x)))
        if self.training and self.after is not None:
            self.after(self, x)
        return x * (1 + self.seen[0] * self.training) - self.average


def assigns(x: Tensor) -> None:
    x += 1


def draws(x: Tensor) -> None:
    x.mul_(torch.rand_like(x))


def remembers(layer: Acts, x: Tensor) -> None:
    mean = x.detach().mean()
    layer.last = mean if layer.last is None else 0.5 * (layer.last + mean)
    x.sub_(layer.last)


def hooks(layer: Acts) -> None:
    layer.handle = layer.norm.register_forward_hook(lambda module, arguments, output: 0.5 * output)


def counts(layer: Acts) -> None:
    layer.seen[0] += 1


def shrinks(layer: Acts) -> None:
    for parameter in layer.conv.parameters():
        parameter.data.mul_(0.9)


# By what is done: each was lost by the graph.
WITHOUT_A_RESULT = {
    "dropout in place": Acts(after=lambda layer, x: F.dropout(x, 0.5, layer.training, inplace=True)),
    "in place by position": Acts(after=lambda layer, x: F.dropout(x, 0.5, layer.training, True)),
    "a module in place": Acts(after=lambda layer, x: layer.thin_in_place(x)),
    "a method": Acts(after=lambda layer, x: draws(x)),
    "a view": Acts(after=lambda layer, x: x[:, :3].mul_(0)),
    "out=": Acts(after=lambda layer, x: torch.add(x.detach(), 1, out=x.detach())),
    "an assignment": Acts(after=lambda layer, x: assigns(x)),
    "a method of .data": Acts(before=lambda layer: layer.conv.weight.data.clamp_(-0.05, 0.05)),
    "an average in .data": Acts(
        after=lambda layer, x: layer.average.data.lerp_(x.detach().amax((0, 2, 3))[:, None, None], 0.1)
    ),
    "a loop over .data": Acts(before=shrinks),
    "setting .data": Acts(after=lambda layer, x: setattr(x, "data", x.data.clamp(-0.5, 0.5))),
    "eval()": Acts(before=lambda layer: layer.norm.eval()),
    "eval() afterwards": Acts(after=lambda layer, x: layer.norm.eval()),
    "eval() for one call": Acts(before=lambda layer: layer.norm.eval(), after=lambda layer, x: layer.norm.train()),
    "a rate for one call": Acts(
        before=lambda layer: setattr(layer.thin, "p", 0.5), after=lambda layer, x: setattr(layer.thin, "p", 0.0)
    ),
    "a counter in a list": Acts(before=counts),
    "a hook for one call": Acts(before=hooks, after=lambda layer, x: layer.handle.remove()),
    "a memory": Acts(after=remembers),
}


ARRAYS, OLD_ARRAYS, DICE = [np.random.default_rng(0)], np.random.RandomState(0), {"dice": random.Random(0)}
CHANCE, COUNTS, TURNS = [torch.Generator()], [0], itertools.cycle([0.5, 2.0])


class Calls(nn.Module):
    """A convolution, and in training a function of its map."""

    count = 0

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.function = nn.Conv2d(12, 12, 1), function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.conv(x)) if self.training else self.conv(x)


def next_count(kept: dict[str, int] | list[int], key: str | int) -> int:
    kept[key] += 1
    return kept[key]


def next_of_the_class() -> int:
    Calls.count += 1
    return Calls.count


# What a forward draws or counts where no module shows it; with a rate, two forwards seldom differ.
DRAWN_ELSEWHERE: dict[str, Callable[[Tensor], Tensor]] = {
    "NumPy's, made in the forward": lambda x: x * np.random.default_rng().uniform(),
    "NumPy's, in a list": lambda x: x * ARRAYS[0].uniform(),
    "NumPy's, for a branch": lambda x: x * 2 if ARRAYS[0].uniform() < 0.01 else x,
    "NumPy's older": lambda x: x * 2 if OLD_ARRAYS.rand() < 0.01 else x,
    "Python's, made in the forward": lambda x: x * random.Random().random(),
    "Python's, for a branch": lambda x: x * 2 if DICE["dice"].random() < 0.01 else x,
    "torch's": lambda x: x * torch.rand(1, generator=CHANCE[0]),
    "torch's, for a branch": lambda x: x * 2 if torch.rand(1, generator=CHANCE[0]).item() < 0.01 else x,
    "a counter": lambda x: x * next_count(COUNTS, 0),
    "a counter on a class": lambda x: x * next_of_the_class(),
    "turns": lambda x: x * next(TURNS),
}


class MayBeMasked(TinyNet):
    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        if self.training and mask is not None:
            x = x.clamp(max=0.5)
        return super().forward(x)


class ThinsIfMasked(TinyNet):
    """Which is nothing in evaluation."""

    def __init__(self) -> None:
        super().__init__()
        self.thin = nn.Dropout(0.5)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return super().forward(x if mask is None else self.thin(x))


class ClampsTensors(TinyNet):
    def features(self, x: Tensor) -> Tensor:
        x = self.block1(self.block0(self.stem(x)))
        return self.block3(self.block2(x.clamp(max=0.1) if self.training and type(x) is Tensor else x))


class TriesBySize(TinyNet):
    def features(self, x: Tensor) -> Tensor:
        with suppress(RuntimeError):  # a traced tensor has no length
            x = x.clamp(max=0.5) if self.training and len(x) > 0 else x
        return super().features(x)


class OverwritesItsShortcut(TinyNet):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(12, 12, 1)

    def features(self, x: Tensor) -> Tensor:
        x = self.block1(self.block0(self.stem(x)))
        if self.training:
            x = x * 1.0
            shortcut = x
            x += self.conv(x)
            x = x * 0.5 + shortcut
        return self.block3(self.block2(x))


class AsksForTwoImages(MayBeMasked):
    """As a norm after global pooling does."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3, affine=False)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return super().forward(x + 0 * self.norm(x.mean((2, 3), keepdim=True)), mask)


class TrainReturnsNothing(TinyNet):
    """As OpenMMLab's backbones do."""

    def train(self, mode: bool = True) -> None:
        super().train(mode)
        self.stem.eval()
        for parameter in self.stem.parameters():
            parameter.requires_grad_(False)


class AlwaysTrains(TinyNet):
    """Dropout that stays on in evaluation, for its uncertainty."""

    def train(self, mode: bool = True) -> "AlwaysTrains":
        return super().train(True)


class WithoutGradientsInEvaluation(Branching):
    def forward(self, x: Tensor) -> Tensor:
        with torch.set_grad_enabled(self.training):
            return super().forward(x)


class NormalisesWhenCalled(TinyNet):
    def __call__(self, x: Tensor) -> Tensor:
        return super().__call__((x - 0.5) / 0.2)


class DropsInside(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(12, 12, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(self.conv(x) if x.shape[2] > 1 else x, 0.5, self.training)


class DetachesItsStem(TinyNet):
    def features(self, x: Tensor) -> Tensor:
        return self.block3(self.block2(self.block1(self.block0(self.stem(x)).detach())))


class HooksATensor(TinyNet):
    def features(self, x: Tensor) -> Tensor:
        x = self.block1(self.block0(self.stem(x)))
        if self.training:
            x.register_hook(lambda gradient: gradient * 0.1)
        return self.block3(self.block2(x))


class LooksAtItsHead(Branching):
    def features(self, x: Tensor) -> Tensor:
        return super().features(x.to(self.fc.weight.dtype))


class KeepsByItsOwnHook(TinyNet):
    """Features of block1 reach block3 by a hook that the model puts on itself, which has a weight of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(16))
        self.kept: dict[str, Tensor] = {}
        self.block2.register_forward_hook(self.amplify)
        self.block1.register_forward_hook(self.keep)
        self.lateral = nn.Conv2d(12, 16, 1, stride=2)

    def keep(self, module: nn.Module, arguments: object, output: Tensor) -> None:
        self.kept["block1"] = output

    def amplify(self, module: nn.Module, arguments: object, output: Tensor) -> Tensor:
        return output * self.gain[:, None, None]

    def features(self, x: Tensor) -> Tensor:
        x = self.block2(self.block1(self.block0(self.stem(x))))
        return self.block3(torch.maximum(x, self.lateral(self.kept["block1"])))


class Lambda(nn.Module):
    def __init__(self, function: object) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Helper:
    def __init__(self, module: nn.Module) -> None:
        self.lock, self.module = threading.Lock(), module

    def __call__(self, x: Tensor) -> Tensor:
        with self.lock:
            return self.module(x)
