"""The probe: what one forward on fake tensors shows, and that the model is only read."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from zoo import TinyNet

from aimwrap.taps.probe import Call, count_macs, probe, shadow_of


def test_records_every_modules_shapes() -> None:
    seen = {call.name: call for call in probe(TinyNet(), torch.zeros(4, 3, 64, 96)).root.calls()}
    assert seen[""].input_shape == (1, 3, 64, 96)
    assert seen[""].output_shape == (1, 7)
    assert seen["block1"].input_shape == (1, 8, 16, 24)
    assert seen["block1"].output_shape == (1, 12, 8, 12)
    assert [child.name for child in seen["block1"].children] == ["block1.0", "block1.1", "block1.2"]
    assert seen["block1"].doublings == 1
    assert seen["block1.1"].doublings == 0
    assert seen["fc"].doublings is None


def test_leaves_come_in_the_order_of_the_calls() -> None:
    root = probe(TinyNet()).root
    names = [call.name for call in root.leaves()]
    assert names[:4] == ["stem.0", "stem.1", "stem.2", "block0.0"]
    assert names[-1] == "fc"


def test_counts_parameters_and_macs_by_hand() -> None:
    """A 3x3 convolution 3 -> 4 at 8 x 8: 108 weights + 4, 108 x 64 MACs; linear 4 -> 2: 8 + 2, 8 MACs."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    measured = probe(model, torch.zeros(5, 3, 8, 8))
    assert measured.parameters == 122
    assert measured.macs == 108 * 64 + 8
    assert count_macs(model, (1, 3, 8, 8)) == 108 * 64 + 8
    assert count_macs(model, (1, 3, 16, 8)) == 108 * 128 + 8


def test_model_is_only_read() -> None:
    model = TinyNet(dropout=0.5).train()
    model.block1.eval()
    fired: list[int] = []
    model.stem.register_forward_hook(lambda *_: fired.append(1))
    state = copy.deepcopy(model.state_dict())
    flags = [module.training for module in model.modules()]
    generator = torch.get_rng_state()
    measured = probe(model)
    assert fired == []
    assert [module.training for module in model.modules()] == flags
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), generator)
    assert not any(module is original for module in measured.shadow.modules() for original in model.modules())


def test_shadow_has_shapes_but_no_memory_and_keeps_ties_and_flags() -> None:
    model = TinyNet().train()
    model.block2.eval()
    model.twin = model.fc
    model.loose = torch.ones(3)
    model.fc.register_forward_hook(lambda *_: None)
    shadow = shadow_of(model, FakeTensorMode(allow_non_fake_inputs=True))
    assert all(isinstance(p, FakeTensor) for p in (*shadow.parameters(), *shadow.buffers(), shadow.loose))
    assert [tuple(p.shape) for p in shadow.parameters()] == [tuple(p.shape) for p in model.parameters()]
    assert [m.training for m in shadow.modules()] == [m.training for m in model.modules()]
    assert shadow.twin is shadow.fc
    assert len(shadow.fc._forward_hooks) == 0
    assert len(model.fc._forward_hooks) == 1


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_channels_come_from_the_first_convolution(channels: int) -> None:
    assert probe(TinyNet(in_channels=channels)).image_shape == (1, channels, 224, 224)


class Fixed(nn.Module):
    """Takes one image size only."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3, stride=4, padding=1), nn.Linear(4 * (size // 4) ** 2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.conv(x).flatten(1))


@pytest.mark.parametrize("size", [32, 64, 28])
def test_usual_sizes_are_tried(size: int) -> None:
    assert probe(Fixed(size)).image_shape == (1, 3, size, size)


def test_timms_record_of_the_size_comes_first() -> None:
    model = TinyNet()
    model.pretrained_cfg = {"input_size": (3, 160, 192)}
    assert probe(model).image_shape == (1, 3, 160, 192)


def test_takes_the_models_dtype() -> None:
    assert probe(TinyNet().bfloat16()).fake_images().dtype == torch.bfloat16
    assert probe(TinyNet().double()).fake_images().dtype == torch.float64


def test_a_model_that_runs_at_no_usual_size() -> None:
    pattern = r"Fixed could not be run on test images:\n  \(1, 3, 224, 224\): Runtime(.*\n)+Pass example_input="
    with pytest.raises(ValueError, match=pattern):
        probe(Fixed(40))
    assert probe(Fixed(40), torch.zeros(1, 3, 40, 40)).image_shape == (1, 3, 40, 40)


def test_an_example_that_the_model_does_not_take() -> None:
    pattern = r"could not be run on test images:\n  \(1, 4, 64, 64\): .*\nPass example_input="
    with pytest.raises(ValueError, match=pattern):
        probe(TinyNet(), torch.zeros(1, 4, 64, 64))


def test_an_example_without_a_batch_dimension() -> None:
    pattern = r"example_input must be images of shape \(N, C, H, W\), got \(3, 64, 64\); .*unsqueeze"
    with pytest.raises(ValueError, match=pattern):
        probe(TinyNet(), torch.zeros(3, 64, 64))


def test_doublings_need_two_maps() -> None:
    assert Call("", nn.Identity(), (1, 3, 64, 64), (1, 3, 16, 16)).doublings == 2
    assert Call("", nn.Identity(), (1, 3, 64, 64), (1, 3)).doublings is None
    assert Call("", nn.Identity(), (), (1, 3, 64, 64)).doublings is None
