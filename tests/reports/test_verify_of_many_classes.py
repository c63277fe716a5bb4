"""``verify`` with 1000 classes at 56 x 56 took 85 s and 4.4 GB: all classes' contributions at once, by stage."""

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from zoo import TinyNet

from aimwrap import AIM, AIMOutput, verify
from aimwrap.taps.probe import tensors_in

IMAGES = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
CLASSES = 1000


class Largest(TorchDispatchMode):
    """Notes how many values the largest new tensor has."""

    values = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = function(*args, **(kwargs or {}))
        for tensor in [made] if isinstance(made, torch.Tensor) else tensors_in(made).values():
            self.values = max(self.values, tensor.numel())
        return made


class ChangesOneLogit(AIM):
    def forward(self, *args: Any, **kwargs: Any) -> AIMOutput:
        output = super().forward(*args, **kwargs)
        return output._replace(logits=output.logits + torch.eye(CLASSES)[CLASSES - 2])


def test_no_tensor_of_all_classes_and_positions_is_made() -> None:
    model = AIM(TinyNet(num_classes=CLASSES), stages=[0, 3]).eval()
    with Largest() as made:
        found = verify(model, IMAGES, measure_pixels=False, progress=False)
    assert found.passed
    assert made.values < len(IMAGES) * CLASSES * 16 * 16


def test_a_fault_in_any_class_is_still_found() -> None:
    model = ChangesOneLogit(TinyNet(num_classes=CLASSES), stages=[3]).eval()
    found = verify(model, IMAGES, measure_pixels=False, progress=False)
    assert [check.name for check in found.failures] == ["contributions add up to the logits"]
