"""Compare a program with the model itself: shapes on fake tensors, values once, and one step of training."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensor
from torch.autograd.function import BackwardCFunction
from torch.autograd.graph import Node
from torch.utils._python_dispatch import TorchDispatchMode

from .backbone import Program, TappedBackbone
from .copies import is_adapter, quiet_fakes, shadow_of, switched, twin_of, unmoved_generators
from .graph import GraphError, GraphProgram, reachable
from .hooks import HookProgram, watch_for
from .layout import Layout, Shape, map_shape
from .probe import CallSite, Probe, state_of, tensors_in
from .usage import gradients_reach

_MORE = 1.2  # than the mean: trained attention spreads a change, and what is out of order has as much everywhere


def measure(program: Program, measured: Probe, labels: dict[str, str]) -> tuple[dict[str, Layout], dict[str, Shape]]:
    """Layouts and shapes from a fake run in evaluation, which a fake run in training has to agree with."""
    outputs, trained = fake_runs(program, measured, False, True)
    layouts: dict[str, Layout] = {}
    shapes: dict[str, Shape] = {}
    for name, output in outputs.items():
        came = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        layout = measured.layout(came) if isinstance(came, tuple) else None
        if layout is None or isinstance(came, str):
            raise GraphError(
                f"stages: node {labels[name]!r} gives {came}, not a (N, C, H, W) map or its tokens; name another node"
            )
        layouts[name], shapes[name] = layout, map_shape(came, layout)
    for name, output in trained.items():
        shape = tuple(output.shape) if isinstance(output, Tensor) else ()
        if shape[1:] != tuple(outputs[name].shape)[1:]:
            raise GraphError(
                f"stages: node {labels[name]!r} gives {shape[1:]} in training, but {tuple(outputs[name].shape)[1:]} in "
                "evaluation; name another node"
            )
    return layouts, shapes


def fake_runs(program: Program, measured: Probe, *modes: bool) -> list[dict[str, Any]]:
    """The outputs on fake tensors, in evaluation (False) or in training (True), each as asked for.

    Those of training are none where it depends on values.
    """
    host = TappedBackbone(shadow_of(measured.shadow, measured.mode), program, {})
    runs = []
    for training in modes:
        host.train(training)
        for parameter in host.parameters():
            parameter.requires_grad_(training and parameter.is_floating_point())
        try:
            with torch.set_grad_enabled(training), quiet_fakes(), measured.mode:
                runs.append(host.tapped_program.run(host, measured.fake_images(batch_size=2 if training else 1)))
        except DataDependentOutputException as error:
            if not training:
                raise GraphError(f"the backbone's evaluation depends on values: {error}") from error
            runs.append({})  # fakes have none, so nothing can be said
        except Exception as error:  # a user's forward may raise anything
            raise GraphError(
                f"the backbone's {'training' if training else 'evaluation'} graph does not run: "
                f"{type(error).__name__}: {error}"
            ) from error
    return runs


def check_values(
    model: nn.Module,
    measured: Probe,
    program: Program,
    layouts: dict[str, Layout],
    labels: dict[str, str],
    module_outputs: dict[str, CallSite],
    next_reader: dict[str, CallSite | None],
) -> None:
    """Compare the outputs with the model's own forward, on the backbone's parameters and made-up images.

    Once in evaluation, and the ``module_outputs`` once in training, too: a graph's taps whose value is exactly the
    output of one module. ``next_reader`` is the module that consumes each numbered tap, None after the last.

    Raises:
        GraphError: if an output is not what its module returns.
        ValueError: if the next module reads another map of that size: the number would be a branch, not the trunk.
    """
    readers = {name: reader for name, reader in next_reader.items() if reader is not None}
    tensors = [*model.parameters(), *model.buffers()]
    if not (module_outputs or readers) or any(tensor.is_meta or isinstance(tensor, FakeTensor) for tensor in tensors):
        return
    like = next((tensor for tensor in tensors if tensor.is_floating_point()), torch.empty(0))
    # Norms that talk to other processes would wait for them in training.
    alone = not any(isinstance(module, nn.SyncBatchNorm) for module in model.modules())
    trials = [(False, 1), (True, 1)] if module_outputs and alone else [(False, 1)]  # of hooks there are no outputs
    for training, count in trials:
        images = torch.rand((count, *measured.image_shape[1:]), generator=torch.Generator().manual_seed(0)).to(like)

        def twin(training: bool = training) -> nn.Module:
            own_parameters = training or measured.writes_parameters
            return switched(twin_of(model, own_buffers=True, own_parameters=own_parameters), training)

        with torch.no_grad(), ExitStack() as afterwards:
            for parameter in model.parameters():  # a custom train() or a forward may freeze those that the twin shares
                afterwards.callback(parameter.requires_grad_, parameter.requires_grad)
            try:
                watched = {} if training else readers  # between a stage and its reader, training may thin a map
                with _same_draws(like.device):
                    own = images.clone()  # which the forward may overwrite
                    returned, received = _own_maps(twin(), module_outputs, watched, own)
            except Exception as error:  # it has run on fake tensors of this shape
                if training:  # norms of a single position want two images; a forward may ask for targets
                    trials += [(True, 2)] if count == 1 else []
                    continue
                raise ValueError(
                    f"the backbone {type(model).__name__} does not run on real images {measured.image_shape} although "
                    f"it has on fake ones: {type(error).__name__}: {error}\nIf it keeps tensors outside of its "
                    "modules, in a dict or by functools.lru_cache, they are fake ones now: clear them, and run the "
                    "backbone once on real images of this shape before wrapping it"
                ) from error
            host = TappedBackbone(twin(), program, layouts)
            switched(host, training)
            with _same_draws(like.device):
                given = host.tapped_program.run(host, images.clone())
        for name, value in returned.items():
            activated = " + " in labels[name]
            reference = program.repeated(name, value) if activated and isinstance(program, GraphProgram) else value
            if not _alike(reference.float(), given[name].float()):
                raise GraphError(
                    f"stages: tapping {labels[name]!r} through the graph does not give the module's values"
                    f"{' in training' if training else ''}; name a graph node instead (torchvision's "
                    "get_graph_node_names lists them)"
                )
        for name, value in received.items():
            layout = measured.layout(tuple(value.shape))
            read = layout.to_map(value, images) if layout is not None and value.ndim == 4 else None
            made = layouts[name].to_map(given[name], images)
            if read is not None and read.shape[2:] == made.shape[2:] and not _alike(read.float(), made.float()):
                raise ValueError(
                    f"stage {name!r} was taken to be {labels[name]!r}, but {readers[name].node!r} reads another map: a "
                    "branch or a function is between them. Name the module, or the node of the graph, whose map it "
                    "reads (torchvision's get_graph_node_names lists them)"
                )


def check_order(model: nn.Module, measured: Probe, program: Program, layouts: dict[str, Layout]) -> None:
    """Warn of tokens in another than raster order: if a strip of an image changes, those in it should change most."""
    tokens = {name: layout for name, layout in layouts.items() if layout.kind == "tokens" and min(layout.grid) > 3}
    tensors = [*model.parameters(), *model.buffers()]
    if not tokens or any(tensor.is_meta or isinstance(tensor, FakeTensor) for tensor in tensors):
        return
    twin = twin_of(model, own_buffers=True, own_parameters=measured.writes_parameters)
    host = switched(TappedBackbone(twin, program, tokens), False)
    like = next(tensor for tensor in tensors if tensor.is_floating_point())
    images = torch.rand((1, *measured.image_shape[1:]), generator=torch.Generator().manual_seed(0)).to(like)
    with torch.no_grad(), _same_draws(images.device):
        before = host(images.clone())
    for axis in (2, 3):
        strip, quarter = torch.zeros_like(images[:, 0]), images.shape[axis] // 4
        strip.narrow(axis - 1, quarter, quarter).fill_(1)
        with torch.no_grad(), _same_draws(images.device):
            after = host(torch.where(strip[:, None] > 0, 1 - images, images))  # the mean stays, so attention's does
        for name, layout in tokens.items():
            change = (after[name] - before[name]).float().abs().mean(1)
            inside = nn.functional.adaptive_avg_pool2d(strip.float(), layout.grid)
            if (change * inside).sum() < _MORE * change.mean() * inside.sum():  # False where nothing changes, or is NaN
                warnings.warn(
                    f"the tokens of {type(model).__name__} are perhaps not in raster order, so that masks would lie on "
                    "wrong places: where an image changes, other tokens change as much. Name modules whose tokens are "
                    "in order, or take timm's model of this kind, which makes maps of them itself",
                    stacklevel=5,  # where AIM is built
                )
                return


@contextmanager
def _same_draws(device: torch.device) -> Iterator[None]:
    """The same random numbers in every draw, whatever was drawn before it, without using the user's generators."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []), unmoved_generators(), _Seeded():
        yield


class _Seeded(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch leaves it without types

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if torch.Tag.nondeterministic_seeded in function.tags:
            torch.manual_seed(0)
        return function(*args, **(kwargs or {}))


def _own_maps(
    twin: nn.Module, modules: dict[str, CallSite], readers: dict[str, CallSite], images: Tensor
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What modules return, where it is one map, and what readers receive, in one run of the model's own forward."""
    returned: dict[str, Tensor] = {}
    received: dict[str, Tensor] = {}

    def keep(into: dict[str, Tensor], name: str, module: nn.Module, arguments: tuple[Any, ...], *output: Any) -> None:
        value = output[0] if output else arguments[0] if arguments and isinstance(arguments[0], Tensor) else ()
        maps = [value] if isinstance(value, Tensor) else [t for t in tensors_in(value).values() if t.ndim == 4]
        if len(maps) == 1:
            into[name] = maps[0].clone()

    for name, place in modules.items():
        twin.get_submodule(place.node).register_forward_hook(place.hook(partial(keep, returned, name)))
    for name, place in readers.items():
        twin.get_submodule(place.node).register_forward_pre_hook(place.hook(partial(keep, received, name)))
    twin(images)
    return returned, received


def check_training(measured: Probe, program: GraphProgram, modules: dict[str, CallSite]) -> None:
    """Compare a training step of the graph with one of the model's own code, on fake tensors.

    Tracing drops what it does not see: ``torch.no_grad()``, updates of buffers, custom backward functions.

    Raises:
        GraphError: if gradients reach other parameters, other buffers move, or a custom backward is lost.
    """
    if not modules:
        return
    hooks = HookProgram({name: watch_for(place, measured) for name, place in modules.items()})
    own, traced = (training_of(each, measured, modules) for each in (hooks, program))
    if own is None or traced is None:
        return  # it cannot be trained on fake tensors, so nothing can be said
    differing = own.reached ^ traced.reached
    if differing:
        raise GraphError(f"gradients of the graph and of the model reach other parameters: {sorted(differing)[:4]}")
    idle = traced.held - traced.reached if len(modules) == len(program.nodes) else set()
    if idle:
        raise GraphError(f"the graph uses parameters that no gradient reaches: {sorted(idle)[:4]}")
    lost = own.updated - traced.updated  # the graph may go on to deeper maps than these
    if lost:
        raise GraphError(f"the graph does not update what the model updates in training: {sorted(lost)[:4]}")
    if own.custom_backward:
        raise GraphError(f"the model has a custom backward, {own.custom_backward}, which a graph would lose")


def _alike(value: Tensor, other: Tensor) -> bool:
    """Equal except for the order of sums; broken weights' infinities and NaNs count as equal, too."""
    scale = value.abs().nan_to_num(0, 0).amax().item() if value.numel() else 0.0
    return value.shape == other.shape and torch.allclose(value, other, rtol=1e-3, atol=1e-4 * scale, equal_nan=True)


class Training(NamedTuple):
    """What one step of training would touch, by name; ``held`` are the parameters that the program uses."""

    reached: set[str]  # by a gradient
    held: set[str]
    updated: set[str]  # buffers and parameters
    custom_backward: str | None  # the name of one that is written in Python


def training_of(program: Program, measured: Probe, names: Iterable[str]) -> Training | None:
    """Train a program's outputs of these names on a shadow of the model; None where that is not possible."""
    mode = measured.mode
    shadow = switched(shadow_of(measured.shadow, mode), True).requires_grad_(False)
    parameters = {n: p for n, p in shadow.named_parameters(remove_duplicate=False) if p.is_floating_point()}
    for parameter in parameters.values():
        parameter.requires_grad_(True)
    tensors = {**dict(shadow.named_buffers(remove_duplicate=False)), **parameters}
    before = {name: state_of(tensor) for name, tensor in tensors.items()}
    host = nn.Module()
    host.training = True
    try:
        with torch.enable_grad(), quiet_fakes(), mode:
            settled = program.settled(host, shadow)
            outputs = settled.run(host, measured.fake_images(batch_size=2))
            wanted = [outputs[name] for name in names]
            written = [type(node).__name__ for node in gradient_nodes(wanted) if isinstance(node, BackwardCFunction)]
            custom = min((name.removesuffix("Backward") for name in written), default=None)
            reached = gradients_reach(wanted, parameters) if any(o.requires_grad for o in wanted) else set()
    except Exception:  # an operation without fake values or without a gradient
        return None
    updated = {name for name, tensor in tensors.items() if state_of(tensor) != before[name]}
    spare = {p for module in host.modules() if is_adapter(module) for p in module.parameters()}
    held = {n for n, p in host.named_parameters(remove_duplicate=False) if n in parameters and p not in spare}
    return Training(reached, held, updated, custom)


def gradient_nodes(outputs: Iterable[Tensor]) -> set[Node]:
    """What computes the outputs' gradients, down to the tensors that they are of."""
    ends = [output.grad_fn for output in outputs if output.grad_fn is not None]
    return reachable(ends, lambda node: [source for source, _ in node.next_functions if source is not None])
