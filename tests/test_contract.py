"""What AIM promises of every backbone: shapes, odd sizes, gradients, copies, checkpoints, and the user's model."""

import copy
import io
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import nn
from zoo import BACKBONES, HEADS, NUM_CLASSES, TIMM, TORCHVISION, with_heads_in_turn

from aimwrap import AIM, AIMLoss, AIMOutput

BackboneOf = Callable[[str], nn.Module]
Wrapped = Callable[..., AIM]

# Of the libraries' backbones, all but three are left to the slow tests; and all of them with the paper's head.
LIBRARIES = {*TORCHVISION, *TIMM}
RARE = LIBRARIES - {"tv_convnext", "resnet10t", "twins"}
SLOW = {"paper": LIBRARIES, "feature-preserving": RARE}
IN_TURN = with_heads_in_turn(list(BACKBONES))


def marks_of(name: str, head: str) -> list[pytest.MarkDecorator]:
    """Each of the libraries' backbones has one head in the slow tests; the other is left to the rare ones."""
    twice = name in SLOW[head] and (name, head) not in IN_TURN
    return [pytest.mark.slow] * (name in SLOW[head]) + [pytest.mark.rare] * twice


every_backbone = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in RARE else ()) for name in BACKBONES]
)
every_backbone_and_head = pytest.mark.parametrize(
    ("name", "head"),
    [pytest.param(name, head, marks=marks_of(name, head)) for name in BACKBONES for head in HEADS],
)


def tensors(output: AIMOutput) -> list[torch.Tensor]:
    return [output.logits, *output.stage_logits.values(), *output.masks.values()]


def same_output(a: AIMOutput, b: AIMOutput) -> bool:
    return all(torch.equal(x, y) for x, y in zip(tensors(a), tensors(b), strict=True))


def snapshot(model: nn.Module) -> dict[str, object]:
    """Everything of a module that wrapping must not change, by identity and by value."""
    return {
        "state": {name: value.clone() for name, value in model.state_dict(keep_vars=False).items()},
        "identities": {name: id(p) for name, p in (*model.named_parameters(), *model.named_buffers())},
        "training": {name: module.training for name, module in model.named_modules()},
        "modules": {name: id(module) for name, module in model.named_modules()},
        "requires_grad": {name: p.requires_grad for name, p in model.named_parameters()},
        "grads": {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()},
        "attributes": {name: sorted(vars(module)) for name, module in model.named_modules()},
        "hooks": {
            name: [
                list(getattr(module, kind))
                for kind in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_state_dict_hooks")
            ]
            for name, module in model.named_modules()
        },
    }


def assert_same(before: dict[str, object], after: dict[str, object]) -> None:
    torch.testing.assert_close(after.pop("state"), before.pop("state"), rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(after.pop("grads"), before.pop("grads"), rtol=0, atol=0)
    assert after == before


@every_backbone_and_head
def test_output_has_documented_shapes_in_train_and_eval(name: str, head: str, wrapped: Wrapped) -> None:
    model = copy.deepcopy(wrapped(name, head))
    assert [tap.stride for tap in model.taps] == [16, 32]
    for training in (True, False):
        output = model.train(training)(torch.randn(2, 3, 64, 96))
        assert type(output) is AIMOutput
        assert output.logits.shape == (2, NUM_CLASSES)
        assert list(output.stage_logits) == list(output.masks) == [2, 3]
        assert all(logits.shape == (2, NUM_CLASSES) for logits in output.stage_logits.values())
        assert [tuple(mask.shape) for mask in output.masks.values()] == [(2, 1, 4, 6), (2, 1, 2, 3)]
        assert all(set(mask.unique().tolist()) <= {0.0, 1.0} for mask in output.masks.values())
        assert all(value.isfinite().all() for value in tensors(output))


@every_backbone_and_head
def test_odd_sizes_and_a_batch_of_one(name: str, head: str, wrapped: Wrapped) -> None:
    model = copy.deepcopy(wrapped(name, head))
    for training in (True, False):
        model.train(training)
        features = model.forward_masks(model.forward_backbone(torch.randn(1, 3, 97, 61)))
        output = model.forward_head(features)
        assert all(value.isfinite().all() for value in tensors(output))
        assert features.merged_mask.shape[-2:] == features.fused.shape[-2:] == features.masks[2].shape[-2:]


@every_backbone_and_head
def test_evaluation_is_repeatable_and_draws_nothing(name: str, head: str, wrapped: Wrapped) -> None:
    model, images = wrapped(name, head), torch.randn(2, 3, 64, 64)
    before = torch.get_rng_state()
    with torch.no_grad():
        first, second = model(images), model(images)
    assert same_output(first, second)
    assert torch.equal(before, torch.get_rng_state())


@every_backbone_and_head
def test_every_parameter_gets_a_finite_gradient(name: str, head: str, wrapped: Wrapped) -> None:
    """Else DistributedDataParallel complains of unused parameters."""
    model = copy.deepcopy(wrapped(name, head)).train()
    AIMLoss(model.tau)(model(torch.randn(2, 3, 64, 64)), torch.tensor([0, 1])).backward()
    without = [name for name, p in model.named_parameters() if p.grad is None]
    assert without == []
    assert all(p.grad.isfinite().all() for p in model.parameters())


@every_backbone
def test_wrapping_leaves_the_users_model_as_it_was(name: str, backbone_of: BackboneOf) -> None:
    backbone = copy.deepcopy(backbone_of(name)).train()
    fired: list[str] = []
    frozen = [module for module in backbone.modules() if isinstance(module, nn.BatchNorm2d)][:2]
    for module in frozen:
        module.eval()
    for parameter in list(backbone.parameters())[:3]:
        parameter.requires_grad_(False)
        parameter.grad = torch.ones_like(parameter)
    layers = [module for module in backbone.modules() if not list(module.children())]
    for module in layers:  # hooks on what holds others are kept by hooks (tests/taps/test_tapped_hooks.py)
        module.register_forward_hook(lambda *_: fired.append("forward"))
        module.register_forward_pre_hook(lambda *_: fired.append("pre"))
    before = snapshot(backbone)
    AIM(backbone, [2, 3], head="feature-preserving")
    assert_same(before, snapshot(backbone))
    assert fired == []


@pytest.mark.filterwarnings("ignore:stages=.* leaves out the deepest stage")
@every_backbone
def test_parameters_are_the_users_own_and_none_is_after_the_deepest_tap(name: str, backbone_of: BackboneOf) -> None:
    backbone = copy.deepcopy(backbone_of(name))
    model = AIM(backbone, [2], head="paper")
    own = dict(backbone.named_parameters())
    shared = dict(model.backbone.named_parameters())
    assert shared and all(parameter is own[name] for name, parameter in shared.items())
    # What is run is what gets a gradient: the backbone's parameters without a gradient are those after the tap.
    model.train()(torch.randn(2, 3, 64, 64)).logits.sum().backward()
    assert {name for name, parameter in own.items() if parameter.grad is not None} == set(shared)
    assert len(shared) < len(own)


# Without twins, whose maps are no module's: see test_own_code.py.
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow if n in RARE else ()) for n in BACKBONES if n != "twins"]
)
def test_tapped_maps_are_the_modules_own_outputs(name: str, backbone_of: BackboneOf) -> None:
    """In both modes, since the train graph and the eval graph differ for some backbones."""
    original = copy.deepcopy(backbone_of(name))
    model = AIM(original, [0, 1, 2, 3], head="feature-preserving", copy=True)
    recorded: dict[str, torch.Tensor] = {}
    for tap in model.taps:
        module = original.get_submodule(tap.node.split(" + ")[0])
        module.register_forward_hook(lambda m, a, out, tap=tap: recorded.update({str(tap.stage): out}))
    images = torch.randn(2, 3, 64, 64)
    for training in (True, False):
        torch.manual_seed(1)
        original.train(training)(images)
        torch.manual_seed(1)
        maps = model.train(training).forward_backbone(images)
        for tap in model.taps:
            expected = recorded[str(tap.stage)]
            if tap.node.endswith("+ relu"):
                expected = expected.relu()
            if tap.node.endswith("+ add"):  # a scale and a shift between two modules
                expected = expected * original.scale[:, None, None] + original.block2.shift
            if expected.shape[-1] == tap.channels != expected.shape[1]:  # Swin's, channels last
                expected = expected.permute(0, 3, 1, 2)
            assert maps[str(tap.stage)].shape[1] == tap.channels
            torch.testing.assert_close(maps[str(tap.stage)], expected, rtol=0, atol=0)


# Norms, further layers or a pooling grid are between the final map and the classifier of these.
LAYERS_BEHIND_POOLING = {
    "tv_convnext",
    "convnext_atto",
    "tv_mobilenet_v3_small",
    "mobilenetv3_small_050",
    "tv_vgg11_bn",
}


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.slow if n in RARE else ()) for n in BACKBONES if n not in LAYERS_BEHIND_POOLING],
)
def test_feature_preserving_head_selects_from_the_map_that_the_backbone_pools(
    name: str, backbone_of: BackboneOf, wrapped: Wrapped
) -> None:
    """The backbone's own final map, head convolution included: pooled, it is what the old classifier read."""
    original, model = copy.deepcopy(backbone_of(name)), wrapped(name, "feature-preserving")
    read: list[torch.Tensor] = []
    modules = {name: module for name, module in original.named_modules() if name != "auxiliary"}
    classifier = [module for module in modules.values() if getattr(module, "out_features", 0) == NUM_CLASSES][-1]
    classifier.register_forward_pre_hook(lambda m, args: read.append(args[0]))
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        original(images)
        final = model.forward_backbone(images)["final map"]
    torch.testing.assert_close(final.mean((2, 3)), read[0].flatten(1), rtol=1e-4, atol=1e-5)


@every_backbone_and_head
def test_deepcopy_and_pickle_keep_outputs_and_modes(name: str, head: str, wrapped: Wrapped) -> None:
    model, images = copy.deepcopy(wrapped(name, head)), torch.randn(2, 3, 64, 64)
    frozen = next(module for module in model.backbone.modules() if not list(module.children()))
    model.train()
    frozen.eval()
    flags = [module.training for module in model.modules()]
    assert flags.count(False) == 1
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert [module.training for module in twin.modules()] == flags
        assert not {id(p) for p in twin.parameters()} & {id(p) for p in model.parameters()}
        torch.manual_seed(1)
        trained = copy.deepcopy(model)(images)
        torch.manual_seed(1)
        assert same_output(trained, twin(images))  # the same train graph
        twin.load_state_dict(model.state_dict())
        twin.eval()
        assert not any(module.training for module in twin.modules())
        assert same_output(copy.deepcopy(model).eval()(images), twin(images))  # and the same eval graph


@every_backbone_and_head
def test_state_dict_round_trip(name: str, head: str, backbone_of: BackboneOf, wrapped: Wrapped) -> None:
    model, images = wrapped(name, head), torch.randn(2, 3, 64, 64)
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    buffer.seek(0)
    other = copy.deepcopy(backbone_of(name))
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.normal_()
    fresh = AIM(other, [2, 3], 0.25, head=head, width=16, mask_width=8).eval()
    fresh.load_state_dict(torch.load(buffer, weights_only=True))
    assert same_output(model(images), fresh(images))


@every_backbone
def test_backbones_checkpoint_loads_under_its_own_names(name: str, backbone_of: BackboneOf, wrapped: Wrapped) -> None:
    checkpoint = {name: torch.full_like(value, 3) for name, value in backbone_of(name).state_dict().items()}
    model = copy.deepcopy(wrapped(name, "feature-preserving"))
    missing, unexpected = model.backbone.load_state_dict(checkpoint, strict=False)
    assert missing == []
    assert len(unexpected) < len(checkpoint)  # the layers after the deepest tap
    assert all((value == 3).all() for value in model.backbone.state_dict().values())


@every_backbone_and_head
def test_half_precision_weights(name: str, head: str, wrapped: Wrapped) -> None:
    model = copy.deepcopy(wrapped(name, head)).bfloat16()
    for training in (True, False):
        output = model.train(training)(torch.randn(2, 3, 64, 64, dtype=torch.bfloat16))
        assert all(value.dtype == torch.bfloat16 for value in tensors(output))
        assert all(set(mask.unique().tolist()) <= {0.0, 1.0} for mask in output.masks.values())
        assert all(value.isfinite().all() for value in tensors(output))


COMPILED = ("tiny_dropout", "tv_convnext", "tv_swin", "tf_efficientnet_lite0", "twins")


@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("train_eval", "feature-preserving"),
        *(
            pytest.param(name, head, marks=[pytest.mark.slow, *([] if name in COMPILED else [pytest.mark.rare])])
            for name, head in with_heads_in_turn(["tiny_dropout", *TORCHVISION, *TIMM])
        ),
    ],
)
def test_compiles_as_one_graph_in_train_and_eval(name: str, head: str, wrapped: Wrapped) -> None:
    torch._dynamo.reset()
    model, images = copy.deepcopy(wrapped(name, head)), torch.randn(2, 3, 64, 64)
    twin = copy.deepcopy(model)
    compiled = torch.compile(twin, fullgraph=True, backend="eager")
    for training in (True, False):
        torch.manual_seed(1)
        expected = model.train(training)(images)
        torch.manual_seed(1)
        got = compiled.train(training)(images)
        assert isinstance(got, AIMOutput)
        assert same_output(expected, got)


@pytest.mark.slow  # the next one exports by default, with any batch size, too; test_export.py exports all CNNs
@pytest.mark.parametrize(("name", "head"), with_heads_in_turn(["tiny", "tv_swin", "twins", "tf_efficientnet_lite0"]))
def test_exports_with_any_batch_size(name: str, head: str, wrapped: Wrapped) -> None:
    model = wrapped(name, head)
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(model, (torch.randn(2, 3, 64, 64),), dynamic_shapes=({0: batch},))
    images = torch.randn(5, 3, 64, 64)
    output = program.module()(images)
    assert list(output.masks) == [2, 3]
    assert same_output(output, model(images))


@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("tiny", "feature-preserving"),
        pytest.param("tiny", "paper", marks=pytest.mark.slow),
        *(pytest.param("convnext_atto", head, marks=pytest.mark.slow) for head in HEADS),
    ],
)
def test_exports_with_any_image_size(name: str, head: str, wrapped: Wrapped) -> None:
    """Where the bare backbone does: many read sizes as numbers, which fixes them."""
    model = wrapped(name, head)
    batch, height, width = (torch.export.Dim(n, min=2, max=16) for n in ("batch", "height", "width"))
    dynamic = ({0: batch, 2: 32 * height, 3: 32 * width},)
    program = torch.export.export(model, (torch.randn(2, 3, 96, 128),), dynamic_shapes=dynamic)
    images = torch.randn(3, 3, 160, 64)
    assert same_output(program.module()(images), model(images))
