"""Wrapping a backbone: dtype, mode, sharing, stages, tau, notation, classes and printing."""

import copy

import pytest
import timm
import torch
import torchvision
from torch import nn
from zoo import BACKBONES, NUM_CLASSES, HeadConvNet, TinyNet, aim, every_head

from aimwrap import AIM, AIMLoss


def test_new_modules_take_dtype_and_mode_of_the_backbone() -> None:
    for training in (True, False):
        model = aim(backbone=HeadConvNet().bfloat16().train(training))
        assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
        assert {module.training for module in model.modules()} == {training}


def test_new_modules_take_the_device_of_the_backbone() -> None:
    model = aim(backbone=HeadConvNet().to("meta"))
    assert {p.device.type for p in model.parameters()} == {"meta"}


def test_copy_isolates_the_backbone_and_sharing_is_the_default() -> None:
    backbone = HeadConvNet()
    before = copy.deepcopy(backbone.state_dict())
    isolated, shared = aim(backbone=backbone, copy=True), aim(backbone=backbone)
    for model in (isolated, shared):
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        AIMLoss(model.tau)(model.train()(torch.randn(4, 3, 64, 64)), torch.arange(4)).backward()
        optimizer.step()
        same = all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())
        assert same == (model is isolated)


@every_head
def test_wrapping_twice_does_not_entangle_the_heads(head: str) -> None:
    backbone = HeadConvNet()
    first, second = aim(head, backbone=backbone), aim(head, backbone=backbone)
    assert set(first.backbone.parameters()) == set(second.backbone.parameters())
    assert not set(first.mask_estimators.parameters()) & set(second.mask_estimators.parameters())


def test_frozen_parameters_stay_frozen_and_the_head_trains() -> None:
    backbone = HeadConvNet().requires_grad_(False)
    model = aim(backbone=backbone).train()
    AIMLoss(model.tau)(model(torch.randn(2, 3, 64, 64)), torch.tensor([0, 1])).backward()
    assert all(p.grad is None for p in model.backbone.parameters())
    assert all(p.grad is not None for n, p in model.named_parameters() if not n.startswith("backbone."))


@every_head
def test_a_few_steps_of_training_lower_the_loss(head: str) -> None:
    model = aim(head).train()
    criterion = AIMLoss(model.tau)
    images, labels = torch.randn(8, 3, 64, 64), torch.arange(8) % NUM_CLASSES
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(25):
        loss = criterion(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])


def test_stages_sort_and_tau_with_them() -> None:
    model = aim(stages=(3, 1, 2), tau=[0.3, 0.1, 0.2])
    assert model.stages == (1, 2, 3)
    assert model.tau == (0.1, 0.2, 0.3)
    assert list(model.mask_estimators) == ["stage_1", "stage_2", "stage_3"]
    assert [tap.channels for tap in model.taps] == [12, 16, 20]
    assert list(model.eval()(torch.randn(1, 3, 64, 64)).masks) == [1, 2, 3]


def test_one_tau_is_spread_over_the_stages() -> None:
    assert aim(tau=0.35).tau == (0.35, 0.35)
    assert aim(tau=[0.35, 0.5]).tau == (0.35, 0.5)
    assert aim().tau == (0.25, 0.25)


def test_node_names_as_stages() -> None:
    model = aim(stages=("block3.0", "block1"), tau=(0.4, 0.2)).eval()
    output = model(torch.randn(2, 3, 64, 64))
    assert list(output.masks) == list(output.stage_logits) == ["block1", "block3.0"]
    assert model.tau == (0.2, 0.4)
    assert model.variant == "HeadConvNet+AIM [block1+block3.0, 20%, 40%], paper head"
    twin = aim(stages=("block3.0", "block1"))
    twin.load_state_dict(model.state_dict())


@pytest.mark.parametrize(
    ("tau", "shown"), [(0.25, "25%"), ([0.2, 0.35], "20%, 35%"), ([0.3, 0.3], "30%"), (0.125, "12.5%"), (1.0, "100%")]
)
def test_variant_shows_the_areas(tau: object, shown: str) -> None:
    assert aim(tau=tau).variant == f"HeadConvNet+AIM [3, {shown}], paper head"


def test_variant_counts_as_the_paper_does() -> None:
    """ResNet's stem is a stage of the paper's five, ConvNeXt has four."""
    with torch.device("meta"):
        resnet = torchvision.models.ResNet(torchvision.models.resnet.BasicBlock, [1, 1, 1, 1])
    convnext = BACKBONES["tv_convnext"]()
    assert AIM(resnet, [2, 3]).variant == "ResNet+AIM [3, 25%], feature-preserving head"
    assert AIM(resnet, [1, 2, 3], 0.35).variant == "ResNet+AIM [2, 35%], feature-preserving head"
    assert AIM(resnet, [3]).variant == "ResNet+AIM [4, 25%], feature-preserving head"
    assert AIM(convnext, [2, 3]).variant == "ConvNeXt+AIM [2, 25%], feature-preserving head"
    with_a_gap = AIM(resnet, [1, 3])  # which the count would hide
    assert with_a_gap.variant == "ResNet+AIM [layer2+layer4, 25%], feature-preserving head"


@pytest.mark.parametrize(
    ("head", "fewest_parameters", "fewest_macs"),
    [("paper", 1.9e6, 0.1e9), (None, 1e6, 0.05e9)],
)
@pytest.mark.slow
def test_convnext_tiny_of_the_acceptance_list(head: str | None, fewest_parameters: float, fewest_macs: float) -> None:
    chosen = {} if head is None else {"head": head}
    model = AIM(timm.create_model("convnext_tiny", num_classes=200), stages=[2, 3], tau=0.25, **chosen)
    cost = model.cost()
    assert model.num_classes == 200
    assert model.variant == f"convnext_tiny+AIM [2, 25%], {head or 'feature-preserving'} head"
    assert fewest_parameters <= cost.head_parameters <= 3.7e6
    assert fewest_macs <= cost.head_macs <= 1.0e9
    assert cost.image_size == (224, 224)
    with torch.no_grad():
        output = model.eval()(torch.zeros(1, 3, 224, 224))
    assert [tuple(mask.shape) for mask in output.masks.values()] == [(1, 1, 14, 14), (1, 1, 7, 7)]
    assert output.logits.shape == (1, 200)


def test_the_head_of_the_study_is_the_default() -> None:
    assert AIM(TinyNet(), [2, 3]).head == "feature-preserving"


def test_resnet50_of_the_acceptance_list() -> None:
    with torch.device("meta"):
        backbone = torchvision.models.resnet50()
    model = AIM(backbone, stages=[2, 3], tau=0.25)
    assert model.num_classes == 1000
    assert model.variant == "ResNet+AIM [3, 25%], feature-preserving head"
    output = model.eval()(torch.zeros(1, 3, 224, 224, device="meta"))
    assert [tuple(mask.shape) for mask in output.masks.values()] == [(1, 1, 14, 14), (1, 1, 7, 7)]


def test_number_of_classes() -> None:
    assert aim(backbone=TinyNet(11)).num_classes == 11
    model = aim(backbone=TinyNet(11), num_classes=3)
    assert model.eval()(torch.zeros(1, 3, 64, 64)).logits.shape == (1, 3)
    assert aim(backbone=timm.create_model("resnet10t", num_classes=0), num_classes=4).num_classes == 4


def test_initialisation_of_the_classifiers() -> None:
    model = aim(width=256)
    for classifier in (model.classifier, *model.stage_classifiers.values()):
        assert (classifier.bias == 0).all()
        assert classifier.weight.std().item() == pytest.approx(0.02, rel=0.1)


def test_arguments_reach_their_modules() -> None:
    model = aim(width=24, mask_width=12, mask_norm="batch", logit_spread=2.0, logit_range=7.0)
    assert model.top_down.transforms[0].refine.out_channels == model.classifier.in_features == 24
    for estimator in model.mask_estimators.values():
        assert estimator.stem.out_channels == 12
        assert isinstance(estimator.stem_norm, nn.BatchNorm2d)
        assert (estimator.logit_spread, estimator.logit_range) == (2.0, 7.0)
    preserving = aim("feature-preserving", width=24)
    assert preserving.classifier.in_features == 40
    assert [e.stem.in_channels for e in preserving.mask_estimators.values()] == [16 + 20, 20]


def test_print_is_a_report() -> None:
    model = aim("feature-preserving", tau=[0.2, 0.35], pooling="all")
    text = model.extra_repr()
    assert "HeadConvNet+AIM [3, 20%, 35%], feature-preserving head, 7 classes, mean over all positions" in text
    assert "stage 2: block2, 16 channels, stride 16, tau 0.2" in text
    assert "stage 3: block3, 20 channels, stride 32, tau 0.35" in text
    assert "parameters, backbone alone" in text and "GMACs at 224 x 224" in text
    assert text.splitlines()[0] in repr(model)


def test_printing_changes_nothing() -> None:
    model = aim().train()
    flags, generator = [module.training for module in model.modules()], torch.get_rng_state()
    repr(model)
    assert [module.training for module in model.modules()] == flags
    assert torch.equal(generator, torch.get_rng_state())


def test_grey_and_many_channel_images() -> None:
    for channels in (1, 5):
        model = aim(backbone=TinyNet(in_channels=channels)).eval()
        assert model.in_channels == channels
        assert model(torch.randn(2, channels, 64, 64)).logits.shape == (2, 7)
