"""BatchNorm over several processes: what takes its place, and where it is refused. No GPU is needed for either."""

from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import tiny_nets
import torch
from lightning.fabric import Fabric
from torch import nn

from aimwrap import AIM
from aimwrap.train import PlainClassifier, Settings, run_training
from aimwrap.train.distributed import convert_batch_norms


def with_activations() -> nn.Module:
    """timm's BatchNorm with an activation in it."""
    network = tiny_nets.tiny_with_batch_norm()
    for stage in network.stages:
        stage[1] = timm.layers.BatchNormAct2d(stage[0].out_channels, act_layer=nn.SiLU)
    return network


def shared() -> nn.Module:
    """One norm under two names."""
    network = tiny_nets.tiny_with_batch_norm()
    network.again = network.stages[4][1]
    return network


def aim(network: nn.Module) -> nn.Module:
    return AIM(network, [2, 3], width=16, mask_width=8)


def plain(network: nn.Module) -> nn.Module:
    return PlainClassifier(network, 2)


Wrap = Callable[[nn.Module], nn.Module]


@pytest.mark.parametrize("wrap", [aim, plain])
@pytest.mark.parametrize("build", [tiny_nets.tiny_with_batch_norm, with_activations, shared])
def test_of_one_process_they_are_the_same(build: Callable[[], nn.Module], wrap: Wrap) -> None:
    torch.manual_seed(0)
    expected = wrap(build())
    torch.manual_seed(0)
    model = wrap(build())
    convert_batch_norms(model)
    synchronised = [module for module in model.modules() if isinstance(module, nn.SyncBatchNorm)]
    assert len(synchronised) == 5 and not any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    called: list[nn.Module] = []
    for module in synchronised:
        module.register_forward_hook(lambda module, *_: called.append(module))
    images, seeds = torch.randn(4, 3, 64, 64), torch.arange(4)
    for mode in (True, False):
        outputs = [network.train(mode)(images, noise_seeds=seeds) for network in (expected, model)]
        assert torch.equal(outputs[0].logits, outputs[1].logits)
        outputs[1].logits.sum().backward()
    assert len(called) == 10
    states = expected.state_dict(), model.state_dict()
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert all(parameter.grad is not None for name, parameter in model.named_parameters() if ".1.weight" in name)


def test_a_norm_that_a_stage_is_tapped_by_goes_on_being_tapped() -> None:
    network = tiny_nets.tiny_with_batch_norm()
    network.register_forward_hook(lambda module, images, logits: logits)  # so that it is tapped by hooks, not a graph
    model = AIM(network, ["stages.3.1", "stages.4.1"], width=16, mask_width=8).eval()
    images = torch.randn(2, 3, 64, 64)
    expected = model(images)
    convert_batch_norms(model)
    assert torch.equal(model(images).logits, expected.logits)


def test_without_any_it_says_so() -> None:
    with pytest.raises(ValueError, match="sync_batchnorm needs a backbone with BatchNorm, and this one has none"):
        convert_batch_norms(tiny_nets.tiny())


def test_elsewhere_than_on_several_gpus_it_is_refused(
    settings_of: Callable[..., Settings], fabric: Fabric, tmp_path: Path
) -> None:
    settings = settings_of(sync_batchnorm=True, backbone="tiny_nets:tiny_with_batch_norm")
    with pytest.raises(ValueError, match=r"several processes with a GPU each.*here is one process on cpu. Leave"):
        run_training(settings, tmp_path / "run", fabric, workers=0)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("frozen", ["norm-statistics", "backbone"])
def test_what_is_frozen_has_no_statistics_to_share(settings_of: Callable[..., Settings], frozen: str) -> None:
    with pytest.raises(ValueError, match=f"needs BatchNorm statistics that are updated, and frozen='{frozen}'"):
        settings_of(sync_batchnorm=True, frozen=frozen)
