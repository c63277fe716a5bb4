"""Networks that return an object with ``logits``, as those of transformers do, were refused beside the AIM of them."""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from zoo import TinyNet

from aimwrap import AIM, Preprocessing, verify
from aimwrap.attribution import cam_layer_of, grad_cam
from aimwrap.backbones.plain import PlainClassifier
from aimwrap.backbones.pooled import PooledClassifier
from aimwrap.report.subjects import Subject

IMAGES = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@dataclass
class Output:
    logits: Tensor
    hidden_states: Any = None


class Named(NamedTuple):
    auxiliary: Any
    logits: Tensor


OUTPUTS = {
    "dataclass": Output,
    "dict": lambda logits: {"embedding": logits.repeat(1, 2), "logits": logits},
    "named tuple": lambda logits: Named(logits.repeat(1, 2), logits),
    "object": lambda logits: SimpleNamespace(logits=logits),
    "tuple": lambda logits: (logits, None),
}


class Returns(TinyNet):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, x: Tensor) -> Any:
        return OUTPUTS[self.kind](super().forward(x))


def pair(kind: str) -> tuple[nn.Module, nn.Module]:
    """The network that returns such an output, and the same one that returns logits."""
    network, bare = Returns(kind).eval(), TinyNet().eval()
    bare.load_state_dict(network.state_dict())
    return network, bare


@pytest.mark.parametrize("kind", OUTPUTS)
def test_is_taken_wherever_a_plain_network_is(kind: str) -> None:
    """``verify(aim, x, hf_model)`` gave AttributeError; ``grad_cam`` and ``train --plain`` refused the model."""
    network, bare = pair(kind)
    logits = bare(IMAGES)
    named = kind != "tuple"
    assert AIM(network, stages=[2, 3], num_classes=None if named else logits.shape[1]).num_classes == logits.shape[1]

    assert torch.equal(PlainClassifier(network, logits.shape[1])(IMAGES).logits, logits)
    assert torch.allclose(PooledClassifier(network).explained(IMAGES)[0], logits, atol=1e-5)
    prepared = Preprocessing((64, 64), (0.5,) * 3, (0.5,) * 3)
    assert torch.allclose(Subject(network, "plain", preprocessing=prepared).look(IMAGES).logits, logits, atol=1e-5)
    pytest.importorskip("captum")
    assert torch.equal(grad_cam(network, IMAGES), grad_cam(bare, IMAGES))
    assert cam_layer_of(network) is network.block3


def test_verify_compares_it() -> None:
    network, bare = pair("dataclass")
    aim = AIM(bare, stages=[2, 3]).eval()
    compared, expected = (verify(aim, IMAGES, plain, progress=False) for plain in (network, bare))
    assert compared.survival == expected.survival


def test_auxiliary_classifiers_are_not_trained_in_silence() -> None:
    class Auxiliary(Returns):
        def forward(self, x: Tensor) -> Any:
            logits = TinyNet.forward(self, x)
            return {"logits": logits, "auxiliary": logits + 1}

    model = PlainClassifier(Auxiliary("dict"), 5)
    assert model.eval()(IMAGES).logits.shape == (2, 5)
    with pytest.raises(ValueError, match=r"got dict\. Auxiliary classifiers are not trained"):
        model.train()(IMAGES)
